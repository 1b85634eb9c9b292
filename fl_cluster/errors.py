"""Faults: something broke, and this is what and where.

A fault is an exception; the answer to a request is a returned `Verdict`, never one of
these.  Every fault carries data, so that the one place that turns it into an answer or an
exit code needs no text parsing, and a message that says what was expected and what came.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a process returns to its shell, and what the number means."""

    DONE = 0
    REFUSED = 1
    CONFIGURATION = 2
    STORE_UNREACHABLE = 3
    LOST_MEMBERSHIP = 4
    BUG = 70


class FlClusterError(Exception):
    """Base of all faults; only its subclasses are raised."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str) -> None:
        if type(self) is FlClusterError:
            raise TypeError("FlClusterError is abstract: raise one of its subclasses")
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: where, and a sentence that says it all."""

    path: str
    message: str

    def __str__(self) -> str:
        return self.message


class ConfigError(FlClusterError):
    """The configuration cannot be used; `problems` lists everything wrong with it at once."""

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class StartupError(FlClusterError):
    """A process cannot start: a busy port, a model that does not fit, a missing program."""

    exit_code = ExitCode.CONFIGURATION


class PeerProtocolError(FlClusterError):
    """They sent what the protocol forbids."""


class CallerProtocolError(FlClusterError):
    """We were about to send what the protocol forbids: a bug in the program that called us."""


class StoreUnavailable(FlClusterError):
    """The store did not answer in time, refused the connection, or refused to write."""

    exit_code = ExitCode.STORE_UNREACHABLE

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"{operation}: {reason}")
        self.operation = operation
        self.reason = reason

    def __reduce__(self) -> tuple[type[StoreUnavailable], tuple[str, str]]:
        return type(self), (self.operation, self.reason)


class StoreCorrupt(FlClusterError):
    """The store holds a record that cannot be; nobody should go on from it."""


class JobLost(StoreCorrupt):
    """The store holds no records of this job any more, as after it came back empty."""


class KernelMismatch(FlClusterError):
    """An array does not fit the operation; raised before anything was changed."""


def find_fault(exc: BaseException) -> FlClusterError | None:
    """The fault in `exc`, also inside a group; None when it is a bug."""
    if isinstance(exc, FlClusterError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            fault = find_fault(inner)
            if fault is not None:
                return fault
    return None
