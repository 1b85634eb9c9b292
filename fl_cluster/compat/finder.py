"""Makes `mindspore_federated` the package in `overlay`, whatever else has that name.

In this process and its forks a finder comes before all others.  A Python that is started from
here (a sub-process, or a multiprocessing child that is spawned) begins with an import path of
its own, so `overlay` is on that too: in PYTHONPATH for every new Python, and in `sys.path`,
which multiprocessing hands to the children it spawns.  `overlay` holds that one package, so it
hides nothing else.
What is not reached: a Python started without its environment (`python -I`, `env -i`), and one
whose program lies beside a folder named `mindspore_federated`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAME = "mindspore_federated"
OVERLAY = str(Path(__file__).resolve().parent / "overlay")
PATH_VARIABLE = "PYTHONPATH"


class OverlayFinder(MetaPathFinder):
    """Finds the one package in `overlay`."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The package's spec; None for every other name."""
        return PathFinder.find_spec(fullname, [OVERLAY], target) if fullname == NAME else None


def install() -> None:
    """Make it so; a second time changes nothing.

    ImportError when another `mindspore_federated` is in use already.
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None and OVERLAY not in str(getattr(loaded, "__file__", "")):
        raise ImportError(
            f"{NAME} was imported from {getattr(loaded, '__file__', 'elsewhere')} already:"
            " import fl_cluster.compat.install before it"
        )
    if not any(isinstance(finder, OverlayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OverlayFinder())
    if OVERLAY not in sys.path:
        # Second: programs take the first entry for the folder they lie in.
        sys.path.insert(1, OVERLAY)
    paths = [each for each in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if each]
    if OVERLAY not in paths:
        os.environ[PATH_VARIABLE] = os.pathsep.join([OVERLAY, *paths])
