"""The device: everything that takes part in a job, behind one class and one function.

    async core   `await FederatedDevice(...).run()`
    sync face    `FederatedDevice(...).run_sync()`, `run(train, ...)`

A device declares at check-in how many samples it trains on, because the cluster weighs its
update by that number; hence `data_size` is given here and not by the training function.
Not here: decisions (participation.py), actions (life.py), the network (transport.py).
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypedDict, TypeVar, Unpack

import aiohttp

from fl_cluster.errors import CallerProtocolError
from fl_cluster.privacy.ring.demands import USUAL, Demands
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.sdk.join_line import parse_join_line
from fl_cluster.sdk.life import Life
from fl_cluster.sdk.participation import Rules
from fl_cluster.sdk.protection import Protector
from fl_cluster.sdk.required import RING, Insistence, Protection
from fl_cluster.sdk.retry import Backoff, Servers
from fl_cluster.sdk.training import EvaluateFunction, TrainFunction, Weights, writable
from fl_cluster.sdk.transport import Access, Limits, Transport, open_session
from fl_cluster.sdk.work import RoundCallback, RoundOutcome, Work
from fl_cluster.wire.limits import MAX_DATA_SIZE

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a device takes home from a finished job."""

    device_id: str
    weights: Weights
    """The newest model; empty if the job had finished and no model could be had any more."""
    final_round: int
    """The round that this model is the result of; 0 for the initial one, -1 for none."""
    history: tuple[RoundOutcome, ...]
    """Every round that the device trained for, in order."""

    @property
    def rounds(self) -> tuple[int, ...]:
        """The rounds whose model has this device's update in it; see `RoundOutcome.counted`."""
        return tuple(outcome.round_number for outcome in self.history if outcome.counted)


