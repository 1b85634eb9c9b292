"""Redis by TLS: who is believed, what is shown, and what is said when that does not do."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.errors import StoreUnavailable
from fl_cluster.security.tls import StoreTls, StoreTlsFiles
from fl_cluster.service.store_trouble import explain_fault
from fl_cluster.store.redis.connection import Connection

pytestmark = pytest.mark.redis

Start = Callable[..., tuple[Any, int]]


def shown(certificates: Any, name: str = "client", **options: str) -> StoreTls:
    """What a process of the cluster knows Redis by, and shows it."""
    files = {
        "authority": certificates.path("ca.crt"),
        "certificate": certificates.path(f"{name}.crt"),
        "key": certificates.path(f"{name}.key"),
    }
    return StoreTls(StoreTlsFiles(**files | options))


async def asked(port: int, tls: StoreTls) -> str:
    """Empty when Redis answers, else why it does not."""
    connection = Connection(f"rediss://127.0.0.1:{port}/0", timeout_ms=1_000, tls=tls)
    try:
        await connection.command("SET", "key", "value")
        assert await connection.command("GET", "key") == b"value"
    except StoreUnavailable as exc:
        return exc.reason
    finally:
        await connection.close()
    return ""


async def refused(asking: Awaitable[str]) -> str:
    """The reason, which is about TLS and leads to advice about TLS."""
    reason = await asking
    assert reason.startswith("no TLS with 127.0.0.1:")
    advice = explain_fault(StoreUnavailable("PING", reason)).change
    assert "distributed_cache" in str(advice)
    return reason.partition(": ")[2]


async def test_redis_is_spoken_to_by_tls(certificates: Any, start_tls_redis: Start) -> None:
    _, port = start_tls_redis()
    assert await asked(port, shown(certificates)) == ""


async def test_events_come_by_tls_too(certificates: Any, start_tls_redis: Start) -> None:
    _, port = start_tls_redis()
    connection = Connection(f"rediss://127.0.0.1:{port}/0", tls=shown(certificates))
    words = connection.listen("channel")
    assert await anext(words) == "subscribed"
    await connection.publish("channel", "word")
    assert await anext(words) == "word"
    await words.aclose()  # type: ignore[attr-defined]
    await connection.close()


async def test_a_redis_of_another_authority_is_not_believed(
    certificates: Any,
    start_tls_redis: Start,
    tmp_path: Path,
    make_certificates: Callable[[Path], Any],
) -> None:
    _, port = start_tls_redis()
    other = make_certificates(tmp_path / "other")
    tls = shown(certificates, authority=other.path("ca.crt"))
    assert (await refused(asked(port, tls))).startswith(
        "its certificate is refused: it does not come from the CA that is trusted here"
    )


async def test_a_redis_of_another_name_is_not_believed_unless_that_name_is_expected(
    certificates: Any, start_tls_redis: Start
) -> None:
    certificates.run("issue", "cache", "--host=cache.example.org")
    _, port = start_tls_redis(shows="cache")
    said = await refused(asked(port, shown(certificates)))
    assert said.startswith("its certificate is refused: it is for another host")
    assert await asked(port, shown(certificates, server_name="cache.example.org")) == ""


def subject_hash(certificate: str) -> str:
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", certificate]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="names of such folders are openssl's")
async def test_authorities_may_be_a_folder_of_theirs(
    certificates: Any, start_tls_redis: Start, tmp_path: Path
) -> None:
    """The folder of `distributed_cache.capath`: files named by their subjects."""
    _, port = start_tls_redis()
    authority = certificates.path("ca.crt")
    name = subject_hash(authority)
    full, empty = tmp_path / "full", tmp_path / "empty"
    for folder in (full, empty):
        folder.mkdir()
    shutil.copy(authority, full / f"{name}.0")

    assert await asked(port, shown(certificates, authority="", authority_folder=str(full))) == ""
    nobody = shown(certificates, authority="", authority_folder=str(empty))
    assert "its certificate is refused" in await refused(asked(port, nobody))


async def test_a_redis_whose_certificate_has_expired_is_not_believed(
    certificates: Any, start_tls_redis: Start
) -> None:
    certificates.issue("odd", hosts=("127.0.0.1",), days=(0, 0))
    _, port = start_tls_redis(shows="odd")
    said = await refused(asked(port, shown(certificates)))
    assert said.startswith("its certificate is refused: it has expired")


async def test_a_redis_that_asks_for_a_certificate_says_so(
    certificates: Any, start_tls_redis: Start
) -> None:
    _, port = start_tls_redis()
    said = await refused(asked(port, shown(certificates, certificate="", key="")))
    assert said == "it refused this connection: it asks for a certificate and none was shown"


async def test_tls_to_a_redis_without_it_is_told(certificates: Any, redis_server: Any) -> None:
    said = await refused(asked(redis_server.port, shown(certificates)))
    assert said == "it takes connections, and does not answer in TLS: its port is plain"


async def test_a_renewed_certificate_is_shown_to_redis_from_then_on(
    certificates: Any, start_tls_redis: Start
) -> None:
    _, port = start_tls_redis()
    tls = shown(certificates)
    connection = Connection(f"rediss://127.0.0.1:{port}/0", tls=tls)
    await connection.ping()
    before = tls.context()
    certificates.run("renew", "client")
    await connection.client.connection_pool.disconnect()
    await connection.ping()
    assert tls.context() is not before
    await connection.close()
