"""Making and revoking tokens: read, change, write unless somebody else was faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fl_cluster.errors import StoreUnavailable
from fl_cluster.security.tokens import TokenRecord, TokenRole, digest_of, new_token
from fl_cluster.store.identity_port import TokenStore

TRIES = 20

Change = Callable[[Mapping[str, TokenRecord]], Sequence[TokenRecord]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWish:
    """A token that somebody wants; instants are milliseconds of the cluster's clock."""

    label: str
    role: TokenRole = TokenRole.DEVICE
    now_ms: int
    expires_ms: int | None = None
    others_end_ms: int | None = None
    """When the label's other tokens end; None: they go on."""


async def create(store: TokenStore, wish: TokenWish) -> tuple[str, TokenRecord]:
    """A new token, which is shown nowhere else, and its record."""
    token = new_token()
    made = TokenRecord(digest_of(token), wish.label, wish.role, wish.now_ms, wish.expires_ms)

    def change(known: Mapping[str, TokenRecord]) -> Sequence[TokenRecord]:
        if made.digest in known or wish.others_end_ms is None:
            return [made]
        others = [each for each in known.values() if each.label == wish.label]
        return [made, *(_ended(each, wish.others_end_ms) for each in others)]

    await _apply(store, change)
    return token, made


def _ended(record: TokenRecord, at_ms: int) -> TokenRecord:
    """The token, which ends then at the latest."""
    expires_ms = at_ms if record.expires_ms is None else min(at_ms, record.expires_ms)
    return replace(record, expires_ms=expires_ms)


async def revoke(store: TokenStore, name: str, now_ms: int) -> Sequence[TokenRecord]:
    """Revoke the tokens of this label, or the one with this id; those that it named.

    One that is revoked already is among them as it was.
    """
    named: list[TokenRecord] = []

    def change(known: Mapping[str, TokenRecord]) -> Sequence[TokenRecord]:
        found = [each for each in known.values() if name in (each.label, each.id)]
        named[:] = [
            each if each.revoked_ms is not None else replace(each, revoked_ms=now_ms)
            for each in found
        ]
        return [each for each in named if each not in found]

    await _apply(store, change)
    return named


async def _apply(store: TokenStore, change: Change) -> None:
    for _ in range(TRIES):
        found = await store.read()
        records = change(found.records)
        if not records or await store.write(found.version, found.version + 1, records):
            return
    raise StoreUnavailable("tokens", f"they were changed by others {TRIES} times in a row")
