"""Addresses: what is accepted, what is refused and in which words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.connection import parse_url

from fl_cluster.config.addresses import (
    Address,
    CacheAddress,
    CacheKind,
    parse_address,
    parse_cache_address,
    scheduler_http_address,
    server_http_address,
    tcp_server_ip,
)
from fl_cluster.errors import ConfigError

ACCEPTED = [
    ("127.0.0.1:6666", "127.0.0.1", 6666),
    ("0.0.0.0:1", "0.0.0.0", 1),
    ("10.0.1.0:65535", "10.0.1.0", 65535),
    ("127.0.0.1:006666", "127.0.0.1", 6666),
    ("localhost:80", "localhost", 80),
    ("fl-1.example.org:80", "fl-1.example.org", 80),
    ("fl.example.org.:80", "fl.example.org.", 80),
    ("redis_cache:80", "redis_cache", 80),
    ("[::1]:6666", "::1", 6666),
    ("[::]:6666", "::", 6666),
    ("[fe80::1%eth0]:6666", "fe80::1%eth0", 6666),
]


@pytest.mark.parametrize(("text", "host", "port"), ACCEPTED)
def test_an_address_is_a_host_and_a_port(text, host, port):
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(parse_address(text))) == Address(host, port)


REFUSED = [
    "",
    ":",
    ":80",
    "127.0.0.1",
    "127.0.0.1:",
    "127.0.0.1:4000x",
    "127.0.0.1:-1",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "127.0.0.1:99999999999999999999",
    "127.0.0.1:٣",
    "256.0.0.1:5000",
    "1.2.3:5000",
    "127.0.0.01:5000",
    "host.5:80",
    "::1:6666",
    "[::1]",
    "[::1]6666",
    "[::1:6666",
    "[127.0.0.1]:80",
    "[host]:80",
    "-host:80",
    "host-:80",
    "ho st:80",
    "a..b:80",
    "user@host:80",
    "x" * 64 + ":80",
    ".".join(["x" * 60] * 5) + ":80",
    "http://host:80",
    "127.0.0.1:80\n",
]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_else_is_refused_in_the_originals_words(text):
    for parse, words in (
        (server_http_address, f"The format of http server address '{text}' is invalid"),
        (
            scheduler_http_address,
            f"Failed to start scheduler http server, invalid server address: {text}",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        assert caught.value.problems[0].message.startswith(f"{words} (")


def test_a_good_address_passes_both_ways():
    assert server_http_address("[::1]:6666") == Address("::1", 6666)
    assert scheduler_http_address("localhost:11202") == Address("localhost", 11202)


@pytest.mark.parametrize(
    ("text", "host"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("h", "h")]
)
def test_a_host_without_a_port(text, host):
    assert tcp_server_ip(text) == host


@pytest.mark.parametrize("text", ["", "256.1.1.1", "127.0.0.1:80", "a b", "[h]"])
def test_what_is_no_host_is_refused(text):
    with pytest.raises(ConfigError, match=r"The tcp server ip '.*' is invalid"):
        tcp_server_ip(text)


CACHES = [
    ("127.0.0.1:6379", "127.0.0.1:6379", "redis://127.0.0.1:6379/0"),
    ("cache:1", "cache:1", "redis://cache:1/0"),
    ("[::1]:6379", "[::1]:6379", "redis://[::1]:6379/0"),
    ("redis://cache", "cache:6379", "redis://cache:6379/0"),
    ("redis://[::1]", "[::1]:6379", "redis://[::1]:6379/0"),
    ("redis://[::1]:7", "[::1]:7", "redis://[::1]:7/0"),
    ("redis://cache:7/3", "redis://cache:7/3", "redis://cache:7/3"),
    ("redis://cache:7/", "cache:7", "redis://cache:7/0"),
    ("redis://u@cache", "cache:6379", "redis://u@cache:6379/0"),
    ("redis://u:p@cache", "cache:6379", "redis://u:p@cache:6379/0"),
    ("redis://:p%40%2F@cache", "cache:6379", "redis://:p%40%2F@cache:6379/0"),
    ("redis://u:p@ss@cache", "cache:6379", "redis://u:p%40ss@cache:6379/0"),
    ("rediss://cache:7", "rediss://cache:7", "rediss://cache:7/0"),
    ("unix:/run/r.sock", "unix:/run/r.sock", "unix:///run/r.sock?db=0"),
    ("unix:r.sock", "unix:r.sock", "unix://r.sock?db=0"),
    ("unix:///run/r.sock", "unix:/run/r.sock", "unix:///run/r.sock?db=0"),
    ("unix:///run/a@b.sock", "unix:/run/a@b.sock", "unix:///run/a%40b.sock?db=0"),
    ("unix:///run/r.sock?db=2", "unix:/run/r.sock?db=2", "unix:///run/r.sock?db=2"),
    ("unix://u:p@/run/r.sock", "unix:/run/r.sock", "unix://u:p@/run/r.sock?db=0"),
]

SENTINELS = [
    ("sentinel://a:1,b:2/main", "sentinel://a:1,b:2/main", "sentinel://a:1,b:2/main/0"),
    ("sentinel://a/main", "sentinel://a:26379/main", "sentinel://a:26379/main/0"),
    ("sentinel://[::1],b/m.x_y-1", "sentinel://[::1]:26379,b:26379/m.x_y-1", None),
    ("sentinel://a:1/main/3", "sentinel://a:1/main/3", "sentinel://a:1/main/3"),
    ("sentinel://u:p,@q@a:1,b:2/main", "sentinel://a:1,b:2/main", None),
    ("sentinel://:p%2F@a:1/main", "sentinel://a:1/main", "sentinel://:p%2F@a:1/main/0"),
]


@pytest.mark.parametrize(("text", "shown", "url"), CACHES)
def test_a_cache_address_is_shown_without_its_login_and_connected_with_it(text, shown, url):
    address = parse_cache_address(text)

    assert str(address) == shown
    assert address.secret_url() == url


@pytest.mark.parametrize(("text", "shown", "url"), CACHES)
def test_a_redis_client_reads_the_url_as_it_was_meant(text, shown, url):
    address = parse_cache_address(text)
    options = parse_url(address.secret_url())

    assert options.get("password", "") == address.password
    assert options.get("username", "") == address.username
    assert options.get("db", 0) == address.database
    if address.kind is CacheKind.UNIX:
        if address.path.startswith("/"):
            assert options["path"] == address.path
    else:
        assert (options["host"], options["port"]) == (address.host, address.port)


@pytest.mark.parametrize(("text", "shown", "url"), SENTINELS)
def test_sentinels_are_shown_without_the_login_and_their_url_says_all(text, shown, url):
    address = parse_cache_address(text)

    assert address.kind is CacheKind.SENTINEL
    assert str(address) == shown
    assert url is None or address.secret_url() == url
    assert parse_cache_address(address.secret_url()) == address
    assert parse_cache_address(shown) == replace(address, username="", password="")


def test_the_parts_of_an_address_of_sentinels():
    address = parse_cache_address("sentinel://u:p%40,@[::1],b:2/main/4")

    assert address.sentinels == (Address("::1", 26379), Address("b", 2))
    assert (address.service, address.database) == ("main", 4)
    assert (address.username, address.password) == ("u", "p@,")
    assert "p@," not in repr(address) + str(address)


def test_an_embedded_cache_has_no_url():
    address = parse_cache_address("embedded")

    assert address == CacheAddress(kind=CacheKind.EMBEDDED)
    assert str(address) == "embedded"
    with pytest.raises(ValueError, match="no address before it is started"):
        address.secret_url()


CACHE_REFUSED = [
    ("", "port is missing"),
    ("cache", "port is missing"),
    ("cache:x", "not a number"),
    ("redis://", "host is missing"),
    ("redis://u:p@", "host is missing"),
    ("redis://cache:x", "not a number"),
    ("redis://cache/x", "database"),
    ("redis://cache/9999999", "database"),
    ("redis://cache/0?ssl=1", "options"),
    ("redis://u:p/q@cache", "written %2F"),
    ("http://cache:80", "http:// is not known"),
    ("u:p@cache:80", "redis://user:password@host:port"),
    ("sentinel://", "hosts are missing"),
    ("sentinel://u:p@/main", "hosts are missing"),
    ("sentinel://a:1", "name by which the Sentinels know"),
    ("sentinel://a:1/", "name by which the Sentinels know"),
    ("sentinel://a:1/my main", "name by which the Sentinels know"),
    ("sentinel://a:1,/main", "host"),
    ("sentinel://a:x/main", "not a number"),
    ("sentinel://a:1/main/x", "database"),
    ("sentinel://a:1/main?x=1", "options"),
    ("sentinel://u:p/q@a:1/main", "written %2F"),
    ("unix:", "path of the socket is missing"),
    ("unix://", "absolute path"),
    ("unix://host/run/r.sock", "absolute path"),
    ("unix:/r.sock?x=1", "?db=number"),
    ("unix:/r.sock?db=x", "database"),
    ("unix:/" + "x" * 107, "107 bytes"),
]


@pytest.mark.parametrize(("text", "reason"), CACHE_REFUSED)
def test_what_is_no_cache_address_is_refused_with_a_reason(text, reason):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the reason is compared below
        parse_cache_address(text)
    assert reason in str(caught.value)


def test_a_login_given_apart_wins_over_the_urls():
    address = parse_cache_address("redis://u:p@cache")

    assert address.with_login("v", "q").secret_url() == "redis://v:q@cache:6379/0"
    assert address.with_login("", "").secret_url() == "redis://u:p@cache:6379/0"


def test_the_password_is_in_neither_form_of_an_address():
    address = parse_cache_address("redis://u:hunter2@cache")

    assert "hunter2" not in repr(address) + str(address)


def test_several_slashes_before_a_socket_are_one() -> None:
    address = parse_cache_address("unix:////run/redis.sock")

    assert address.path == "/run/redis.sock"
    assert parse_cache_address(str(address)) == address
