"""`make bench`: what the cluster does per second, and what it takes, on this machine.

Real processes, a real Redis on a Unix socket, and a load generator whose own processor time
is printed, because all of them share the cores.  Rates count uploads only: the check-ins that
precede them, one per upload, are not timed.  Every number is a median, with its extremes.
Options for `make bench`: BENCH="--quick", BENCH="--only uploads --write-docs".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import modes
import report
from bodies import weights_of
from devices import seconds_per_round
from facts import machine_facts
from processes import Cluster, Setup
from report import Row
from rounds import Driver, RoundTimes

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "performance.md"

SMALL, MIDDLE, LARGE, HUGE = 10_000, 420_000, 5_000_000, 25_000_000
MEGABYTE = 1e6
WARM_UP = 1

# MindSpore Federated 0.1.0 with 1 and 2 servers, on a machine of two cores, driven the same way.
ORIGINAL_RATE = {SMALL: (2_780.0, 2_972.0), MIDDLE: (282.0, 277.0), LARGE: (33.0, 33.0)}
ORIGINAL_MODEL = (0.4, 2.2)
ORIGINAL_WHOLE = (1.0, 3.0)
RATIO = {SMALL: 1.5, MIDDLE: 2.5, LARGE: 1.0}


@contextmanager
def driven(setup: Setup) -> Iterator[tuple[Cluster, Driver]]:
    """A running cluster and all its devices."""
    with Cluster(setup) as cluster:
        driver = Driver(cluster)
        try:
            yield cluster, driver
        finally:
            driver.close()


def play(setup: Setup) -> list[RoundTimes]:
    """All rounds of a job; the times without the first, which fills caches."""
    with driven(setup) as (_, driver):
        times = [driver.play() for _ in range(setup.rounds)]
        driver.verify()
    return times[WARM_UP:] if setup.rounds > WARM_UP else times


def uploads(size: int, devices: int, servers: int, rounds: int) -> list[Row]:
    """Uploads per second, time to the model, and the whole round."""
    times = play(Setup(weights_of(size), devices, rounds + WARM_UP, servers))
    where = f"{size:,} floats, {devices} devices, {servers} server{'s' * (servers > 1)}"
    original = ORIGINAL_RATE[size]
    middle = sorted(times, key=lambda each: each.uploads)[len(times) // 2]
    rows = [
        Row(
            f"uploads, {where}",
            "/s",
            [devices / each.uploads for each in times],
            budget=RATIO[size] * original[0],
            original=original[servers - 1],
            processor=middle.processor,
        ),
        Row(
            f"last upload -> model served by all, {where}",
            "s",
            [each.model for each in times],
            original=ORIGINAL_MODEL[servers - 1] if size == MIDDLE else None,
        ),
    ]
    if size == MIDDLE:
        rows.append(
            Row(
                f"whole round, {where}",
                "s",
                [each.whole for each in times],
                budget=0.4,
                original=ORIGINAL_WHOLE[servers - 1],
            )
        )
    return rows


def start_and_idle(repetitions: int) -> list[Row]:
    """Time until a server serves, and its memory when nothing happens."""
    seconds, resident = [], []
    for _ in range(repetitions):
        with Cluster(Setup(weights_of(MIDDLE), 1, 1)) as cluster:
            seconds += cluster.seconds_to_serve
            resident.append(cluster.resident_bytes() / MEGABYTE)
    return [
        Row("start of a server until it serves", "s", seconds, 1.0, 1.4),
        Row("resident memory, idle, 420,000 floats", "MB", resident, 80.0, 480.0),
    ]


def peaks(size: int, devices: int, rounds: int) -> list[Row]:
    """The most memory that a server takes, round by round."""
    found = []
    with driven(Setup(weights_of(size), devices, rounds + WARM_UP)) as (cluster, driver):
        for _ in range(rounds + WARM_UP):
            cluster.forget_peaks()
            driver.play()
            found.append(cluster.peak_bytes() / MEGABYTE)
        driver.verify()
    found = found[WARM_UP:]
    model = 4 * size / MEGABYTE
    return [
        Row(
            f"peak memory, {size:,} floats, {devices} devices",
            "MB",
            found,
            budget=8 * model + 100 if size == LARGE else None,
            original=1_900.0 if size == LARGE else None,
            notes="per round: " + ", ".join(report.number(each) for each in found),
        )
    ]


def many_devices(devices: int) -> list[Row]:
    """One round that every device of a crowd takes part in."""
    times = play(Setup(weights_of(MIDDLE), devices, 2, servers=2))
    return [
        Row(
            f"whole round, 420,000 floats, {devices:,} devices, 2 servers",
            "s",
            [each.whole for each in times],
        )
    ]


def sdk(processes: int, devices: int, rounds: int, budget: float | None) -> list[Row]:
    """Rounds with real devices: Python, msgpack, HTTP, real waiting."""
    with Cluster(Setup(weights_of(MIDDLE), devices, rounds + WARM_UP)) as cluster:
        servers = [f"http://{host}:{port}" for host, port in cluster.addresses]
        times = seconds_per_round(servers, processes, devices)
    what = f"{processes} device processes" if processes > 1 else f"{devices} devices in one process"
    return [Row(f"round with the SDK, 420,000 floats, {what}", "s", times, budget)]


GROUPS: dict[str, list[Callable[[], list[Row]]]] = {
    "start": [lambda: start_and_idle(3)],
    "uploads": [
        *(lambda n=n: uploads(SMALL, 100, n, 9) for n in (1, 2)),
        *(lambda n=n: uploads(MIDDLE, 100, n, 5) for n in (1, 2)),
        *(lambda n=n: uploads(LARGE, 32, n, 3) for n in (1, 2)),
    ],
    "memory": [lambda: peaks(LARGE, 32, 5), lambda: peaks(HUGE, 8, 3)],
    "crowd": [lambda: many_devices(1_000)],
    "modes": [modes.rows],
    "sdk": [lambda: sdk(8, 8, 10, 0.2), lambda: sdk(1, 100, 5, 0.7)],
}
QUICK: list[Callable[[], list[Row]]] = [
    lambda: start_and_idle(1),
    lambda: uploads(SMALL, 20, 2, 1),
    lambda: uploads(MIDDLE, 20, 1, 1),
    lambda: peaks(LARGE, 4, 1),
    lambda: sdk(2, 2, 2, None),
    lambda: modes.rows(with_accuracy=False),
]


def measure(steps: list[Callable[[], list[Row]]]) -> list[Row]:
    """Run the steps, saying each result as it comes."""
    rows = []
    for step in steps:
        for row in step():
            rows.append(row)
            cells = row.cells()
            print(": ".join(cells[:2]), *filter(None, cells[2:]), sep="; ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="prove that it runs: under a minute")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=HERE / "results" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json",
        metavar="FILE",
        help="also keep the results, by default in benches/results",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the table into docs/performance.md"
    )
    options = parser.parse_args()
    facts = machine_facts()
    rows = measure(QUICK if options.quick else [s for name in options.only for s in GROUPS[name]])
    print("\n" + report.as_text(facts, rows))
    if options.json:
        report.write_json(options.json, facts, rows)
    if options.write_docs:
        report.write_docs(DOCUMENT, "run.py", report.as_markdown(facts, rows))


if __name__ == "__main__":
    main()
