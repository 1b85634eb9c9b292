"""One round of secure aggregation over real servers: wall seconds by step, and bytes per device.

    python benches/secure_round.py --devices 1000 --elements 100000 --servers 2

All devices are in this process, which shares the cores with servers and Redis, and take each
step together; so a step's time is that of all devices one after the other, of which the
arithmetic of the devices is told apart.  Five percent vanish: a third of them at each of offer,
sharing and report.  The model is compared with the exact mean of the devices that were counted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import numpy as np
from processes import HOUR_MS, Cluster, Setup

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Scaling, Update
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.device import RingDevice
from fl_cluster.privacy.ring.terms import terms_of
from fl_cluster.wire import messages, packed

AT_A_TIME = 32
HOLD_MS = 20_000
DATA_SIZE = 32
FULL = {"corrupt_ratio": 0.05, "dropout_ratio": 0.9}
"""Bounds so wide that in a cohort of a thousand no graph with fewer edges is safe."""
HEADERS = {"Content-Type": "application/msgpack"}
STEP = messages.ResponseSecureStep


class Meter:
    """Wall seconds by step, processor seconds of devices by step, bytes by direction."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.devices: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.again: Counter[str] = Counter()
        """How often a device had to ask again."""

    @contextmanager
    def computing(self, step: str) -> Iterator[None]:
        since = time.thread_time()
        yield
        self.devices[step] += time.thread_time() - since  # type: ignore[assignment]


class Party:
    """All devices of one round."""

    def __init__(self, cluster: Cluster, session: aiohttp.ClientSession, weights: Any) -> None:
        self._urls = [f"http://{host}:{port}" for host, port in cluster.addresses]
        self._session = session
        self._weights = weights
        self._free = asyncio.Semaphore(AT_A_TIME)
        self._devices: dict[str, RingDevice] = {}
        self.views: dict[str, Any] = {}
        self.meter = Meter()
        self.counted: list[str] = []

    async def ask(self, path: str, message: Any, cls: type[Any]) -> Any:
        """The answer, or None when the device is refused."""
        body = packed.encode(message)
        self.meter.sent[path] += len(body)
        while True:
            url = self._urls[hash(message.fl_id) % len(self._urls)]
            async with self._session.post(f"{url}/{path}", data=body, headers=HEADERS) as reply:
                raw, status = await reply.read(), reply.status
            self.meter.received[path] += len(raw)
            if status == 200:
                return packed.decode(cls, raw)
            if status not in (202, 503):
                return None
            self.meter.again[path] += 1
            await asyncio.sleep(0.2)

    async def each(
        self, step: str, names: list[str], act: Callable[[str], Awaitable[Any]]
    ) -> list[str]:
        """All take the step; those that it was granted to."""

        async def one(name: str) -> bool:
            async with self._free:
                return await act(name) is not None

        since = time.perf_counter()
        taken = await asyncio.gather(*map(one, names))
        self.meter.wall[step] = time.perf_counter() - since
        return [name for name, is_taken in zip(names, taken, strict=True) if is_taken]

    async def play(self, names: list[str], goal: int) -> None:
        """A round of which `goal` devices are counted."""
        await self.each("check in", names, self._check_in)
        await self.each("make keys", names, self._make_keys)
        names = await self.each("offer", names, self._offer)
        names = await self.each("roster and share", names, self._share)
        sharers, names = names, names[:goal]
        self.only_shared = len(sharers) - goal
        names = await self.each("delivery and report", names, self._report)
        self.counted = names
        await self.each("survivors and confirm", names, self._confirm)
        await self.each("tags and reveal", names, self._reveal)

    async def _check_in(self, name: str) -> Any:
        asked = messages.RequestFLJob(fl_id=name, data_size=DATA_SIZE)
        self._admitted = await self.ask("startFLJob", asked, messages.ResponseFLJob)
        secure, number = self._admitted.secure, self._admitted.iteration
        self._ring = packing.ring_round(secure, "bench", number)
        self._place = packing.Place.of(self._ring)
        return self._admitted

    async def _make_keys(self, name: str) -> Any:
        with self.meter.computing("make keys"):
            self._devices[name] = RingDevice(self._ring, name, SystemStream())
        return name

    async def _offer(self, name: str) -> Any:
        offer = packing.pack_offer(self._place, self._devices[name].offer)
        return await self.ask("secure/offer", offer, STEP)

    def _read(self, name: str) -> Any:
        return messages.RequestSecureRead(name, self._place.number, self._place.attempt, HOLD_MS)

    async def _share(self, name: str) -> Any:
        answer = await self.ask("secure/roster", self._read(name), messages.ResponseSecureRoster)
        with self.meter.computing("share"):
            self.views[name] = packing.unpack_roster(answer)
            sharing = self._devices[name].share(self.views[name])
        return await self.ask("secure/share", packing.pack_sharing(self._place, sharing), STEP)

    async def _report(self, name: str) -> Any:
        cls: type[Any] = messages.ResponseSecureDelivery
        answer = await self.ask("secure/delivery", self._read(name), cls)
        view, secure = self.views[name], self._admitted.secure
        with self.meter.computing("report"):
            delivery = packing.unpack_delivery(answer, len(view.leaves), view.offers)
            (tensor,) = secure.tensors
            bound = term_bound(secure.cohort_size)
            terms = terms_of([self._weights], [tensor.exponent], DATA_SIZE, bound)
            report = self._devices[name].report(delivery, terms)
        update = messages.RequestUpdateModel(
            fl_id=name,
            iteration=self._place.number,
            masked_terms=packing.pack_terms(report.terms),
            masked_tags=packing.pack_report_tags(report.tags),
        )
        return await self.ask("updateModel", update, messages.ResponseUpdateModel)

    async def _confirm(self, name: str) -> Any:
        cls: type[Any] = messages.ResponseSecureSurvivors
        answer = await self.ask("secure/survivors", self._read(name), cls)
        with self.meter.computing("confirm"):
            view = self.views[name]
            survivors = packing.unpack_survivors(answer, len(view.leaves), view.offers)
            confirmation = self._devices[name].confirm(survivors)
        message = packing.pack_confirmation(self._place, confirmation)
        return await self.ask("secure/confirm", message, STEP)

    async def _reveal(self, name: str) -> Any:
        answer = await self.ask("secure/tags", self._read(name), messages.ResponseSecureTags)
        if answer is None:
            return None  # the others' shares sufficed
        with self.meter.computing("reveal"):
            size = len(self.views[name].leaves)
            reveal = self._devices[name].reveal(packing.unpack_tags(answer, size))
        return await self.ask("secure/reveal", packing.pack_reveal(self._place, reveal, size), STEP)

    async def wait_for_model(self, number: int) -> str:
        """Digest of the model that the round ended with."""
        asked = messages.RequestGetModel(iteration=number, hold_ms=HOLD_MS)
        since = time.perf_counter()
        while True:
            body = packed.encode(asked)
            url = f"{self._urls[0]}/getModel"
            async with self._session.post(url, data=body, headers=HEADERS) as reply:
                if reply.status == 200:
                    answer = packed.decode(messages.ResponseGetModel, await reply.read())
                    self.meter.wall["unmask and publish"] = time.perf_counter() - since
                    return answer.model_digest or ""


