"""How fast each kernel set is on this machine, next to the NumPy reference.

Reports, gates nothing.  A GB is 10**9 bytes read plus written by the operation: 20 bytes
per element for fold, 4 for find_unfit, 24 for merge, 12 for finalise, 20.525 for
fold_quantised (of whose elements 40 percent are kept), 8 for choose_kept.  Masks are counted
by what they cover: 4 bytes per float32 of the published scheme, 8 per element of the ring, of
which each is read and written.  Each number is the best of several runs, because on a shared
machine only the fastest run was undisturbed.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import report

from fl_cluster.kernels import native
from fl_cluster.privacy.masks import keystream_floats
from fl_cluster.privacy.ring.secrets import add_mask

BYTES_PER_ELEMENT = {
    "find_unfit": 4,
    "fold": 20,
    "merge": 24,
    "finalise": 12,
    "fold_quantised": 20.525,
    "choose_kept": 8,
    "mask, float32": 4,
    "mask, ring": 8,
}
KEPT_RATE = 0.4
SLOW_IN_PYTHON = 10_000
MASKS = "cryptography"
REFERENCE_TITLE = {"reference": "NumPy"}
MULTIPLIER = 2.0**25
RUNS = 5
SHOWN = 1_000_000
"""Elements of the arrays whose figures stand in the document."""
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"


@dataclass(frozen=True)
class Measurement:
    operation: str
    elements: int
    kernel: str
    seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        return self.elements * BYTES_PER_ELEMENT[self.operation] / self.seconds / 1e9


def processor() -> str:
    """The processor's name where the system tells, and the architecture anyway."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.machine()


def seconds_per_call(call: Callable[[], object], run_seconds: float) -> float:
    """The shortest mean of RUNS runs, each long enough for the clock not to matter."""
    call()
    calls = 1
    while (taken := _time(call, calls)) < run_seconds / 10:
        calls *= 2
    calls = max(1, int(calls * run_seconds / taken))
    return min(_time(call, calls) / calls for _ in range(RUNS))


def _time(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - start


def measure(name: str, elements: int, run_seconds: float) -> list[Measurement]:
    kernels = native.kernel_set(name)
    random = np.random.default_rng(1)
    x = random.standard_normal(elements, dtype=np.float32)
    acc = np.zeros(elements, np.int64)
    other = random.integers(-(2**50), 2**50, elements)
    out = np.empty(elements, np.float32)
    flags = random.random(elements) < KEPT_RATE
    kept = np.packbits(flags, bitorder="little")
    quants = random.integers(-128, 128, int(np.count_nonzero(flags)), dtype=np.int8)
    chosen = np.empty(elements, np.uint8)
    numbers = (-1.0, 0.01, 32.0, MULTIPLIER)
    calls: dict[str, Callable[[], object]] = {
        "find_unfit": lambda: kernels.find_unfit(x, MULTIPLIER, native.MAX_BOUND),
        "fold": lambda: kernels.fold(acc, x, MULTIPLIER),
        "merge": lambda: kernels.merge(acc, other),
        "finalise": lambda: kernels.finalise(out, acc, MULTIPLIER),
        "fold_quantised": lambda: kernels.fold_quantised(acc, x, kept, quants, numbers),
    }
    if name != "reference" or elements <= SLOW_IN_PYTHON:
        calls["choose_kept"] = lambda: kernels.choose_kept(chosen, 1, int(elements * KEPT_RATE))
    return [
        Measurement(operation, elements, name, seconds_per_call(call, run_seconds))
        for operation, call in calls.items()
    ]


def measure_masks(elements: int, run_seconds: float) -> list[Measurement]:
    """Key stream and what is done with it; the same for every kernel set."""
    key, vector, sums = bytes(32), bytes(16), np.zeros(elements, np.int64)
    calls: dict[str, Callable[[], object]] = {
        "mask, float32": lambda: keystream_floats(key, vector, elements),
        "mask, ring": lambda: add_mask(sums, key, 1),
    }
    return [
        Measurement(operation, elements, MASKS, seconds_per_call(call, run_seconds))
        for operation, call in calls.items()
    ]


def references(measurements: list[Measurement]) -> dict[tuple[str, int], float]:
    """Operation and elements -> seconds of NumPy."""
    return {
        (each.operation, each.elements): each.seconds
        for each in measurements
        if each.kernel == "reference"
    }


def as_markdown(measurements: list[Measurement]) -> str:
    """GB/s of each kernel set, with the ratio to NumPy, for arrays of SHOWN elements."""
    shown = [each for each in measurements if each.elements == SHOWN]
    reference = references(shown)
    sets = list(dict.fromkeys(each.kernel for each in shown))
    rows = [["operation", *(REFERENCE_TITLE.get(name, name) for name in sets)]]
    for operation in dict.fromkeys(each.operation for each in shown):
        of_sets = {each.kernel: each for each in shown if each.operation == operation}
        rows.append([operation, *(_cell(of_sets.get(name), reference) for name in sets)])
    return "\n".join([f"{head()}; {SHOWN:,} elements, GB/s", "", *report.table(rows)])


def _cell(found: Measurement | None, reference: dict[tuple[str, int], float]) -> str:
    if found is None:
        return ""
    slowest = reference.get((found.operation, found.elements))
    rate = f"{found.gigabytes_per_second:.1f}"
    if slowest is None or found.kernel == "reference":
        return rate
    return f"{rate} ({slowest / found.seconds:.1f} x NumPy)"


def head() -> str:
    """What the figures depend on."""
    return (
        f"{processor()}; Python {platform.python_version()}, NumPy {np.__version__};"
        f" in use: {native.kernel()}; one thread; best of {RUNS} runs"
    )


def show(measurements: list[Measurement]) -> None:
    reference = references(measurements)
    print(
        f"{'operation':<14} {'elements':>10} {'set':<12} {'us/call':>11} {'GB/s':>7} {'x NumPy':>8}"
    )
    for each in sorted(measurements, key=lambda each: (each.operation, each.elements)):
        slowest = reference.get((each.operation, each.elements))
        ratio = f"{slowest / each.seconds:>8.1f}" if slowest else f"{'':>8}"
        print(
            f"{each.operation:<14} {each.elements:>10,} {each.kernel:<12} "
            f"{each.seconds * 1e6:>11.2f} {each.gigabytes_per_second:>7.1f} {ratio}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--elements",
        type=int,
        nargs="+",
        default=[100, 10_000, 1_000_000, 10_000_000],
        help="array lengths",
    )
    parser.add_argument(
        "--sets", nargs="+", default=list(native.available()), choices=native.available()
    )
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="length of one run (default: %(default)s)"
    )
    parser.add_argument("--write-docs", action="store_true", help=f"write into {DOCUMENT.name}")
    arguments = parser.parse_args()
    if arguments.write_docs and SHOWN not in arguments.elements:
        parser.error(f"--write-docs shows arrays of {SHOWN:,} elements, and --elements lacks them")
    names = dict.fromkeys([*arguments.sets, "reference"])
    print(f"{head()} of {arguments.seconds} s")
    measurements = [
        measurement
        for elements in arguments.elements
        for name in names
        for measurement in measure(name, elements, arguments.seconds)
    ]
    measurements += [
        measurement
        for elements in arguments.elements
        for measurement in measure_masks(elements, arguments.seconds)
    ]
    show(measurements)
    if arguments.write_docs:
        report.write_docs(DOCUMENT, "kernels.py", as_markdown(measurements))


if __name__ == "__main__":
    main()
