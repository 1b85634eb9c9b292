"""`fl-cluster --version`: what is installed, what is in use, and what is missing."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from importlib import metadata

from fl_cluster.errors import StartupError
from fl_cluster.version import VERSION

REQUIRED = {
    "aiohttp": "aiohttp",
    "hiredis": "hiredis",
    "msgpack": "msgpack",
    "numpy": "numpy",
    "psutil": "psutil",
    "redis": "redis",
    "yaml": "PyYAML",
}
"""Module -> the package on the index that brings it."""


def _missing(modules: Sequence[str]) -> list[str]:
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(module)
    return missing


def _kernel_lines() -> list[str]:
    from fl_cluster.kernels import native

    loaded = not _missing(["fl_cluster._native"])
    extension = "native extension loaded" if loaded else "native extension missing: slower"
    lines = [
        f"kernel set {native.kernel()} ({extension}; available: {', '.join(native.available())})"
    ]
    if _missing(["fl_cluster._wire"]):
        lines.append("wire extension missing: requests are decoded in Python")
    return lines


def _redis_line() -> str:
    from fl_cluster.store.redis import embedded

    try:
        return f"redis-server {embedded.find_program()}"
    except StartupError as exc:
        return str(exc)


def check() -> tuple[str, bool]:
    """The report, and whether everything that is needed is there."""
    packages = [
        f"{name} {metadata.version(name)}"
        for module, name in REQUIRED.items()
        if not _missing([module])
    ]
    lines = [f"fl_cluster {VERSION}", f"Python {platform.python_version()}, " + ", ".join(packages)]
    missing = [REQUIRED[module] for module in _missing(list(REQUIRED))]
    if missing:
        lines.append(f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
        return "\n".join(lines), False
    lines += [*_kernel_lines(), _redis_line()]
    return "\n".join(lines), True
