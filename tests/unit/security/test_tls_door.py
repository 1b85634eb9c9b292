"""A port that speaks TLS: who comes in, and what is said on both sides when somebody does not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fl_cluster.security import tls_door
from fl_cluster.security.identities import IdentityFiles
from fl_cluster.security.tls import Tls, TlsFiles
from fl_cluster.security.tls_door import TlsDoor
from fl_cluster.security.tls_trouble import explain_incoming, explain_outgoing, is_cut_off

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MOST_S = 10.0


def tls_of(certificates: Any, server: str = "server", outgoing: str = "client") -> Tls:
    """TLS of the folder's two certificates, with its revocation list in force."""

    def files(side: str, name: str) -> IdentityFiles:
        return IdentityFiles(
            side, certificates.path(f"{name}.crt"), certificates.path(f"{name}.key")
        )

    made = Tls(
        TlsFiles(
            server=files("server", server),
            outgoing=files("client", outgoing),
            authority=certificates.path("ca.crt"),
            revocations=certificates.path("ca.crl"),
            ciphers="ECDHE-ECDSA-AES256-GCM-SHA384",
        )
    )
    made.load()
    return made


def served_by(certificates: Any, name: str) -> ssl.SSLContext:
    """A server's context with a certificate that no process of ours would start with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path(f"{name}.crt"), certificates.path(f"{name}.key"))
    return context


def device_of(certificates: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.path("ca.crt"))


@dataclass
class Echo:
    """A door behind which every word is answered."""

    door: TlsDoor
    caplog: pytest.LogCaptureFixture

    @property
    def port(self) -> int:
        found: int = self.door.sockets[0].getsockname()[1]
        return found

    @property
    def name(self) -> str:
        return f"TLS on 127.0.0.1:{self.port}"

    def forget(self) -> None:
        """What was said may be said again."""
        self.caplog.clear()
        self.door._complaints = tls_door.Complaints(self.name)

    async def says(self) -> str:
        """The door's next complaint, without its beginning."""
        start = " refused a connection from 127.0.0.1: "
        async with asyncio.timeout(MOST_S):
            while not (lines := [r.message for r in self.caplog.records if start in r.message]):
                await asyncio.sleep(0.005)
        [line] = lines
        assert line.startswith(f"{self.name}:")
        return line.partition(start)[2]


@asynccontextmanager
async def echo(
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    *,
    most: int = 100,
    inside: Callable[[], int] = lambda: 0,
) -> AsyncIterator[Echo]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while heard := await reader.read(100):
                writer.write(heard)
        writer.close()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def protocol() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), accept)

    door = await TlsDoor.open(
        protocol, ("127.0.0.1", 0), context, most_unfinished=most, inside=inside
    )
    try:
        yield Echo(door, caplog)
    finally:
        door.close()
        if tasks:
            await asyncio.wait(tasks, timeout=MOST_S)


async def talk(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
    """Connect by that name and have a word answered."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=host
    )
    try:
        writer.write(b"word")
        assert await reader.readexactly(4) == b"word"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def blocking(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
    """Be refused as a program without an event loop is."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=MOST_S)
    with plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)


