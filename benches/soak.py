"""`make soak`: a server under hostile and heavy load stays small, and goes on serving.

Each attack is made by raw sockets in a process of its own while honest devices play rounds;
measured are the server's peak memory, and a round then against one in quiet.  One server of
the cluster is attacked, from one host: the limits are those of a process.
`--write-docs` puts the table into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gzip
import multiprocessing
import queue
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import report
from bodies import Device, retcode, weights_of
from facts import machine_facts
from load import Load
from processes import Cluster, Setup
from report import Row
from rounds import Driver

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
FLOATS = 420_000
DEVICES = 20
MEGABYTE = 1e6
ROUNDS = 5
READY_S = 60.0
HEAD = "POST /updateModel HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
ATTACK_FACTS = collections.Counter[str]
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[["Attacker"], Awaitable[None]]


class Attacker:
    """Many connections of one process to one server; keeps count of what became of them."""

    def __init__(self, address: tuple[str, int], size: int) -> None:
        self.address = address
        self.size = size
        """Bytes of a whole update."""
        self.facts: ATTACK_FACTS = collections.Counter()

    async def many(self, count: int, each: Callable[[Wire], Coroutine[Any, Any, None]]) -> None:
        """Do `each` with so many connections at the same time, and again whenever one ends."""

        async def again() -> None:
            while True:
                await self._once(each)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(again() for _ in range(count)))

    async def _once(self, each: Callable[[Wire], Coroutine[Any, Any, None]]) -> None:
        try:
            wire = await asyncio.open_connection(*self.address)
        except OSError:
            self.facts["refused"] += 1
            return
        self.facts["opened"] += 1
        try:
            await each(wire)
        except OSError:
            self.facts["closed"] += 1

    async def upload_start(self, wire: Wire, count: int) -> None:
        """Say that a whole update comes, send so many bytes of it, and wait."""
        wire[1].write(HEAD.format(length=self.size).encode() + bytes(count))
        await self.until_closed(wire)

    async def until_closed(self, wire: Wire) -> None:
        """Listen until the server closes; its answer's status line is counted."""
        reader, writer = wire
        try:
            first = await reader.read(12)
            self.facts[first[9:12].decode("latin-1") or "closed"] += 1
            while await reader.read(65_536):
                pass
        finally:
            writer.close()


async def idle(attacker: Attacker) -> None:
    """10,000 connections that say nothing."""
    await attacker.many(10_000, attacker.until_closed)


async def slow_heads(attacker: Attacker) -> None:
    """500 connections that send the head of a request byte by byte."""

    async def one(wire: Wire) -> None:
        listening = asyncio.create_task(attacker.until_closed(wire))
        for byte in HEAD.format(length=attacker.size).encode():
            if listening.done():
                break
            wire[1].write(bytes([byte]))
            await asyncio.sleep(1)
        await listening

    await attacker.many(500, one)


async def slow_bodies(attacker: Attacker) -> None:
    """200 uploads of which the first 64 KiB come, and then nothing."""
    await attacker.many(200, lambda wire: attacker.upload_start(wire, 65_536))


async def drips(attacker: Attacker) -> None:
    """40 uploads of which the first 64 KiB come, and then five bytes a second."""

    async def one(wire: Wire) -> None:
        listening = asyncio.create_task(attacker.until_closed(wire))
        wire[1].write(HEAD.format(length=attacker.size).encode() + bytes(66_000))
        while not listening.done() and not wire[1].is_closing():
            wire[1].write(b"x")
            await asyncio.sleep(0.2)
        await listening

    await attacker.many(40, one)


async def short_starts(attacker: Attacker) -> None:
    """9,000 uploads of which 65,000 bytes come, and then nothing."""
    await attacker.many(9_000, lambda wire: attacker.upload_start(wire, 65_000))


async def slow_readers(attacker: Attacker) -> None:
    """500 connections that ask for the model and do not take it."""
    question = b"".join(bytes(part) for part in Device({}).get_model.request(0).parts)

    async def one(wire: Wire) -> None:
        reader, writer = wire
        writer.write(question)
        await reader.read(1_000)
        wire[1].transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3_600)

    await attacker.many(500, one)


