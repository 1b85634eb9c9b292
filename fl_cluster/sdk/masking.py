"""A device of the SDK in a masked round of existing devices (`PW_ENCRYPT`).

    exchangeKeys  getKeys  shareSecrets  getSecrets  (training, updateModel)
    getClientList  [pushListSign  getListSign]  reconstructSecrets

The steps in brackets and all signatures belong to devices with certificates.  The arithmetic
is that of existing devices bit for bit, the mask starting anew in every tensor included, so that
both share one cohort; the checks are stricter than theirs.  What goes against a check is a
PeerProtocolError: the device says nothing more in this round.
Its keys are for one round and are made anew for the next, whatever became of this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy import masks, pairwise
from fl_cluster.privacy.draws import Stream
from fl_cluster.privacy.key_agreement import (
    KEY_BYTES,
    SALT_BYTES,
    VECTOR_BYTES,
    is_usable,
    list_digest,
    signed_key_bytes,
)
from fl_cluster.privacy.masks import Layout
from fl_cluster.privacy.pairwise import PublicKeys, Sealed
from fl_cluster.privacy.shamir import find_unfit_prime, minimal_bytes
from fl_cluster.sdk.exchange import Exchange, Question, Steps, Tensors
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.sdk.peers import Peers, certificates_of, check_fresh
from fl_cluster.wire.messages import (
    ClientPublicKeys,
    ClientShare,
    FeatureMap,
    GetClientList,
    GetExchangeKeys,
    GetShareSecrets,
    PWParams,
    ReconstructSecret,
    RequestAllClientListSign,
    RequestExchangeKeys,
    RequestShareSecrets,
    ResponseClientListSign,
    ResponseExchangeKeys,
    ResponseShareSecrets,
    ReturnAllClientListSign,
    ReturnClientList,
    ReturnExchangeKeys,
    ReturnShareSecrets,
    SendClientListSign,
    SendReconstructSecret,
)

REPEATED = frozenset({"duplicate"})
"""What a step is refused with that the device took before, when the answer was lost."""
NOT_NEEDED = frozenset({"duplicate", "enough"})
"""What a step is refused with that may be left out."""


@dataclass(frozen=True, slots=True)
class MaskTerms:
    """What a job says about its masks: how many shares rebuild a secret, and in which field."""

    needed: int
    prime: int
    accepts_few: bool = False
    """Whether half of the other devices, or fewer, may be enough."""

    @classmethod
    def of(cls, params: PWParams | None, *, accepts_few: bool = False) -> MaskTerms:
        """PeerProtocolError when no device should mask on these terms."""
        if params is None:
            raise PeerProtocolError("the job asks for masked updates without saying on what terms")
        prime = int.from_bytes(params.prime or b"", "big")
        if problem := find_unfit_prime(prime):
            raise PeerProtocolError(f"the job's masks are not safe: {problem}")
        if params.t < 1:
            raise PeerProtocolError(
                f"the job's masks are not safe: expected 1 share or more to be needed to undo one,"
                f" found {params.t}"
            )
        return cls(params.t, prime, accepts_few)


@dataclass(slots=True)
class _Agreed:
    """What the steps before the update led to."""

    others: dict[str, PublicKeys] = field(default_factory=dict)
    """Who offered keys, without this device, in the order received."""
    held: dict[str, bytes] = field(default_factory=dict)
    """The shares that others sealed for this device: their senders are the peers of its mask."""
    sealed: Sealed | None = None


class MaskedRound(Exchange):
    """One device in one round."""

    def __init__(
        self,
        terms: MaskTerms,
        device: str,
        number: int,
        stream: Stream,
        identity: DeviceIdentity | None = None,
    ) -> None:
        super().__init__()
        self._terms = terms
        self._device = device
        self._number = number
        self._stream = stream
        self._identity = identity
        self._peers = None if identity is None else Peers(identity)
        self._keys = pairwise.new_keys(stream)
        self._agreed = _Agreed()

    def _prepare(self) -> Steps:
        agreed = self._agreed
        yield Question("exchangeKeys", self._offer, ResponseExchangeKeys, REPEATED)
        keys = yield Question("getKeys", self._reading(GetExchangeKeys), ReturnExchangeKeys)
        agreed.others = self._checked_keys(keys)
        agreed.sealed = pairwise.seal(
            self._keys,
            agreed.others,
            needed=self._terms.needed,
            prime=self._terms.prime,
            stream=self._stream,
        )
        sealed = tuple(ClientShare(*each) for each in agreed.sealed.shares.items())

        def shares(timestamp: str) -> RequestShareSecrets:
            signature = self._signature(timestamp)
            return RequestShareSecrets(self._device, sealed, self._number, timestamp, signature)

        yield Question("shareSecrets", shares, ResponseShareSecrets, REPEATED)
        inbox = yield Question("getSecrets", self._reading(GetShareSecrets), ReturnShareSecrets)
        agreed.held = self._checked_shares(inbox)

    def fields(self, trained: Tensors, data_size: int) -> dict[str, Any]:
        """Weights times data size in float32, and on every tensor the mask from its beginning."""
        agreed = self._agreed
        assert agreed.held, "an update is masked once shares came"
        assert agreed.sealed is not None
        flat = [values.reshape(-1) for values in trained.values()]
        sizes = [values.size for values in flat]
        peers = {peer: agreed.others[peer] for peer in agreed.held}
        count = masks.mask_count(sizes, Layout.RESTART)
        mask = pairwise.mask(self._device, self._keys, peers, count, agreed.sealed.seed)
        parts = masks.parts(mask, sizes, Layout.RESTART)
        return {
            "feature_map": tuple(
                FeatureMap(name, values * np.float32(data_size) + part)
                for name, values, part in zip(trained, flat, parts, strict=True)
            )
        }

    def _reveal(self) -> Steps:
        answer = yield Question("getClientList", self._reading(GetClientList), ReturnClientList)
        counted = self._checked_list(answer)
        if self._peers is not None:
            yield from self._agree_on(counted)
        found = pairwise.answer(self._keys, self._agreed.held, self._agreed.others, counted)
        shares = tuple(
            ClientShare(owner, minimal_bytes(share.y), share.x) for owner, share in found.items()
        )

        def reveal(timestamp: str) -> SendReconstructSecret:
            signature = self._signature(timestamp)
            return SendReconstructSecret(self._device, shares, self._number, timestamp, signature)

        yield Question("reconstructSecrets", reveal, ReconstructSecret, NOT_NEEDED)

    def _agree_on(self, counted: Sequence[str]) -> Steps:
        """See that enough others sign the same list of counted devices."""
        identity, digest = self._identity, list_digest(counted)
        assert identity is not None
        under_list = identity.sign(digest)

        def sign(timestamp: str) -> SendClientListSign:
            return SendClientListSign(
                self._device, self._number, timestamp, under_list, self._signature(timestamp)
            )

        yield Question("pushListSign", sign, ResponseClientListSign, NOT_NEEDED)
        answer = yield Question(
            "getListSign", self._reading(RequestAllClientListSign), ReturnAllClientListSign
        )
        self._check_signatures(answer, counted, digest)

    def _offer(self, timestamp: str) -> RequestExchangeKeys:
        mine, identity = self._keys.public, self._identity
        keys = (mine.share_key, mine.mask_key)
        return RequestExchangeKeys(
            self._device,
            *keys,
            self._number,
            timestamp,
            mine.own_vector,
            mine.pair_vector,
            mine.pair_salt,
            self._signature(timestamp, b"".join(keys)),
            None if identity is None else certificates_of(identity),
        )

    def _reading(self, kind: Any) -> Any:
        """How a request of this kind is made, which says no more than who asks."""

        def make(timestamp: str) -> Any:
            return kind(self._device, self._number, timestamp, self._signature(timestamp))

        return make

    def _signature(self, timestamp: str, before: bytes = b"") -> bytes | None:
        if self._identity is None:
            return None
        return self._identity.sign_request(timestamp, self._number, before)

    def _checked_keys(self, answer: ReturnExchangeKeys) -> dict[str, PublicKeys]:
        entries = answer.remote_publickeys or ()
        _check_once("the list of keys", [entry.fl_id or "" for entry in entries])
        found = {entry.fl_id or "": self._checked_entry(entry) for entry in entries}
        own = found.pop(self._device, None)
        # The own vector is not handed on: it is only the server's to know.
        if own is None or own != self._keys.public._replace(own_vector=b""):
            raise PeerProtocolError(
                "the list of keys does not have the keys that this device offered"
            )
        needed = self._terms.needed
        least = 1 if self._terms.accepts_few else len(found) // 2 + 1
        if not least <= needed <= len(found):
            raise PeerProtocolError(
                f"expected that {least} to {len(found)} of the {len(found)} other devices are"
                f" needed to undo a mask, found {needed}"
            )
        return found

    def _checked_entry(self, entry: ClientPublicKeys) -> PublicKeys:
        device = entry.fl_id or ""
        vector, salt = entry.pw_iv or b"", entry.pw_salt or b""
        keys = PublicKeys(entry.c_pk or b"", entry.s_pk or b"", b"", vector, salt)
        if (len(vector), len(salt)) != (VECTOR_BYTES, SALT_BYTES):
            raise PeerProtocolError(
                f"device {device!r}: expected a vector of {VECTOR_BYTES} bytes and a salt of"
                f" {SALT_BYTES}, found {len(vector)} and {len(salt)}"
            )
        if not (is_usable(keys.share_key) and is_usable(keys.mask_key)):
            raise PeerProtocolError(
                f"device {device!r}: expected two keys of {KEY_BYTES} bytes that make secrets"
            )
        if self._peers is not None:
            if entry.iteration != self._number:
                raise PeerProtocolError(
                    f"device {device!r}: expected keys for round {self._number},"
                    f" found them for round {entry.iteration}"
                )
            check_fresh(device, entry.timestamp)
            signed = signed_key_bytes(
                keys.share_key, keys.mask_key, entry.timestamp or "", entry.iteration
            )
            self._peers.introduce(device, entry.certificate_chain or ())
            self._peers.check(device, entry.signature, signed)
        return keys

    def _checked_shares(self, answer: ReturnShareSecrets) -> dict[str, bytes]:
        entries = answer.encrypted_shares or ()
        senders = [entry.fl_id or "" for entry in entries]
        _check_once("the list of shares", senders)
        if strangers := set(senders) - self._agreed.others.keys():
            raise PeerProtocolError(f"shares came from {min(strangers)!r}, which offered no keys")
        if len(senders) < self._terms.needed:
            raise PeerProtocolError(
                f"expected shares from at least {self._terms.needed} other devices,"
                f" found {len(senders)}"
            )
        return {entry.fl_id or "": entry.share or b"" for entry in entries}

    def _checked_list(self, answer: ReturnClientList) -> Sequence[str]:
        counted = answer.clients or ()
        _check_once("the list of counted devices", counted)
        known = {self._device, *self._agreed.held}
        if self._device not in counted or not known.issuperset(counted):
            raise PeerProtocolError(
                "the list of counted devices holds a stranger, or not this device"
            )
        if len(counted) <= self._terms.needed:
            raise PeerProtocolError(
                f"expected at least {self._terms.needed + 1} counted devices, found {len(counted)}"
            )
        return counted

    def _check_signatures(
        self, answer: ReturnAllClientListSign, counted: Sequence[str], digest: bytes
    ) -> None:
        entries = answer.client_list_sign or ()
        signers = [entry.fl_id or "" for entry in entries]
        _check_once("the list of signatures", signers)
        others = [entry for entry in entries if entry.fl_id != self._device]
        if strangers := set(signers) - set(counted):
            raise PeerProtocolError(f"{min(strangers)!r} signed the list and is not in it")
        if len(others) < self._terms.needed:
            raise PeerProtocolError(
                f"expected at least {self._terms.needed} others to have signed the list of counted"
                f" devices, found {len(others)}"
            )
        assert self._peers is not None
        for entry in others:
            self._peers.check(entry.fl_id or "", entry.signature, digest)


def _check_once(what: str, devices: Sequence[str]) -> None:
    """PeerProtocolError when a list names a device twice."""
    twice = [device for device, times in Counter(devices).items() if times > 1]
    if twice:
        raise PeerProtocolError(f"{what} names {min(twice)!r} twice")
