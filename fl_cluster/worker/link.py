"""One HTTP connection from a worker to one server, kept open between requests.

The standard library's client is enough for one request at a time from a program that waits
for the answer, and costs such a program neither an event loop nor a thread.
Every request of the protocol may be sent twice, so one that failed on a connection that the
server had meanwhile closed goes out again at once on a new one.
A forked child opens a connection of its own.
Each new connection asks for its TLS context, so that renewed certificates are used.
"""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from fl_cluster.config.addresses import Address
from fl_cluster.security.tls_trouble import explain_outgoing
from fl_cluster.worker.faults import NoAnswer

CONTENT_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each part of an exchange may take, in seconds."""

    connect_s: float = 5.0
    answer_s: float = 60.0
    """Silence of the server; longer than the 25 s for which it may hold a request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    body: bytes


class HttpLink:
    """Asks the server at one address; `tls` gives the context for an https one.

    `token` is shown with every request, when there is one.
    """

    def __init__(
        self,
        address: Address,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        timeouts: Timeouts | None = None,
        token: str = "",
    ) -> None:
        self._headers = {"Content-Type": CONTENT_TYPE}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._address = address
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._connection: http.client.HTTPConnection | None = None
        self._owner = os.getpid()

    def __str__(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self._address}"

    def post(self, path: str, body: bytes) -> Reply:
        """The answer to one POST, whatever its status; NoAnswer says why there is none."""
        if self._owner != os.getpid():
            # The parent's connection: closing it here does not end the parent's.
            self.close()
            self._owner = os.getpid()
        if self._connection is not None:
            try:
                return self._exchange(self._connection, path, body)
            except TimeoutError as exc:
                raise self._no_answer(path, exc) from exc
            except (OSError, http.client.HTTPException):
                self.close()
        try:
            return self._exchange(self._connect(), path, body)
        except (OSError, http.client.HTTPException) as exc:
            raise self._no_answer(path, exc) from exc

    def _no_answer(self, path: str, fault: Exception) -> NoAnswer:
        self.close()
        why = explain_outgoing(fault) or str(fault) or type(fault).__name__
        return NoAnswer(f"{self}{path}: {why}")

    def _connect(self) -> http.client.HTTPConnection:
        host, port, timeouts = self._address.host, self._address.port, self._timeouts
        if self._tls is None:
            made = http.client.HTTPConnection(host, port, timeout=timeouts.connect_s)
        else:
            made = http.client.HTTPSConnection(
                host, port, timeout=timeouts.connect_s, context=self._tls()
            )
        self._connection = made
        made.connect()
        made.sock.settimeout(timeouts.answer_s)
        return made

    def _exchange(self, on: http.client.HTTPConnection, path: str, body: bytes) -> Reply:
        on.request("POST", path, body, self._headers)
        response = on.getresponse()
        received = response.read()
        if response.will_close:
            self.close()
        return Reply(response.status, received)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
