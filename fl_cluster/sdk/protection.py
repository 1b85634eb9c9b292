"""What a job asks of an update before it leaves the device: noise, signs, masks, fewer bytes.

The arithmetic is that of existing devices, so that one cluster serves both.  Whatever a job
asks for and this device cannot do ends in a fault before anything is sent: an update that is
to be protected must never leave plain.  That arithmetic is imported when a job asks for it:
most do not.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.privacy.ring.demands import USUAL, Demands
from fl_cluster.sdk.required import (
    NOISE,
    NUMBERS,
    PAIRS,
    PLAIN,
    RING,
    SIGNS,
    Insistence,
    Protection,
)
from fl_cluster.wire.messages import (
    CompressFeatureMap,
    DPParams,
    DSParams,
    FeatureMap,
    PWParams,
    ResponseFLJob,
    SecureRound,
)

if TYPE_CHECKING:
    from fl_cluster.sdk.exchange import Exchange
    from fl_cluster.sdk.identity import DeviceIdentity
    from fl_cluster.sdk.training import RoundPlan

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]

UNCOMPRESSED = (SIGNS, PAIRS, RING)
"""The protections whose uploads are never compressed, whatever else the job asks for."""
SPARSE = 1
"""The compression of uploads, as the wire numbers it."""

NOTHING: Floats = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the answer to a check-in asks for."""

    kind: str
    noise: DPParams
    signs: DSParams
    sparse_rate: float | None
    """None: uploads are not compressed."""
    pairs: PWParams | None = None
    """The terms of masks between pairs of devices, if the job has such."""
    ring: SecureRound | None = None
    """The terms of secure aggregation, if the job has that."""

    @property
    def is_masked(self) -> bool:
        """Whether devices have to agree on masks before each update."""
        return self.kind in (PAIRS, RING)

    @property
    def protection(self) -> Protection:
        """What an update goes under, and how strong that is announced to be."""
        if self.kind == NOISE:
            return Protection(self.kind, self.noise.dp_eps, self.noise.dp_delta)
        if self.kind == SIGNS:
            return Protection(self.kind, self.signs.sign_eps)
        return Protection(self.kind)

    @classmethod
    def of(cls, answer: ResponseFLJob) -> Demand:
        """PeerProtocolError when this device cannot do what is asked."""
        plan = answer.fl_plan_config
        cipher = plan.cipher if plan is not None else None
        kind = (cipher.encrypt_type if cipher is not None else None) or PLAIN
        if kind not in NUMBERS:
            raise PeerProtocolError(
                f"the job asks for updates in {kind}, which this device cannot make"
            )
        if answer.upload_compress_type not in (0, SPARSE):
            raise PeerProtocolError(
                f"the job asks for uploads in compression {answer.upload_compress_type}, which"
                " this device does not know"
            )
        is_sparse = answer.upload_compress_type == SPARSE and kind not in UNCOMPRESSED
        demand = cls(
            kind,
            (cipher and cipher.dp_params) or DPParams(),
            (cipher and cipher.ds_params) or DSParams(),
            answer.upload_sparse_rate if is_sparse else None,
            cipher.pw_params if cipher is not None and kind == PAIRS else None,
            answer.secure if kind == RING else None,
        )
        senseless = demand.protection.find_senseless()
        if senseless is not None:
            raise PeerProtocolError(f"the job's numbers make no sense: {senseless}")
        return demand


class Stream(Protocol):
    """Random bytes, one after the other."""

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""


class _System:
    """The system's generator, fit for keys."""

    def take(self, count: int) -> bytes:
        return secrets.token_bytes(count)


