"""What of a job's shared settings decides how private its rounds are, and what they may cost.

Numbers and words as they stand in the settings; what they amount to is for `service.spending`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fl_cluster.config.schema import EncryptType, NoiseKind

APART: Final[Mapping[str, str]] = {
    "privacy.noise": "noise.kind",
    "privacy.clip_norm": "noise.clip_norm",
    "privacy.noise_multiplier": "noise.noise_multiplier",
    "privacy.epsilon_budget": "noise.epsilon_budget",
    "privacy.delta": "noise.delta",
}
"""Name in the shared settings -> where the settings have it."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "privacy.noise": NoiseKind.NONE.value,
    "privacy.clip_norm": 1.0,
    "privacy.noise_multiplier": 1.0,
    "privacy.epsilon_budget": 0.0,
    "privacy.delta": 1e-5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """Noise of the servers' or of the devices' own, and the budget for either."""

    is_central: bool
    """Whether the servers clip updates and add noise to their sum."""
    clip_norm: float
    noise_multiplier: float
    is_local: bool
    """Whether each device adds noise to its update."""
    local_epsilon: float
    local_delta: float
    epsilon_budget: float
    """0: there is none."""
    delta: float

    @classmethod
    def parse(cls, values: Mapping[str, Any], apart: Mapping[str, Any]) -> Protection:
        """From the shared settings, shown ones and others; an older server's lack some."""
        apart = {**DEFAULTS, **apart}
        return cls(
            is_central=apart["privacy.noise"] == NoiseKind.CENTRAL,
            clip_norm=apart["privacy.clip_norm"],
            noise_multiplier=apart["privacy.noise_multiplier"],
            is_local=values.get("encrypt_type") == EncryptType.DP_ENCRYPT,
            local_epsilon=values.get("dp_eps", 50.0),
            local_delta=values.get("dp_delta", 0.01),
            epsilon_budget=apart["privacy.epsilon_budget"],
            delta=apart["privacy.delta"],
        )
