"""Who may do what in one process: its clock, its tokens, its proxies, its devices' certificates.

`start` before anybody is served and after the store was reached, then `run` beside the rest.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from fl_cluster.api.gatekeeper import Gatekeeper
from fl_cluster.api.proofs import ProofDesk
from fl_cluster.config.addresses import parse_networks
from fl_cluster.config.schema import JobSettings, Settings, VerifySettings
from fl_cluster.errors import FlClusterError
from fl_cluster.security.proxies import TrustedProxies
from fl_cluster.security.tokens import TokenRole
from fl_cluster.security.trust_files import TrustFiles, now_utc
from fl_cluster.service.attestation import Attestor
from fl_cluster.service.cluster_time import ClusterTime
from fl_cluster.service.token_book import TokenBook
from fl_cluster.store.redis.attestations import RedisAttestationStore
from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.tokens import RedisTokenStore

logger = logging.getLogger(__name__)

PERIOD_S = 0.5
"""How often files are looked at: what an operator changes is in force within a second."""

ALARM_PERIOD_S = 24 * 3600.0


class Access:
    """One process's checks of identity, over one connection to the store."""

    def __init__(self, settings: JobSettings, connection: Connection) -> None:
        cluster, keys = settings.cluster, JobKeys(settings.name)
        self._settings = settings
        self._proxies = TrustedProxies(parse_networks(cluster.trusted_proxies))
        self.time = ClusterTime(connection.now_ms)
        self.book = TokenBook(
            RedisTokenStore(connection, keys),
            self.time.now_ms,
            file=cluster.token_file,
            is_always_required=cluster.require_token,
        )
        self.gatekeeper = Gatekeeper(
            self.book, self._proxies, allows_http=cluster.allow_tokens_over_http
        )
        self._files: TrustFiles | None = None
        self._attestor: Attestor | None = None
        if isinstance(settings, Settings) and settings.verify.enabled:
            self._files = _trust_files(settings.verify)
            self._attestor = Attestor(
                RedisAttestationStore(connection, keys),
                self._files,
                self.time.now_ms,
                window_ms=settings.verify.clock_distance_ms,
            )
        self.proofs = ProofDesk(self._attestor)
        self._has_warned_of_http = False

    async def start(self) -> None:
        """Read everything once; a fault says what cannot be used."""
        await self.time.measure()
        await self.book.start()
        if self._files is not None:
            await asyncio.to_thread(self._files.load)
            self._raise_alarms(self._files)
        self._warn_of_http()

    async def run(self) -> None:
        """Keep everything as it is meant to be, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.book.run())
            group.create_task(self._look_again())

    async def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        alarm_at = loop.time() + ALARM_PERIOD_S
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.time.look()
            except FlClusterError as exc:
                logger.debug("the clocks were not compared: %s", exc)
            if self._attestor is not None:
                await self._attestor.reload()
            if self._files is not None and loop.time() >= alarm_at:
                alarm_at = loop.time() + ALARM_PERIOD_S
                self._raise_alarms(self._files)
            self._warn_of_http()

    def _raise_alarms(self, files: TrustFiles) -> None:
        ahead = timedelta(days=self._settings.tls.expiry_warning_days)
        for sentence in files.alarms(now_utc(), ahead):
            logger.warning("%s", sentence)

    def _warn_of_http(self) -> None:
        """Say once that tokens are asked for where none is taken."""
        cluster = self._settings.cluster
        is_private = self._settings.tls.enabled or self._proxies or cluster.allow_tokens_over_http
        is_asked = any(self.book.is_required(role) for role in self._roles())
        if is_private or self._has_warned_of_http or not is_asked:
            return
        self._has_warned_of_http = True
        logger.warning(
            "tokens are asked for and none is taken over plain HTTP: set enable_ssl, or"
            " cluster.trusted_proxies, or cluster.allow_tokens_over_http"
        )

    def _roles(self) -> tuple[TokenRole, ...]:
        is_server = isinstance(self._settings, Settings)
        return (TokenRole.DEVICE,) if is_server else (TokenRole.OPERATOR,)


def _trust_files(verify: VerifySettings) -> TrustFiles:
    return TrustFiles(
        (
            ("client_verify.root_first_ca_path", verify.first_root_ca),
            ("client_verify.root_second_ca_path", verify.second_root_ca),
        ),
        ("client_verify.equip_crl_path", verify.revocation_list),
    )
