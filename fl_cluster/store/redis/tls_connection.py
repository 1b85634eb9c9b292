"""A connection to Redis by TLS, with the newest context each time it is made.

The client library makes a context once per connection and keeps it, so that a renewed
certificate would come into force only with the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis_asyncio
from redis import exceptions

from fl_cluster.errors import StartupError
from fl_cluster.security.tls import StoreTls
from fl_cluster.security.tls_trouble import explain_outgoing, is_cut_off

TLS_FAILED = "no TLS"
"""How each message begins that is about TLS."""

PROBE_S = 1.0
SILENT = "it takes connections, and does not answer in TLS: its port is plain"


class TlsConnection(redis_asyncio.Connection):
    """One connection; `redis.exceptions.ConnectionError` says in a sentence what TLS minds."""

    def __init__(self, *, tls: StoreTls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls
        self._has_answered = False

    def _connection_arguments(self) -> Mapping[str, Any]:
        try:
            context = self._tls.context()
        except StartupError as exc:
            raise exceptions.ConnectionError(str(exc)) from exc
        return {
            **super()._connection_arguments(),
            "ssl": context,
            "server_hostname": self._tls.files.server_name or self.host,
        }

    def _error_message(self, exception: BaseException) -> str:
        sentence = explain_outgoing(exception)
        if not sentence:
            return str(super()._error_message(exception))
        return self._tls_message(sentence)

    def _tls_message(self, sentence: str) -> str:
        return f"{TLS_FAILED} with {self.host}:{self.port}: {sentence}"

    async def _connect(self) -> None:
        self._has_answered = False
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except TimeoutError as exc:
            # A Redis without TLS takes the beginning of a handshake for half a command.
            if not await self._takes_connections():
                raise
            raise exceptions.ConnectionError(self._tls_message(SILENT)) from exc

    async def _takes_connections(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:  # a timeout is one
            return False
        writer.transport.abort()
        return True

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        """Send; Redis may have minded our certificate after the handshake, which ends only then."""
        try:
            await super().send_packed_command(*args, **options)
        except exceptions.ConnectionError as exc:
            if not (sentence := await self._sentence(exc)):
                raise
            raise exceptions.ConnectionError(self._tls_message(sentence)) from exc

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next answer, likewise."""
        try:
            answer = await super().read_response(*args, **options)
        except exceptions.ConnectionError as exc:
            if not (sentence := await self._sentence(exc)):
                raise
            raise exceptions.ConnectionError(self._tls_message(sentence)) from exc
        self._has_answered = True
        return answer

    async def _sentence(self, fault: exceptions.ConnectionError) -> str:
        """What TLS minds; empty when the fault is about something else."""
        if not is_cut_off(fault):
            return explain_outgoing(fault)
        return "" if self._has_answered else await self._objection()

    async def _objection(self) -> str:
        """What Redis says to whoever only listens after the handshake; empty when nothing.

        Who has sent something meanwhile may see no more than a reset, in which the alert is lost.
        """
        try:
            async with asyncio.timeout(PROBE_S):
                reader, writer = await asyncio.open_connection(**self._connection_arguments())
                try:
                    await reader.read(1)
                finally:
                    writer.transport.abort()
        except OSError as exc:  # a timeout is one, and what TLS minds another
            return "" if is_cut_off(exc) else explain_outgoing(exc)
        return ""
