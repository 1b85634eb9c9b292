"""Lets the scripts of this folder run as the manual prints them, with any Python.

`make setup` installs everything into the checkout's own environment, `.venv`; a script that
was started with a Python without the package starts itself again with that one.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("aiohttp", "hiredis", "msgpack", "numpy", "psutil", "redis", "yaml")


def prepare() -> None:
    """Return when the package and what it needs can be imported; else start again, or say why."""
    if find_spec("fl_cluster") is None:
        sys.path.insert(0, str(ROOT))
    missing = [name for name in NEEDED if find_spec(name) is None]
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs with whatever Python it meets
        missing.insert(0, "Python 3.11 or newer")
    if not missing:
        return
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the same program again
    sys.stderr.write(f"missing: {', '.join(missing)}; run `make setup` in {ROOT} first\n")
    sys.exit(2)
