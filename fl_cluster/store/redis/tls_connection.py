"""A connection to Redis by TLS, with the newest context each time it is made.

The client library makes a context once per connection and keeps it, so that a renewed
certificate would come into force only with the next start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis_asyncio
from redis import exceptions

from fl_cluster.errors import StartupError
from fl_cluster.security.tls import StoreTls
from fl_cluster.security.tls_trouble import explain_outgoing, is_cut_off

TLS_FAILED = "no TLS"
"""How each message begins that is about TLS."""


class TlsConnection(redis_asyncio.Connection):
    """One connection; `redis.exceptions.ConnectionError` says in a sentence what TLS minds."""

    def __init__(self, *, tls: StoreTls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

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

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next answer; Redis minds a certificate only when it is asked for the first one."""
        try:
            return await super().read_response(*args, **options)
        except exceptions.ConnectionError as exc:
            if is_cut_off(exc):
                raise
            raise exceptions.ConnectionError(self._tls_message(explain_outgoing(exc))) from exc
