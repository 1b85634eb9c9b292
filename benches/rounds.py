"""Whole rounds driven from outside, phase by phase, with the clock on what is measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bodies import Device, Floats, retcode
from load import Load, Phase, Request
from processes import Cluster

from fl_cluster.wire import flat, messages

ACCEPTED, NOT_READY = 200, 201
NO_FLATBUFFER = 0
"""What `retcode` finds in a plain text: the servers are busy."""

PUT_OFF_SECONDS = 0.2
CONNECTIONS = 16
PATIENCE_SECONDS = 60.0


class RefusedError(Exception):
    """A device was told something else than in a healthy round."""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """One round in seconds."""

    uploads: float
    """From the first upload to the last acknowledgement."""
    model: float
    """From the last acknowledgement until every server has handed out the new model."""
    whole: float
    """From the first check-in until then."""
    processor: dict[str, float]
    """During the uploads, per group of processes: processor time / time."""


class Driver:
    """Plays all devices of a cluster, one round after the other.

    When they are `patient`, they come again when they are put off, as real ones do.
    """

    def __init__(self, cluster: Cluster, *, patient: bool = False) -> None:
        self._cluster = cluster
        self._is_patient = patient
        self._device = Device(cluster.setup.weights)
        self._load = Load(cluster.addresses, CONNECTIONS, retcode, reconnects=patient)
        self._round = 0

    def close(self) -> None:
        """Close the connections."""
        self._load.close()

    def play(self) -> RoundTimes:
        """One round; RefusedError unless every answer is what it should be."""
        self._round += 1
        devices = range(self._cluster.setup.devices)
        start = time.perf_counter()
        self._check_in([self._device.check_in.request(self._round, i) for i in devices])
        before = self._cluster.processor_seconds()
        phase = self._upload([self._device.update.request(self._round, i) for i in devices])
        acknowledged = phase.answers[-1].answered_at
        used = self._cluster.processor_seconds()
        served = self._fetch_model()
        shares = {name: max(0.0, used[name] - before[name]) / phase.seconds for name in used}
        return RoundTimes(
            phase.seconds,
            served - acknowledged,
            served - start,
            shares,
        )

    def verify(self) -> None:
        """The last round's model is the average of what the devices sent: of one set of weights.

        To the bit, but for the grid of the sums: 2**-20 of the largest weight is far above it.
        """
        request = self._device.get_model.request(self._round, keep=True)
        answer = self._load.run([request]).answers[0]
        model = flat.decode(messages.ResponseGetModel, answer.body)
        for tensor in model.feature_map or ():
            sent = self._cluster.setup.weights[tensor.weight_fullname or ""]
            if tensor.data is None or not _is_close(tensor.data, sent):
                raise RefusedError(f"the model's {tensor.weight_fullname} is not the average")

    def _check_in(self, requests: Sequence[Request]) -> None:
        """Until all are admitted: a server may learn of the new round a moment later."""
        end = time.monotonic() + PATIENCE_SECONDS
        while requests:
            phase = self._load.run(requests)
            requests = [each.request for each in phase.answers if each.code != ACCEPTED]
            if time.monotonic() > end:
                raise RefusedError(f"{len(requests)} devices were not admitted")

    def _upload(self, requests: Sequence[Request]) -> Phase:
        phase = self._load.run(requests)
        end = time.monotonic() + PATIENCE_SECONDS
        while self._is_patient and time.monotonic() < end:
            put_off = [each.request for each in phase.answers if each.code == NO_FLATBUFFER]
            if not put_off:
                break
            time.sleep(PUT_OFF_SECONDS)
            again = self._load.run(put_off)
            done = [each for each in phase.answers if each.code != NO_FLATBUFFER]
            phase = Phase([*done, *again.answers], phase.seconds + again.seconds)
        _expect(phase, ACCEPTED)
        return phase

    def _fetch_model(self) -> float:
        """The instant at which the last server handed out the round's model."""
        waiting = [
            self._device.get_model.request(self._round, server=i)
            for i in range(len(self._cluster.addresses))
        ]
        end = time.monotonic() + PATIENCE_SECONDS
        while waiting:
            phase = self._load.run(waiting)
            waiting = [each.request for each in phase.answers if each.code == NOT_READY]
            if any(each.code not in (ACCEPTED, NOT_READY) for each in phase.answers):
                _expect(phase, ACCEPTED)
            if time.monotonic() > end:
                raise RefusedError("the model did not come")
        return phase.answers[-1].answered_at


def _is_close(found: Floats, expected: Floats) -> bool:
    grid = float(np.abs(expected).max()) * 2.0**-20
    return found.shape == expected.shape and bool((np.abs(found - expected) <= grid).all())


def _expect(phase: Phase, code: int) -> None:
    wrong = [answer for answer in phase.answers if (answer.status, answer.code) != (200, code)]
    if wrong:
        raise RefusedError(
            f"{len(wrong)} of {len(phase.answers)} answers were not {code},"
            f" the first: HTTP {wrong[0].status}, retcode {wrong[0].code}"
        )
