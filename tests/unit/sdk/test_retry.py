"""Rests and the choice of a server."""

from __future__ import annotations

import random

import pytest

from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk.participation import Rest
from fl_cluster.sdk.retry import Backoff, Servers


def rests(rest: Rest, count: int = 500) -> list[float]:
    source = random.Random(7)
    return [Backoff().delay_ms(rest, source) for _ in range(count)]


def test_a_first_rest_is_spread_from_almost_nothing_to_the_base() -> None:
    found = rests(Rest(0, 1))

    assert min(found) == Backoff().least_ms
    assert 150 < max(found) <= 200


def test_the_spread_doubles_until_it_reaches_the_most() -> None:
    assert [round(max(rests(Rest(0, attempt))) / 100) for attempt in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert 9_000 < max(rests(Rest(0, 500))) <= 10_000


def test_a_hint_is_never_undercut_and_gets_jitter_in_proportion() -> None:
    found = rests(Rest(60_000, 1))

    assert min(found) >= 60_000
    assert 74_000 < max(found) <= 75_000


def test_a_hint_beyond_all_measure_is_cut() -> None:
    assert max(rests(Rest(10**12, 1))) <= 1.25 * 1_800_000


def test_a_device_stays_with_its_server_until_told_to_move_on() -> None:
    servers = Servers(["http://a:1", "http://b:2", "http://c:3"], "", random.Random(0))

    seen = [servers.current]
    for _ in range(3):
        servers.move_on()
        seen.append(servers.current)

    assert set(seen) == {"http://a:1", "http://b:2", "http://c:3"}
    assert seen[0] == seen[3]


def test_many_devices_start_at_different_servers() -> None:
    urls = ["http://a:1", "http://b:2"]

    starts = [Servers(urls, "", random.Random(seed)).current for seed in range(100)]

    assert 30 < starts.count("http://a:1") < 70


@pytest.mark.parametrize(
    ("url", "prefix", "base"),
    [
        ("http://127.0.0.1:6666", "", "http://127.0.0.1:6666"),
        ("127.0.0.1:6666", "", "http://127.0.0.1:6666"),
        ("http://127.0.0.1:6666/", "/fl/", "http://127.0.0.1:6666/fl"),
        ("https://[::1]:6666/root/", "fl", "https://[::1]:6666/root/fl"),
    ],
)
def test_slashes_may_be_written_or_left_out(url: str, prefix: str, base: str) -> None:
    assert Servers(url, prefix, random.Random()).current == base


@pytest.mark.parametrize(
    "url", ["", "ftp://a:1", "http://", "http://a:port", "http://a:99999", "http://a:1?x=1"]
)
def test_a_url_that_cannot_work_is_refused_by_name(url: str) -> None:
    with pytest.raises(CallerProtocolError, match="expected the URL of a server") as caught:
        Servers(url, "", random.Random())

    assert repr(url) in str(caught.value)


def test_no_server_at_all_is_refused() -> None:
    with pytest.raises(CallerProtocolError, match="at least one server"):
        Servers([], "", random.Random())
