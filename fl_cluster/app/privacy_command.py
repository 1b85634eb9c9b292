"""`fl-cluster privacy plan`: what the noise of a job will cost and do, before it runs.

From a configuration, from flags, or from flags laid over a configuration.  Nothing is read but
the file; what a running job has spent already is shown by `fl-cluster state`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from typing import Any

from fl_cluster.app.arguments import overrides_of
from fl_cluster.app.options import flag, key_and_value
from fl_cluster.config.load import load
from fl_cluster.config.problems import render_problems
from fl_cluster.config.protection import Protection
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import ConfigError, ExitCode, Problem
from fl_cluster.privacy.accountant import GaussianRelease, Ledger, noise_for
from fl_cluster.privacy.local_dp import FIRST_CLIP
from fl_cluster.rounds.plan import report_goal
from fl_cluster.service.spending import CENTRAL, Terms

Tell = Callable[[str], None]

NEEDED = ("rounds", "devices", "clip_norm", "noise_multiplier")
DEFAULT_DELTA = 1e-5
SMALLEST, LARGEST = 1e-37, 1e37
"""What a number of a configuration, which keeps single precision, can be about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fl-cluster privacy`."""
    calls = parser.add_subparsers(dest="what", metavar="COMMAND", required=True)
    plan = calls.add_parser("plan", help="what the noise of a run costs and does, before it runs")
    flag(
        plan,
        "yaml_config",
        default="",
        metavar="FILE",
        help="the job's configuration; without it the flags below say all",
    )
    plan.add_argument(
        "--set",
        action="append",
        type=key_and_value,
        default=[],
        metavar="KEY=VALUE",
        help="a configuration key, as in privacy.noise=central; may be repeated",
    )
    plan.add_argument("--rounds", type=_whole, metavar="N", help="how many rounds the run has")
    plan.add_argument("--devices", type=_whole, metavar="N", help="how many updates a round adds")
    for name, meaning in (
        ("clip_norm", "the L2 norm that each update is cut to"),
        ("noise_multiplier", "deviation of the noise in the sum, over the clip norm"),
        ("epsilon_budget", "what all rounds may cost"),
        ("delta", f"the delta of the guarantee ({DEFAULT_DELTA:g})"),
    ):
        flag(plan, name, type=_positive, metavar="X", help=meaning)
    plan.add_argument("--json", action="store_true", help="for programs")


def _whole(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    if not SMALLEST <= number <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"expected a number from {SMALLEST:g} to {LARGEST:g}, found {text!r}"
        )
    return number


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run releases, and what that costs and does; deviations are of one weight."""

    noise: str
    rounds: int
    updates_per_round: int
    clip_norm: float
    noise_multiplier: float
    deviation_in_the_sum: float
    deviation_in_the_model: float
    """What one round's noise does to each weight of the model."""
    delta: float
    epsilon_per_round: float
    epsilon: float
    epsilon_if_replaced: float
    """The same when a device's data are not left out but are any others: twice the distance."""
    epsilon_budget: float | None
    rounds_allowed: int
    noise_multiplier_needed: float | None
    """The least with which all rounds fit the budget; None when they fit, or no noise does."""

    @property
    def fits(self) -> bool:
        """Whether the budget allows all rounds."""
        return self.rounds_allowed >= self.rounds


def plan_of(protection: Protection, rounds: int, updates: int) -> Plan | None:
    """The plan of a run; None when nobody adds noise."""
    terms = Terms.of(protection)
    if terms is None:
        return None
    multiplier = terms.release.noise_multiplier
    if terms.kind == CENTRAL:
        clip = protection.clip_norm
        in_the_sum = clip * multiplier
    else:
        # Each of the updates brings noise of its own, made for steps that may point anywhere.
        clip = FIRST_CLIP
        in_the_sum = 2 * clip * multiplier * math.sqrt(updates)
    whole = Ledger().after(terms.release, rounds)
    replaced = Ledger().after(GaussianRelease(multiplier / 2), rounds)
    allowed = terms.rounds_left(Ledger(), rounds)
    needed = None
    if terms.budget is not None and allowed < rounds:
        needed = noise_for(terms.budget, rounds)
    return Plan(
        noise=terms.kind,
        rounds=rounds,
        updates_per_round=updates,
        clip_norm=clip,
        noise_multiplier=multiplier,
        deviation_in_the_sum=in_the_sum,
        deviation_in_the_model=in_the_sum / updates,
        delta=terms.delta,
        epsilon_per_round=Ledger().after(terms.release).epsilon(terms.delta),
        epsilon=whole.epsilon(terms.delta),
        epsilon_if_replaced=(whole if terms.kind != CENTRAL else replaced).epsilon(terms.delta),
        epsilon_budget=None if terms.budget is None else terms.budget.epsilon,
        rounds_allowed=allowed,
        noise_multiplier_needed=needed,
    )


def run(options: argparse.Namespace, tell: Tell) -> int:
    """Show the plan: 0 when the budget allows all rounds, 1 when not, 2 when there is none."""
    try:
        protection, rounds, updates = _read(options)
    except ConfigError as exc:
        sys.stderr.write(render_problems(exc))
        return ExitCode.CONFIGURATION
    try:
        plan = plan_of(protection, rounds, updates)
    except ValueError as exc:
        # Devices calibrate their noise to none where epsilon is too small for their arithmetic.
        sys.stderr.write(f"what the noise of this run costs cannot be told: {exc}\n")
        return ExitCode.CONFIGURATION
    if plan is None:
        sys.stderr.write(
            f"{options.yaml_config} adds no noise: expected privacy.noise: central or"
            " encrypt.encrypt_type: DP_ENCRYPT, or --clip_norm and --noise_multiplier here\n"
        )
        return ExitCode.CONFIGURATION
    tell(json.dumps(_as_data(plan), indent=2, sort_keys=True) if options.json else as_text(plan))
    return ExitCode.DONE if plan.fits else ExitCode.REFUSED


def _read(options: argparse.Namespace) -> tuple[Protection, int, int]:
    """How the rounds are protected, how many there are, and how many updates each adds."""
    if not options.yaml_config:
        return _from_flags(options)
    settings = load(options.yaml_config, "server", overrides=overrides_of(options))
    shared = SharedParameters.of(settings)
    found, is_central = shared.protection, options.clip_norm or options.noise_multiplier
    changed = Protection(
        is_central=bool(found.is_central or is_central),
        clip_norm=options.clip_norm or found.clip_norm,
        noise_multiplier=options.noise_multiplier or found.noise_multiplier,
        is_local=found.is_local,
        local_epsilon=found.local_epsilon,
        local_delta=found.local_delta,
        epsilon_budget=options.epsilon_budget or found.epsilon_budget,
        delta=_delta(options.delta) or found.delta,
    )
    goal = report_goal(shared.cohort_size, shared.report_ratio)
    return changed, options.rounds or shared.rounds_total, options.devices or goal


def _from_flags(options: argparse.Namespace) -> tuple[Protection, int, int]:
    missing = [name for name in NEEDED if getattr(options, name) is None]
    if missing or options.set:
        names = ", ".join(f"--{name}" for name in missing) or "--yaml_config, which --set changes"
        sentence = f"expected --yaml_config FILE, or all of the run in flags; missing: {names}"
        raise ConfigError((Problem("privacy plan", sentence),))
    protection = Protection(
        is_central=True,
        clip_norm=options.clip_norm,
        noise_multiplier=options.noise_multiplier,
        is_local=False,
        local_epsilon=0.0,
        local_delta=0.0,
        epsilon_budget=options.epsilon_budget or 0.0,
        delta=_delta(options.delta) or DEFAULT_DELTA,
    )
    return protection, options.rounds, options.devices


def _delta(given: float | None) -> float | None:
    if given is not None and given >= 1:
        sentence = f"--delta: expected a number between 0 and 1, found {given:g}"
        raise ConfigError((Problem("--delta", sentence),))
    return given


def _as_data(plan: Plan) -> dict[str, Any]:
    numbers = {**asdict(plan), "fits": plan.fits}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in numbers.items()
    }


def as_text(plan: Plan) -> str:
    """The plan for people."""
    rounds = _rounds(plan.rounds)
    rows = [
        ("clip norm", f"{plan.clip_norm:.6g}", _clip_note(plan)),
        ("noise multiplier", f"{plan.noise_multiplier:.6g}", ""),
        ("noise in the sum", f"{plan.deviation_in_the_sum:.6g}", "deviation of one weight"),
        (
            "noise in the model",
            f"{plan.deviation_in_the_model:.6g}",
            "the same after division by the number of updates, each round",
        ),
        ("one round", f"epsilon {plan.epsilon_per_round:.4g}", f"at delta {plan.delta:g}"),
    ]
    if plan.noise == CENTRAL:
        rows.append((rounds, f"epsilon {plan.epsilon:.4g}", "a device's data against none"))
    rows.append(
        (
            "" if plan.noise == CENTRAL else rounds,
            f"epsilon {plan.epsilon_if_replaced:.4g}",
            "a device's data against any others",
        )
    )
    lines = [f"{plan.noise} noise: {rounds} of {plan.updates_per_round} updates each"]
    lines += [f"  {name:<18} {value:<14} {note}".rstrip() for name, value, note in rows]
    return "\n".join([*lines, _verdict(plan)])


def _clip_note(plan: Plan) -> str:
    if plan.noise == CENTRAL:
        return "of an update's difference from the model its round started from"
    return "of each device at first; it follows the model, and the noise follows it"


def _rounds(count: int) -> str:
    return f"{count} round{'' if count == 1 else 's'}"


def _verdict(plan: Plan) -> str:
    if plan.epsilon_budget is None:
        return "there is no budget: privacy.epsilon_budget would end the job in time"
    budget = f"the budget of epsilon {plan.epsilon_budget:g}"
    if plan.fits:
        return f"{budget} allows all {_rounds(plan.rounds)}"
    if plan.noise_multiplier_needed is None:
        more = "how much noise would do for all of them cannot be told"
    elif plan.noise == CENTRAL:
        needed = _rounded_up(plan.noise_multiplier_needed)
        more = f"for all of them noise_multiplier would have to be {needed}"
    else:
        more = "for all of them dp_eps would have to be smaller"
    return f"{budget} allows {plan.rounds_allowed} of {_rounds(plan.rounds)}; {more}"


def _rounded_up(number: float) -> str:
    """Five digits that are no less: with less noise the last round would not fit."""
    return f"{float(Context(5, ROUND_CEILING).create_decimal_from_float(number)):.5g}"
