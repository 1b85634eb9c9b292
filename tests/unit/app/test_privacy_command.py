"""`fl-cluster privacy plan`: what a run will spend, in words and in numbers, before it runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app.cli import main
from fl_cluster.app.privacy_command import as_text, plan_of
from fl_cluster.config.protection import Protection
from fl_cluster.privacy.accountant import Budget, GaussianRelease, Ledger, noise_for

ROOT = Path(__file__).parents[3]
DIGITS = str(ROOT / "yamls" / "digits.yaml")
RUN = ("--rounds", "15", "--devices", "20", "--clip_norm", "0.5", "--noise-multiplier", "2.0")
CENTRAL = ("--set", "privacy.noise=central")
LOCAL = ("--set", "encrypt.encrypt_type=DP_ENCRYPT")
Capture = pytest.CaptureFixture[str]


def plan(*arguments: str) -> int:
    return main(["privacy", "plan", *arguments])


def numbers(capsys: Capture, *arguments: str) -> dict[str, Any]:
    plan(*arguments, "--json")
    decoded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return decoded


def modes_of(program: str) -> dict[str, dict[str, str]]:
    """The table of a program that must not be run to read it."""
    for node in ast.parse(program).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODES":
            modes: dict[str, dict[str, str]] = ast.literal_eval(node.value)
            return modes
    raise AssertionError("the program has no table MODES")


def test_a_run_in_flags_is_told_with_its_cost_and_its_noise(capsys: Capture) -> None:
    assert plan(*RUN) == 0

    shown = capsys.readouterr().out
    assert "central noise: 15 rounds of 20 updates each" in shown
    assert "noise in the sum   1 " in shown
    assert "noise in the model 0.05 " in shown
    assert "there is no budget" in shown


def test_the_numbers_are_the_accountants(capsys: Capture) -> None:
    found = numbers(capsys, *RUN, "--delta", "1e-6", "--epsilon-budget", "5")

    def epsilon(rounds: int, multiplier: float = 2.0) -> float:
        return Ledger().after(GaussianRelease(multiplier), rounds).epsilon(1e-6)

    assert found["epsilon_per_round"] == epsilon(1)
    assert found["epsilon"] == epsilon(15)
    assert found["epsilon_if_replaced"] == epsilon(15, 1.0)
    assert epsilon(found["rounds_allowed"]) <= 5 < epsilon(found["rounds_allowed"] + 1)
    assert found["noise_multiplier_needed"] == noise_for(Budget(5.0, 1e-6), 15)
    assert not found["fits"]


def test_what_a_budget_allows_is_said_with_what_it_would_take(capsys: Capture) -> None:
    assert plan(*RUN, "--epsilon_budget", "5") == 1

    shown = capsys.readouterr().out
    assert "the budget of epsilon 5 allows 4 of 15 rounds" in shown
    assert "noise_multiplier would have to be 3.6896" in shown

    assert plan(*RUN, "--epsilon_budget", "50") == 0
    assert "the budget of epsilon 50 allows all 15 rounds" in capsys.readouterr().out


def test_a_configuration_says_rounds_and_devices_and_flags_go_over_it(capsys: Capture) -> None:
    found = numbers(capsys, "--yaml_config", DIGITS, *CENTRAL, "--rounds", "4")

    assert (found["rounds"], found["updates_per_round"]) == (4, 20)
    assert (found["clip_norm"], found["noise_multiplier"], found["fits"]) == (1.0, 1.0, True)


def test_the_digits_example_costs_what_it_says(capsys: Capture) -> None:
    mode = modes_of((ROOT / "examples" / "digits" / "run.py").read_text())["central_dp"]
    settings = [word for pair in mode.items() for word in ("--set", "=".join(pair))]

    found = numbers(capsys, "--yaml_config", DIGITS, *settings)

    assert found["fits"]
    assert found["epsilon"] == pytest.approx(24.8, abs=0.05)


def test_noise_of_devices_has_a_plan_too(capsys: Capture) -> None:
    local = (*LOCAL, "--set", "encrypt.dp_encrypt.dp_eps=1.0")

    found = numbers(capsys, "--yaml_config", DIGITS, *local, "--set", "privacy.epsilon_budget=3")

    assert found["noise"] == "local"
    assert found["rounds_allowed"] < found["rounds"] == 15
    assert plan("--yaml_config", DIGITS, *local, "--set", "privacy.epsilon_budget=3.0") == 1
    assert "dp_eps would have to be smaller" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--yaml_config", DIGITS), "adds no noise: expected privacy.noise: central"),
        (("--rounds", "3"), "missing: --devices, --clip_norm, --noise_multiplier"),
        (("--yaml_config", "no-such.yaml"), "no-such.yaml not exist"),
        ((*RUN, "--delta", "2"), "expected a number between 0 and 1, found 2"),
        ((*RUN, *CENTRAL), "missing: --yaml_config, which --set changes"),
        (
            ("--yaml_config", DIGITS, *LOCAL, "--set", "encrypt.dp_encrypt.dp_eps=1.4e-45"),
            "cannot be told: expected a noise multiplier above 0, from 1e-100 to 1e+100",
        ),
        (
            ("--yaml_config", DIGITS, "--set", "privacy.noise=loud"),
            "can be only one of [none, central], but got loud",
        ),
        (
            ("--yaml_config", DIGITS, *CENTRAL, "--set", "encrypt.encrypt_type=SIGNDS"),
            "does not go together, because signs are steps of one size already",
        ),
    ],
)
def test_what_makes_no_plan_is_said_in_a_sentence(
    capsys: Capture, arguments: tuple[str, ...], sentence: str
) -> None:
    assert plan(*arguments) == 2

    found = capsys.readouterr()
    assert sentence in found.err
    assert found.out == ""


@pytest.mark.parametrize("word", ["0", "-1", "x", "inf", "nan"])
def test_a_flag_that_is_no_number_above_0_is_refused(capsys: Capture, word: str) -> None:
    with pytest.raises(SystemExit) as ended:
        plan(*RUN, "--epsilon_budget", word)

    assert ended.value.code == 2
    assert f"expected a number above 0, found '{word}'" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--noise_multiplier", "--clip_norm", "--epsilon_budget"])
@pytest.mark.parametrize("word", ["1e300", "1e200", "1e-200"])
def test_a_flag_far_from_any_use_is_refused_in_a_sentence(
    capsys: Capture, flag: str, word: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        plan(*RUN, flag, word)

    assert ended.value.code == 2
    sentence = f"expected a number from 1e-37 to 1e+37, found '{word}'"
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("number", ["1e-37", "1e37"])
def test_any_number_that_a_flag_takes_makes_a_plan(capsys: Capture, number: str) -> None:
    extreme = ("--noise_multiplier", number, "--clip_norm", number)

    assert plan(*RUN, *extreme, "--epsilon_budget", "1e-37", "--delta", "1e-37") == 1
    assert "noise_multiplier would have to be" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["noise_multiplier", "clip_norm"])
@pytest.mark.parametrize(("word", "found"), [("1.0e+300", "inf"), ("1.0e-200", "0")])
def test_a_key_far_from_any_use_is_refused_in_a_sentence(
    capsys: Capture, key: str, word: str, found: str
) -> None:
    assert plan("--yaml_config", DIGITS, *CENTRAL, "--set", f"privacy.{key}={word}") == 2

    told = capsys.readouterr().err
    assert f"privacy.{key}" in told
    assert f"but got {found}" in told


@pytest.mark.parametrize("word", ["1.4e-45", "3.4e+38"])
def test_any_number_that_a_key_takes_makes_a_plan(capsys: Capture, word: str) -> None:
    keys = [f"privacy.{key}={word}" for key in ("noise_multiplier", "clip_norm")]
    settings = [part for key in keys for part in ("--set", key)]

    assert plan("--yaml_config", DIGITS, *CENTRAL, *settings) == 0
    assert "central noise: 15 rounds" in capsys.readouterr().out


def test_a_tiny_budget_is_planned_for_at_once(capsys: Capture) -> None:
    run = ("--rounds", "100", "--devices", "1000", "--clip_norm", "1", "--noise_multiplier", "1")

    found = numbers(capsys, *run, "--delta", "1e-12", "--epsilon_budget", "0.01")

    assert 4_000 < found["noise_multiplier_needed"] < 8_000


def test_the_noise_that_is_told_is_enough(capsys: Capture) -> None:
    plan(*RUN, "--epsilon_budget", "5")
    told = capsys.readouterr().out.split()[-1]

    assert plan(*RUN, "--epsilon_budget", "5", "--noise_multiplier", told) == 0


def test_what_cannot_be_told_is_said_so() -> None:
    protection = Protection(
        is_central=True,
        clip_norm=1.0,
        noise_multiplier=1.0,
        is_local=False,
        local_epsilon=0.0,
        local_delta=0.0,
        epsilon_budget=1e-300,
        delta=1e-200,
    )
    found = plan_of(protection, 10, 20)

    assert found is not None
    assert "how much noise would do for all of them cannot be told" in as_text(found)
