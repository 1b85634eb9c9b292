"""The name of a training run."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

from fl_cluster.lifecycle.instance import instance_name

AT_US = 1_795_601_425_142_704


def test_a_run_is_named_after_the_microsecond_it_begins_in() -> None:
    assert instance_name(AT_US, zone=UTC) == "i_2026-11-25-10:10:25.142.704"


def test_small_fractions_keep_their_zeros() -> None:
    assert instance_name(1_000_007, zone=UTC) == "i_1970-01-01-00:00:01.000.007"


def test_the_name_shows_the_time_of_the_zone() -> None:
    east = timezone(timedelta(hours=5, minutes=30))

    assert instance_name(AT_US, zone=east) == "i_2026-11-25-15:40:25.142.704"


def test_without_a_zone_it_is_the_local_time() -> None:
    local = instance_name(AT_US)

    assert len(local) == len(instance_name(AT_US, zone=UTC))
    assert local.endswith(".142.704")
