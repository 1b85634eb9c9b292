"""What devices have told in a round of secure aggregation, as one member reads it.

A step that is complete does not change any more: it is read and checked once, and all devices
are served from one copy, which is the same on every member.  Confirmations and reveals grow
until the sum can be read, so they are looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fl_cluster.errors import PeerProtocolError, StoreCorrupt
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.degrees import Assumptions
from fl_cluster.privacy.ring.device import Verify
from fl_cluster.privacy.ring.messages import Confirmation, Offer, Reveal, RingRound, Sharing
from fl_cluster.privacy.ring.server import ReportTags, Roster
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.once import OnceEach
from fl_cluster.service.told import KEPT_READS, read_messages
from fl_cluster.service.view import JobView
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import RoundStore
from fl_cluster.wire.limits import MAX_INT
from fl_cluster.wire.messages import (
    RequestSecureConfirm,
    RequestSecureOffer,
    RequestSecureReveal,
    RequestSecureShare,
    SecureRound,
    SecureTensor,
)
from fl_cluster.wire.schema import AnyMessage

T = TypeVar("T")
Message = TypeVar("Message", bound=AnyMessage)


def announcement(view: JobView) -> SecureRound:
    """What devices are told of the current round."""
    ref, plan, parameters = view.snapshot.ref, view.snapshot.plan, view.parameters
    ring, base = parameters.ring, view.base
    bounds = Assumptions(ring.corrupt, ring.dropout)
    announced = SecureRound(
        instance=ref.instance,
        attempt=ref.attempt,
        least_devices=ring.least_devices,
        corrupt=bounds.corrupt,
        dropout=bounds.dropout,
        safety_bits=bounds.safety_bits,
        failure_bits=bounds.failure_bits,
        cohort_size=plan.cohort_size,
        step_window_ms=min(ring.window_ms, MAX_INT),
        tensors=tuple(
            SecureTensor(
                place.tensor.name, place.tensor.size, base.record.exponents[place.sum_index]
            )
            for place in view.layout.summed
        ),
    )
    start = packing.Start(
        rounds=min(parameters.rounds_total, MAX_INT),
        epochs=min(parameters.epochs, MAX_INT),
        batch_size=min(parameters.batch_size, MAX_INT),
        learning_rate=parameters.learning_rate,
        server_mode=parameters.server_mode,
        model=base.model.content,
    )
    return announced._replace(terms=packing.terms_digest(announced, start))


class RingRecords:
    """The exchange of the newest rounds; a round's settings are those of the current run.

    `verify` is how offers are signed in this job.
    """

    def __init__(
        self, job: str, view: JobView, rounds: RoundStore, store: ExchangeStore, verify: Verify
    ) -> None:
        self._job = job
        self._view = view
        self._rounds = rounds
        self._store = store
        self._verify = verify
        self._once = OnceEach(KEPT_READS)

    def ring(self, ref: RoundRef) -> RingRound:
        """What all sides know of the current round, or of another one of its run."""
        announced = announcement(self._view)._replace(instance=ref.instance, attempt=ref.attempt)
        return packing.ring_round(announced, self._job, ref.number)

    def check_offer(self, ref: RoundRef, offer: Offer) -> None:
        """PeerProtocolError when it is malformed, or not signed as offers are in this job."""
        Roster(self.ring(ref), [offer], self._verify)

    async def roster(self, ref: RoundRef) -> Roster:
        """Who takes part; once offers are complete."""

        def read(messages: Mapping[str, RequestSecureOffer]) -> Roster:
            offers = map(packing.unpack_offer, messages.values())
            roster = Roster(self.ring(ref), offers, self._verify)
            _ = roster.leaves.graph  # here, where it holds nobody up
            return roster

        return await self._once.get(
            (ref, Step.KEYS), lambda: self._read(ref, Step.KEYS, RequestSecureOffer, read)
        )

    async def sharings(self, ref: RoundRef) -> Mapping[int, Sharing]:
        """What was shared, by the sender's index; once that step is complete."""
        roster = await self.roster(ref)

        def read(messages: Mapping[str, RequestSecureShare]) -> dict[int, Sharing]:
            graph = roster.leaves.graph
            return {
                (index := roster.index(device)): packing.unpack_sharing(message, graph[index])
                for device, message in messages.items()
            }

        return await self._once.get(
            (ref, Step.SHARES), lambda: self._read(ref, Step.SHARES, RequestSecureShare, read)
        )

    async def counted(self, ref: RoundRef) -> frozenset[int]:
        """Whose updates are in the sum; once no further one is counted."""

        async def load() -> frozenset[int]:
            roster = await self.roster(ref)
            return indices_of(roster, [each.device for each in await self._rounds.reported(ref)])

        return await self._once.get((ref, "counted"), load)

    async def report_tags(self, ref: RoundRef) -> ReportTags:
        """What came with the counted updates; once no further one is counted."""

        async def load() -> ReportTags:
            roster, sharings = await self.roster(ref), await self.sharings(ref)
            counted = await self.counted(ref)
            told = await self._store.told(ref, Step.SHARES_READ)
            sent = {roster.index(device): tags for device, tags in told.items()}
            if not counted <= sent.keys():
                raise StoreCorrupt(f"round {ref}: an update is counted without its tags")
            try:
                return ReportTags(roster, frozenset(sharings), sent)
            except PeerProtocolError as exc:
                raise StoreCorrupt(f"a message of a masked round is damaged: {exc}") from exc

        return await self._once.get((ref, Step.SHARES_READ), load)

    async def confirmations(self, ref: RoundRef) -> dict[int, Confirmation]:
        """What has been confirmed so far, by the sender's index."""
        roster, sharings = await self.roster(ref), await self.sharings(ref)
        counted = await self.counted(ref)

        def read(messages: Mapping[str, RequestSecureConfirm]) -> dict[int, Confirmation]:
            found = {}
            for device, message in messages.items():
                index = roster.index(device)
                alive = alive_beside(roster, index, counted.intersection(sharings))
                found[index] = packing.unpack_confirmation(message, alive)
            return found

        return await self._read(ref, Step.SIGNATURES, RequestSecureConfirm, read)

    async def reveals(self, ref: RoundRef) -> dict[int, Reveal]:
        """What has been revealed so far, by the sender's index."""
        roster = await self.roster(ref)
        size = len(roster.offers)

        def read(messages: Mapping[str, RequestSecureReveal]) -> dict[int, Reveal]:
            return {
                roster.index(device): packing.unpack_reveal(message, size)
                for device, message in messages.items()
            }

        return await self._read(ref, Step.REVEALS, RequestSecureReveal, read)

    async def first_message(self, ref: RoundRef, step: Step, device: str) -> bytes | None:
        """What a device told in a step, as it was kept."""
        return await self._store.message(ref, step, device)

    async def _read(
        self,
        ref: RoundRef,
        step: Step,
        kind: type[Message],
        read: Callable[[Mapping[str, Message]], T],
    ) -> T:
        return await read_messages(kind, await self._store.told(ref, step), read)


def indices_of(roster: Roster, devices: Iterable[str]) -> frozenset[int]:
    """Where devices stand that were let take part; StoreCorrupt when one is not in the roster."""
    try:
        return frozenset(map(roster.index, devices))
    except PeerProtocolError as exc:
        raise StoreCorrupt(f"an update is counted of a device without an offer: {exc}") from exc


def alive_beside(roster: Roster, index: int, alive: frozenset[int]) -> list[int]:
    """The neighbours of a device that are still there, rising."""
    return [other for other in roster.leaves.graph[index] if other in alive]
