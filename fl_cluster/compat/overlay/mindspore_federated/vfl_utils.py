"""A module of vertical federated learning, which can be imported and not used."""

from __future__ import annotations

from typing import NoReturn

from fl_cluster.compat.absent import vertical


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(vertical(f"vfl_utils.{name}"))
