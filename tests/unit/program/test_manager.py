from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_cluster.program.manager import FederatedLearningManager
from fl_cluster.program.push_metrics import PushMetrics, running_worker

ADDRESS = "127.0.0.1:6666"

CONFIG = """
fl_name: Job
fl_iteration_num: 3
server_mode: {mode}
enable_ssl: false
aggregation: {{aggregation_type: {method}, iid_rate: 0.1}}
distributed_cache: {{address: 127.0.0.1:6379}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 1000
  update_model_ratio: 1.0
  update_model_time_window: 1000
  global_iteration_time_window: 1000
summary: {{metrics_file: m.json, failure_event_file: e.txt}}
"""

MakeManager = Callable[..., FederatedLearningManager]


def a_model() -> dict[str, Any]:
    return {"w": np.array([1, 2], np.float32)}


@pytest.fixture
def make_manager(tmp_path: Path) -> MakeManager:
    """A manager of a cross-silo job, unless the arguments say otherwise."""

    def make(mode: str = "CLOUD_TRAINING", method: str = "FedAvg", **arguments: Any) -> Any:
        path = tmp_path / "job.yaml"
        path.write_text(CONFIG.format(mode=mode, method=method))
        given = {
            "yaml_config": str(path),
            "model": a_model(),
            "sync_frequency": 2,
            "http_server_address": ADDRESS,
            **arguments,
        }
        return FederatedLearningManager(**given)

    return make


def test_its_signature_is_that_of_the_arguments_it_takes() -> None:
    class Named(FederatedLearningManager):
        def __init__(self, name: str) -> None:
            super().__init__(name, a_model(), 1)

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(FederatedLearningManager).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }

    assert list(inspect.signature(FederatedLearningManager).parameters) == [
        *("yaml_config", "model", "sync_frequency", "http_server_address", "data_size"),
        *("sync_type", "run_distribute", "ssl_config", "kwargs"),
    ]
    assert defaults == {
        "http_server_address": "",
        "data_size": 1,
        "sync_type": "fixed",
        "run_distribute": False,
        "ssl_config": None,
    }
    assert list(inspect.signature(Named).parameters) == ["name"]


def test_a_cross_silo_manager_connects_to_nothing_before_it_trains(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()

    assert manager.sync_frequency == 2
    manager.close()
    manager.close()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"yaml_config": 1}, RuntimeError, r"Parameter 'yaml_config' should be str, but act"),
        ({"yaml_config": ""}, RuntimeError, r"Parameter 'yaml_config' should not be empty str"),
        (
            {"ssl_config": 1},
            RuntimeError,
            r"^Parameter 'ssl_config' should be instance of SSLConfig, but got <class 'int'>$",
        ),
        ({"yaml_config": "/nowhere/at.yaml"}, RuntimeError, r"/nowhere/at\.yaml"),
        ({"model": object()}, AttributeError, r"has no attribute 'trainable_params'"),
        ({"mode": "FEDERATED_LEARNING"}, RuntimeError, r"^FEDERATED_LEARNING is invalid, init fed"),
        (
            {"http_server_address": ""},
            RuntimeError,
            r"^The http client address:http:// is illegal!",
        ),
        ({"http_server_address": "127.0.0.1"}, RuntimeError, r"^Http uri port is invalid\."),
        (
            {"http_server_address": 5},
            TypeError,
            r"^Parameter 'http_server_address' should be str, but actually <class 'int'>$",
        ),
        ({"sync_frequency": "x"}, TypeError, r"^The input value must be int, but got 'str'$"),
        (
            {"sync_frequency": 0},
            ValueError,
            r"^The input value must be int and must > 0, but got '0' with type 'int'\.$",
        ),
        (
            {"sync_type": "x"},
            ValueError,
            r"^The 'parameter' must be str and must be in '\['fixed', 'adaptive'\]', but got 'x'",
        ),
        (
            {"run_distribute": True},
            RuntimeError,
            r"^run_distribute=True needs MindSpore, which is not installed",
        ),
        (
            {"sync_type": "adaptive", "ema_alpha": 1.0},
            ValueError,
            r"^The input value must be in range of \(0\.0, 1\.0\), but got 1\.0 with type 'float'",
        ),
        (
            {"sync_type": "adaptive", "observation_window_size": 0},
            ValueError,
            r"^The input value must be int and must > 0, but got '0' with type 'int'\.$",
        ),
        (
            {"sync_type": "adaptive", "min_consistent_rate": "1"},
            TypeError,
            r"^The input value must be float, but got 'str'$",
        ),
    ],
)
def test_each_wrong_argument_is_told_in_its_own_words(
    make_manager: MakeManager, arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_manager(**arguments)


WRONG_IN_ORDER: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"yaml_config": 1}, RuntimeError),
    ({"ssl_config": 1}, RuntimeError),
    ({"model": object()}, AttributeError),
    ({"http_server_address": ""}, RuntimeError),
    ({"sync_frequency": "x"}, TypeError),
    ({"sync_type": "x"}, ValueError),
    ({"run_distribute": True}, RuntimeError),
]


