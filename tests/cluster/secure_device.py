"""A device of secure aggregation by plain HTTP: the protocol, and no SDK.

It asks any server, another one when that does not answer, and the same again until it is
served, as devices do.  A test may let it vanish before a step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from fl_cluster.kernels.bounds import term_bound
from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.messages import Report, RingRound, RosterView
from fl_cluster.privacy.ring.terms import terms_of
from fl_cluster.wire import messages, packed

STEPS = (
    "secure/offer",
    "secure/roster",
    "secure/share",
    "secure/delivery",
    "updateModel",
    "secure/survivors",
    "secure/confirm",
    "secure/tags",
    "secure/reveal",
)
ANSWERS: Mapping[str, type[Any]] = {
    "startFLJob": messages.ResponseFLJob,
    "updateModel": messages.ResponseUpdateModel,
    "getModel": messages.ResponseGetModel,
    "secure/roster": messages.ResponseSecureRoster,
    "secure/delivery": messages.ResponseSecureDelivery,
    "secure/survivors": messages.ResponseSecureSurvivors,
    "secure/tags": messages.ResponseSecureTags,
}
HEADERS = {"Content-Type": "application/msgpack"}
AGAIN = (202, 503)
HOLD_MS = 2_000

Train = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Vanished(Exception):
    """The test wants the device to be gone."""


class LeftOut(Exception):
    """The round goes on, or ended, without the device; says at which step, and the verdict."""


@dataclass
class Line:
    """The way to a cluster's servers; `urls` may change under way."""

    session: aiohttp.ClientSession
    urls: list[str]
    rng: random.Random = field(default_factory=random.Random)
    on_ask: Callable[[str, str], None] = lambda path, url: None
    """Told of each request that is about to be made."""
    patience_s: float = 40.0

    async def ask(self, path: str, message: Any) -> tuple[int, Any]:
        """Status and answer of a server that serves the request, or refuses it for good."""
        body, kind = packed.encode(message), ANSWERS.get(path, messages.ResponseSecureStep)
        deadline, last = time.monotonic() + self.patience_s, "nobody answered"
        while time.monotonic() < deadline:
            url = self.rng.choice(self.urls)
            self.on_ask(path, url)
            try:
                post = self.session.post(f"{url}/{path}", data=body, headers=HEADERS)
                async with post as reply:
                    status, raw = reply.status, await reply.read()
            except (aiohttp.ClientError, ConnectionError) as exc:
                last = repr(exc)
            else:
                assert status < 500 or status == 503, (path, status, raw)
                if status not in AGAIN:
                    return status, packed.decode(kind, raw)
                last = f"{status} {raw!r}"
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path}: {last}")


class SecureDevice:
    """One device in one round after the other."""

    def __init__(self, line: Line, name: str, data_size: int, job: str) -> None:
        self.name = name
        self.data_size = data_size
        self._line = line
        self._job = job
        self.admitted = messages.ResponseFLJob()
        self.base: dict[str, Any] = {}
        self.reported = False
        self.stopped_at = ""

    async def check_in(self) -> None:
        """Be admitted to the round that is open, or the next one."""
        asked = messages.RequestFLJob(fl_id=self.name, data_size=self.data_size)
        while True:
            status, answer = await self._line.ask("startFLJob", asked)
            if status == 200:
                break
            assert answer.verdict in ("cohort_full", "enough"), answer
            await asyncio.sleep(0.05)
        self.admitted, self.reported = answer, False
        self.base = {t.weight_fullname: np.array(t.data) for t in answer.feature_map}

    @property
    def ring(self) -> RingRound:
        """The masked round that it was admitted to."""
        assert self.admitted.secure is not None
        return packing.ring_round(self.admitted.secure, self._job, self.admitted.iteration)

    def terms(self, trained: Mapping[str, Any]) -> Any:
        """Its update as terms of the sum."""
        secure = self.admitted.secure
        assert secure is not None
        tensors = secure.tensors or ()
        return terms_of(
            [trained[tensor.weight_fullname or ""] for tensor in tensors],
            [tensor.exponent for tensor in tensors],
            self.data_size,
            term_bound(secure.cohort_size),
        )

    async def take_part(self, train: Train, vanishes_before: str = "") -> None:
        """Everything after the check-in; `stopped_at` says where it ended, empty at the end."""
        self.stopped_at = ""
        try:
            await self._take_part(train, vanishes_before)
        except (LeftOut, Vanished) as exc:
            self.stopped_at = str(exc)

    async def _take_part(self, train: Train, vanishes_before: str) -> None:
        async def step(path: str, message: Any) -> Any:
            if path == vanishes_before:
                raise Vanished(f"{path} vanished")
            status, answer = await self._line.ask(path, message)
            if status != 200:
                assert status in (409, 410, 429), (self.name, path, answer)
                raise LeftOut(f"{path} {answer.verdict}")
            return answer

        ring = self.ring
        place = packing.Place.of(ring)
        read = messages.RequestSecureRead(self.name, place.number, place.attempt, HOLD_MS)
        device = RingDevice(ring, self.name, SystemStream())
        await step("secure/offer", packing.pack_offer(place, device.offer))
        view: RosterView = packing.unpack_roster(await step("secure/roster", read))
        size, neighbours = len(view.leaves), sorted(view.offers)
        await step("secure/share", packing.pack_sharing(place, device.share(view)))
        delivery = packing.unpack_delivery(await step("secure/delivery", read), size, neighbours)
        report = device.report(delivery, self.terms(train(self.base)))
        answer = await step("updateModel", self.update(report))
        assert answer.receipt.round == place.number
        self.reported = True
        told = await step("secure/survivors", read)
        confirmation = device.confirm(packing.unpack_survivors(told, size, neighbours))
        await step("secure/confirm", packing.pack_confirmation(place, confirmation))
        tags = packing.unpack_tags(await step("secure/tags", read), size)
        reveal = packing.pack_reveal(place, device.reveal(tags), size)
        await step("secure/reveal", reveal)

    def update(self, report: Report) -> messages.RequestUpdateModel:
        """What it uploads."""
        return messages.RequestUpdateModel(
            fl_id=self.name,
            iteration=self.admitted.iteration,
            upload_loss=0.5,
            masked_terms=packing.pack_terms(report.terms),
            masked_tags=packing.pack_report_tags(report.tags),
        )
