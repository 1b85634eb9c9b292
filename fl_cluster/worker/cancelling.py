"""Masks of cross-silo workers (`STABLE_PW_ENCRYPT`), which cancel in the sum of all of them.

    exchangeKeys  getKeys  updateModel

Keys and the list of peers are fresh in every round.  The mask runs over all tensors in the
order of their names; it has no part of the worker's own, so nothing has to be revealed, and a
round ends only if every worker of the list uploads.
Everything that speaks against uploading is found before there is a masked update.
"""

from __future__ import annotations

import numpy as np

from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy import masks, pairwise
from fl_cluster.privacy.draws import Stream, SystemStream
from fl_cluster.privacy.key_agreement import SALT_BYTES, VECTOR_BYTES
from fl_cluster.privacy.masks import Layout
from fl_cluster.privacy.pairwise import OwnKeys, PublicKeys
from fl_cluster.wire.messages import ClientPublicKeys, RequestExchangeKeys, ReturnExchangeKeys
from fl_cluster.worker.parameters import Floats, Weights


class CancellingMasks:
    """One worker's masks, round after round."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or SystemStream()

    def begin(self, worker: str, number: int) -> RoundMask:
        """Fresh keys for one round."""
        return RoundMask(worker, number, pairwise.new_keys(self._stream))


class RoundMask:
    """One worker's mask in one round."""

    def __init__(self, worker: str, number: int, keys: OwnKeys) -> None:
        self._worker = worker
        self._keys = keys
        public = keys.public
        self.offer = RequestExchangeKeys(
            fl_id=worker,
            s_pk=public.mask_key,
            iteration=number,
            pw_iv=public.pair_vector,
            pw_salt=public.pair_salt,
        )
        """The request that offers the keys."""

    def add_to(self, update: Weights, answer: ReturnExchangeKeys) -> dict[str, Floats]:
        """The update under the masks of all pairs with the workers of the list.

        PeerProtocolError when the list is not one to trust the update to.
        """
        peers = self._peers(answer)
        names = sorted(update, key=str.encode)
        sizes = [update[name].size for name in names]
        mask = pairwise.mask(self._worker, self._keys, peers, sum(sizes), None)
        parts = masks.parts(mask, sizes, Layout.RUNNING)
        masked = {
            name: np.asarray(update[name] + part, np.float32)
            for name, part in zip(names, parts, strict=True)
        }
        return {name: masked[name] for name in update}

    def _peers(self, answer: ReturnExchangeKeys) -> dict[str, PublicKeys]:
        entries = answer.remote_publickeys or ()
        found = {entry.fl_id or "": _public(entry) for entry in entries}
        if len(found) < len(entries):
            raise PeerProtocolError("the list of keys names a worker twice")
        mine, own = found.pop(self._worker, None), self.offer
        if mine is None or mine[1:] != (own.s_pk, b"", own.pw_iv, own.pw_salt):
            raise PeerProtocolError(
                "the list of keys does not have the keys that this worker offered"
            )
        if not found:
            raise PeerProtocolError("the list of keys has no other worker, and so there is no mask")
        return found


def _public(entry: ClientPublicKeys) -> PublicKeys:
    vector, salt = entry.pw_iv or b"", entry.pw_salt or b""
    if (len(vector), len(salt)) != (VECTOR_BYTES, SALT_BYTES):
        raise PeerProtocolError(
            f"worker {entry.fl_id!r}: expected a vector of {VECTOR_BYTES} bytes and a salt of"
            f" {SALT_BYTES}, found {len(vector)} and {len(salt)}"
        )
    return PublicKeys(b"", entry.s_pk or b"", b"", vector, salt)