async def refusal(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> str:
    """Why connecting failed, as the side that connects says it."""
    with pytest.raises(OSError, match=r".*") as raised:
        await talk(port, context, host)
    assert not is_cut_off(raised.value), "the other end has said why"
    return explain_outgoing(raised.value)


@pytest.fixture(params=sorted(LOOPS))
def tell(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Runs a coroutine on each of the event loops that a process may have."""
    caplog.set_level(logging.DEBUG, logger="fl_cluster")

    def run(story: Awaitable[None]) -> None:
        async def timed() -> None:
            async with asyncio.timeout(3 * MOST_S):
                await story

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(timed())

    return run


def test_who_fits_comes_in(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        tls = tls_of(certificates)
        async with echo(tls.public_server(), caplog) as server:
            await asyncio.gather(*(talk(server.port, device_of(certificates)) for _ in range(20)))
        async with echo(tls.mutual_server(), caplog) as server:
            await talk(server.port, tls.outgoing())

    tell(story())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_plain_text_is_answered_in_plain_text(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /updateModel HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            writer.write(b"something")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"Connection: close\r\n" in head
            assert await reader.readline() == tls_door.PLAIN_TEXT
            writer.close()
            expected = "it speaks plain text, and this port speaks TLS: https:// is meant"
            assert await server.says() == expected

    tell(story())


@pytest.mark.parametrize("first", [b"PING\r\n", b"\x00\x01\x02\x03\x04\x05\x06\x07", b"\x16\x03"])
def test_whatever_is_said_first_the_port_goes_on(
    certificates: Any,
    tell: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    first: bytes,
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(first)
            await writer.drain()
            writer.close()
            await talk(server.port, device_of(certificates))

    tell(story())


def test_a_wrong_authority_is_told_on_both_sides(
    certificates: Any,
    tell: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    make_certificates: Callable[[Path], Any],
) -> None:
    other = make_certificates(tmp_path / "other")

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            assert await refusal(server.port, device_of(other)) == (
                "its certificate is refused: it does not come from the CA that is trusted here"
                " (wrong CA certificate)"
            )
            # An event loop's connection ends without an alert, that of other programs with one.
            assert await server.says() == tls_door.LEFT
            server.forget()
            await asyncio.to_thread(blocking, server.port, device_of(other))
            assert await server.says() == (
                "it refused this server: it does not know the authority of the certificate shown"
                " to it; both ends need the same CA certificate"
            )

    tell(story())


def test_a_wrong_host_name_is_told_on_both_sides(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            said = await refusal(server.port, device_of(certificates), "fl.example.org")
            assert said.startswith("its certificate is refused: it is for another host (")
            assert "fl.example.org" in said
            assert await server.says() == tls_door.LEFT
            server.forget()
            await asyncio.to_thread(blocking, server.port, device_of(certificates), "other")
            assert "not for the name it asked for" in await server.says()

    tell(story())


def test_an_expired_certificate_is_told_on_both_sides(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    old(certificates)
    certificates.issue("odd", hosts=("127.0.0.1",), days=(-3, -1))

    async def story() -> None:
        async with echo(served_by(certificates, "odd"), caplog) as server:
            said = await refusal(server.port, device_of(certificates))
            assert said.startswith(
                "its certificate is refused: it has expired (this host's clock says 2"
            )
            assert await server.says() == tls_door.LEFT
            server.forget()
            await asyncio.to_thread(blocking, server.port, device_of(certificates))
            assert "has expired: renew it, or set its clock" in await server.says()

    tell(story())


def test_a_clock_that_is_off_is_told_from_an_expired_certificate(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    certificates.issue("odd", hosts=("127.0.0.1",), days=(1, 3))

    async def story() -> None:
        async with echo(served_by(certificates, "odd"), caplog) as server:
            said = await refusal(server.port, device_of(certificates))
            assert said.startswith("its certificate is refused: it is not valid yet; this host's")
            assert said.endswith("one of the two clocks is off")
            assert await server.says() == tls_door.LEFT
            server.forget()
            await asyncio.to_thread(blocking, server.port, device_of(certificates))
            assert "not valid yet by its clock" in await server.says()

    tell(story())


def test_a_revoked_certificate_is_told_on_both_sides(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    certificates.run("issue", "leaver")
    leaver = tls_of(certificates, outgoing="leaver").outgoing()
    certificates.run("revoke", "leaver")

    async def story() -> None:
        async with echo(tls_of(certificates).mutual_server(), caplog) as server:
            said = await refusal(server.port, leaver)
            assert said == "it refused this connection: the certificate shown to it was revoked"
            assert await server.says() == "its certificate is refused: it was revoked"

    tell(story())


def test_who_shows_no_certificate_is_told_so_on_both_sides(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).mutual_server(), caplog) as server:
            said = await refusal(server.port, device_of(certificates))
            assert said == (
                "it refused this connection: it asks for a certificate and none was shown"
            )
            assert await server.says() == (
                "TLS failed: it showed no certificate, and this port asks for one"
            )

    tell(story())


def test_no_common_version_or_cipher_is_told_on_both_sides(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    device = device_of(certificates)
    device.maximum_version = ssl.TLSVersion.TLSv1_2
    device.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            said = await refusal(server.port, device)
            assert said == "it refused this connection: there is no cipher that both ends allow"
            assert "there is no cipher that both ends allow" in await server.says()
        caplog.clear()
        async with echo(tls_of(certificates).mutual_server(), caplog) as server:
            said = await refusal(server.port, device)
            assert said == (
                "it refused this connection: there is no version of TLS that both ends allow; links"
                " between processes of a cluster are TLS 1.3, all else 1.2 or 1.3"
            )
            assert await server.says() == (
                "TLS failed: there is no version of TLS that both ends allow; links between"
                " processes of a cluster are TLS 1.3, all else 1.2 or 1.3"
            )

    tell(story())


def test_tls_to_a_plain_port_is_told_where_it_was_tried(
    certificates: Any, tell: Callable[..., None]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await refusal(port, device_of(certificates)) == (
                "it does not speak TLS there: its port is plain, or another program's"
            )

    tell(story())


def test_the_same_complaint_is_made_once_in_a_while(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            for _ in range(5):
                await refusal(server.port, device_of(certificates), "fl.example.org")
            await server.says()

    tell(story())


def test_complaints_are_remembered_for_so_many_hosts_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_door, "REMEMBERED", 3)
    complaints = tls_door.Complaints("TLS")
    for number in range(10):
        complaints.add(f"10.0.0.{number}", "why")
    assert len(complaints._said) == 3


def call(port: int, said: bytes = b"") -> socket.socket:
    """A connection of which this much is said, and no more."""
    caller = socket.create_connection(("127.0.0.1", port))
    caller.setblocking(False)
    caller.sendall(said)
    return caller


def is_open(caller: socket.socket) -> bool:
    """Whether the other end has not closed it."""
    try:
        return bool(caller.recv(10_000))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(MOST_S):
        while not condition():
            await asyncio.sleep(0.005)


def hello_of(context: ssl.SSLContext) -> bytes:
    """The first that a client with that context says."""
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("said", ["nothing", "a byte", "seven bytes", "half", "a whole hello"])
def test_connections_that_do_not_go_on_keep_nobody_out(
    certificates: Any,
    tell: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
) -> None:
    monkeypatch.setattr(tls_door, "PATIENCE_S", 0.1)
    hello = hello_of(device_of(certificates))
    words = {
        "nothing": b"",
        "a byte": hello[:1],
        "seven bytes": hello[:7],
        "half": hello[: len(hello) // 2],
        "a whole hello": hello,
    }[said]

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog, most=3) as server:
            callers: list[socket.socket] = []
            try:
                for _ in range(6):
                    # Those who mean harm are back at once when they are turned away.
                    callers += [call(server.port, words) for _ in range(4)]
                    await talk(server.port, device_of(certificates))
                    assert server.door.unfinished <= 3
                await until(lambda: not any(is_open(each) for each in callers[:-3]))
                if said != "a whole hello":
                    assert all(is_open(each) for each in callers[-2:]), "the oldest made room"
            finally:
                for each in callers:
                    each.close()
            await until(lambda: server.door.unfinished == 0)

    tell(story())
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_those_who_said_nothing_make_room_before_those_who_began(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    hello = hello_of(device_of(certificates))

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog, most=4) as server:
            begun = call(server.port, hello[:7])
            await until(lambda: server.door.unfinished == 1)
            silent = []
            for number in range(8):
                silent.append(call(server.port))
                await until(lambda: server.door.unfinished == min(number + 2, 4))  # noqa: B023
            await until(lambda: not is_open(silent[4]))
            assert [is_open(each) for each in silent] == [False] * 5 + [True] * 3
            assert is_open(begun)
            for each in (begun, *silent):
                each.close()

    tell(story())


def test_who_has_spoken_meanwhile_is_heard_before_room_is_made(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog, most=3) as server:
            hello = hello_of(device_of(certificates))
            # While this loop is held up, all of them come, and the first has said all it has to.
            honest = call(server.port, hello)
            silent = [call(server.port) for _ in range(20)]
            await until(lambda: not is_open(silent[0]))
            async with asyncio.timeout(MOST_S):
                answer = await asyncio.get_running_loop().sock_recv(honest, 5)
            assert answer[:1] == b"\x16", "its handshake goes on"
            for each in (honest, *silent):
                each.close()

    tell(story())


def test_the_more_were_let_in_the_fewer_may_try_but_some_always_do(
    certificates: Any,
    tell: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_door, "FEWEST_UNFINISHED", 2)
    inside = 3

    async def story() -> None:
        nonlocal inside
        context = tls_of(certificates).public_server()
        async with echo(context, caplog, most=8, inside=lambda: inside) as server:
            callers = [call(server.port) for _ in range(20)]
            await until(lambda: not is_open(callers[14]))
            assert server.door.unfinished == 5
            inside = 8
            callers += [call(server.port) for _ in range(4)]
            await until(lambda: not is_open(callers[21]))
            assert server.door.unfinished == 2
            await talk(server.port, device_of(certificates))
            for each in callers:
                each.close()

    tell(story())


def test_when_the_process_is_out_of_files_the_silent_make_room(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            silent = call(server.port)
            await until(lambda: server.door.unfinished == 1)
            server.door._pause(server.door.sockets[0], OSError(errno.EMFILE, "too many"))
            await until(lambda: not is_open(silent))
            silent.close()
            await talk(server.port, device_of(certificates))

    tell(story())
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_hello_that_comes_in_pieces_is_put_together(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    hello = hello_of(device_of(certificates))

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            caller = call(server.port)
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(0, len(hello), 100):
                assert is_open(caller)
                caller.sendall(hello[place : place + 100])
                await asyncio.sleep(0)
            async with asyncio.timeout(MOST_S):
                assert await asyncio.get_running_loop().sock_recv(caller, 1) == b"\x16"
            caller.close()

    tell(story())


def test_a_hello_that_ends_in_the_middle_ends_the_connection(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    hello = hello_of(device_of(certificates))

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            for length in (1, 4, 5, 7, 100):
                caller = call(server.port, hello[:length])
                caller.shutdown(socket.SHUT_WR)
                await until(lambda: not is_open(caller))  # noqa: B023
                caller.close()
            await until(lambda: server.door.unfinished == 0)

    tell(story())


@pytest.mark.parametrize("said", [0, 7, 10_000])
def test_a_handshake_that_does_not_go_on_ends(
    certificates: Any,
    tell: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    said: int,
) -> None:
    monkeypatch.setattr(tls_door, "HANDSHAKE_S", 0.2)
    hello = hello_of(device_of(certificates))[:said]

    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(hello)
            heard = b""
            with contextlib.suppress(ConnectionResetError):
                heard = await reader.read()
            assert bool(heard) == (said > 7), "only a whole hello is answered"
            writer.close()
            await until(lambda: server.door.unfinished == 0)

    tell(story())


def test_a_closed_door_leaves_no_handshake_and_no_port(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            port = server.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: server.door.unfinished == 1)
            half_way = call(port, hello_of(device_of(certificates)))
            await until(lambda: server.door.unfinished == 2)
        assert await reader.read() == b""
        writer.close()
        half_way.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: server.door.unfinished == 0)

    tell(story())


def test_a_port_in_use_is_the_systems_own_error(
    certificates: Any, tell: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with echo(tls_of(certificates).public_server(), caplog) as server:
            context = tls_of(certificates).public_server()
            with pytest.raises(OSError, match="in use"):
                await TlsDoor.open(asyncio.Protocol, ("127.0.0.1", server.port), context)

    tell(story())


def test_what_is_not_about_tls_has_no_explanation() -> None:
    assert explain_outgoing(ConnectionRefusedError(111, "refused")) == ""
    assert is_cut_off(ConnectionResetError(104, "reset"))
    assert explain_incoming(TimeoutError()) == "the TLS handshake did not end: TimeoutError"
    odd = ssl.SSLError(1, "[SSL: ODD] odd")
    assert explain_outgoing(odd).startswith("TLS failed: ")


def test_a_fault_is_explained_by_what_caused_it() -> None:
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = ssl.SSLEOFError(8, "EOF occurred")
    assert explain_outgoing(wrapped).endswith("is that a TLS port?")
    assert is_cut_off(wrapped)


def old(certificates: Any) -> None:
    """Let the folder's authority be ten days old."""
    from fl_cluster.security import authority

    (Path(certificates.folder) / "ca.key").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authority, "BACKDATED", timedelta(days=10))
        certificates.run("init")
