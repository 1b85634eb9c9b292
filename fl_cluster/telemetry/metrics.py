"""Counters, gauges and histograms, and their exposition in Prometheus's text format.

A registry is made by whoever builds the process and passed down; there is no global one.
Every label lists the values it can take when the metric is declared, so the number of series
is known from the start: no device can make it grow.  A value that was not declared is counted
as `other`.  All series exist, at zero, from the beginning.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
MAX_SERIES = 1_000
EXACT_BELOW = 2**53
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds for how long something took."""

BYTES = tuple(float(4**n) for n in range(5, 15))
"""Upper bounds for how large something was: 1 KiB to 256 MiB."""

Labels = Mapping[str, Sequence[str]]
NO_LABELS: Labels = {}


class Counter:
    """One series that only grows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0.0

    def add(self, amount: float = 1) -> None:
        """Count `amount` more, which is not negative."""
        if amount < 0:
            raise ValueError(f"a counter never falls: {amount}")
        with self._lock:
            self._value += amount

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, further label, value) of each line."""
        yield "", "", self._value


class Gauge:
    """One series that goes up and down, or is read when someone looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0.0
        self._read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """The value is `value` now."""
        self._value = value

    def add(self, amount: float = 1) -> None:
        """The value is `amount` more now, or less when that is negative."""
        with self._lock:
            self._value += amount

    def read_from(self, read: Callable[[], float]) -> None:
        """Ask `read` for the value whenever it is exposed; it must be quick and not fail."""
        self._read = read

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, further label, value) of each line."""
        yield "", "", self._value if self._read is None else self._read()


class Histogram:
    """One series of how many observations lie below each of a few bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation; a bound is inside its bucket."""
        place = bisect.bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def samples(self) -> Iterator[tuple[str, str, float]]:
        """(name suffix, further label, value) of each line."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        cumulative = list(itertools.accumulate(counts))
        for bound, count in zip((*self._bounds, math.inf), cumulative, strict=True):
            yield "_bucket", f'le="{_number(bound)}"', count
        yield "_sum", "", total
        yield "_count", "", cumulative[-1]


S = TypeVar("S", bound=Counter | Gauge | Histogram)


class Family(Generic[S]):
    """All series of one metric: one for each combination of its labels' values."""

    def __init__(self, labels: Labels, make: Callable[[], S]) -> None:
        self._names: tuple[str, ...] = tuple(labels)
        self._values: list[tuple[str, ...]] = [(*known, OTHER) for known in labels.values()]
        combinations: Iterator[tuple[str, ...]] = itertools.product(*self._values)
        self._series: dict[tuple[str, ...], S] = {values: make() for values in combinations}

    def labelled(self, **labels: str) -> S:
        """The series with these labels; all of them must be given."""
        if tuple(sorted(labels)) != tuple(sorted(self._names)):
            raise ValueError(f"expected the labels {self._names}, got {tuple(labels)}")
        values = tuple(
            labels[name] if labels[name] in known else OTHER
            for name, known in zip(self._names, self._values, strict=True)
        )
        return self._series[values]

    def lines(self, name: str) -> Iterator[str]:
        """The lines of all series, in the order of the labels' values."""
        for values, series in self._series.items():
            own: list[str] = [
                f'{label}="{_escaped(value)}"'
                for label, value in zip(self._names, values, strict=True)
            ]
            for suffix, further, value in series.samples():
                labels = ",".join([*own, further] if further else own)
                shown = f"{{{labels}}}" if labels else ""
                yield f"{name}{suffix}{shown} {_number(value)}"


class Registry:
    """The metrics of one process, in the order in which they were declared."""

    def __init__(self) -> None:
        self._heads: dict[str, str] = {}
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}

    def counter(self, name: str, meaning: str) -> Counter:
        """A counter without labels; by custom its name ends in `_total`."""
        return self.counters(name, meaning, NO_LABELS).labelled()

    def counters(self, name: str, meaning: str, labels: Labels) -> Family[Counter]:
        """Counters, one for each combination of `labels`: label -> the values it takes."""
        self._declare(name, "counter", meaning, labels)
        family = Family(labels, Counter)
        self._families[name] = family
        return family

    def gauge(self, name: str, meaning: str) -> Gauge:
        """A gauge without labels."""
        return self.gauges(name, meaning, NO_LABELS).labelled()

    def gauges(self, name: str, meaning: str, labels: Labels) -> Family[Gauge]:
        """Gauges, one for each combination of `labels`."""
        self._declare(name, "gauge", meaning, labels)
        family = Family(labels, Gauge)
        self._families[name] = family
        return family

    def histogram(self, name: str, meaning: str, bounds: Sequence[float] = SECONDS) -> Histogram:
        """A histogram without labels."""
        return self.histograms(name, meaning, NO_LABELS, bounds).labelled()

    def histograms(
        self, name: str, meaning: str, labels: Labels, bounds: Sequence[float] = SECONDS
    ) -> Family[Histogram]:
        """Histograms, one for each combination of `labels`; `bounds` rise strictly."""
        if not bounds or any(low >= high for low, high in itertools.pairwise(bounds)):
            raise ValueError(f"{name}: the bounds must rise: {bounds}")
        if "le" in labels:
            raise ValueError(f"{name}: the label le belongs to the buckets")
        self._declare(name, "histogram", meaning, labels)
        family = Family(labels, lambda: Histogram(bounds))
        self._families[name] = family
        return family

    def _declare(self, name: str, kind: str, meaning: str, labels: Labels) -> None:
        if not METRIC_NAME.match(name) or not all(LABEL_NAME.match(label) for label in labels):
            raise ValueError(f"not a name for a metric or a label: {name} {tuple(labels)}")
        if name in self._heads:
            raise ValueError(f"{name} is declared twice")
        count = math.prod(len(values) + 1 for values in labels.values())
        if count > MAX_SERIES:
            raise ValueError(f"{name} would have {count} series; at most {MAX_SERIES} are allowed")
        help_text = meaning.replace("\\", "\\\\").replace("\n", "\\n")
        self._heads[name] = f"# HELP {name} {help_text}\n# TYPE {name} {kind}"

    def expose(self) -> str:
        """All metrics as a scraper reads them; serve it as `CONTENT_TYPE`."""
        lines: list[str] = []
        for name, head in self._heads.items():
            lines.append(head)
            lines.extend(self._families[name].lines(name))
        return "\n".join(lines) + "\n" if lines else ""


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return (
        str(int(value)) if value == int(value) and abs(value) < EXACT_BELOW else repr(float(value))
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
