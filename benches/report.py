"""Results as rows: printed, kept as JSON, and written into a document, between its marks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

TITLES = ("what", "measured", "budget", "C++ 0.1.0", "of which", "notes")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured quantity: the median of `values`, and what to hold it against."""

    name: str
    unit: str
    values: Sequence[float]
    budget: float | None = None
    """What it must reach: at least for rates, at most for everything else."""
    original: float | None = None
    """The same on MindSpore Federated 0.1.0."""
    processor: Mapping[str, float] = field(default_factory=dict)
    """Who used how much processor time while the clock ran, as a share of it."""
    notes: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    @property
    def is_kept(self) -> bool | None:
        """Whether the budget is kept; None without one."""
        if self.budget is None:
            return None
        return self.value >= self.budget if self.is_rate else self.value <= self.budget

    def cells(self) -> tuple[str, ...]:
        """The row as the table has it, in the order of TITLES."""
        spread = ""
        if len(self.values) > 1:
            spread = f" ({number(min(self.values))} to {number(max(self.values))})"
        budget = ""
        if self.budget is not None:
            budget = f"{'≥' if self.is_rate else '≤'} {number(self.budget)}"
            budget += "" if self.is_kept else " **missed**"
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.processor.items())
        original = "" if self.original is None else number(self.original)
        return (
            self.name,
            f"{number(self.value)} {self.unit}{spread}",
            budget,
            original,
            shares,
            self.notes,
        )


def number(value: float) -> str:
    """Three significant digits, and no more decimals than that."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def as_text(facts: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Facts and table for a terminal."""
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *_table(rows)])


def as_markdown(facts: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The same for a document."""
    listed = [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join([*listed, "", *_table(rows)])


def _table(rows: Sequence[Row]) -> list[str]:
    return table([TITLES, *(row.cells() for row in rows)])


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, in Markdown that can be read as it is; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return [lines[0], rule, *lines[1:]]


def write_json(path: Path, facts: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Keep the results for comparison with later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{**asdict(row), "median": row.value} for row in rows]
    path.write_text(json.dumps({"machine": dict(facts), "rows": kept}, indent=1) + "\n")


def write_docs(path: Path, program: str, text: str) -> None:
    """Put what a program found between its two marks in the document."""
    start, end = f"<!-- written by benches/{program} --write-docs -->", f"<!-- end of {program} -->"
    before, _, rest = path.read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path}: expected the marks {start} and {end}")
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")
