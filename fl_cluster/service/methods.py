"""The settings of a job -> the plan of its rounds, and the rule by which it aggregates."""

from __future__ import annotations

import numpy as np

from fl_cluster.aggregate.rules import Rule
from fl_cluster.config.schema import AggregationType, ServerMode
from fl_cluster.config.shared import SharedParameters
from fl_cluster.rounds.plan import RoundPlan, report_goal


def plan_of(parameters: SharedParameters) -> RoundPlan:
    """The plan of every round under these parameters."""
    return RoundPlan(
        cohort_size=parameters.cohort_size,
        report_goal=report_goal(parameters.cohort_size, parameters.report_ratio),
        select_window_ms=parameters.select_window_ms,
        report_window_ms=parameters.report_window_ms,
        round_window_ms=parameters.round_window_ms,
        is_hybrid=parameters.server_mode == ServerMode.HYBRID_TRAINING,
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
