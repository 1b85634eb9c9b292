"""Tokens at the device plane: refused before the body is read, in words that tell what is wrong."""

from __future__ import annotations

import ipaddress

import pytest
from aiohttp.test_utils import make_mocked_request

from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.security.proxies import TrustedProxies
from fl_cluster.security.tokens import TokenRole
from fl_cluster.service import token_changes
from fl_cluster.service.token_book import TokenBook
from fl_cluster.service.token_changes import TokenWish
from fl_cluster.store.memory_identity import MemoryTokenStore

NOW_MS = 1_795_000_000_000
PROXY = TrustedProxies([ipaddress.ip_network("127.0.0.0/8")])


class Office:
    """Whoever makes and revokes tokens, and a book that has seen it."""

    def __init__(self):
        self.store = MemoryTokenStore()
        self.now_ms = NOW_MS
        self.book = TokenBook(self.store, lambda: self.now_ms)

    async def make(self, label="site-a", **fields):
        secret, _ = await token_changes.create(
            self.store, TokenWish(label=label, now_ms=NOW_MS, **fields)
        )
        await self.book.look()
        return secret

    async def revoke(self, name):
        await token_changes.revoke(self.store, name, self.now_ms)
        await self.book.look()


@pytest.fixture
def office():
    return Office()


@pytest.fixture
async def guarded(bench, office):
    """A member that takes tokens over plain HTTP."""
    await bench.open()
    bench.gatekeeper = Gatekeeper(office.book, allows_http=True)
    return await bench.member()


def bearing(caller, token):
    return caller.saying(f"Authorization: Bearer {token}")


async def test_without_any_token_everybody_is_let_in(guarded):
    assert (await guarded.packed.check_in()).status == 200
    assert (await guarded.flat.check_in("d2")).message.retcode == 200


async def test_a_good_token_is_let_in_to_every_call(guarded, office, bench):
    caller = bearing(guarded.packed, await office.make())

    assert (await caller.check_in("d1")).status == 200
    assert (await caller.check_in("d2")).status == 200
    assert (await caller.report("d1")).status == 200
    assert (await caller.get_model(0)).status == 200


async def refused(guarded, token):
    caller = guarded.packed if token is None else bearing(guarded.packed, token)
    answers = [await caller.check_in(), await caller.report(), await caller.get_model(0)]
    said = {(each.status, each.message.verdict, each.message.reason) for each in answers}
    assert len(said) == 1, said
    assert all(each.message.retry_after_ms is None for each in answers)
    assert token is None or all(token.encode() not in each.body + each.head for each in answers)
    assert answers[0].message.fl_plan_config is None
    return answers[0], said.pop()


async def test_who_has_no_token_is_told_that_one_is_asked_for(guarded, office):
    await office.make()

    answer, said = await refused(guarded, None)

    assert said == (
        401,
        "token_missing",
        "The request has no token, and this cluster asks for one.",
    )
    assert answer.header("WWW-Authenticate") == "Bearer"


async def test_a_token_that_nobody_made_is_told_apart(guarded, office):
    await office.make()

    _, said = await refused(guarded, "flt_never-made-by-anybody")

    assert said == (401, "token_unknown", "The token is not known to this cluster.")


async def test_an_expired_token_is_told_since_when(guarded, office):
    token = await office.make(expires_ms=NOW_MS + 1_000)
    assert (await bearing(guarded.packed, token).check_in()).status == 200
    office.now_ms += 1_000

    _, said = await refused(guarded, token)

    sentence = "The token site-a has expired at 2026-11-18 11:06:41 UTC."
    assert said == (401, "token_expired", sentence)


async def test_a_revoked_token_is_told_since_when_and_others_go_on(guarded, office):
    token, other = await office.make(), await office.make("site-b")
    await office.revoke("site-a")

    _, said = await refused(guarded, token)

    assert said == (
        403,
        "token_revoked",
        "The token site-a was revoked at 2026-11-18 11:06:40 UTC.",
    )
    assert (await bearing(guarded.packed, other).check_in()).status == 200


