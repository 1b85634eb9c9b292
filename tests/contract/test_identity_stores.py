"""Tokens, attestations and seen signatures: memory and Redis, held to one contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.security.tokens import TokenRecord, TokenRole, digest_of, new_token
from fl_cluster.service import token_changes
from fl_cluster.service.token_changes import TokenWish
from fl_cluster.store.identity_port import (
    AttestationStore,
    Attested,
    Seen,
    SignedUse,
    TokenStore,
)
from fl_cluster.store.memory_identity import MemoryAttestationStore, MemoryTokenStore
from fl_cluster.store.redis.attestations import RedisAttestationStore
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.tokens import RedisTokenStore

NOW_MS = 1_795_000_000_000
REF = RoundRef("run-1", 7)
A = TokenRecord(digest_of("a"), "site-a", TokenRole.DEVICE, NOW_MS)
B = TokenRecord(digest_of("b"), "site-b", TokenRole.OPERATOR, NOW_MS, NOW_MS + 9)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def tokens(request: pytest.FixtureRequest) -> TokenStore:
    if request.param == "memory":
        return MemoryTokenStore()
    return RedisTokenStore(request.getfixturevalue("connection"), JobKeys("job"))


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def attestations(request: pytest.FixtureRequest) -> AttestationStore:
    if request.param == "memory":
        return MemoryAttestationStore()
    return RedisAttestationStore(request.getfixturevalue("connection"), JobKeys("job"))


async def test_a_job_without_tokens_is_version_0(tokens: TokenStore) -> None:
    found = await tokens.read()

    assert (found.version, dict(found.records)) == (0, {})
    assert await tokens.version() == 0
    assert await tokens.used() == {}


async def test_what_is_written_is_read_whole(tokens: TokenStore) -> None:
    assert await tokens.write(0, 1, [A, B])
    changed = replace(A, revoked_ms=NOW_MS + 1)
    assert await tokens.write(1, 5, [changed])

    found = await tokens.read()

    assert found.version == await tokens.version() == 5
    assert dict(found.records) == {A.digest: changed, B.digest: B}


async def test_whoever_knows_an_old_version_changes_nothing(tokens: TokenStore) -> None:
    assert await tokens.write(0, 1, [A])

    assert not await tokens.write(0, 1, [B])

    assert dict((await tokens.read()).records) == {A.digest: A}


async def test_the_latest_use_of_each_token_is_kept(tokens: TokenStore) -> None:
    await tokens.note_used({A.digest: 10, B.digest: 20})
    await tokens.note_used({A.digest: 30, B.digest: 5})
    await tokens.note_used({})

    assert await tokens.used() == {A.digest: 30, B.digest: 20}


async def test_a_token_is_made_revoked_by_label_and_told_about(tokens: TokenStore) -> None:
    text, made = await token_changes.create(tokens, TokenWish(label="site-a", now_ms=NOW_MS))
    other, _ = await token_changes.create(tokens, TokenWish(label="site-a", now_ms=NOW_MS))
    await token_changes.create(tokens, TokenWish(label="site-b", now_ms=NOW_MS))

    named = await token_changes.revoke(tokens, "site-a", NOW_MS + 5)

    assert {each.digest for each in named} == {digest_of(text), digest_of(other)}
    found = (await tokens.read()).records
    assert {each.label: each.revoked_ms for each in found.values()} == {
        "site-a": NOW_MS + 5,
        "site-b": None,
    }
    again = await token_changes.revoke(tokens, made.id, NOW_MS + 90)
    assert [each.revoked_ms for each in again] == [NOW_MS + 5]
    assert await token_changes.revoke(tokens, "nobody", NOW_MS) == []


async def test_a_change_of_tokens_lets_the_old_one_end_later(tokens: TokenStore) -> None:
    await token_changes.create(tokens, TokenWish(label="a", now_ms=NOW_MS))
    soon = TokenWish(label="a", now_ms=NOW_MS, expires_ms=NOW_MS + 10)
    _, short = await token_changes.create(tokens, soon)
    wish = TokenWish(label="a", now_ms=NOW_MS, others_end_ms=NOW_MS + 100)
    _, new = await token_changes.create(tokens, wish)

    ends = {each.digest: each.expires_ms for each in (await tokens.read()).records.values()}

    assert ends.pop(new.digest) is None
    assert ends.pop(short.digest) == NOW_MS + 10
    assert list(ends.values()) == [NOW_MS + 100]


async def test_the_attestation_of_a_round_is_the_newest(attestations: AttestationStore) -> None:
    device = "d \udcff}"
    assert await attestations.recall(REF, device) is None
    for at_ms in (20, 10, 30, 29):
        await attestations.remember(REF, device, Attested(at_ms, f"PEM {at_ms}\n"))

    assert await attestations.recall(REF, device) == Attested(30, "PEM 30\n")
    assert await attestations.recall(RoundRef("run-1", 8), device) is None


async def test_a_signature_is_fresh_once_and_then_for_the_same_only(
    attestations: AttestationStore,
) -> None:
    use = SignedUse("startFLJob:d:1", "round digest", 60_000)

    found = [
        await attestations.note_signed(each)
        for each in (
            use,
            use,
            replace(use, purpose="round other"),
            use,
            replace(use, name="updateModel:d:1"),
        )
    ]

    assert found == [Seen.FRESH, Seen.REPEATED, Seen.REPLAYED, Seen.REPEATED, Seen.FRESH]


async def test_a_signature_is_forgotten_in_time(
    attestations: AttestationStore, wait_until: Any
) -> None:
    use = SignedUse("n", "first", 1)
    await attestations.note_signed(use)
    found = Seen.REPLAYED
    while found is not Seen.FRESH:
        found = await attestations.note_signed(replace(use, purpose="second"))


@pytest.mark.redis
async def test_redis_holds_no_token_in_clear_and_lets_attestations_end(
    connection: Connection,
) -> None:
    keys = JobKeys("job")
    store = RedisTokenStore(connection, keys)
    secret, _ = await token_changes.create(store, TokenWish(label="a", now_ms=NOW_MS))
    attested = RedisAttestationStore(connection, keys)
    await attested.remember(REF, "d", Attested(1, "PEM"))
    await attested.note_signed(SignedUse("n", "p", 5_000))

    held = await connection.command("HGETALL", keys.tokens)
    assert secret.encode() not in b"".join(
        [*held.keys(), *held.values()] if isinstance(held, dict) else held
    )
    for key in (keys.attestations(str(REF)), keys.signed("n")):
        assert int(await connection.command("PTTL", key)) > 0


@pytest.mark.redis
async def test_a_damaged_record_is_a_fault_and_one_of_another_version_is_not(
    connection: Connection,
) -> None:
    keys = JobKeys("job")
    store = RedisTokenStore(connection, keys)
    text = '{"label":"a","role":"device","created_ms":1,"shoe_size":44}'
    await connection.command("HSET", keys.tokens, A.digest, text)
    assert (await store.read()).records[A.digest].label == "a"

    await connection.command("HSET", keys.tokens, A.digest, '{"role":"emperor"}')

    with pytest.raises(StoreCorrupt, match="the record of token"):
        await store.read()


@pytest.mark.redis
async def test_many_who_make_tokens_at_once_lose_none(
    connection: Connection, connect: Any, redis_server: Any
) -> None:
    import asyncio

    stores = [RedisTokenStore(connect(redis_server), JobKeys("job")) for _ in range(4)]

    made = await asyncio.gather(
        *(
            token_changes.create(store, TokenWish(label=f"site-{n}", now_ms=NOW_MS))
            for n, store in enumerate(stores)
        )
    )

    found = (await stores[0].read()).records
    assert set(found) == {digest_of(text) for text, _ in made}
    assert len(new_token()) > 20
