"""The gate before a handler: whether whoever asks may, judged from the head of the request alone.

A refusal is decided before a byte of the body is read, costs no call to the store, and says in
one sentence which it was: no token, an unknown one, an expired or a revoked one.
Facts: existing devices take nothing but HTTP 200, so in FlatBuffers a refusal is a message with
code 400, at which they stop and log the sentence; in msgpack and to operators it is 401 or 403.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from aiohttp import web

from fl_cluster.api.plain_http import Answer, Handler
from fl_cluster.api.refusals import Refusal, Retry
from fl_cluster.security.proxies import Origin, TrustedProxies
from fl_cluster.security.tokens import Judgement, TokenRole, TokenVerdict, bearer_of
from fl_cluster.service.token_book import TokenBook
from fl_cluster.wire.messages import ResponseCode

STATUS: Mapping[TokenVerdict, int] = {
    TokenVerdict.MISSING: 401,
    TokenVerdict.UNKNOWN: 401,
    TokenVerdict.EXPIRED: 401,
    TokenVerdict.REVOKED: 403,
    TokenVerdict.WRONG_ROLE: 403,
    TokenVerdict.PLAIN_HTTP: 403,
}

OPEN_PATHS = frozenset({"/healthz"})
"""What those ask who only want to know whether a process lives."""


class Gatekeeper:
    """Lets requests in; without a book of tokens, all of them."""

    def __init__(
        self,
        book: TokenBook | None = None,
        proxies: TrustedProxies | None = None,
        *,
        allows_http: bool = False,
    ) -> None:
        """With `allows_http`, tokens are taken over plain HTTP too."""
        self._book = book
        self._proxies = proxies or TrustedProxies()
        self._allows_http = allows_http

    @property
    def is_guarded(self) -> bool:
        """Whether devices need a token now."""
        return self._book is not None and self._book.is_required(TokenRole.DEVICE)

    def origin(self, request: web.BaseRequest) -> Origin:
        """Where the request comes from, whatever proxies it came through."""
        return self._proxies.origin(
            request.remote or "", is_tls=request.secure, headers=request.headers
        )

    def judge(self, request: web.BaseRequest, role: TokenRole = TokenRole.DEVICE) -> Refusal | None:
        """Why the request is refused; None when it may go on."""
        if self._book is None or not self._book.is_required(role):
            return None
        return self._judge(self._book, request, role)

    def judge_worker(self, request: web.BaseRequest) -> Refusal | None:
        """The same of a call that only workers make: it changes the model of everybody.

        It needs an operator's token as soon as anybody needs one, so that a participant's is
        not enough, and a job that is closed to strangers is closed here as well.
        """
        if self._book is None or not any(map(self._book.is_required, TokenRole)):
            return None
        return self._judge(self._book, request, TokenRole.OPERATOR)

    def _judge(self, book: TokenBook, request: web.BaseRequest, role: TokenRole) -> Refusal | None:
        origin = self.origin(request)
        token = bearer_of(request.headers.get("Authorization"))
        if token is not None and not (self._allows_http or origin.is_encrypted):
            judgement = Judgement(TokenVerdict.PLAIN_HTTP)
        else:
            judgement = book.judge(token, role)
        if judgement.verdict is TokenVerdict.VALID:
            return None
        book.note_refused(judgement, origin.address)
        return _refusal(judgement, role)

    def guarding(self, routes: Mapping[str, Handler]) -> dict[str, Handler]:
        """The handlers of operators' calls, each behind the gate."""
        return {
            path: handler if path in OPEN_PATHS else self._guarded(handler)
            for path, handler in routes.items()
        }

    def _guarded(self, handler: Handler) -> Handler:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            refusal = self.judge(request, TokenRole.OPERATOR)
            return await handler(request) if refusal is None else _operator_answer(refusal)

        return handle


def _refusal(judgement: Judgement, role: TokenRole) -> Refusal:
    return Refusal(
        judgement.verdict.value,
        ResponseCode.RequestError,
        STATUS[judgement.verdict],
        Retry.NEVER,
        _sentence(judgement, role),
    )


def _sentence(judgement: Judgement, role: TokenRole) -> str:
    record = judgement.record
    match judgement.verdict:
        case TokenVerdict.MISSING:
            return "The request has no token, and this cluster asks for one."
        case TokenVerdict.PLAIN_HTTP:
            return (
                "A token is not taken over plain HTTP, where anyone can read it; use https, or"
                " set cluster.allow_tokens_over_http."
            )
        case TokenVerdict.EXPIRED if record is not None:
            return f"The token {record.label} has expired at {_instant(record.expires_ms)}."
        case TokenVerdict.REVOKED if record is not None:
            return f"The token {record.label} was revoked at {_instant(record.revoked_ms)}."
        case TokenVerdict.WRONG_ROLE if record is not None:
            return f"The token {record.label} is for role {record.role}, and this is for {role}."
        case _:
            return "The token is not known to this cluster."


def _instant(at_ms: int | None) -> str:
    return f"{datetime.fromtimestamp((at_ms or 0) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _operator_answer(refusal: Refusal) -> Answer:
    body = json.dumps({"code": "1", "error_message": refusal.text}, separators=(",", ":"))
    headers = {"Content-Type": "application/json"}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Answer(body.encode(), status=refusal.status, headers=headers)
