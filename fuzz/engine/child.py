"""The process in which inputs are tried: `python -m engine.child TARGET FOLDER FLAGS...`.

What is imported here, the target and everything below it, counts its branches.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import atheris

INSTRUMENTED = ("fl_cluster", "yaml", "zipfile", "aiohttp.web_protocol", "aiohttp.web_request")


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
    name, folder, *flags = sys.argv[1:]
    if folder != "-":
        sys.meta_path.insert(0, _Extensions(Path(folder)))
    with atheris.instrument_imports(include=[name, *INSTRUMENTED]):
        target = importlib.import_module(name).TARGET
    atheris.Setup([sys.argv[0], *flags], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
