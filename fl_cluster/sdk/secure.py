"""A device of the SDK in a round of secure aggregation (`SECURE_AGGREGATION`).

    secure/offer  roster  share  delivery  (training, updateModel)
    secure/survivors  confirm  tags  reveal

What is uploaded are the integers that a server would make of the plain update, under masks that
cover the whole ring: the sum of all devices has the bits of the plain run, and one upload says
nothing.  What the device insists on is `privacy.ring.device`'s; what goes against it is a
PeerProtocolError, and the device says nothing more in this round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_cluster.aggregate.model import digest_of_tensors
from fl_cluster.aggregate.scale import exponent_for
from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.kernels.bounds import term_bound
from fl_cluster.kernels.native import Integers
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.demands import USUAL, Demands
from fl_cluster.privacy.ring.device import Identity, RingDevice
from fl_cluster.privacy.ring.messages import Report, RingRound, RosterView
from fl_cluster.privacy.ring.packing import Place
from fl_cluster.privacy.ring.terms import terms_of
from fl_cluster.sdk.exchange import Exchange, OtherTerms, Question, Steps, Tensors
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.sdk.peers import ring_identity
from fl_cluster.sdk.training import RoundPlan
from fl_cluster.wire.messages import (
    RequestSecureRead,
    ResponseSecureDelivery,
    ResponseSecureRoster,
    ResponseSecureStep,
    ResponseSecureSurvivors,
    ResponseSecureTags,
    SecureRound,
)
from fl_cluster.wire.schema import AnyMessage

HOLD_MS = 20_000
"""How long a server may hold a read that others have to come first for."""
LARGEST_EXPONENT = 1_000
"""With it a term's scale, data size included, is a double."""
MOST_MISSING = 2
"""A cohort is at most so many times as large as the roster: fewer than half of it vanish."""
NOT_NEEDED = frozenset({"enough"})
"""What a step is refused with that may be left out."""


@dataclass(frozen=True, slots=True)
class SumTerms:
    """How updates become terms of the exact sum, and in which round."""

    ring: RingRound
    exponents: Mapping[str, int]
    """By tensor, in the order of the sum."""
    sizes: Mapping[str, int]
    cohort_size: int
    bound: int

    @classmethod
    def of(cls, announced: SecureRound | None, job: str, number: int) -> SumTerms:
        """PeerProtocolError when the announcement makes no sense."""
        if announced is None or not announced.tensors or announced.cohort_size < 1:
            raise PeerProtocolError("the job asks for secure aggregation without saying of what")
        for tensor in announced.tensors:
            if tensor.elements < 0 or abs(tensor.exponent) > LARGEST_EXPONENT:
                raise PeerProtocolError(
                    f"secure: tensor {tensor.weight_fullname!r}: expected at least 0 elements and"
                    f" an exponent within {LARGEST_EXPONENT}, found {tensor.elements} and"
                    f" {tensor.exponent}"
                )
        named = [(tensor.weight_fullname or "", tensor) for tensor in announced.tensors]
        if len(dict(named)) < len(named):
            raise PeerProtocolError("secure: the job adds a tensor twice")
        return cls(
            packing.ring_round(announced, job, number),
            {name: tensor.exponent for name, tensor in named},
            {name: tensor.elements for name, tensor in named},
            announced.cohort_size,
            term_bound(announced.cohort_size),
        )

    def check_model(self, model: Tensors) -> None:
        """PeerProtocolError when what is added up is not of this model."""
        for name, size in self.sizes.items():
            if name not in model or model[name].size != size:
                raise PeerProtocolError(
                    f"the job adds {size} elements of tensor {name!r}, which its model does not"
                    " have"
                )

    def check_terms(self, announced: SecureRound, plan: RoundPlan, model: Tensors) -> None:
        """PeerProtocolError when the round is not about what this device was told.

        All messages are bound to the digest of these terms, so that devices that were told
        something else have no part in the same sum.
        """
        start = packing.Start(
            rounds=plan.rounds_total,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            server_mode=plan.server_mode,
            model=digest_of_tensors(model.items()),
        )
        if packing.terms_digest(announced, start) != self.ring.terms:
            raise OtherTerms(
                "the terms of the round are not those that this device was told: another model,"
                " other numbers to train with, or another way to count"
            )
        for name, found in self.exponents.items():
            try:
                expected = exponent_for(model[name], self.cohort_size)
            except ValueError as exc:
                raise PeerProtocolError(f"the model to start from: {exc}") from exc
            if found != expected:
                raise PeerProtocolError(
                    f"secure: tensor {name!r}: expected an exponent of {expected} for such weights"
                    f" and {self.cohort_size} devices, found {found}"
                )

    def check_cohort(self, devices: int) -> None:
        """PeerProtocolError when so few are in the roster that the sum is scaled for too many."""
        if self.cohort_size > MOST_MISSING * devices:
            raise PeerProtocolError(
                f"the round counts for {self.cohort_size} devices, and only {devices} take part"
            )

    def of_update(self, trained: Tensors, data_size: int) -> Integers:
        """The terms of an update; CallerProtocolError when one is out of range."""
        self.check_model(trained)
        tensors = [trained[name].reshape(-1) for name in self.sizes]
        try:
            return terms_of(tensors, list(self.exponents.values()), data_size, self.bound)
        except ValueError as exc:
            raise CallerProtocolError(f"the update does not fit into the sum: {exc}") from exc


