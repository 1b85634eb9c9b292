"""Faults as programs meet them: RuntimeErrors, which survive a pipe between processes.

This is the one place that translates.  A fault's first sentence begins with the words that
programs have always matched, wherever there are such; its own sentence follows.
"""

from __future__ import annotations

from fl_cluster.errors import ConfigError, find_fault


def as_runtime_error(exc: BaseException) -> RuntimeError:
    """The RuntimeError to raise for what ended a job; of a bug it says that it is one."""
    fault = find_fault(exc)
    if fault is None:
        return RuntimeError(f"a bug ended this job: {type(exc).__name__}: {exc}")
    if isinstance(fault, ConfigError):
        # Without the lines of the file behind them: programs may compare whole sentences.
        return RuntimeError("\n".join(problem.message for problem in fault.problems))
    return RuntimeError(str(fault))
