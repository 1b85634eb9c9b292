"""What the documents say of rounds and keys is what the code does."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from inspect import isfunction, signature
from pathlib import Path
from types import ModuleType

import pytest

from fl_cluster.rounds.events import Verdict
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import RoundPlan
from fl_cluster.store.durability import Level
from fl_cluster.store.memory import PHASE_WORDS
from fl_cluster.store.redis.keys import JOBS, JobKeys
from fl_cluster.store.redis.records import first_round_fields

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = (ROOT / "docs" / "rounds.md").read_text("utf-8")
REDIS = (ROOT / "docs" / "redis.md").read_text("utf-8")


@pytest.fixture(scope="module")
def draw_rounds() -> ModuleType:
    spec = spec_from_file_location("draw_rounds", ROOT / "tools" / "draw_rounds.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_column(document: str) -> str:
    """The first cells of all rows of all tables, one a line."""
    return "\n".join(re.findall(r"^\| ([^|]*?) *\|", document, re.MULTILINE))


def test_the_diagram_of_the_rounds_is_in_sync(draw_rounds: ModuleType) -> None:
    assert draw_rounds.main(["--check"]) == 0


def test_a_diagram_that_is_out_of_date_is_found(draw_rounds: ModuleType) -> None:
    stale = ROUNDS.replace("Reporting --> Aggregating: report", "")

    assert stale != ROUNDS
    assert draw_rounds.with_diagram(stale) == ROUNDS


def test_a_document_without_a_place_for_the_diagram_is_refused(draw_rounds: ModuleType) -> None:
    with pytest.raises(SystemExit, match="missing"):
        draw_rounds.with_diagram("# Rounds\n")


def test_the_diagram_shows_every_phase(draw_rounds: ModuleType) -> None:
    drawn = set(re.findall(r"\w+", draw_rounds.diagram()))

    assert {type(phase).__name__ for phase in draw_rounds.SAMPLES} <= drawn


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_is_explained(verdict: Verdict) -> None:
    assert f"`{verdict}`" in first_column(ROUNDS)


def test_no_verdict_is_explained_that_does_not_exist() -> None:
    section = ROUNDS.partition("## Verdicts")[2].partition("\n## ")[0]

    assert set(re.findall(r"`(\w+)`", first_column(section))) == set(Verdict)


@pytest.mark.parametrize("word", PHASE_WORDS.values())
def test_every_phase_is_explained(word: str) -> None:
    assert word in first_column(ROUNDS)


def keys() -> list[str]:
    job, ref = JobKeys("job"), RoundRef("run", 7)
    found = [JOBS]
    for name, kind in vars(JobKeys).items():
        if isinstance(kind, property):
            found.append(getattr(job, name))
        elif isfunction(kind) and not name.startswith("_") and name != "of_round":
            placeholders = {"ref": "{ref}", "name": "name", "instance": "{run}", "step": "{step}"}
            arguments = [placeholders[each] for each in list(signature(kind).parameters)[1:]]
            found.append(getattr(job, name)(*arguments))
    assert str(ref) == "7.1@run"
    return found


@pytest.mark.parametrize("key", keys())
def test_every_key_is_described(key: str) -> None:
    assert f"`{key}`" in first_column(REDIS)


def test_no_key_is_described_that_does_not_exist() -> None:
    described = set(re.findall(r"`(fl:[^`]*)`", first_column(REDIS)))

    assert described == set(keys()) | {"fl:blob:{job:name+offset}"}


def test_every_field_of_a_round_is_described() -> None:
    plan = RoundPlan(1, 1, 1, 1, 1)
    stored = first_round_fields(RoundRef("run", 1), plan, is_closed=False, is_disabled=False)
    section = REDIS.partition("### The fields of a round")[2].partition("\n## ")[0]

    described = set(re.findall(r"`(\w+)`", first_column(section))) - {"round"}
    assert described == {*stored, "published_by", "steered_by", "proceeded_by"}


@pytest.mark.parametrize("level", Level)
def test_every_level_of_durability_is_explained(level: Level) -> None:
    assert f"`{level}`" in first_column(REDIS)
