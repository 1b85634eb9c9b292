"""`python -m fl_cluster.compat PROGRAM.py [arguments]` runs a program written for 0.1.0.

The program is `__main__`, its arguments are `sys.argv`, and its exit code is the process's.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from fl_cluster.compat.finder import install

USAGE = """\
usage: python -m fl_cluster.compat PROGRAM.py [arguments]
       python -m fl_cluster.compat -m MODULE [arguments]

Runs a program that was written for MindSpore Federated 0.1.0, unchanged: for it and for the
processes it starts, mindspore_federated is fl_cluster.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit code when there is none to run."""
    if not arguments or arguments[0] in ("-h", "--help"):
        stream = sys.stdout if arguments else sys.stderr
        stream.write(USAGE)
        return 0 if arguments else 2
    install()
    if arguments[0] == "-m":
        return _run_module(arguments[1:])
    if arguments[0].startswith("-"):
        sys.stderr.write(f"{arguments[0]} is not known\n\n{USAGE}")
        return 2
    program = arguments[0]
    if not Path(program).exists():
        sys.stderr.write(f"{program}: no such program\n")
        return 2
    if Path(program).is_dir() and PathFinder.find_spec("__main__", [program]) is None:
        sys.stderr.write(f"can't find '__main__' module in {program!r}\n")
        return 1
    sys.argv = list(arguments)
    if Path(program).is_file():
        # As for every program: its modules are looked for beside it first.
        sys.path[0] = str(Path(program).resolve().parent)
    else:
        del sys.path[0]
    runpy.run_path(program, run_name="__main__")
    return 0


def _run_module(arguments: Sequence[str]) -> int:
    if not arguments:
        sys.stderr.write(f"-m is followed by the name of a module\n\n{USAGE}")
        return 2
    complaint = _why_no_module(arguments[0])
    if complaint is not None:
        sys.stderr.write(f"{complaint}\n")
        return 1
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    return 0


def _why_no_module(name: str) -> str | None:
    """Why there is nothing to run, in Python's words; what a package raises is the program's."""
    if name.startswith("."):
        return "Relative module names not supported"
    try:
        spec = find_spec(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise
        spec = None
    if spec is None:
        return f"No module named {name}"
    if spec.submodule_search_locations is None or find_spec(f"{name}.__main__") is not None:
        return None
    return f"No module named {name}.__main__; {name!r} is a package and cannot be directly executed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