class DeviceOptions(TypedDict, total=False):
    """What else `run` takes: the optional fields of `FederatedDevice`."""

    device_id: str
    job: str
    evaluate: EvaluateFunction | None
    eval_data_size: int
    on_round: RoundCallback | None
    url_prefix: str
    token: str
    token_over_http: bool
    tls: ssl.SSLContext | None
    identity: DeviceIdentity | None
    patience_s: float
    trust_s: float
    inline: bool
    accepts_few_shares: bool
    demands: Demands | None
    protection: Protection | str | None
    limits: Limits
    backoff: Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedDevice:
    """One device; wrong settings are a CallerProtocolError at once."""

    servers: str | Sequence[str] = field(kw_only=False)
    """Base URLs of any servers of the cluster; the next is asked when one does not answer."""
    train: TrainFunction
    """Called once per round, in a thread: weights it may change, and the plan."""
    data_size: int
    """How many samples `train` uses: the weight of this device's updates, 1 to 65,535."""
    device_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Who this is, to the cluster; by default random, for the life of this object."""
    job: str = "default"
    evaluate: EvaluateFunction | None = None
    """Called with each round's starting model; returns its accuracy on this device's data."""
    eval_data_size: int = 0
    """How many samples `evaluate` uses: the weight of its accuracy in the round's."""
    on_round: RoundCallback | None = None
    """Called on the event loop when a round's model has come, with the outcome and the model,
    whose arrays are read-only; should be quick."""
    url_prefix: str = ""
    token: str = field(default="", repr=False)
    """What the cluster knows this participant by, if it asks for tokens."""
    token_over_http: bool = False
    """Send the token also to servers without TLS, where anyone on the way can read it."""
    tls: ssl.SSLContext | None = None
    """How servers prove who they are; None: by the roots of the system."""
    identity: DeviceIdentity | None = None
    """Certificates and key, for servers that verify devices; the device's id follows from it."""
    session: aiohttp.ClientSession | None = None
    """Shared by many devices of one process, and left open; see `open_session`."""
    patience_s: float = 300.0
    """How long no server may answer before the device gives up."""
    trust_s: float = 60.0
    """How long a device that reported waits for the model before it makes sure that its update
    is still known, as it is not when the cluster lost its store; doubles each time."""
    accepts_few_shares: bool = False
    """Take part in `PW_ENCRYPT` also where half of the other devices, or fewer, are enough to undo
    a mask: such a job is safe only with servers that follow the protocol."""
    demands: Demands | None = None
    """What `SECURE_AGGREGATION` has to promise before this device takes part; what a server
    announces that is less is refused, with a PeerProtocolError from `run`.  Given, they also
    require that protection; None: the usual ones, in jobs that have it."""
    protection: Protection | str | None = None
    """What updates have to be protected with, `SECURE_AGGREGATION` for example, or
    `DP_ENCRYPT,epsilon=1,delta=1e-05`: a job that announces less is refused, with a
    PeerProtocolError from `run`, before anything is trained or sent.  None: the servers decide,
    and once they have announced something, less is refused for the life of this object."""
    inline: bool = False
    """Train on the event loop instead of in a thread."""
    executor: Executor | None = None
    """Where to train instead of the event loop's own threads."""
    limits: Limits = field(default_factory=Limits)
    backoff: Backoff = field(default_factory=Backoff)
    source: random.Random = field(default_factory=random.Random)
    """Where jitter comes from."""
    _insistence: Insistence = field(init=False, repr=False, compare=False)
    """Kept here because a device that is run again goes back to no less than before either."""

    def __post_init__(self) -> None:
        if not 1 <= self.data_size <= MAX_DATA_SIZE:
            raise CallerProtocolError(
                f"data_size: expected 1 to {MAX_DATA_SIZE}, found {self.data_size}"
            )
        if self.eval_data_size < 0 or (self.evaluate is not None and self.eval_data_size == 0):
            raise CallerProtocolError(
                "eval_data_size: expected the number of samples that evaluate uses,"
                f" found {self.eval_data_size}"
            )
        if self.identity is not None:
            object.__setattr__(self, "device_id", self.identity.device_id)
        if not self.device_id:
            raise CallerProtocolError("device_id: expected a text that is not empty")
        self._check_token()
        required = self._required()
        object.__setattr__(self, "protection", required)
        object.__setattr__(self, "_insistence", Insistence(required))
        for name, seconds in (("patience_s", self.patience_s), ("trust_s", self.trust_s)):
            if not 0 <= seconds < math.inf:
                raise CallerProtocolError(f"{name}: expected 0 or more, found {seconds}")
        self._servers()

    @classmethod
    def join(
        cls, line: str, *, train: TrainFunction, data_size: int, **options: Unpack[DeviceOptions]
    ) -> FederatedDevice:
        """A device of the cluster whose operator has given out this join line.

        What `options` say replaces what the line says, None being nothing; demands replace its
        protection as well.
        """
        said = parse_join_line(line)
        is_required = said.protection and options.get("demands") is None
        if options.get("protection") is None:
            options.pop("protection", None)
        chosen: DeviceOptions = {
            "job": said.job,
            "url_prefix": said.url_prefix,
            "token": said.token,
            "token_over_http": said.is_token_over_http,
            "tls": said.tls_context(),
            "protection": said.protection if is_required else None,
            **options,
        }
        return cls(said.urls, train=train, data_size=data_size, **chosen)

    def _required(self) -> Protection | None:
        given = self.protection
        if given is None:
            # Demands are about masks: in a job without masks they would be worth nothing.
            return None if self.demands is None else Protection(RING)
        required = Protection.parse(given) if isinstance(given, str) else given.checked()
        if self.demands is not None and required.kind != RING:
            raise CallerProtocolError(
                f"demands: they are about {RING}, but protection requires {required.described()}:"
                " leave one of them out"
            )
        return required

    def _check_token(self) -> None:
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise CallerProtocolError("token: expected printable ASCII characters")
        urls = [self.servers] if isinstance(self.servers, str) else list(self.servers)
        plain = [url for url in urls if not url.lower().startswith("https://")]
        if self.token and plain and not self.token_over_http:
            raise CallerProtocolError(
                f"token: it would go to {plain[0]} over plain HTTP, where anyone can read it; use"
                " https, or set token_over_http"
            )

    async def run(self) -> JobResult:
        """Take part until the job is finished.

        ServersUnreachable after `patience_s` without an answer; PeerProtocolError when the job
        announces less than this device insists on; CallerProtocolError when what `train`
        returned is unfit to be sent, or a server refused it for good.  Whatever
        `train`, `evaluate` or `on_round` raise comes out unchanged.
        """
        return await self._take_part(self.executor)

    def run_sync(self) -> JobResult:
        """The same for a program without an event loop; Ctrl-C does not wait for the training."""
        return asyncio.run(self._take_part(self.executor or DaemonThreads()))

    async def _take_part(self, executor: Executor | None) -> JobResult:
        work = Work(
            device_id=self.device_id,
            job=self.job,
            data_size=self.data_size,
            train=self.train,
            evaluate=self.evaluate,
            eval_data_size=self.eval_data_size,
            on_round=self.on_round,
            executor=executor,
            inline=self.inline,
            identity=self.identity,
        )
        async with self._session() as session:
            life = Life(
                work,
                Transport(session, self._servers(), self.limits, Access(self.token, self.tls)),
                Rules(int(self.patience_s * 1000), int(self.trust_s * 1000)),
                self.backoff,
                self.source,
                protector=Protector(
                    accepts_few_shares=self.accepts_few_shares,
                    demands=USUAL if self.demands is None else self.demands,
                    insistence=self._insistence,
                ),
            )
            finished = await life.run()
        return JobResult(
            self.device_id,
            writable(life.weights),
            finished.standing.held_round,
            tuple(life.history),
        )

    def _servers(self) -> Servers:
        return Servers(self.servers, self.url_prefix, self.source)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self.session is not None:
            yield self.session
            return
        async with open_session(devices=1) as session:
            yield session


def run(
    train: TrainFunction,
    *,
    servers: str | Sequence[str],
    data_size: int,
    **options: Unpack[DeviceOptions],
) -> JobResult:
    """Be a device until the job is finished; see `FederatedDevice` for what may be given."""
    return FederatedDevice(servers, train=train, data_size=data_size, **options).run_sync()


class DaemonThreads(Executor):
    """Gives each call a thread of its own, which does not keep the process from ending."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start the call at once."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as exc:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(exc)

        threading.Thread(target=work, name="fl_cluster-training", daemon=True).start()
        return future
