"""The tokens in force, as one member knows them: judged from memory, looked up twice a second.

A request costs no call to the store.  Hearing of a change only makes a member look sooner.
Invariant: a token that this member has seen revoked stays so.  A store that came back empty, or
with an older state, gets what it lost from the members' memory, so that a job with tokens does
not become open and a revoked token not good again.
While the store is away, what was last known is in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping

from fl_cluster.errors import FlClusterError, StartupError
from fl_cluster.security.tokens import (
    Judgement,
    TokenRecord,
    TokenRole,
    TokenVerdict,
    judge,
    parse_token_file,
)
from fl_cluster.security.watched_files import WatchedFile, read_whole, refuse_when_readable_by_all
from fl_cluster.store.identity_port import TokenStore

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
"""Half of what is promised for a change to be in force everywhere."""

USED_PERIOD_S = 5.0
"""How often the store is told which tokens were used."""

REFUSED_PERIOD_S = 10.0
"""How often refusals are logged: as a sum, because anyone can cause any number of them."""

FILE = "the token file (cluster.token_file)"


class TokenBook:
    """One member's tokens; `start` before first use, then `run`.

    `file` is a path or empty; `now_ms` is the cluster's time.  With `is_always_required` a
    device needs a token although none exists.
    """

    def __init__(
        self,
        store: TokenStore,
        now_ms: Callable[[], int],
        *,
        file: str = "",
        is_always_required: bool = False,
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._file = WatchedFile(file) if file else None
        self._is_always_required = is_always_required
        self._version = 0
        self._stored: Mapping[str, TokenRecord] = {}
        self._from_file: Mapping[str, TokenRecord] = {}
        self._all: Mapping[str, TokenRecord] = {}
        self._roles: frozenset[TokenRole] = frozenset()
        self._used: dict[str, int] = {}
        self._refused: Counter[str] = Counter()
        self._heard = asyncio.Event()

    def is_required(self, role: TokenRole) -> bool:
        """Whether who acts in this role needs a token: once one was made for it, for ever."""
        return role in self._roles or (self._is_always_required and role is TokenRole.DEVICE)

    def judge(self, token: str | None, role: TokenRole) -> Judgement:
        """What the token is worth now; good ones are remembered as used."""
        now_ms = self._now_ms()
        found = judge(self._all, token, role, now_ms)
        if found.verdict is TokenVerdict.VALID and found.record is not None:
            self._used[found.record.digest] = now_ms
        return found

    def note_refused(self, judgement: Judgement, address: str) -> None:
        """Count a refusal, to be logged with the others of these seconds."""
        label = f" {judgement.record.label}" if judgement.record is not None else ""
        self._refused[f"{judgement.verdict.value}{label} from {address}"] += 1

    async def start(self) -> None:
        """Read everything; StartupError when the file cannot be used."""
        if self._file is not None:
            self._file.has_changed()
            self._from_file = await asyncio.to_thread(self._read_file, self._file.path)
        await self.look()
        self._put_in_force()

    def hear(self) -> None:
        """Something in the store has changed, maybe a token."""
        self._heard.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        loop = asyncio.get_running_loop()
        used_at = refused_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                # `wait_for` of Python 3.11 may swallow a cancellation, and a server never end.
                async with asyncio.timeout(PERIOD_S):
                    await self._heard.wait()
            self._heard.clear()
            try:
                await self._look_at_file()
                await self.look()
                if loop.time() >= used_at + USED_PERIOD_S:
                    used_at = loop.time()
                    await self.flush()
            except FlClusterError as exc:
                logger.debug("the tokens last known stay in force: %s", exc)
                await asyncio.sleep(PERIOD_S)
            if loop.time() >= refused_at + REFUSED_PERIOD_S:
                refused_at = loop.time()
                self._log_refusals()

    async def look(self) -> None:
        """See the store's tokens as they are, and bring back what it has lost."""
        if await self._store.version() == self._version:
            return
        found = await self._store.read()
        lost = {
            digest: known
            for digest, known in self._stored.items()
            if _is_lost(known, found.records.get(digest))
        }
        version = found.version
        if lost:
            version = max(found.version, self._version) + 1
            if not await self._store.write(found.version, version, list(lost.values())):
                return
            logger.warning("the store had lost %d tokens, which were written again", len(lost))
        self._stored, self._version = {**found.records, **lost}, version
        self._put_in_force()

    async def flush(self) -> None:
        """Tell the store which tokens were used."""
        used, self._used = self._used, {}
        try:
            await self._store.note_used(used)
        except FlClusterError:
            self._used = used | self._used
            raise

    async def _look_at_file(self) -> None:
        if self._file is None or not await asyncio.to_thread(self._file.has_changed):
            return
        try:
            self._from_file = await asyncio.to_thread(self._read_file, self._file.path)
        except StartupError as exc:
            logger.error("its tokens of before stay in force: %s", exc)
            return
        self._put_in_force()

    def _read_file(self, path: str) -> Mapping[str, TokenRecord]:
        refuse_when_readable_by_all(path, FILE)
        try:
            text = read_whole(path, FILE).decode()
        except ValueError as exc:
            raise StartupError(f"{FILE} {path}: expected text in UTF-8") from exc
        try:
            return parse_token_file(text, self._now_ms())
        except ValueError as exc:
            raise StartupError(f"{FILE} {path}: {exc}") from exc

    def _put_in_force(self) -> None:
        before = self._all
        # The store's record of a token wins: what was revoked there stays so.
        self._all = {**self._from_file, **self._stored}
        self._roles = self._roles | {record.role for record in self._all.values()}
        if self._all != before:
            self._log_tokens()

    def _log_tokens(self) -> None:
        now_ms = self._now_ms()
        good = [record.role for record in self._all.values() if record.state(now_ms) == "valid"]
        logger.info(
            "tokens in force: %d of devices, %d of operators; %d have ended",
            good.count(TokenRole.DEVICE),
            good.count(TokenRole.OPERATOR),
            len(self._all) - len(good),
        )

    def _log_refusals(self) -> None:
        refused, self._refused = self._refused, Counter()
        for what, times in refused.most_common(10):
            logger.info("%d requests were refused: %s", times, what)


def _is_lost(known: TokenRecord, found: TokenRecord | None) -> bool:
    """Whether the store knows less of a token than we do."""
    if found is None:
        return True
    ends_at, found_ends_at = known.ends_at(), found.ends_at()
    return ends_at is not None and (found_ends_at is None or found_ends_at > ends_at)
