"""The process in which inputs are tried: `python -m engine.child TARGET BUILT FINDINGS FLAGS...`.

BUILT is the folder of the instrumented extensions, or `-`; FINDINGS is where inputs go that break
the invariant.  They are written here, because what libFuzzer does when a process ends comes
too late when a signal ends it first.

What is imported here, the target and everything below it, counts its branches.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import shlex
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import atheris

INSTRUMENTED = ("fl_cluster", "yaml", "zipfile")
EXCLUDED = ("yaml.scanner", "yaml.reader")
"""Their branches number hundreds for each character, and tell nothing about what we do with it."""


class _Extensions(importlib.abc.MetaPathFinder):
    """Finds the package's extensions in another folder than the package's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        found = list((self._folder / package).glob(f"{module}.*.so")) if package else []
        return importlib.util.spec_from_file_location(name, found[0]) if found else None


def main() -> None:
    name, built, findings, *flags = sys.argv[1:]
    if built != "-":
        sys.meta_path.insert(0, _Extensions(Path(built)))
    with atheris.instrument_imports(include=[name, *INSTRUMENTED], exclude=list(EXCLUDED)):
        target = importlib.import_module(name).TARGET

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            (Path(findings) / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise

    # To merge corpora, libFuzzer runs itself again, by a shell and the first argument.
    again = shlex.join([sys.executable, "-m", "engine.child", *sys.argv[1:4]])
    atheris.Setup([again, *flags], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
