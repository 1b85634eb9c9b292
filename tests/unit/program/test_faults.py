from __future__ import annotations

import pickle

from fl_cluster.errors import ConfigError, Problem, StartupError, StoreUnavailable
from fl_cluster.program.faults import as_runtime_error


def test_a_fault_keeps_its_words_and_survives_a_pipe() -> None:
    faults = [
        ConfigError((Problem("a", "one"), Problem("b", "two"))),
        StartupError("one\ntwo"),
        ExceptionGroup("tasks", [StartupError("one\ntwo")]),
    ]

    for fault in faults:
        error = as_runtime_error(fault)
        assert type(error) is RuntimeError
        assert str(pickle.loads(pickle.dumps(error))) == "one\ntwo"


def test_a_store_that_is_away_is_said_to_be() -> None:
    error = as_runtime_error(StoreUnavailable("ping", "refused"))

    assert str(error) == "ping: refused"


def test_a_bug_is_called_one() -> None:
    error = as_runtime_error(ZeroDivisionError("division by zero"))

    assert str(error) == "a bug ended this job: ZeroDivisionError: division by zero"
