"""One word for one thing: names in the package use the words that docs/protocol.md defines.

Names that users of older systems know (iteration, fl_id, startFLJob) are wire and
configuration words; they may stand only in the layers that speak to those users.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

INSTEAD = {
    "iteration": "round",
    "epoch_num": "epochs",
    "client": "device (or connection)",
    "fl_id": "device",
    "fl_job": "check in",
    "upload": "report",
    "node": "member",
    "threshold": "cohort size, goal or quorum",
    "utils": "a noun",
    "helper": "a noun",
    "manager": "a noun",
}

EDGES = (
    "api",
    "config",
    "wire",
    "sdk",
    "worker",
    "app",
    "telemetry",
    "program",
    "compat",
)
"""Packages that translate between the words of users and ours."""

OWNED_BY_OTHERS = re.compile(r"redis|aiohttp|client$|^client_(file|variable)$")
"""`client` is the class of the Redis library and of aiohttp, and in TLS the end that calls:
names that are not ours."""


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Every name that the file defines, with its line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def wrong_words(path: Path) -> Iterator[str]:
    """One sentence per name of the file that uses a word outside the glossary."""
    for line, name in names_in(path):
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        for word, better in INSTEAD.items():
            if re.search(rf"(^|_){word}s?(_|$)", snake) and not OWNED_BY_OTHERS.search(snake):
                yield f"{path}:{line}: {name!r} says {word!r}; the word is {better}"


def main(folders: list[str]) -> int:
    """Check the package; 1 when a name uses a word it should not."""
    found: list[str] = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            if path.relative_to(folder).parts[0] not in EDGES:
                found += wrong_words(path)
    print("\n".join(found) or "glossary: every name uses our words")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