def report(party: Party, cluster: Cluster, count: int) -> None:
    view = next(iter(party.views.values()))
    print(
        f"{count} devices, {len(view.offers)} neighbours, {len(party.counted)} counted,"
        f" {party.only_shared} vanished after sharing, {len(cluster.addresses)} servers"
    )
    for step, seconds in party.meter.wall.items():
        print(f"  wall: {step:<24} {seconds:>8.1f} s")
    print(f"  wall: {'all':<24} {sum(party.meter.wall.values()):>8.1f} s")
    for step, seconds in party.meter.devices.items():
        print(f"  a device's processor: {step:<10} {1e3 * seconds / count:>8.1f} ms")
    used = cluster.processor_seconds()
    for name, seconds in ((name, used[name]) for name in ("generator", "servers", "Redis")):
        print(f"  processor: {name:<12} {seconds:>8.1f} s")
    for path in party.meter.sent:
        up, down = party.meter.sent[path] / count, party.meter.received[path] / count
        again = f", asked again {party.meter.again[path]} times" if party.meter.again[path] else ""
        print(f"  bytes of a device: {path:<18} {up:>12,.0f} up {down:>12,.0f} down{again}")


async def run(options: argparse.Namespace) -> None:
    count, goal = options.devices, options.devices - options.devices // 20
    weights = np.random.default_rng(1).normal(size=options.elements).astype(np.float32)
    settings = {
        "round": {
            "start_fl_job_threshold": count,
            "start_fl_job_time_window": HOUR_MS,
            "update_model_ratio": goal / count,
            "update_model_time_window": HOUR_MS,
            "global_iteration_time_window": HOUR_MS,
        },
        "encrypt": {
            "encrypt_type": "SECURE_AGGREGATION",
            "secure_aggregation": {"step_window_ms": HOUR_MS, **(FULL if options.full else {})},
        },
    }
    setup = Setup({"w": weights}, count, 2, options.servers, settings)
    timeout = aiohttp.ClientTimeout(total=600)
    with Cluster(setup) as cluster:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            party = Party(cluster, session, weights)
            await party.play([f"device-{i}" for i in range(count)], goal)
            digest = await party.wait_for_model(1)
        report(party, cluster, count)
    layout = Layout([Tensor("w", (options.elements,))])
    base = Model(layout, weights)
    total = Partial(layout, Scaling(exponents(base, count), term_bound(count)))
    for _ in party.counted:
        total.add(Update([(layout.summed[0], weights)], is_plain=True), DATA_SIZE)
    if total.finalise(base)[0].digest != digest:
        raise SystemExit("the unmasked model is not the plain round's")
    print("  the model has the bytes of the plain round's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="no graph: everybody with everybody")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
