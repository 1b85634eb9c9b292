"""The settings of a job -> the plan of its rounds, and the rule by which it aggregates."""

from __future__ import annotations

import numpy as np

from fl_cluster.aggregate.rules import Rule
from fl_cluster.config.schema import AggregationType, EncryptType, ServerMode
from fl_cluster.config.shared import SharedParameters
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.goals import ring_goals
from fl_cluster.privacy.unmasking import mask_goals
from fl_cluster.rounds.plan import ExchangePlan, RoundPlan, report_goal


def plan_of(parameters: SharedParameters) -> RoundPlan:
    """The plan of every round under these parameters.

    ValueError when the updates of such rounds would be masked, and could not be unmasked.
    """
    goal = report_goal(parameters.cohort_size, parameters.report_ratio)
    return RoundPlan(
        cohort_size=parameters.cohort_size,
        report_goal=goal,
        select_window_ms=parameters.select_window_ms,
        report_window_ms=parameters.report_window_ms,
        round_window_ms=parameters.round_window_ms,
        is_hybrid=parameters.server_mode == ServerMode.HYBRID_TRAINING,
        exchange=_exchange_of(parameters, goal),
    )


def why_impossible(parameters: SharedParameters) -> str | None:
    """Why no round under these parameters could end well; None when rounds can."""
    try:
        plan_of(parameters)
    except ValueError as exc:
        return str(exc)
    return None


def _exchange_of(parameters: SharedParameters, goal: int) -> ExchangePlan | None:
    size, window_ms = parameters.cohort_size, parameters.step_window_ms
    if parameters.encrypt_type == EncryptType.STABLE_PW_ENCRYPT:
        # Masks that nobody can take off cancel only when everyone who has a part in them reports.
        return ExchangePlan(goal, shares=0, signatures=0, reveals=0, window_ms=window_ms)
    if parameters.encrypt_type == EncryptType.SECURE_AGGREGATION:
        return _ring_exchange(parameters, goal)
    if parameters.encrypt_type != EncryptType.PW_ENCRYPT:
        return None
    goals = mask_goals(size, goal, parameters.share_ratio, parameters.reconstruct_threshold)
    signatures = goals.sign_list if parameters.pki_verify else 0
    return ExchangePlan(
        goals.exchange_keys, goals.share_secrets, signatures, goals.reconstruct, window_ms
    )


def _ring_exchange(parameters: SharedParameters, goal: int) -> ExchangePlan:
    """The round goes on without the last confirmations and reveals once others suffice."""
    ring = parameters.ring
    bounds = Assumptions(ring.corrupt, ring.dropout)
    goals = ring_goals(parameters.cohort_size, goal, ring.least_devices, bounds)
    return ExchangePlan(
        goals.offers, goals.sharings, signatures=goal, reveals=goal, window_ms=ring.window_ms
    )


def rule_of(parameters: SharedParameters) -> Rule:
    """How every round under these parameters makes its model.

    Devices of FedProx differ in how they train; what they send is averaged like FedAvg's.
    """
    expected = parameters.cohort_size / parameters.report_ratio
    return Rule(
        is_normalised=parameters.aggregation_type == AggregationType.FED_NOVA,
        has_controls=parameters.aggregation_type == AggregationType.SCAFFOLD,
        divisor=float(np.float32(expected**2)),
        devices_total=parameters.total_devices,
    )
