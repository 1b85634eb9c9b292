"""What a training loop holds to take part in a job: a callback for its steps.

With MindSpore it goes into the list of callbacks; any other loop calls `on_train_step_begin`
and `on_train_step_end` itself.  How a worker behaves is in fl_cluster.worker; here are the
arguments, the order in which they are checked, and the words for what is wrong with them.
"""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import multiprocessing.util
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from fl_cluster.app import worker as parts
from fl_cluster.config.schema import ServerMode, Settings
from fl_cluster.errors import FlClusterError
from fl_cluster.program import mindspore_parts
from fl_cluster.program.arguments import check_positive_int, check_sync_type, check_tuning
from fl_cluster.program.check_type import check_str
from fl_cluster.program.context import SUPPORT_AGG_TYPES, SUPPORT_ENC_TYPES_CLOUD, fl_context
from fl_cluster.program.faults import as_runtime_error
from fl_cluster.program.push_metrics import running_worker
from fl_cluster.program.ssl_config import SSLConfig, check_ssl_config
from fl_cluster.program.yaml_config import load_settings
from fl_cluster.security.passwords import Passwords
from fl_cluster.worker.adaptive import DISTANCE, AdaptiveFrequency, Tuning
from fl_cluster.worker.cross_silo import CrossSiloWorker
from fl_cluster.worker.faults import Unsupported
from fl_cluster.worker.hybrid import HybridWorker
from fl_cluster.worker.methods import Nova, Proximal, make_method
from fl_cluster.worker.optimizers import aggregated_names, learning_rate
from fl_cluster.worker.parameters import Floats, open_network
from fl_cluster.worker.training import CloudTraining, HybridTraining, Peers, Rhythm, Step, Training

logger = logging.getLogger(__name__)

Rate = float | Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments that shape the training, checked."""

    sync_frequency: int
    data_size: int
    tuning: Tuning | None
    peers: Peers | None


class _SignatureOfInit:
    """What a class is made with, told by its `__init__`; its `__new__` takes anything."""

    def __get__(self, made: object, owner: type[Any]) -> inspect.Signature:
        whole = inspect.signature(owner.__init__)
        return whole.replace(parameters=list(whole.parameters.values())[1:])


class FederatedLearningManager:
    """Lets a training loop take part in a job, as a cross-silo or as a hybrid worker.

    `model` is a network (`trainable_params()` or `named_parameters()`) or a dict of float32
    NumPy arrays, whose values are exchanged with the cluster every `sync_frequency` steps.
    Beside the constants of `sync_type='adaptive'`, `learning_rate` may be passed (a float, or
    a function): Scaffold needs it where the loop shows no optimizer.
    Leaves the cluster when it is closed or collected, and when the process ends.
    """

    __signature__ = _SignatureOfInit()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """In a program that uses MindSpore, an instance of its Callback as well."""
        callback = mindspore_parts.callback_class()
        if callback is None or issubclass(cls, callback):
            return object.__new__(cls)
        both: Any = type(cls.__name__, (cls, callback), {"__module__": cls.__module__})
        made: Self = object.__new__(both)
        return made

    def __init__(
        self,
        yaml_config: str,
        model: Any,
        sync_frequency: int,
        http_server_address: str = "",
        data_size: int = 1,
        sync_type: str = "fixed",
        run_distribute: bool = False,
        ssl_config: SSLConfig | None = None,
        **kwargs: Any,
    ) -> None:
        check_str("yaml_config", yaml_config)
        check_ssl_config(ssl_config, "instance of SSLConfig")
        fl_context().set_ssl_config(ssl_config)
        self._settings = settings = load_settings(yaml_config, "server")
        if not isinstance(http_server_address, str):
            # An empty one is judged by whoever needs it, in words of its own.
            raise TypeError(
                "Parameter 'http_server_address' should be str, but actually"
                f" {type(http_server_address)}"
            )
        fl_context().set_http_server_address(http_server_address)
        self._model = model
        self._network = open_network(model)
        self._rate: Rate | None = kwargs.get("learning_rate")
        self._reference: Callable[[], Mapping[str, Floats]] = dict
        self._refresh: Callable[[Mapping[str, Floats]], None] = lambda _: None
        _note_unknown(kwargs)
        with ExitStack() as undo:
            worker, leave = _start(settings, http_server_address)
            undo.callback(leave)
            frequency = check_positive_int(sync_frequency)
            is_adaptive = check_sync_type(sync_type) == "adaptive"
            peers = mindspore_parts.DistributedPeers() if run_distribute else None
            tuning = None
            if settings.server_mode is ServerMode.CLOUD_TRAINING:
                _check_cloud(settings)
                tuning = check_tuning(kwargs) if is_adaptive else None
            options = _Options(frequency, data_size, tuning, peers)
            self._training = self._training_of(worker, options)
            undo.pop_all()
        self._end = weakref.finalize(self, leave)
        _call_when_the_process_ends(self._end)

    def _training_of(self, worker: CrossSiloWorker | HybridWorker, options: _Options) -> Training:
        if isinstance(worker, CrossSiloWorker):
            return self._cloud(worker, options)
        running_worker().hybrid = worker
        names = aggregated_names(self._model, self._network)
        return HybridTraining(
            worker,
            self._network,
            names,
            sync_frequency=options.sync_frequency,
            peers=options.peers,
        )

    def _cloud(self, worker: CrossSiloWorker, options: _Options) -> CloudTraining:
        settings, initial = self._settings, self._network.read()
        adaptive = None
        if options.tuning is not None:
            rounds = settings.rounds
            workers = int(np.float32(rounds.cohort_size) * np.float32(rounds.report_ratio))
            adaptive = AdaptiveFrequency(initial, workers, options.tuning)
            zeros = {DISTANCE + name: np.zeros_like(flat) for name, flat in initial.items()}
            initial = initial | zeros
        names = aggregated_names(self._model, self._network)
        method = make_method(settings.aggregation.method, initial, names)
        if isinstance(method, Proximal | Nova):
            self._reference = lambda: method.reference
        rhythm = Rhythm(options.sync_frequency, options.data_size, adaptive)
        self._refresh = mindspore_parts.insert_reference(self._model, self.global_weights)
        return CloudTraining(worker, self._network, method, rhythm, options.peers)

    @property
    def global_weights(self) -> dict[str, Floats]:
        """The job's model as it was last received, flattened; FedProx and FedNova keep it."""
        known = set(self._network.names)
        return {name: flat for name, flat in self._reference().items() if name in known}

    @property
    def sync_frequency(self) -> int:
        """Steps between two exchanges; `sync_type='adaptive'` changes it."""
        return self._training.sync_frequency

    def on_train_step_begin(self, run_context: Any = None) -> None:
        """Before a training step: checks in where a cycle begins.

        RuntimeError: the cluster answered, and not with success.
        """
        self._training.begin_step(self._step_of(run_context))

    def on_train_step_end(self, run_context: Any = None) -> None:
        """After a training step: exchanges weights where it is time to.

        RuntimeError or ValueError: the cluster's model did not come.
        """
        self._training.end_step(self._step_of(run_context))
        self._refresh(self.global_weights)

    def step_begin(self, run_context: Any = None) -> None:
        """The earlier name of `on_train_step_begin`."""
        self.on_train_step_begin(run_context)

    def step_end(self, run_context: Any = None) -> None:
        """The earlier name of `on_train_step_end`."""
        self.on_train_step_end(run_context)

    def close(self) -> None:
        """Leave the cluster; nothing happens the second time."""
        self._end()

    def _step_of(self, run_context: Any) -> Step:
        arguments = _original_arguments(run_context)
        batches = 1
        if getattr(arguments, "dataset_sink_mode", False):
            batches = int(getattr(arguments, "batch_num", 1) or 1)
        return Step(lambda: self._learning_rate(arguments), batches)

    def _learning_rate(self, arguments: object) -> float:
        if self._rate is not None:
            return float(self._rate() if callable(self._rate) else self._rate)
        return learning_rate((*_networks(arguments), self._model))


