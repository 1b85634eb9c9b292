"""Configuration files as programs load them: into settings, and into the process's context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from fl_cluster.program.check_type import check_str
from fl_cluster.program.context import ROLE_OF_SCHEDULER, fl_context
from fl_cluster.program.faults import as_runtime_error

if TYPE_CHECKING:
    from fl_cluster.config.schema import JobSettings, Settings


@overload
def load_settings(yaml_config: str, role: Literal["server"]) -> Settings: ...


@overload
def load_settings(yaml_config: str, role: Literal["scheduler"]) -> JobSettings: ...


def load_settings(yaml_config: str, role: Literal["server", "scheduler"]) -> JobSettings:
    """The file's settings, which the context takes over.

    RuntimeError: everything that is wrong with the file, one sentence a line, the one that has
    always been reported first.
    """
    from fl_cluster.config.load import load
    from fl_cluster.errors import FlClusterError

    try:
        settings = load(yaml_config, role)
    except FlClusterError as fault:
        raise as_runtime_error(fault) from None
    fl_context().load(settings)
    return settings


def load_yaml_config(yaml_config: str, role: str) -> None:
    """Fill the context from the file, as one of the roles MS_SERVER, MS_WORKER or MS_SCHED.

    A worker looks at what a server looks at.  RuntimeError as for `load_settings`.
    """
    check_str("yaml_config", yaml_config)
    fl_context().set_ms_role(role)
    if role == ROLE_OF_SCHEDULER:
        load_settings(yaml_config, "scheduler")
    else:
        load_settings(yaml_config, "server")
