"""Checks the C sources and the built extensions for mistakes that compilers allow.

    lint_capi.py [--sources FILE ...] [--extensions FILE ...]

1. No return between acquiring a buffer and releasing it, and releases in reverse order.
   A function named acquire_* or fl_acquire_* hands over what it got by returning 0.
2. While the interpreter lock is given away: no Python call, no jump, and no call of a
   function of the same file, which might make one.
3. A function that is not static is named fl_*, or is the PyInit_ function.
4. An extension exports its PyInit_ function and nothing else.

The sources are in the house format (a function's name starts its line, its body ends at
the first `}` that starts one), which clang-format guarantees; this is no C parser.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMENT = r"/\*.*?\*/|//[^\n]*"
LITERAL = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
COMMENT_OR_LITERAL = re.compile(rf"{COMMENT}|{LITERAL}", re.DOTALL)
FUNCTION = re.compile(
    r"^(?P<type>[^\n]*)\n(?P<name>\w+)\([^;{}]*\)\n\{\n(?P<body>.*?)^\}", re.DOTALL | re.MULTILINE
)
ACQUIRE = re.compile(r"\b(?:PyObject_GetBuffer|(?:fl_)?acquire_\w+)\s*\(")
RELEASE = re.compile(r"\b(?:PyBuffer_Release|(?:fl_)?release_\w+)\s*\(\s*&?(?P<held>[^)]*)\)")
HELD = re.compile(r"&(\w+)")
CONDITION = re.compile(r"\bif\s*\(")
RETURN = re.compile(r"\breturn\b[^;]*;")
JUMP = re.compile(r"\b(?:return|goto|break|continue)\b")
PYTHON = re.compile(r"\b_?Py[A-Z_]\w*")
UNLOCK = ("Py_BEGIN_ALLOW_THREADS", "PyEval_SaveThread")
LOCK = ("Py_END_ALLOW_THREADS", "PyEval_RestoreThread")


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Function:
    name: str
    is_static: bool
    body: str
    line: int

    def line_of(self, position: int) -> int:
        return self.line + self.body.count("\n", 0, position)


def blank(text: str) -> str:
    """The text with comments and literals blanked out; every line keeps its number."""
    return COMMENT_OR_LITERAL.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def functions(text: str) -> list[Function]:
    return [
        Function(
            name=match["name"],
            is_static=re.search(r"\bstatic\b", match["type"]) is not None,
            body=match["body"],
            line=text.count("\n", 0, match.start("body")) + 1,
        )
        for match in FUNCTION.finditer(text)
    ]


def lint_source(path: Path) -> Iterator[Finding]:
    found = functions(blank(path.read_text()))
    for function in found:
        for check in (check_acquire, check_lock, check_name):
            for position, message in check(function, found):
                yield Finding(path, function.line_of(position), f"{function.name}: {message}")


def closing(text: str, opening: int) -> int:
    """The position after the bracket that closes the one at `opening`."""
    pairs = {"(": ")", "{": "}"}
    opened, closed = text[opening], pairs[text[opening]]
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == opened) - (text[position] == closed)
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced {opened}")


def after_acquire(body: str, acquire: int) -> int:
    """Where what was acquired is held: past the block that handles a refusal, if any."""
    for condition in CONDITION.finditer(body):
        end = closing(body, condition.end() - 1)
        if condition.start() < acquire < end:
            return closing(body, body.index("{", end))
    return body.index(";", acquire)


def check_acquire(function: Function, _: list[Function]) -> Iterator[tuple[int, str]]:
    body = function.body
    acquires = list(ACQUIRE.finditer(body))
    releases = list(RELEASE.finditer(body))
    hands_over = re.match(r"(?:fl_)?acquire_", function.name) is not None
    if not acquires:
        return
    if not releases:
        if not hands_over:
            yield acquires[0].start(), "acquires a buffer that it does not release"
        return
    held = after_acquire(body, acquires[0].start())
    for jump in RETURN.finditer(body, held, releases[-1].start()):
        if not (hands_over and jump[0] == "return 0;"):
            yield jump.start(), "returns between acquiring a buffer and releasing it"
    if not hands_over:
        yield from check_order(body, acquires, releases)


def check_order(
    body: str, acquires: list[re.Match[str]], releases: list[re.Match[str]]
) -> Iterator[tuple[int, str]]:
    acquired = [
        # Arguments after the last address are the flags of PyObject_GetBuffer.
        ["", *HELD.findall(body, match.end(), closing(body, match.end() - 1))][-1]
        for match in acquires
    ]
    released = [match["held"] for match in releases]
    if released != acquired[::-1]:
        yield (
            releases[0].start(),
            f"acquires {', '.join(acquired)} but releases {', '.join(released)}",
        )


def one_sided(names: tuple[str, ...], others: tuple[str, ...], found: list[Function]) -> list[str]:
    """The names, and the functions of this file that do their half without the other one."""
    wrappers = (
        function.name
        for function in found
        if any(name in function.body for name in names)
        and not any(name in function.body for name in others)
    )
    return [*names, *wrappers]


def check_lock(function: Function, found: list[Function]) -> Iterator[tuple[int, str]]:
    unlock = one_sided(UNLOCK, LOCK, found)
    lock = one_sided(LOCK, UNLOCK, found)
    if function.name in {*unlock, *lock}:
        return
    body = function.body
    own = re.compile(rf"(?<![\w.>])(?:{'|'.join(each.name for each in found)})\s*\(")
    for start in re.finditer(rf"\b(?:{'|'.join(unlock)})\b[^;\n]*", body):
        end = re.compile(rf"\b(?:{'|'.join(lock)})\b").search(body, start.end())
        if end is None:
            yield start.start(), "gives the lock away and does not take it back"
            continue
        for pattern, what in (
            (PYTHON, "uses Python"),
            (JUMP, "jumps"),
            (own, "calls a function of this file"),
        ):
            for match in pattern.finditer(body, start.end(), end.start()):
                yield match.start(), f"{what} without the lock: {match[0].rstrip('( ')}"


def check_name(function: Function, _: list[Function]) -> Iterator[tuple[int, str]]:
    if not function.is_static and not function.name.startswith(("fl_", "PyInit_")):
        yield 0, "is external and so must be named fl_*"


def lint_extension(path: Path) -> Iterator[Finding]:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    exported = {line.split()[0] for line in listing.splitlines() if line}
    expected = {f"PyInit_{path.name.partition('.')[0]}"}
    for name in sorted(exported - expected):
        yield Finding(path, 0, f"exports {name}")
    for name in sorted(expected - exported):
        yield Finding(path, 0, f"does not export {name}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", type=Path, nargs="*")
    parser.add_argument("--extensions", type=Path, nargs="*")
    options = parser.parse_args(arguments)
    sources = options.sources
    extensions = options.extensions
    if sources is None:
        sources = sorted((ROOT / "native").glob("*.c"))
    if extensions is None:
        extensions = sorted((ROOT / "fl_cluster").glob("*.so"))
    findings = [finding for path in sources for finding in lint_source(path)]
    findings += [finding for path in extensions for finding in lint_extension(path)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