@dataclass(slots=True)
class Protector:
    """One device's way of protecting its updates, round after round."""

    stream: Stream = field(default_factory=_System)
    clip: float | None = None
    """The norm that updates are cut to; it follows the size of the global steps."""
    accepts_few_shares: bool = False
    """Whether masks between pairs may be undone by half of the other devices, or fewer."""
    demands: Demands = USUAL
    """What secure aggregation has to promise."""
    insistence: Insistence = field(default_factory=Insistence)
    """What each round has to be protected with."""

    def exchange(
        self,
        demand: Demand,
        device: str,
        plan: RoundPlan,
        identity: DeviceIdentity | None,
        model: Tensors,
    ) -> Exchange | None:
        """What the device has to agree on with others in this round; None: nothing.

        `model` is what the round starts from.  PeerProtocolError when the device should not take
        part on the job's terms.
        """
        if demand.kind == RING:
            from fl_cluster.sdk.secure import SecureDevice, SumTerms

            announced = SumTerms.of(demand.ring, plan.job_name, plan.round_number)
            # Now, because the mask is as large as the announcement says, and made before training.
            announced.check_model(model)
            assert demand.ring is not None, "checked by SumTerms"
            secure = SecureDevice(announced, device, self.stream, identity, self.demands)
            announced.check_terms(demand.ring, plan, model)
            return secure
        if demand.kind != PAIRS:
            return None
        from fl_cluster.sdk.masking import MaskedRound, MaskTerms

        terms = MaskTerms.of(demand.pairs, accepts_few=self.accepts_few_shares)
        return MaskedRound(terms, device, plan.round_number, self.stream, identity)

    def fields(
        self, demand: Demand, trained: Tensors, base: Tensors, *, data_size: int, number: int
    ) -> dict[str, Any]:
        """The fields of an updateModel that carry this update.

        CallerProtocolError when the numbers of the job do not work for this model.
        """
        after = [values.reshape(-1) for values in trained.values()]
        before = [base[name].reshape(-1) for name in trained]
        if demand.kind == SIGNS:
            return self._signed(demand, list(trained), after, before)
        if demand.kind == NOISE:
            products = self._noisy(demand, after, before, data_size)
        elif demand.sparse_rate is None:
            return {
                "plain_weights": True,
                "feature_map": tuple(map(FeatureMap, trained, after)),
            }
        else:
            products = [values * np.float32(data_size) for values in after]
        if demand.sparse_rate is None:
            return {"feature_map": tuple(map(FeatureMap, trained, products))}
        from fl_cluster.compression import diff_sparse_quant, sparse

        kept = sparse.choose(number, demand.sparse_rate, [values.size for values in after])
        chunks = diff_sparse_quant.encode(products, before, data_size, kept)
        return {
            "upload_compress_type": SPARSE,
            "upload_sparse_rate": demand.sparse_rate,
            "name_vec": tuple(trained),
            "compress_feature_map": tuple(
                CompressFeatureMap(name, chunk.quants, chunk.minimum, chunk.maximum)
                for name, chunk in zip(trained, chunks, strict=True)
            ),
        }

    def _noisy(
        self, demand: Demand, after: list[Floats], before: list[Floats], data_size: int
    ) -> list[Floats]:
        from fl_cluster.privacy import local_dp

        clip = local_dp.FIRST_CLIP if self.clip is None else self.clip
        noise = local_dp.Noise(demand.noise.dp_eps, demand.noise.dp_delta, clip)
        return local_dp.protect(after, before, noise, data_size, self.stream)

    def _signed(
        self, demand: Demand, names: list[str], after: list[Floats], before: list[Floats]
    ) -> dict[str, Any]:
        from fl_cluster.privacy import signds

        asked = demand.signs
        selection = signds.Selection(
            asked.sign_k, asked.sign_eps, asked.sign_thr_ratio, asked.sign_dim_out
        )
        try:
            signs = signds.select(after, before, selection, lambda: self.stream)
        except ValueError as exc:
            raise CallerProtocolError(f"the job's SignDS settings do not work: {exc}") from exc
        return {
            "sign": signs.sign,
            "index_array": tuple(signs.indices.tolist()),
            "feature_map": tuple(FeatureMap(name, NOTHING) for name in names),
        }

    def saw_model(self, demand: Demand, number: int, before: Tensors, after: Tensors) -> None:
        """Follow the size of the step that round `number` ended with."""
        if demand.kind == NOISE:
            from fl_cluster.privacy import local_dp

            clip = local_dp.FIRST_CLIP if self.clip is None else self.clip
            pairs = [(before[name].reshape(-1), after[name].reshape(-1)) for name in after]
            factor = demand.noise.dp_norm_clip
            old, new = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            self.clip = local_dp.next_clip(clip, number, factor, old, new)
