"""What a device has to do, and what it knows of the round that it does it for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_cluster.sdk.exchange import Exchange
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.sdk.protection import Demand
from fl_cluster.sdk.training import EvaluateFunction, RoundPlan, TrainFunction, Update
from fl_cluster.wire.messages import RequestUpdateModel


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What became of one round that this device trained for."""

    round_number: int
    rounds_total: int
    counted: bool
    """Whether the update is in the round's model, as far as the device could see: it was
    acknowledged, and the round's model is another one than it started from.  An abandoned round
    ends with the model that it started from; so does one whose updates change nothing, and the
    two look the same.  False too when other rounds had ended before the device saw the model."""
    position: int | None
    """In which order it was acknowledged, from 1, if the cluster said; a round that is abandoned
    after that leaves it as it is."""
    samples: int
    loss: float
    accuracy: float
    metrics: Mapping[str, float]
    seconds: float
    """From the check-in until the round's model came."""


RoundCallback = Callable[[RoundOutcome, Mapping[str, NDArray[np.float32]]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the user gave the device to do, and who it is."""

    device_id: str
    job: str
    data_size: int
    train: TrainFunction
    evaluate: EvaluateFunction | None
    eval_data_size: int
    on_round: RoundCallback | None
    executor: Executor | None
    """Where training runs; None: the event loop's own threads."""
    inline: bool
    """Train on the event loop instead: nothing else happens meanwhile."""
    identity: DeviceIdentity | None = None
    """What requests are signed with, for servers that verify devices."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the last check-in was answered, and when it was sent."""

    plan: RoundPlan
    demand: Demand
    began_s: float
    started_from: str | None = None
    """What the cluster calls the model of the check-in."""
    exchange: Exchange | None = None
    """What has to be agreed on with other devices, in a masked round; never used twice."""


@dataclass(slots=True)
class Attempt:
    """A round that the device trained for, until its model comes."""

    admission: Admission
    update: Update
    request: RequestUpdateModel
    body: bytes
    """The report, encoded: a repeat is the same bytes, unless its signature was refused."""
    acknowledged: bool = False
    """Whether the round has the update; it may be abandoned all the same."""
    position: int | None = None

    def is_in(self, model_round: int, digest: str | None) -> bool:
        """Whether the model of that round is known to have the update in it."""
        is_its_model = model_round == self.plan.round_number
        is_new = digest is None or digest != self.admission.started_from
        return self.acknowledged and is_its_model and is_new

    @property
    def plan(self) -> RoundPlan:
        """The plan of the round."""
        return self.admission.plan
