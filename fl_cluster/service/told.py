"""What devices have told each other in a masked round, read from the store once per member.

A step that is complete does not change any more, so all devices are served from one copy: the
same entries in the same order, those of the devices' bytes.
The messages are the devices' own requests in msgpack, which only this module knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fl_cluster.errors import PeerProtocolError, StoreCorrupt
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.once import OnceEach
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import RoundStore
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    ClientShare,
    RequestExchangeKeys,
    RequestShareSecrets,
    SendClientListSign,
)
from fl_cluster.wire.schema import AnyMessage

Message = TypeVar("Message", bound=AnyMessage)
T = TypeVar("T")

KEPT_READS = 8
"""Of the current round, and what stragglers of the one before still ask for."""

INLINE_BYTES = 64 * 1024


def kept(message: AnyMessage) -> bytes:
    """A device's message as the store keeps it."""
    return packed.encode(message)


def messages_of(kind: type[Message], stored: Mapping[str, bytes]) -> dict[str, Message]:
    """Device -> its message; StoreCorrupt when one cannot be read."""
    return _made_of(kind, stored, dict)


def keeps_keys_of(stored: bytes, offer: RequestExchangeKeys) -> bool:
    """Whether these are the keys that an offer has, whenever it was signed."""
    found = _made_of(RequestExchangeKeys, {"": stored}, dict)[""]
    return _public(found) == _public(offer)


def _public(offer: RequestExchangeKeys) -> tuple[object, ...]:
    return (offer.c_pk, offer.s_pk, offer.ind_iv, offer.pw_iv, offer.pw_salt)


async def read_messages(
    kind: type[Message],
    stored: Mapping[str, bytes],
    read: Callable[[Mapping[str, Message]], T],
) -> T:
    """What `read` makes of the messages, in a thread if they are many.

    StoreCorrupt when one cannot be read, or `read` says PeerProtocolError.
    """
    if sum(map(len, stored.values())) <= INLINE_BYTES:
        return _made_of(kind, stored, read)
    return await asyncio.to_thread(_made_of, kind, stored, read)


def _made_of(
    kind: type[Message], stored: Mapping[str, bytes], read: Callable[[Mapping[str, Message]], T]
) -> T:
    try:
        return read({device: packed.decode(kind, raw) for device, raw in stored.items()})
    except PeerProtocolError as exc:
        raise StoreCorrupt(f"a message of a masked round is damaged: {exc}") from exc


@dataclass(frozen=True, slots=True)
class HandedOut:
    """Whose shares were handed out, and to whom which."""

    senders: frozenset[str]
    inboxes: Mapping[str, Sequence[ClientShare]]


class ToldSteps:
    """The complete steps of the newest rounds as one member knows them."""

    def __init__(self, rounds: RoundStore, store: ExchangeStore) -> None:
        self._rounds = rounds
        self._store = store
        self._reads = OnceEach(KEPT_READS)

    async def keys(self, ref: RoundRef) -> Mapping[str, RequestExchangeKeys]:
        """Who offered keys, and which; to be asked once that step is complete."""

        async def load() -> Mapping[str, RequestExchangeKeys]:
            return await self._read(RequestExchangeKeys, ref, Step.KEYS, dict)

        return await self._reads.get((ref, Step.KEYS), load)

    async def shares_for(self, ref: RoundRef, device: str) -> tuple[ClientShare, ...]:
        """The sealed shares meant for a device, by sender; once that step is complete."""
        return tuple((await self._handed_out(ref)).inboxes.get(device, ()))

    async def sharers(self, ref: RoundRef) -> frozenset[str]:
        """Whose shares were handed out; once that step is complete."""
        return (await self._handed_out(ref)).senders

    async def _handed_out(self, ref: RoundRef) -> HandedOut:
        async def load() -> HandedOut:
            return await self._read(RequestShareSecrets, ref, Step.SHARES, _handed_out)

        return await self._reads.get((ref, Step.SHARES), load)

    async def counted(self, ref: RoundRef) -> tuple[str, ...]:
        """Whose updates are in the sum, in one order; once no further one is counted."""

        async def load() -> tuple[str, ...]:
            found = [update.device for update in await self._rounds.reported(ref)]
            return tuple(sorted(found, key=lambda device: device.encode(errors="surrogateescape")))

        return await self._reads.get((ref, "counted"), load)

    async def signatures(self, ref: RoundRef) -> Mapping[str, bytes]:
        """Who signed the list of counted devices, and how; not kept, because it may grow."""
        found = await self._read(SendClientListSign, ref, Step.SIGNATURES, dict)
        return {device: message.signature or b"" for device, message in found.items()}

    async def offer(self, ref: RoundRef, device: str) -> bytes | None:
        """A device's keys as they are kept, also while others are still to offer."""
        return await self._store.message(ref, Step.KEYS, device)

    async def has(self, ref: RoundRef, step: Step, device: str) -> bool:
        """Whether the device has taken a step, as the store knows it now."""
        return await self._store.message(ref, step, device) is not None

    async def _read(
        self,
        kind: type[Message],
        ref: RoundRef,
        step: Step,
        read: Callable[[Mapping[str, Message]], T],
    ) -> T:
        return await read_messages(kind, await self._store.told(ref, step), read)


def _handed_out(sent: Mapping[str, RequestShareSecrets]) -> HandedOut:
    """Each recipient's shares in the order of the senders, each under its sender's name.

    Of several that one sender has for the same device the first counts.
    """
    inboxes: dict[str, list[ClientShare]] = {}
    for sender, message in sent.items():
        seen = set()
        for share in message.encrypted_shares or ():
            recipient = share.fl_id or ""
            if recipient not in seen:
                seen.add(recipient)
                inboxes.setdefault(recipient, []).append(share._replace(fl_id=sender))
    return HandedOut(frozenset(sent), inboxes)
