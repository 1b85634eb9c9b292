"""Taking the masks off the sum of a masked round, by whichever member finishes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fl_cluster.aggregate.partial import Partial
from fl_cluster.config.shared import SharedParameters
from fl_cluster.errors import FlClusterError, PeerProtocolError, StoreCorrupt
from fl_cluster.privacy import masks
from fl_cluster.privacy.masks import Layout
from fl_cluster.privacy.pairwise import PublicKeys
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME, Share, WrongShares
from fl_cluster.privacy.unmasking import MaskedRound, add_to_sums, regroup
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.service.told import messages_of
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.wire.messages import RequestExchangeKeys, SendReconstructSecret


class StaysMasked(FlClusterError):
    """What devices revealed does not take the masks off: the round comes to nothing."""


class Unmasker(Protocol):
    """Knows how the devices of this job mask what they upload."""

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """Take the masks of the counted devices off the merged sums, in place.

        The same bits whoever does it.  StaysMasked when it cannot be done.
        """


Parameters = Callable[[], SharedParameters]
"""The settings that the servers of the job share, which a member learns when it joins."""


class UnmaskerOfJob:
    """Takes masks off in the way that the job's updates are masked in."""

    def __init__(self, parameters: Parameters, by_kind: Mapping[str, Unmasker]) -> None:
        self._parameters = parameters
        self._by_kind = by_kind

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """As the job's own unmasker does."""
        await self._by_kind[self._parameters().encrypt_type].unmask(ref, counted, total)


class PairwiseUnmasker:
    """Takes the masks of genuine devices off."""

    def __init__(self, store: ExchangeStore, parameters: Parameters) -> None:
        self._store = store
        self._parameters = parameters

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """Rebuild seeds and keys from the shares, and add what cancels the masks left over."""
        check_same_devices(total)
        parameters = self._parameters()
        keys, shares, reveals = await asyncio.gather(
            *(self._store.told(ref, step) for step in (Step.KEYS, Step.SHARES, Step.REVEALS))
        )
        masked = MaskedRound(
            published=_published(keys),
            sharers=tuple(shares),
            counted=frozenset(counted),
            needed=parameters.reconstruct_threshold,
            prime=ANNOUNCED_PRIME,
        )
        if strangers := {*masked.sharers, *counted} - masked.published.keys():
            raise StoreCorrupt(f"round {ref}: {min(strangers)!r} took part without keys")
        layout = Layout(parameters.mask_layout)
        await asyncio.to_thread(_take_off, masked, reveals, total, layout)


def _take_off(
    masked: MaskedRound, reveals: Mapping[str, bytes], total: Partial, layout: Layout
) -> None:
    places = total.layout.places
    # A device masks all tensors that it uploads; those that are not averaged move on the place
    # in a mask that runs on, and nothing else.
    sizes = [place.tensor.size for place in places]
    answers = messages_of(SendReconstructSecret, reveals)
    shares = regroup({device: shares_in(answer) for device, answer in answers.items()})
    try:
        noise = masked.noise(shares, masks.mask_count(sizes, layout))
    except (WrongShares, PeerProtocolError) as exc:
        raise StaysMasked(str(exc)) from exc
    for place, part in zip(places, masks.parts(noise, sizes, layout), strict=True):
        if place.tensor.is_aggregated:
            exponent = total.scaling.exponents[place.sum_index]
            add_to_sums(total.sums_of(place), part, exponent)


class CancellingUnmasker:
    """For masks that cancel by themselves once every device's update is in the sum."""

    async def unmask(self, ref: RoundRef, counted: Sequence[str], total: Partial) -> None:
        """See that nothing is missing."""
        del ref, counted
        check_same_devices(total)


def check_same_devices(total: Partial) -> None:
    """StaysMasked when tensors come from different devices: pairs of masks do not cancel then.

    A tensor that nobody uploaded has no masks.
    """
    weights = {weight for weight in total.weights if weight}
    if len(weights) > 1:
        raise StaysMasked("the devices did not all upload the same tensors")


def shares_in(answer: SendReconstructSecret) -> dict[str, Share]:
    """Owner of a secret -> the share of it that a device revealed."""
    return {
        share.fl_id or "": Share(share.index, int.from_bytes(share.share or b"", "big"))
        for share in answer.reconstruct_secret_shares or ()
    }


def _published(keys: Mapping[str, bytes]) -> dict[str, PublicKeys]:
    return {
        device: PublicKeys(
            offer.c_pk or b"",
            offer.s_pk or b"",
            offer.ind_iv or b"",
            offer.pw_iv or b"",
            offer.pw_salt or b"",
        )
        for device, offer in messages_of(RequestExchangeKeys, keys).items()
    }
