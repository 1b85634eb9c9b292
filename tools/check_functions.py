"""Every function fits on a screen: at most 60 lines, from `def` to its last statement.

ruff bounds statements and branches; it does not count lines.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_LINES = 60


def long_functions(path: Path) -> Iterator[str]:
    """One sentence per function of the file that is too long."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {MOST_LINES}"


def main(folders: list[str]) -> int:
    """Check all Python files below the folders; 1 when any function is too long."""
    files = (path for folder in folders for path in sorted(Path(folder).rglob("*.py")))
    found = [sentence for path in files for sentence in long_functions(path)]
    print("\n".join(found) or "functions: all fit on a screen")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
