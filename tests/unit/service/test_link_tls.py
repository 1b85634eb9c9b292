"""The control link by TLS: who is let in, and what a scheduler says of a server that is not."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.security.identities import IdentityFiles
from fl_cluster.security.tls import Tls, TlsFiles
from fl_cluster.service.link import Channel, Duties, Ended, How, LinkServer
from fl_cluster.service.link_keeper import connect
from fl_cluster.telemetry.load import Load
from fl_cluster.wire.frames import Hello, Ping

MOST_S = 5.0
SERVER, ME = "server-1", "scheduler-1"


def tls_of(certificates: Any, outgoing: str = "client") -> Tls:
    def files(side: str, name: str) -> IdentityFiles:
        return IdentityFiles(
            side, certificates.path(f"{name}.crt"), certificates.path(f"{name}.key")
        )

    made = Tls(
        TlsFiles(
            server=files("server", "server"),
            outgoing=files("client", outgoing),
            authority=certificates.path("ca.crt"),
            revocations=certificates.path("ca.crl"),
            ciphers="ECDHE-ECDSA-AES256-GCM-SHA384",
        )
    )
    made.load()
    return made


async def nothing() -> None:
    """A member whose lease need not be renewed."""


def be_member(end: LinkServer) -> str:
    end.serve(SERVER, Duties(Load, {}, nothing))
    host, port = end.address
    return f"{host}:{port}"


async def greeted(channel: Channel) -> bool:
    await channel.send(Hello(ME, SERVER))
    return await channel.receive(5) == Hello(SERVER, ME)


async def test_members_of_one_authority_are_linked(certificates: Any) -> None:
    tls = tls_of(certificates)
    async with LinkServer.listening("127.0.0.1", tls.mutual_server()) as end:
        channel = Channel(*await connect(be_member(end), tls.outgoing))
        assert await greeted(channel)
        await channel.send(Ping())
        await channel.receive(5)
        await channel.close("done")


async def test_a_revoked_scheduler_is_told_and_is_nobodys_death(certificates: Any) -> None:
    certificates.run("issue", "leaver")
    leaver = tls_of(certificates, "leaver").outgoing
    certificates.run("revoke", "leaver")
    async with LinkServer.listening("127.0.0.1", tls_of(certificates).mutual_server()) as end:
        channel = Channel(*await connect(be_member(end), leaver))
        with pytest.raises(Ended) as caught:
            await greeted(channel)
        await channel.close("")
    assert caught.value.how is How.FORBIDDEN
    assert str(caught.value) == (
        "it refused this connection: the certificate shown to it was revoked"
    )


async def test_a_list_that_grows_keeps_the_next_one_out_and_no_link_breaks(
    certificates: Any,
) -> None:
    certificates.run("issue", "leaver")
    tls, leaver = tls_of(certificates), tls_of(certificates, "leaver").outgoing
    async with LinkServer.listening("127.0.0.1", tls.mutual_server()) as end:
        address = be_member(end)
        linked = Channel(*await connect(address, leaver))
        assert await greeted(linked)
        certificates.run("revoke", "leaver")
        assert tls.reload()
        again = Channel(*await connect(address, leaver))
        with pytest.raises(Ended, match="was revoked"):
            await greeted(again)
        await again.close("")
        await linked.receive(5)
        await linked.close("done")


async def test_connections_that_say_nothing_do_not_keep_a_scheduler_out(certificates: Any) -> None:
    tls = tls_of(certificates)
    async with LinkServer.listening("127.0.0.1", tls.mutual_server()) as end:
        address = be_member(end)
        silent = [socket.create_connection(end.address) for _ in range(100)]
        try:
            async with asyncio.timeout(MOST_S):
                channel = Channel(*await connect(address, tls.outgoing))
                assert await greeted(channel)
            await channel.close("done")
        finally:
            for each in silent:
                each.close()


async def test_who_has_no_certificate_of_the_cluster_is_not_let_in(
    certificates: Any, tmp_path: Path, make_certificates: Callable[[Path], Any]
) -> None:
    stranger = tls_of(make_certificates(tmp_path / "other"))
    async with LinkServer.listening("127.0.0.1", tls_of(certificates).mutual_server()) as end:
        address = be_member(end)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(address, stranger.outgoing)


async def test_a_server_that_is_killed_ends_the_link_as_broken(certificates: Any) -> None:
    """A connection that just ends is no statement of TLS, but the sign of a death."""
    tls = tls_of(certificates)

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_server(die, "127.0.0.1", 0, ssl=tls.mutual_server())
    async with server:
        port = server.sockets[0].getsockname()[1]
        dial = functools.partial(connect, tls=tls.outgoing)
        channel = Channel(*await dial(f"127.0.0.1:{port}"))
        with pytest.raises(Ended) as caught:
            await greeted(channel)
        await channel.close("")
    assert caught.value.how is How.BROKEN
