"""What ends a worker's training: faults that are also the exceptions programs expect.

A program written for the original catches RuntimeError and ValueError; these are both.
"""

from __future__ import annotations

from fl_cluster.errors import ExitCode, FlClusterError


class NoAnswer(FlClusterError):
    """A server could not be reached in time, or what came back is no answer."""


class Refused(FlClusterError, RuntimeError):
    """A server's answer leaves no way to go on."""

    exit_code = ExitCode.REFUSED


class NothingReceived(FlClusterError, ValueError):
    """The model that should have come did not."""

    exit_code = ExitCode.REFUSED


class NotATrainable(FlClusterError, AttributeError):
    """What was passed as a model has no parameters that could be trained."""

    exit_code = ExitCode.CONFIGURATION


class Unsupported(FlClusterError, RuntimeError):
    """Something was asked for that this version, or this environment, does not have."""

    exit_code = ExitCode.CONFIGURATION
