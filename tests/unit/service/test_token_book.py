"""The tokens one member knows: judged from memory, true again within a look, never weaker."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from fl_cluster.errors import StartupError, StoreUnavailable
from fl_cluster.security.tokens import TokenRecord, TokenRole, TokenVerdict, digest_of
from fl_cluster.service.token_book import TokenBook
from fl_cluster.store.memory_identity import MemoryTokenStore

NOW_MS = 1_795_000_000_000
SECRET = "a-token-of-site-a-which-is-long"
DEVICE, OPERATOR = TokenRole.DEVICE, TokenRole.OPERATOR
RECORD = TokenRecord(digest_of(SECRET), "site-a", DEVICE, NOW_MS)


class Store(MemoryTokenStore):
    """A store that counts how often it is asked and can be away."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.is_away = False

    async def version(self):
        self.calls += 1
        if self.is_away:
            raise StoreUnavailable("HGET", "connection refused")
        return await super().version()


@pytest.fixture
def store():
    return Store()


def book_of(store, **options):
    return TokenBook(store, lambda: NOW_MS, **options)


@asynccontextmanager
async def running(book):
    await book.start()
    task = asyncio.create_task(book.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def verdict(book, role=DEVICE, token=SECRET):
    return book.judge(token, role).verdict


async def test_tokens_are_asked_for_once_one_was_made_for_the_role(store):
    book = book_of(store)
    await book.start()
    assert not book.is_required(DEVICE)

    await store.write(0, 1, [RECORD])
    await book.look()

    assert book.is_required(DEVICE)
    assert not book.is_required(OPERATOR)


async def test_a_job_whose_last_token_was_revoked_is_not_open(store):
    await store.write(0, 1, [replace(RECORD, revoked_ms=NOW_MS)])
    book = book_of(store)
    await book.start()

    assert book.is_required(DEVICE)
    assert verdict(book) is TokenVerdict.REVOKED


async def test_tokens_can_be_asked_for_before_the_first_was_made(store):
    book = book_of(store, is_always_required=True)

    assert book.is_required(DEVICE)
    assert not book.is_required(OPERATOR)


async def test_judging_asks_the_store_nothing(store):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    await book.start()
    calls = store.calls

    assert {verdict(book) for _ in range(1000)} == {TokenVerdict.VALID}

    assert store.calls == calls


async def test_a_revocation_is_in_force_at_once_when_it_is_heard_of(store):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    async with running(book):
        assert verdict(book) is TokenVerdict.VALID
        await store.write(1, 2, [replace(RECORD, revoked_ms=NOW_MS)])
        book.hear()
        await until(lambda: verdict(book) is TokenVerdict.REVOKED)


async def test_a_revocation_that_nobody_hears_of_is_in_force_within_a_second(store):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    async with running(book):
        await store.write(1, 2, [replace(RECORD, revoked_ms=NOW_MS)])
        async with asyncio.timeout(1):
            await until(lambda: verdict(book) is TokenVerdict.REVOKED)


async def test_while_the_store_is_away_what_was_known_is_in_force(store):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    async with running(book):
        store.is_away = True
        calls = store.calls
        await until(lambda: store.calls > calls)
        assert verdict(book) is TokenVerdict.VALID

        store.is_away = False
        await store.write(1, 2, [replace(RECORD, revoked_ms=NOW_MS)])
        await until(lambda: verdict(book) is TokenVerdict.REVOKED)


async def test_a_store_that_came_back_empty_gets_its_tokens_again(store):
    await store.write(0, 3, [RECORD])
    book = book_of(store)
    await book.start()
    store._records, store._version = {}, 0

    await book.look()

    assert dict((await store.read()).records) == {RECORD.digest: RECORD}
    assert await store.version() == 4
    assert book.is_required(DEVICE)


async def test_a_store_that_went_back_in_time_pardons_nobody(store):
    revoked = replace(RECORD, revoked_ms=NOW_MS)
    other = replace(RECORD, digest=digest_of("other"), label="site-b")
    await store.write(0, 3, [revoked])
    book = book_of(store)
    await book.start()
    store._records, store._version = {RECORD.digest: RECORD, other.digest: other}, 2

    await book.look()

    assert dict((await store.read()).records) == {RECORD.digest: revoked, other.digest: other}
    assert verdict(book) is TokenVerdict.REVOKED
    assert verdict(book, token="other") is TokenVerdict.VALID


async def test_uses_are_told_to_the_store_and_refusals_are_not(store):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    await book.start()
    verdict(book)
    verdict(book, OPERATOR)
    verdict(book, token="unknown")

    await book.flush()

    assert await store.used() == {RECORD.digest: NOW_MS}


async def test_uses_that_the_store_did_not_hear_of_are_told_later(store, monkeypatch):
    await store.write(0, 1, [RECORD])
    book = book_of(store)
    await book.start()
    verdict(book)
    real = store.note_used

    async def away(used):
        raise StoreUnavailable("EVALSHA", "gone")

    monkeypatch.setattr(store, "note_used", away)
    with pytest.raises(StoreUnavailable):
        await book.flush()
    monkeypatch.setattr(store, "note_used", real)
    await book.flush()

    assert await store.used() == {RECORD.digest: NOW_MS}


def token_file(tmp_path, text, mode=0o600):
    path = tmp_path / "tokens"
    path.touch()
    path.chmod(mode)
    path.write_text(text)
    return path


async def test_tokens_of_a_file_are_in_force_and_follow_the_file(store, tmp_path):
    path = token_file(tmp_path, f"{SECRET} site-a\n")
    book = book_of(store, file=str(path))
    async with running(book):
        assert verdict(book) is TokenVerdict.VALID

        path.write_text("another-token-in-the-file site-b\n")
        await until(lambda: verdict(book) is TokenVerdict.UNKNOWN)

        assert verdict(book, token="another-token-in-the-file") is TokenVerdict.VALID
        assert book.is_required(DEVICE)


async def test_a_file_that_breaks_leaves_its_tokens_in_force(store, tmp_path, caplog):
    path = token_file(tmp_path, f"{SECRET} site-a\n")
    book = book_of(store, file=str(path))
    with caplog.at_level(logging.ERROR):
        async with running(book):
            path.write_text("bad\n")
            await until(lambda: "stay in force" in caplog.text)
            assert verdict(book) is TokenVerdict.VALID
    assert SECRET not in caplog.text


async def test_the_store_revokes_a_token_of_the_file_too(store, tmp_path):
    await store.write(0, 1, [replace(RECORD, revoked_ms=NOW_MS)])
    book = book_of(store, file=str(token_file(tmp_path, f"{SECRET} site-a\n")))
    await book.start()

    assert verdict(book) is TokenVerdict.REVOKED


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        (f"{SECRET}\n", 0o644, "every user of this host may read"),
        ("bad\n", 0o600, "line 1: a token has 20 to 512"),
    ],
)
async def test_a_file_that_cannot_be_used_stops_the_start(store, tmp_path, text, mode, complaint):
    book = book_of(store, file=str(token_file(tmp_path, text, mode)))

    with pytest.raises(StartupError, match=complaint) as caught:
        await book.start()

    assert SECRET not in str(caught.value)


async def test_a_file_that_is_missing_or_no_text_stops_the_start(store, tmp_path):
    with pytest.raises(StartupError, match="No such file"):
        await book_of(store, file=str(tmp_path / "absent")).start()
    path = token_file(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match="expected text in UTF-8"):
        await book_of(store, file=str(path)).start()
