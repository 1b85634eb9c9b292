"""HTTP as bytes on a socket."""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import Self

SECONDS = 30.0


def request(
    path: str, body: bytes | None, *headers: str, method: str = "POST", version: str = "1.1"
) -> bytes:
    """The bytes of a request; without a length when there is no body."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers, *length]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


@dataclass(frozen=True)
class Reply:
    """An answer; `headers` in their order."""

    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.headers]

    @property
    def text(self) -> str:
        return self.body.decode()

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Line:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive_once(self) -> bytes:
        """What one read of the socket gives."""
        return self._socket.recv(1 << 20)

    def _more(self) -> bool:
        data = self.receive_once()
        self._buffer += data
        return bool(data)

    def receive(self, *, has_body: bool = True) -> Reply:
        """The next answer; `has_body` is False for what HEAD asks."""
        while b"\r\n\r\n" not in self._buffer:
            assert self._more(), f"the connection ended inside {self._buffer!r}"
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = tuple((name, value) for name, _, value in (x.partition(": ") for x in lines))
        return Reply(status, headers, self._body(status, dict(headers)) if has_body else b"")

    def _body(self, status: str, headers: dict[str, str]) -> bytes:
        if status.split()[1] in ("100", "304"):
            return b""
        length = headers.get("Content-Length")
        while length is None or len(self._buffer) < int(length):
            if not self._more():
                assert length is None, f"the connection ended inside {self._buffer!r}"
                body, self._buffer = self._buffer, b""
                return body
        body, self._buffer = self._buffer[: int(length)], self._buffer[int(length) :]
        return body

    def is_over(self) -> bool:
        """Whether the peer closes the connection and has nothing more to say."""
        return not self._buffer and self.receive_once() == b""

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        return not select.select([self._socket], [], [], seconds)[0]

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(port: int, data: bytes, *, has_body: bool = True) -> Reply:
    """The answer to a request on a connection of its own."""
    with Line(port) as line:
        line.send(data)
        return line.receive(has_body=has_body)
