"""The parts of one member for masks of existing devices, built around its view and its store."""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.api.cipher import CipherPlane, CipherServices, Gate
from fl_cluster.api.proofs import ProofDesk
from fl_cluster.api.replies import Replies
from fl_cluster.config.schema import EncryptType
from fl_cluster.config.shared import SharedParameters
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.unmasking import CancellingUnmasker, PairwiseUnmasker, Unmasker
from fl_cluster.service.view import JobView
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import RoundStore


class MaskParts:
    """Ready in every member; of use only in a job with PW_ENCRYPT or STABLE_PW_ENCRYPT."""

    def __init__(self, view: JobView, rounds: RoundStore, exchange: ExchangeStore) -> None:
        self._view = view
        self._rounds = rounds
        self._exchange = exchange

    def parameters(self) -> SharedParameters:
        """The settings of the current run, once the member has joined the job."""
        return self._view.parameters

    @property
    def unmaskers(self) -> Mapping[str, Unmasker]:
        """What makes a sum readable, by how the job's updates are masked."""
        return {
            EncryptType.PW_ENCRYPT: PairwiseUnmasker(self._exchange, self.parameters),
            EncryptType.STABLE_PW_ENCRYPT: CancellingUnmasker(),
        }

    def plane(
        self, replies: Replies, proofs: ProofDesk, gate: Gate, *, hold_ms: int
    ) -> CipherPlane:
        """What devices of such a job are served beside the device plane."""
        desk = ExchangeDesk(self._view, self._rounds, self._exchange, hold_ms=hold_ms)
        shares_secrets = self.parameters().encrypt_type == EncryptType.PW_ENCRYPT
        services = CipherServices(self._view, desk, replies, proofs)
        return CipherPlane(services, gate, shares_secrets=shares_secrets)
