"""A worker's parts, built from its settings: for programs that train inside a cluster.

A cross-silo worker is told where its servers are; a hybrid one finds them in Redis, where it
is a member itself.  Neither owns its process, so all that this module changes of it is what
SIGTERM does, and that only where nobody has said what it should do.
"""

from __future__ import annotations

import os
import signal
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fl_cluster.app.identity import this_process
from fl_cluster.app.store_access import open_store
from fl_cluster.app.tls import WORKER, load_tls
from fl_cluster.app.token_files import DEVICE_VARIABLE, OPERATOR_VARIABLE
from fl_cluster.app.urls import URL_PATTERN
from fl_cluster.config.addresses import Address, parse_address
from fl_cluster.config.schema import EncryptType, Settings
from fl_cluster.errors import StartupError
from fl_cluster.lifecycle.membership import Role
from fl_cluster.security.passwords import Passwords
from fl_cluster.store.redis.jobs import RedisJobStore
from fl_cluster.store.redis.keys import JobKeys
from fl_cluster.store.redis.members import RedisMemberStore
from fl_cluster.worker.cancelling import CancellingMasks
from fl_cluster.worker.cross_silo import (
    MODEL_PATIENCE_S,
    CrossSiloJob,
    CrossSiloWorker,
    new_worker_id,
)
from fl_cluster.worker.hybrid import Directory, HybridWorker
from fl_cluster.worker.link import HttpLink, Timeouts
from fl_cluster.worker.registration import Candidate, Registration, Stores

HYBRID_ANSWER_S = 30.0
"""A server that is silent for so long makes a hybrid worker ask the next one."""


def server_address(text: str, *, is_encrypted: bool) -> Address:
    """Where a cross-silo worker finds its server; StartupError in the original's words."""
    try:
        return parse_address(text)
    except ValueError as exc:
        url = f"{'https' if is_encrypted else 'http'}://{text}"
        if URL_PATTERN.fullmatch(url):
            raise StartupError(f"Http uri port is invalid. ({text!r}: {exc})") from None
        raise StartupError(f"The http client address:{url} is illegal! ({exc})") from None


def _token(variable: str) -> str:
    """The token a worker shows, if it was given one: as a participant, or as one of the cluster."""
    return os.environ.get(variable, "").strip()


TlsSource = Callable[[], ssl.SSLContext] | None


def worker_tls(settings: Settings, passwords: Passwords) -> TlsSource:
    """What gives the context for a new connection to a server; None without `enable_ssl`.

    StartupError: the certificates cannot be used.  A server is known by the job's authority,
    whatever its address, as servers know each other.
    """
    tls = load_tls(settings, passwords, WORKER)
    if tls is None:
        return None

    def newest() -> ssl.SSLContext:
        tls.reload()
        return tls.outgoing()

    return newest


def cross_silo_worker(settings: Settings, address: str, tls: TlsSource = None) -> CrossSiloWorker:
    """A worker that takes part through the server at `address`; connects to nothing yet."""
    where = server_address(address, is_encrypted=settings.tls.enabled)
    job = CrossSiloJob(
        settings.name,
        settings.device.url_prefix,
        model_patience_s=max(MODEL_PATIENCE_S, settings.rounds.round_window_ms / 1000),
    )
    link = HttpLink(where, tls=tls, token=_token(DEVICE_VARIABLE))
    is_masked = settings.encrypt.kind is EncryptType.STABLE_PW_ENCRYPT
    return CrossSiloWorker(job, link, masks=CancellingMasks() if is_masked else None)


def hybrid_worker(settings: Settings, directory: Directory, tls: TlsSource = None) -> HybridWorker:
    """A worker that asks the servers of `directory`."""
    timeouts = Timeouts(answer_s=HYBRID_ANSWER_S)

    def reach(address: str) -> HttpLink:
        token = _token(OPERATOR_VARIABLE)
        return HttpLink(parse_address(address), tls=tls, timeouts=timeouts, token=token)

    return HybridWorker(directory, reach, url_prefix=settings.device.url_prefix)


def registration(settings: Settings) -> Registration:
    """This process as a worker of the job; nothing happens before `join`."""
    candidate = Candidate(
        this_process(Role.WORKER, new_worker_id()), settings.cluster.lease_ms, new_worker_id
    )
    return Registration(lambda: _stores(settings), candidate)


@asynccontextmanager
async def _stores(settings: Settings) -> AsyncIterator[Stores]:
    keys = JobKeys(settings.name)
    async with open_store(settings) as connection:
        yield Stores(RedisMemberStore(connection, keys), RedisJobStore(connection, keys))


def before_sigterm(leave: Callable[[], object]) -> None:
    """Let SIGTERM call `leave` before it ends this process as it always does.

    Nothing changes when the program has a handler of its own, or this is not its main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def end(number: int, _: object) -> None:
        try:
            leave()
        finally:
            # Whatever became of leaving: who asked for an end gets it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