async def test_an_operator_is_no_device(guarded, office):
    await office.make()
    token = await office.make("ops", role=TokenRole.OPERATOR)

    _, said = await refused(guarded, token)

    assert said[:2] == (403, "token_role")


async def test_existing_devices_are_refused_so_that_they_understand(guarded, office):
    await office.make()

    check_in = (await guarded.flat.check_in()).message
    report = (await guarded.flat.report()).message
    model = (await guarded.flat.get_model(0)).message

    sentence = "The request has no token, and this cluster asks for one."
    for message in (check_in, report, model):
        assert (message.retcode, message.reason) == (400, sentence)
    assert check_in.fl_plan_config is not None
    assert int(check_in.next_req_time) > 0


async def test_a_refusal_does_not_wait_for_the_body(guarded, office, http_post):
    await office.make()
    request = http_post("/updateModel", b"", "Content-Type: application/msgpack")
    request = request.replace(b"Content-Length: 0", b"Content-Length: 1000000000")
    async with guarded.line() as line:
        line.send(request)
        assert (await line.receive()).status == 401


async def test_a_token_is_not_taken_over_plain_http(bench, office):
    token = await office.make()
    await bench.open()
    bench.gatekeeper = Gatekeeper(office.book)
    strict = await bench.member()

    _, said = await refused(strict, token)

    assert said[:2] == (403, "token_over_http")
    assert "use https, or set cluster.allow_tokens_over_http" in said[2]
    forged = bearing(strict.packed, token).saying("X-Forwarded-Proto: https")
    assert (await forged.check_in()).status == 403


async def test_tls_that_ended_at_a_trusted_proxy_is_tls(bench, office):
    token = await office.make()
    await bench.open()
    bench.gatekeeper = Gatekeeper(office.book, PROXY)
    member = await bench.member()
    caller = bearing(member.packed, token)

    assert (await caller.check_in()).message.verdict == "token_over_http"
    assert (await caller.saying("X-Forwarded-Proto: http").check_in()).status == 403
    assert (await caller.saying("X-Forwarded-Proto: https").check_in()).status == 200


async def test_refusals_are_counted_under_the_address_behind_the_proxy(bench, office):
    await office.make()
    await bench.open()
    bench.gatekeeper = Gatekeeper(office.book, PROXY)
    member = await bench.member()

    for _ in range(3):
        await member.packed.saying("X-Forwarded-For: 203.0.113.9").check_in()

    assert dict(office.book._refused) == {"token_missing from 203.0.113.9": 3}


async def test_a_line_that_the_device_wrote_itself_is_passed_over(bench, office):
    """HAProxy adds a line of its own behind those that came."""
    token = await office.make()
    await bench.open()
    bench.gatekeeper = Gatekeeper(office.book, PROXY)
    member = await bench.member()
    forged = member.packed.saying("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 198.51.100.7")

    await forged.check_in()

    assert dict(office.book._refused) == {"token_missing from 198.51.100.7": 1}
    caller = bearing(member.packed, token)
    claimed = caller.saying("X-Forwarded-Proto: https", "x-forwarded-proto: http")
    assert (await claimed.check_in()).message.verdict == "token_over_http"
    denied = caller.saying("X-Forwarded-Proto: http", "x-forwarded-proto: https")
    assert (await denied.check_in()).status == 200


async def served(gatekeeper, *headers):
    """What the gate says of a worker's call with these headers."""
    request = make_mocked_request("POST", "/pushWeight", dict(headers))
    return gatekeeper.judge_worker(request)


async def test_what_workers_call_is_open_only_while_nobody_needs_a_token(office):
    gatekeeper = Gatekeeper(office.book, allows_http=True)
    assert await served(gatekeeper) is None

    device = await office.make()

    assert (await served(gatekeeper)).word == "token_missing"
    assert (await served(gatekeeper, ("Authorization", f"Bearer {device}"))).word == "token_role"
    operator = await office.make("ops", role=TokenRole.OPERATOR)
    assert await served(gatekeeper, ("Authorization", f"Bearer {operator}")) is None
