"""What an update holds, whatever form it came in: weights, sparse differences, or signs.

The form decides nothing about the round: whether the update is wanted is asked first.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from fl_cluster.aggregate.admission import read_update
from fl_cluster.aggregate.layout import Place
from fl_cluster.aggregate.partial import Contribution, Unfit, Update
from fl_cluster.compression.diff_sparse_quant import find_unusable
from fl_cluster.compression.quant import Chunk
from fl_cluster.config.schema import EncryptType, ServerMode, Settings, UploadCompression
from fl_cluster.errors import PeerProtocolError
from fl_cluster.privacy.ring.packing import unpack_terms
from fl_cluster.privacy.signds import Signs, find_unfit
from fl_cluster.service.contributions import Choices, MaskedTerms, SignUpdate, SparseUpdate
from fl_cluster.service.view import JobView
from fl_cluster.wire.messages import RequestUpdateModel

MASKED = (EncryptType.PW_ENCRYPT, EncryptType.STABLE_PW_ENCRYPT)
"""Where masks cancel only between updates of the same tensors.

Devices of a hybrid job upload the tensors that they train, and workers across silos likewise;
that all of them sent the same is seen when the round is finished.
"""


class ContentReader:
    """Reads updates on behalf of one member."""

    def __init__(self, settings: Settings, view: JobView) -> None:
        self._view = view
        self._signs = settings.encrypt.signs
        self._takes_signs = settings.encrypt.kind is EncryptType.SIGNDS
        self._takes_sparse = settings.compression.upload is UploadCompression.DIFF_SPARSE_QUANT
        self._is_masked = settings.encrypt.kind in MASKED
        self._takes_all = self._is_masked and settings.server_mode is ServerMode.FEDERATED_LEARNING
        self._takes_terms = settings.encrypt.kind is EncryptType.SECURE_AGGREGATION
        self._choices = Choices()

    def read(self, sent: RequestUpdateModel) -> Contribution | Unfit:
        """The update, or why it cannot be one of this job."""
        if self._takes_terms or sent.masked_terms is not None:
            return self._masked(sent)
        if sent.upload_compress_type != 0:
            return self._sparse(sent)
        if sent.feature_map is None:
            return Unfit("feature_map is missing")
        if self._takes_signs and sent.sign != 0:
            return self._signed(sent)
        entries = (
            (entry.weight_fullname, entry.data)
            for entry in sent.feature_map
            if entry.weight_fullname is not None and entry.data is not None
        )
        if self._is_masked and sent.plain_weights:
            return Unfit("plain_weights: masks are added to weights times the data size")
        update = read_update(self._view.layout, entries, is_plain=sent.plain_weights)
        if self._takes_all and isinstance(update, Update):
            return self._whole(update)
        return update

    def _whole(self, update: Update) -> Update | Unfit:
        """The update, unless masks of tensors that it lacks would stay in others' sums."""
        there = {place.tensor.name for place, _ in update.arrays}
        for place in self._view.layout.summed:
            if place.tensor.name not in there:
                return Unfit(f"tensor {place.tensor.name!r} is missing, and its masks with it")
        return update

    def _masked(self, sent: RequestUpdateModel) -> MaskedTerms | Unfit:
        if not self._takes_terms:
            return Unfit("masked_terms: this job does not add updates under masks")
        if sent.masked_terms is None:
            return Unfit("masked_terms is missing, and this job takes no update that it can read")
        if sent.masked_tags is None:
            return Unfit("masked_tags is missing: neighbours need it to take the masks off")
        if any((sent.feature_map, sent.compress_feature_map, sent.index_array)):
            return Unfit("feature_map beside masked_terms: masks hide nothing that is sent as well")
        try:
            terms = unpack_terms(sent.masked_terms, self._view.layout.sum_size)
        except PeerProtocolError as exc:
            return Unfit(str(exc))
        return MaskedTerms(terms, sent.masked_tags.tobytes())

    def _signed(self, sent: RequestUpdateModel) -> SignUpdate | Unfit:
        places = self._places(entry.weight_fullname for entry in sent.feature_map or ())
        if isinstance(places, Unfit):
            return places
        if sent.index_array is None:
            return Unfit("index_array is missing")
        indices = np.array(sent.index_array, np.int32)
        unfit = find_unfit(sent.sign, indices, sum(place.tensor.size for place in places))
        if unfit is not None:
            return Unfit(unfit.reason)
        rate = self._signs.global_learning_rate
        return SignUpdate(places, Signs(sent.sign, indices), rate)

    def _sparse(self, sent: RequestUpdateModel) -> SparseUpdate | Unfit:
        if not self._takes_sparse:
            return Unfit("the update is compressed, and this job takes plain float32 tensors")
        rate = self._view.parameters.upload_sparse_rate
        if np.float32(sent.upload_sparse_rate) != np.float32(rate):
            found = f"found {sent.upload_sparse_rate}"
            return Unfit(f"expected an upload_sparse_rate of {rate}, as at the check-in; {found}")
        places = self._places(sent.name_vec or ())
        if isinstance(places, Unfit):
            return places
        chunks = [
            Chunk(entry.compress_data, entry.min_val, entry.max_val)
            for entry in sent.compress_feature_map or ()
            if entry.compress_data is not None
        ]
        sizes = tuple(place.tensor.size for place in places)
        unusable = find_unusable(chunks, sizes, rate)
        if unusable is not None:
            return Unfit(unusable.reason)
        # The number that the device says decides: with another one the round refuses the update.
        choice = partial(self._choices.of, sent.iteration, rate, sizes)
        return SparseUpdate(places, chunks, choice)

    def _places(self, names: Iterable[str | None]) -> list[Place] | Unfit:
        """Where the named tensors lie; each may be named once."""
        places: dict[str | None, Place] = {}
        for name in names:
            place = self._view.layout.find(name or "")
            if place is None:
                return Unfit(f"tensor {name!r} is not in the model")
            if name in places:
                return Unfit(f"tensor {name!r} came twice")
            places[name] = place
        return list(places.values()) or Unfit("the update names no tensor")