def _note_unknown(arguments: Mapping[str, object]) -> None:
    known = {"learning_rate", *(field.name for field in fields(Tuning))}
    for name in arguments:
        if name not in known:
            logger.warning("argument %r has no effect; known ones: %s", name, sorted(known))


def _start(
    settings: Settings, address: str
) -> tuple[CrossSiloWorker | HybridWorker, Callable[[], None]]:
    """The worker of the configured mode, and what ends it; RuntimeError says why not."""
    try:
        match settings.server_mode:
            case ServerMode.CLOUD_TRAINING:
                worker = parts.cross_silo_worker(settings, address, _tls(settings))
                return worker, worker.stop
            case ServerMode.HYBRID_TRAINING:
                return _start_hybrid(settings)
            case mode:
                raise Unsupported(f"{mode.value} is invalid, init federated worker failed.")
    except FlClusterError as fault:
        raise as_runtime_error(fault) from None


def _tls(settings: Settings) -> parts.TlsSource:
    context = fl_context()
    passwords = Passwords(context.server_password(), context.client_password())
    return parts.worker_tls(settings, passwords)


def _start_hybrid(settings: Settings) -> tuple[HybridWorker, Callable[[], None]]:
    tls = _tls(settings)
    registration = parts.registration(settings)
    registration.join()
    worker = parts.hybrid_worker(settings, registration, tls)

    def leave() -> None:
        worker.stop()
        registration.leave()

    return worker, leave


def _check_cloud(settings: Settings) -> None:
    """ValueError for a method or an encryption that a cross-silo worker does not have."""
    method, kind = settings.aggregation.method, settings.encrypt.kind
    if method not in SUPPORT_AGG_TYPES:
        raise ValueError(f"aggregation_type must be in {SUPPORT_AGG_TYPES}, but got {method}.")
    if kind not in SUPPORT_ENC_TYPES_CLOUD:
        raise ValueError(f"encrypt_mode must be in {SUPPORT_ENC_TYPES_CLOUD}, but got {kind}.")


def _original_arguments(run_context: Any) -> object:
    given = getattr(run_context, "original_args", None)
    return given() if callable(given) else run_context


def _networks(arguments: object) -> Iterator[object]:
    """Where the loop may show its optimizer."""
    for name in ("train_network", "optimizer", "network"):
        found = getattr(arguments, name, None)
        if found is not None:
            yield found


def _call_when_the_process_ends(end: Callable[[], object]) -> None:
    """Also by SIGTERM, and in children of multiprocessing, which run no exit handlers of Python."""
    parts.before_sigterm(end)
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, end, exitpriority=10)
