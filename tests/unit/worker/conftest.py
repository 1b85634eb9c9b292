"""A server that answers from a script, over real HTTP, and remembers what it was asked."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fl_cluster.config.addresses import Address
from fl_cluster.wire import flat
from fl_cluster.wire.schema import AnyMessage
from fl_cluster.worker.link import HttpLink, Timeouts

Scripted = AnyMessage | str | int | None
"""A message; a plain text; an HTTP status; None: the connection is closed without an answer."""


@dataclass
class ScriptedServer:
    """Answers the next of `answers` to whatever comes; repeats the last one for ever."""

    address: Address
    answers: deque[Scripted] = field(default_factory=deque)
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    links: list[HttpLink] = field(default_factory=list)
    respond: Callable[[str, bytes], Scripted] | None = None
    """Answers instead of the script."""

    def script(self, *answers: Scripted) -> None:
        self.answers.extend(answers)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def link(self, timeouts: Timeouts | None = None) -> HttpLink:
        self.links.append(HttpLink(self.address, timeouts=timeouts))
        return self.links[-1]

    def answer(self, path: str, body: bytes) -> Scripted:
        if self.respond is not None:
            return self.respond(path, body)
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


def handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append((self.path, body))
            answer = server.answer(self.path, body)
            if answer is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status = answer if isinstance(answer, int) else 200
            content = b"" if isinstance(answer, int) else to_bytes(answer)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Message-Id", "7")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """The test says what matters."""

    return Handler


def to_bytes(answer: AnyMessage | str) -> bytes:
    return answer.encode() if isinstance(answer, str) else flat.encode(answer)


@pytest.fixture
def start_server() -> Iterator[Callable[[], ScriptedServer]]:
    """Starts a scripted server; all are stopped after the test."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread, ScriptedServer]] = []

    def start() -> ScriptedServer:
        server = ScriptedServer(Address("127.0.0.1", 0))
        http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
        server.address = Address("127.0.0.1", http.server_address[1])
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((http, thread, server))
        return server

    yield start
    for http, thread, server in running:
        for link in server.links:
            link.close()
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server(start_server: Callable[[], ScriptedServer]) -> ScriptedServer:
    return start_server()
