"""What one device of a masked round sends and gets beside a plain one, message by message.

Devices of the SDK and the server's own functions, without a network: bytes are those of whole
messages, to and from the first device of a cohort in which everybody survives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_cluster.privacy.draws import SystemStream
from fl_cluster.privacy.ring import packing
from fl_cluster.privacy.ring.server import ReportTags, Roster
from fl_cluster.privacy.shamir import ANNOUNCED_PRIME
from fl_cluster.sdk.exchange import Dialogue, Exchange
from fl_cluster.sdk.masking import MaskedRound, MaskTerms
from fl_cluster.sdk.secure import SecureDevice, SumTerms
from fl_cluster.wire import packed
from fl_cluster.wire.messages import (
    ClientPublicKeys,
    ClientShare,
    ReconstructSecret,
    RequestExchangeKeys,
    RequestSecureConfirm,
    RequestSecureOffer,
    RequestSecureShare,
    RequestShareSecrets,
    RequestUpdateModel,
    ResponseExchangeKeys,
    ResponseSecureStep,
    ResponseShareSecrets,
    ReturnClientList,
    ReturnExchangeKeys,
    ReturnShareSecrets,
    SecureRound,
    SecureTensor,
)

Weights = Mapping[str, NDArray[np.float32]]
EXPONENT = 24


@dataclass
class Traffic:
    """Bytes of one device."""

    up: int = 0
    down: int = 0

    def step(self, dialogue: Dialogue, answer: Any) -> None:
        """One question, and its answer."""
        self.up += len(dialogue.question().body)
        self.down += len(packed.encode(answer))
        dialogue.take(answer)

    def report(self, exchange: Exchange, weights: Weights) -> Mapping[str, Any]:
        """The masked update, and what it holds."""
        fields = exchange.fields(weights, 32)
        self.up += len(packed.encode(RequestUpdateModel(fl_id="device", timestamp="0", **fields)))
        return fields


def pairs(weights: Weights, count: int) -> Traffic:
    """A device of `PW_ENCRYPT`, one of so many."""
    names, terms = _names(count), MaskTerms(count // 2 + 1, ANNOUNCED_PRIME)
    devices = {name: MaskedRound(terms, name, 1, SystemStream()) for name in names}
    traffic = Traffic()
    offers = [_said(device, RequestExchangeKeys) for device in devices.values()]
    keys = ReturnExchangeKeys(
        remote_publickeys=tuple(
            ClientPublicKeys(each.fl_id, each.c_pk, each.s_pk, each.pw_iv, each.pw_salt)
            for each in offers
        )
    )
    inbox = []
    for name, device in devices.items():
        meter = traffic if name == names[0] else Traffic()
        meter.step(device.preparation, ResponseExchangeKeys())
        meter.step(device.preparation, keys)
        shares = _said(device, RequestShareSecrets).encrypted_shares or ()
        inbox += [ClientShare(name, each.share) for each in shares if each.fl_id == names[0]]
    first = devices[names[0]]
    traffic.step(first.preparation, ResponseShareSecrets())
    traffic.step(first.preparation, ReturnShareSecrets(encrypted_shares=tuple(inbox)))
    traffic.report(first, weights)
    traffic.step(first.revelation, ReturnClientList(clients=tuple(names)))
    traffic.step(first.revelation, ReconstructSecret())
    return traffic


def ring(weights: Weights, count: int) -> Traffic:
    """A device of `SECURE_AGGREGATION`, one of so many."""
    tensors = tuple(SecureTensor(name, each.size, EXPONENT) for name, each in weights.items())
    announced = SecureRound("bench", 1, 3, 0.05, 0.2, 40, 20, cohort_size=count, tensors=tensors)
    terms, names = SumTerms.of(announced, "bench", 1), _names(count)
    devices = {name: SecureDevice(terms, name, SystemStream()) for name in names}
    traffic, taken = Traffic(down=len(packed.encode(announced))), ResponseSecureStep()
    offers = [packing.unpack_offer(_said(each, RequestSecureOffer)) for each in devices.values()]
    roster, sharings, everybody = Roster(terms.ring, offers), {}, frozenset(range(count))
    meters = {name: traffic if name == names[0] else Traffic() for name in names}
    for name, device in devices.items():
        meters[name].step(device.preparation, taken)
        meters[name].step(device.preparation, packing.pack_roster(roster.view(name)))
        index, shared = roster.index(name), _said(device, RequestSecureShare)
        sharings[index] = packing.unpack_sharing(shared, roster.leaves.graph[index])
    sent, confirmations = {}, {}
    for name, device in devices.items():
        meters[name].step(device.preparation, taken)
        delivery = packing.pack_delivery(roster.deliver(name, sharings), count)
        meters[name].step(device.preparation, delivery)
        reported = meters[name].report(device, weights)
        sent[roster.index(name)] = reported["masked_tags"].tobytes()
    tags = ReportTags(roster, everybody, sent)
    for name, device in devices.items():
        index = roster.index(name)
        survivors = packing.pack_survivors(roster.survivors(name, everybody, tags), count)
        meters[name].step(device.revelation, survivors)
        said = packed.decode(RequestSecureConfirm, device.revelation.question().body)
        confirmations[index] = packing.unpack_confirmation(said, roster.leaves.graph[index])
    first = devices[names[0]]
    traffic.step(first.revelation, taken)
    confirmed = roster.tags_for(names[0], confirmations)
    traffic.step(first.revelation, packing.pack_tags(confirmed, count))
    traffic.step(first.revelation, taken)
    return traffic


def _names(count: int) -> Sequence[str]:
    return [f"device-{number:04d}" for number in range(count)]


def _said(device: Exchange, kind: type[Any]) -> Any:
    return packed.decode(kind, device.preparation.question().body)
