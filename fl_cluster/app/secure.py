"""The parts of one member that secure aggregation needs, built around its view and its store."""

from __future__ import annotations

from fl_cluster.api.secure import Gate, SecurePlane
from fl_cluster.config.schema import EncryptType, Settings
from fl_cluster.privacy.ring.device import accept_unsigned
from fl_cluster.privacy.ring.messages import Offer
from fl_cluster.security.offer_proofs import is_offer_by
from fl_cluster.service.exchange import ExchangeDesk
from fl_cluster.service.ring import RingDesk, RingUnmasker, RingWatch
from fl_cluster.service.ring_records import RingRecords
from fl_cluster.service.view import JobView
from fl_cluster.store.exchange_port import ExchangeStore
from fl_cluster.store.ports import RoundStore


class SecureParts:
    """Ready in every member; of use only in a job with SECURE_AGGREGATION."""

    def __init__(
        self, settings: Settings, view: JobView, rounds: RoundStore, exchange: ExchangeStore
    ) -> None:
        """Devices that prove who they are when they check in sign their offers too."""
        verify = _is_signed if settings.verify.enabled else accept_unsigned
        self._view = view
        records = RingRecords(settings.name, view, rounds, exchange, verify)
        self._watch = RingWatch(view, exchange, records)
        self._exchange = ExchangeDesk(view, rounds, exchange, hold_ms=0)
        self.desk = RingDesk(view, self._exchange, records, self._watch)
        self.unmasker = RingUnmasker(records)

    async def look(self) -> None:
        """Each second: let a round go on whose masks can be taken off."""
        if self._view.parameters.encrypt_type == EncryptType.SECURE_AGGREGATION:
            await self._watch.look()

    def plane(self, gate: Gate) -> SecurePlane:
        """What devices of such a job are served beside the device plane."""
        return SecurePlane(self._view, self._exchange, self.desk, gate)


def _is_signed(offer: Offer, signed: bytes) -> bool:
    return is_offer_by(offer.device, offer.signature, signed)