class SecureDevice(Exchange):
    """One device in one round."""

    def __init__(
        self,
        terms: SumTerms,
        device: str,
        stream: Stream,
        identity: DeviceIdentity | None = None,
        demands: Demands = USUAL,
    ) -> None:
        """PeerProtocolError when the round does not meet the device's demands."""
        super().__init__()
        self._terms = terms
        self._device = device
        self._place = Place.of(terms.ring)
        signing = Identity() if identity is None else ring_identity(identity)
        self._ring = RingDevice(terms.ring, device, stream, signing, demands)
        self._view = RosterView((), {})
        self._mask: Report | None = None

    def _prepare(self) -> Steps:
        offer = packing.pack_offer(self._place, self._ring.offer)
        yield Question("secure/offer", _always(offer), ResponseSecureStep)
        roster = yield Question("secure/roster", self._reading(), ResponseSecureRoster)
        self._view = packing.unpack_roster(roster)
        self._terms.check_cohort(len(self._view.leaves))
        sharing = packing.pack_sharing(self._place, self._ring.share(self._view))
        yield Question("secure/share", _always(sharing), ResponseSecureStep)
        answer = yield Question("secure/delivery", self._reading(), ResponseSecureDelivery)
        delivery = packing.unpack_delivery(answer, len(self._view.leaves), self._view.offers)
        # The mask alone, now: whatever is wrong with the delivery, no training was in vain.
        zeros = np.zeros(self._terms.ring.element_count, np.int64)
        self._mask = self._ring.report(delivery, zeros)

    def fields(self, trained: Tensors, data_size: int) -> dict[str, Any]:
        """The terms of the sum, modulo 2**64 under the mask, which is used up; and its tags."""
        terms, mask = self._terms.of_update(trained, data_size), self._mask
        assert mask is not None, "an update is masked once, when shares came"
        self._mask = None
        terms += mask.terms
        return {
            "masked_terms": packing.pack_terms(terms),
            "masked_tags": packing.pack_report_tags(mask.tags),
        }

    def _reveal(self) -> Steps:
        size = len(self._view.leaves)
        answer = yield Question("secure/survivors", self._reading(), ResponseSecureSurvivors)
        survivors = packing.unpack_survivors(answer, size, self._view.offers)
        confirmed = packing.pack_confirmation(self._place, self._ring.confirm(survivors))
        yield Question("secure/confirm", _always(confirmed), ResponseSecureStep, NOT_NEEDED)
        tags = yield Question("secure/tags", self._reading(), ResponseSecureTags)
        revealed = self._ring.reveal(packing.unpack_tags(tags, size))
        message = packing.pack_reveal(self._place, revealed, size)
        yield Question("secure/reveal", _always(message), ResponseSecureStep, NOT_NEEDED)

    def _reading(self) -> Callable[[str], AnyMessage]:
        place = self._place
        return _always(RequestSecureRead(self._device, place.number, place.attempt, HOLD_MS))


def _always(message: AnyMessage) -> Callable[[str], AnyMessage]:
    """The same message at any time."""
    return lambda _: message