@pytest.mark.parametrize("first", range(len(WRONG_IN_ORDER) - 1))
def test_of_several_wrong_arguments_the_known_first_one_is_told(
    make_manager: MakeManager, first: int
) -> None:
    every: dict[str, Any] = {}
    for arguments, _ in reversed(WRONG_IN_ORDER[first:]):
        every |= arguments

    with pytest.raises(WRONG_IN_ORDER[first][1]):
        make_manager(**every)


def test_adaptive_constants_are_looked_at_only_when_it_is_adaptive(
    make_manager: MakeManager,
) -> None:
    make_manager(ema_alpha=1.0).close()


def test_arguments_without_effect_are_named(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    make_manager(ema_alhpa=0.5).close()

    assert "argument 'ema_alhpa' has no effect" in caplog.text


@pytest.mark.parametrize("method", ["FedProx", "FedNova"])
def test_methods_that_need_the_jobs_model_show_it(make_manager: MakeManager, method: str) -> None:
    manager = make_manager(method=method, sync_type="adaptive")

    assert {n: w.tolist() for n, w in manager.global_weights.items()} == {"w": [1, 2]}


@pytest.mark.parametrize("method", ["FedAvg", "Scaffold"])
def test_the_others_keep_no_copy_of_it(make_manager: MakeManager, method: str) -> None:
    assert make_manager(method=method).global_weights == {}


def test_scaffold_looks_for_the_learning_rate_where_loops_show_it(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(method="Scaffold", sync_frequency=5)
    optimizer = SimpleNamespace(parameters=[], learning_rate=0.5)
    shown = SimpleNamespace(train_network=object(), optimizer=optimizer)

    manager.on_train_step_end(SimpleNamespace(original_args=lambda: shown))
    with pytest.raises(ValueError, match="Can not find optimizer in train network!"):
        manager.on_train_step_end()


def test_a_learning_rate_may_be_passed_instead(make_manager: MakeManager) -> None:
    make_manager(method="Scaffold", sync_frequency=5, learning_rate=lambda: 0.5).step_end()


def test_a_manager_that_is_not_used_any_more_leaves(make_manager: MakeManager) -> None:
    manager = make_manager()
    worker = manager._training._worker

    del manager
    gc.collect()

    assert worker._pauses.is_stopped


def test_in_a_mindspore_program_a_manager_is_one_of_its_callbacks(
    make_manager: MakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks = ModuleType("mindspore.train.callback")
    callbacks.Callback = type("Callback", (), {"epoch_end": lambda *_: "theirs"})
    monkeypatch.setitem(sys.modules, "mindspore", ModuleType("mindspore"))
    monkeypatch.setitem(sys.modules, "mindspore.train", ModuleType("mindspore.train"))
    monkeypatch.setitem(sys.modules, "mindspore.train.callback", callbacks)

    manager = make_manager()

    assert isinstance(manager, callbacks.Callback)
    assert isinstance(manager, FederatedLearningManager)
    assert manager.epoch_end(None) == "theirs"  # type: ignore[attr-defined]
    assert manager.sync_frequency == 2


def test_metrics_without_a_hybrid_worker_are_refused() -> None:
    running_worker().hybrid = None

    with pytest.raises(RuntimeError, match="needs a FederatedLearningManager in mode HYBRID"):
        PushMetrics().construct(1.0, 2.0)


def test_hfl_model_says_that_it_needs_mindspore() -> None:
    from fl_cluster.program.hfl_model import HFLModel

    with pytest.raises(RuntimeError, match="HFLModel needs MindSpore, which is not installed"):
        HFLModel(object())
