"""Names of the original that are not here: they can be imported, and say so when used.

Horizontal learning is what fl_cluster does.  The original's vertical learning, and its native
module's classes that connect its own Python with its own C++, have no counterpart.
"""

from __future__ import annotations

from typing import Any, NoReturn

VERTICAL_CLASSES = (
    "CompressConfig",
    "FLDataWorker",
    "FLModel",
    "FLYamlData",
    "PartyGradOperation",
    "PartyGradScaler",
    "PartyOptimizer",
    "ServerConfig",
    "VerticalFederatedCommunicator",
)
VERTICAL_MODULES = ("privacy", "tensor_utils", "vfl_utils")


def vertical(name: str) -> str:
    """The sentence for a name of vertical learning."""
    return (
        f"mindspore_federated.{name} belongs to vertical federated learning, which fl_cluster"
        " does not have: it replaces the servers, scheduler and workers of horizontal learning"
    )


def native(name: str, instead: str) -> str:
    """The sentence for a name of the native module."""
    return (
        f"mindspore_federated._mindspore_federated.{name} connects the original's Python with its"
        f" C++, which fl_cluster does not have; use {instead}"
    )


class AbsentClass(type):
    """A class that can be named and subclassed; using it says why it is not there."""

    reason: str

    def __call__(cls, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(cls.reason)

    def __getattr__(cls, name: str) -> NoReturn:
        raise AttributeError(cls.reason, name=name, obj=cls)


def absent_class(name: str, module: str, reason: str) -> AbsentClass:
    """A class of that name that is not there for that reason."""
    return AbsentClass(name, (), {"reason": reason, "__module__": module, "__doc__": reason})
