"""What the log says of a store that misbehaves: each cause once, and when it is over."""

from __future__ import annotations

import asyncio

import pytest

from fl_cluster.errors import JobLost, StoreCorrupt, StoreUnavailable
from fl_cluster.service.store_watch import StoreWatch

REFUSED = StoreUnavailable("snapshot", "Error 111 connecting to redis:6379. Connection refused")
LOADING = StoreUnavailable("snapshot", "Redis is loading the dataset in memory")
FULL = StoreUnavailable("member_renew", "command not allowed when used memory > 'maxmemory'.")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The beginning of each sentence that was logged."""
    return [record.getMessage().partition(" (")[0] for record in caplog.records]


async def test_a_store_that_was_never_in_trouble_is_not_spoken_of(caplog):
    watch = StoreWatch()
    watch.note("look", None)

    assert watch.trouble is None
    assert told(caplog) == []


async def test_a_cause_is_told_once_however_often_and_by_however_many_it_is_met(caplog):
    watch = StoreWatch()
    for _ in range(5):
        watch.note("look", REFUSED)
        watch.note("lease", REFUSED)

    assert watch.trouble is REFUSED
    assert told(caplog) == ["Redis does not answer"]


async def test_each_further_cause_is_told_and_then_the_end(caplog):
    watch = StoreWatch()
    watch.note("look", REFUSED)
    await asyncio.sleep(5)
    watch.note("look", LOADING)
    watch.note("look", REFUSED)
    await asyncio.sleep(2.5)
    watch.note("look", None)

    assert told(caplog) == [
        "Redis does not answer",
        "Redis is starting and still reads its data",
        "Redis serves this process again, after 7.5 s",
    ]


async def test_the_store_is_well_when_nobody_complains_any_more(caplog):
    watch = StoreWatch()
    watch.note("look", REFUSED)
    watch.note("lease", FULL)
    watch.note("look", None)
    assert watch.trouble is FULL
    assert len(caplog.records) == 2

    watch.note("lease", None)

    assert watch.trouble is None
    assert len(caplog.records) == 3


async def test_trouble_that_comes_back_is_told_again(caplog):
    watch = StoreWatch()
    for _ in range(2):
        watch.note("look", REFUSED)
        watch.note("look", None)

    assert len(caplog.records) == 4


async def test_a_sentence_says_what_it_is_what_to_do_and_what_follows(caplog):
    StoreWatch().note("lease", FULL)

    [message] = caplog.messages
    assert message == (
        "Redis has reached its maxmemory and takes no writes (member_renew: command not allowed"
        " when used memory > 'maxmemory'.). Raise it with CONFIG SET maxmemory, or remove what"
        " else is stored there. As soon as Redis takes writes again the round goes on with all"
        " that was counted."
    )


@pytest.mark.parametrize(
    ("fault", "beginning"),
    [
        (JobLost("there is no round"), "Redis has lost what it held of this job (there is no"),
        (StoreCorrupt("nonsense"), "What Redis holds of this job cannot be read: nonsense"),
    ],
)
async def test_what_is_stored_may_be_the_trouble(fault, beginning, caplog):
    StoreWatch().note("look", fault)

    [message] = caplog.messages
    assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("reason", "beginning"),
    [
        ("max number of clients reached", "Redis takes no more connections"),
        ("No connection available.", "All connections of this process to Redis are in use"),
        ("no Sentinel names a primary (a:1: refused)", "The Sentinels name no Redis"),
        ("READONLY You can't write against a read only replica.", "Redis is a read-only replica"),
        ("MISCONF Redis is configured to save RDB snapshots", "Redis cannot write to its disk"),
        ("BUSY Redis is busy running a script.", "Redis is busy with a script"),
        ("Authentication required.", "Redis does not accept this user"),
        ("Timeout reading from redis:6379", "Redis does not answer"),
    ],
)
async def test_each_condition_has_its_sentence(reason, beginning, caplog):
    StoreWatch().note("look", StoreUnavailable("renew", reason))

    [message] = caplog.messages
    assert message.startswith(beginning)