async def lying_lengths(attacker: Attacker) -> None:
    """100 connections whose bodies are shorter than they say, longer, or endless."""
    lengths = [attacker.size, 10**15, -1, attacker.size * 2]

    async def one(wire: Wire) -> None:
        length = lengths[attacker.facts["opened"] % len(lengths)]
        wire[1].write(HEAD.format(length=length).encode() + bytes(100_000))
        if attacker.facts["opened"] % 2:
            wire[1].write_eof()
        await attacker.until_closed(wire)

    await attacker.many(100, one)


async def gzip_bombs(attacker: Attacker) -> None:
    """50 connections that send 1 GB of zeros as a compressed body of 1 MB."""
    bomb = gzip.compress(bytes(10**9 // 8), 9) * 8
    head = (
        f"POST /updateModel HTTP/1.1\r\nHost: x\r\nContent-Length: {len(bomb)}\r\n"
        "Content-Encoding: gzip\r\n\r\n"
    ).encode()

    async def one(wire: Wire) -> None:
        reader, writer = wire
        try:
            for _ in range(10):
                writer.write(head + bomb)
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                attacker.facts[answer[9:12].decode()] += 1
                length = int(answer.partition(b"Content-Length: ")[2].split()[0])
                await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            attacker.facts["closed"] += 1
        finally:
            writer.close()

    await attacker.many(50, one)


async def header_floods(attacker: Attacker) -> None:
    """100 connections that send headers without end."""
    line = b"X-Header: " + b"x" * 8_000 + b"\r\n"

    async def one(wire: Wire) -> None:
        listening = asyncio.create_task(attacker.until_closed(wire))
        wire[1].write(b"POST /updateModel HTTP/1.1\r\nHost: x\r\n")
        while not listening.done():
            wire[1].write(line)
            await wire[1].drain()
            await asyncio.sleep(0.01)
        await listening

    await attacker.many(100, one)


async def garbage(attacker: Attacker) -> None:
    """100 connections that upload bytes which are no message."""
    noise = bytes(n * 37 % 251 for n in range(attacker.size // 4))

    async def one(wire: Wire) -> None:
        wire[1].write(HEAD.format(length=len(noise)).encode() + noise)
        wire[1].write_eof()
        await attacker.until_closed(wire)

    await attacker.many(100, one)


ATTACKS: tuple[Attack, ...] = (
    idle,
    slow_heads,
    slow_bodies,
    drips,
    slow_readers,
    lying_lengths,
    gzip_bombs,
    header_floods,
    garbage,
    short_starts,
)
"""The one that takes most memory for a moment comes last: it is given back within ten seconds."""


def _attack(
    attack: Attack,
    address: tuple[str, int],
    size: int,
    stop: Event,
    facts: multiprocessing.Queue[Any],
) -> None:
    """The attacking process: from `ready` until `stop`, then what it has seen."""

    async def run() -> None:
        attacker = Attacker(address, size)
        task = asyncio.ensure_future(attack(attacker))
        await asyncio.sleep(3.0)
        facts.put("ready")
        await asyncio.to_thread(stop.wait)
        task.cancel()
        await asyncio.wait((task,))
        facts.put(dict(attacker.facts))

    asyncio.run(run())


@dataclass(slots=True)
class Assault:
    """An attack that is going on."""

    stop: Event
    facts: multiprocessing.Queue[Any]

    def end(self) -> dict[str, int]:
        """Stop it; what it has seen."""
        self.stop.set()
        seen: dict[str, int] = self.facts.get(timeout=READY_S)
        return seen


@contextmanager
def under(attack: Attack, address: tuple[str, int], size: int) -> Iterator[Assault]:
    """The attack goes on meanwhile."""
    context = multiprocessing.get_context("spawn")
    stop, facts = context.Event(), context.Queue()
    process = context.Process(target=_attack, args=(attack, address, size, stop, facts))
    process.start()
    try:
        if facts.get(timeout=READY_S) != "ready":
            raise SystemExit("the attack did not begin")
        yield Assault(stop, facts)
    except queue.Empty:
        raise SystemExit("the attacking process says nothing") from None
    finally:
        stop.set()
        process.join(10)
        process.kill()


def besiege(attacks: Sequence[Attack], rounds: int) -> list[Row]:
    """Rounds in quiet, then under each attack."""
    weights = weights_of(FLOATS)
    setup = Setup(weights, DEVICES, 10_000, settings={"client": {"connection_num": 10_000}})
    rows = []
    with Cluster(setup) as cluster:
        driver = Driver(cluster, patient=True)
        try:
            for _ in range(2):
                driver.play()
            quiet = [driver.play().whole for _ in range(rounds)]
            rows.append(_row("in quiet", quiet, cluster, ""))
            for attack in attacks:
                cluster.forget_peaks()
                with under(attack, cluster.addresses[0], 4 * FLOATS) as assault:
                    times = [driver.play().whole for _ in range(rounds)]
                    seen = assault.end()
                what = ", ".join(f"{name} {count:,}" for name, count in sorted(seen.items()))
                name = (attack.__doc__ or "").rstrip(".")
                rows.append(_row(name, times, cluster, what))
                print(": ".join(rows[-1].cells()[:2]), rows[-1].notes, sep="; ", flush=True)
            driver.verify()
        except Exception:
            print(cluster.log("server 1"))
            raise
        finally:
            driver.close()
    return rows


def _row(name: str, times: list[float], cluster: Cluster, notes: str) -> Row:
    memory = f"peak {cluster.peak_bytes() / MEGABYTE:.0f} MB"
    return Row(f"round of {DEVICES} devices, {name}", "s", times, notes=f"{memory}; {notes}")


def herd(devices: int) -> list[Row]:
    """All of a herd check in at once, and a tenth has a place."""
    weights = weights_of(FLOATS)
    with Cluster(Setup(weights, devices // 10, 3)) as cluster:
        load = Load(cluster.addresses, 1_000, retcode)
        try:
            before = cluster.resident_bytes() / MEGABYTE
            requests = [Device({}).check_in.request(1, i, keep=True) for i in range(devices)]
            phase = load.run(requests)
        finally:
            load.close()
        peak = cluster.peak_bytes() / MEGABYTE
    waits = sorted(_wait_of(a.body) for a in phase.answers if a.code != 200)
    admitted = sum(answer.code == 200 for answer in phase.answers)
    latencies = [answer.answered_at - answer.sent_at for answer in phase.answers]
    slowest = statistics.quantiles(latencies, n=100)[98]
    spread = (waits[-1] - waits[0]) / 1000
    notes = (
        f"{admitted} admitted, {len(waits):,} told to come back, spread over {spread:.1f} s; 99 of"
        f" 100 answered within {slowest:.2f} s; memory {before:.0f} MB before, {peak:.0f} MB peak"
    )
    return [
        Row(f"{devices:,} check-ins at once, model of 1.7 MB", "s", [phase.seconds], notes=notes)
    ]


def _wait_of(body: bytes) -> int:
    from fl_cluster.wire import flat, messages

    answer = flat.decode(messages.ResponseFLJob, body)
    return int(answer.next_req_time or "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    names = [attack.__name__ for attack in ATTACKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--write-docs", action="store_true", help=f"write into {DOCUMENT.name}")
    options = parser.parse_args()
    started = time.monotonic()
    chosen = [attack for attack in ATTACKS if attack.__name__ in options.only]
    rows = herd(500 if options.quick else 5_000)
    rows += besiege(chosen, 1 if options.quick else ROUNDS)
    facts = machine_facts()
    print("\n" + report.as_text(facts, rows))
    print(f"\nsoak: {len(chosen)} attacks, {time.monotonic() - started:.0f} s, all rounds right")
    if options.write_docs:
        report.write_docs(DOCUMENT, "soak.py", report.as_markdown(facts, rows))


if __name__ == "__main__":
    main()
