"""Redis's own words become a cause, a sentence and something to do."""

from __future__ import annotations

import pytest

from fl_cluster.errors import JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.service.explanation import Cause
from fl_cluster.service.store_trouble import CONDITIONS, explain_fault


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Error 111 connecting to 127.0.0.1:6379. Connection refused.", Cause.STORE_UNREACHABLE),
        ("Timeout reading from 127.0.0.1:6379", Cause.STORE_UNREACHABLE),
        ("", Cause.STORE_UNREACHABLE),
        ("Link with MASTER is down and replica-serve-stale-data is set", Cause.STORE_UNREACHABLE),
        ("NOREPLICAS Not enough good replicas to write.", Cause.STORE_UNREACHABLE),
        ("Redis is loading the dataset in memory", Cause.STORE_LOADING),
        ("LOADING Redis is loading the dataset in memory", Cause.STORE_LOADING),
        ("You can't write against a read only replica.", Cause.STORE_READ_ONLY),
        ("command not allowed when used memory > 'maxmemory'.", Cause.STORE_OUT_OF_MEMORY),
        ("MISCONF Redis is configured to save RDB snapshots", Cause.STORE_DISK),
        ("MISCONF Errors writing to the AOF file: No space left", Cause.STORE_DISK),
        ("Authentication required.", Cause.STORE_FORBIDDEN),
        ("Protocol error: unauthenticated multibulk length", Cause.STORE_FORBIDDEN),
        ("Protocol error: unauthenticated bulk length", Cause.STORE_FORBIDDEN),
        ("invalid username-password pair or user is disabled.", Cause.STORE_FORBIDDEN),
        ("this user has no permissions to run the 'evalsha' command", Cause.STORE_FORBIDDEN),
        ("BUSY Redis is busy running a script.", Cause.STORE_BUSY),
    ],
)
def test_a_refusal_is_explained_by_its_cause(words: str, cause: Cause) -> None:
    found = explain_fault(StoreUnavailable("publish", words))

    assert found.cause is cause
    assert found.waiting_for == "store"
    assert found.sentence.endswith(f"(publish: {words}).")
    assert "all that was counted" in found.then


def test_there_is_something_to_do_about_everything_but_a_start() -> None:
    without = {condition.cause for _, condition in CONDITIONS if not condition.change}

    assert without == {Cause.STORE_LOADING}


def test_damage_is_for_people_to_mend() -> None:
    found = explain_fault(StoreCorrupt("the round is odd"))

    assert found.cause is Cause.STORE_DAMAGED
    assert found.waiting_for == "operator"
    assert "the round is odd" in found.sentence


def test_a_store_that_came_back_empty_waits_for_a_server_that_remembers() -> None:
    found = explain_fault(JobLost("it is gone"))

    assert found.cause is Cause.NO_JOB
    assert found.waiting_for == "server"
    assert "a server that still runs brings back what it holds" in found.then
