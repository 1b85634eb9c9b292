from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.aggregate.model import Model
from fl_cluster.config.schema import EncryptType, ServerMode, Settings
from fl_cluster.config.shared import SharedParameters
from fl_cluster.program.callback import Callback, CallbackContext
from fl_cluster.program.context import FLContext
from fl_cluster.program.hooks import FAILURES, CallbackHooks, result_sentence
from fl_cluster.program.yaml_config import load_settings
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.finish import EndedRound
from fl_cluster.store.ports import JobRecord


class Here:
    """A main thread that is this one."""

    def call(self, function: Callable[[], None]) -> None:
        function()


class Listener(Callback):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def after_started(self) -> None:
        self.told.append("after_started")

    def before_stopped(self) -> None:
        self.told.append("before_stopped")

    def on_iteration_end(self, context: CallbackContext) -> None:
        self.told.append(context)


@pytest.fixture
def settings(write_config: Callable[..., str]) -> Settings:
    return load_settings(write_config(), "server")


def ended_round(settings: Settings, **changes: Any) -> EndedRound:
    arrays = {"w": np.array([1, 2], np.float32), "b": np.array(3, np.float32)}
    job = JobRecord("i_1", 25, SharedParameters.of(settings).text, "[]")
    ended = EndedRound(
        ref=RoundRef("i_1", 4),
        job=job,
        reason=None,
        job_state="running",
        is_success=True,
        opened_at=Millis(0),
        ended_at=Millis(1),
        model=Model.from_arrays(arrays, frozenset("b")),
        cohort_count=2,
        reported=[],
        evaluations=[],
        visits={},
        failures_in_a_row=0,
        is_event=False,
    )
    return replace(ended, **changes)


def tell(settings: Settings, folder: Path, checkpoint: Path | None, **changes: Any) -> Any:
    listener = Listener()
    hooks = CallbackHooks(listener, Here(), settings, folder)  # type: ignore[arg-type]
    hooks.round_ended(ended_round(settings, **changes), checkpoint)
    return listener.told[0]


def test_start_and_end_are_handed_on(settings: Settings, tmp_path: Path) -> None:
    listener = Listener()
    hooks = CallbackHooks(listener, Here(), settings, tmp_path)  # type: ignore[arg-type]

    hooks.started()
    hooks.stopping()

    assert listener.told == ["after_started", "before_stopped"]


def test_a_round_is_told_with_its_model(
    settings: Settings, tmp_path: Path, context: FLContext
) -> None:
    context.set_instance_name("mine")

    told = tell(settings, tmp_path, tmp_path / "a.ckpt")

    items = told.feature_map.feature_map()
    assert {name: item.data.tolist() for name, item in items.items()} == {"b": 3, "w": [1, 2]}
    assert {name: item.require_aggr for name, item in items.items()} == {"b": False, "w": True}
    assert told.checkpoint_file == str(tmp_path / "a.ckpt")
    assert (told.fl_name, told.instance_name, told.iteration_num) == ("Lenet", "mine", 4)
    assert told.iteration_valid


def test_the_model_is_a_copy(settings: Settings, tmp_path: Path) -> None:
    ended = ended_round(settings)
    listener = Listener()
    hooks = CallbackHooks(listener, Here(), settings, tmp_path)  # type: ignore[arg-type]
    hooks.round_ended(ended, None)

    listener.told[0].feature_map.feature_map()["w"].data[:] = 0

    assert ended.model.tensor("w").tolist() == [1, 2]


def test_what_no_device_sent_is_not_aggregated(settings: Settings, tmp_path: Path) -> None:
    told = tell(settings, tmp_path, None, left_out=("w",))

    assert not told.feature_map.feature_map()["w"].require_aggr


def test_without_a_checkpoint_folder_there_is_no_model(settings: Settings, tmp_path: Path) -> None:
    told = tell(settings, tmp_path / "missing", None)

    assert (told.feature_map, told.checkpoint_file) == ({}, "")


def test_a_failed_round_is_told_too(settings: Settings, tmp_path: Path) -> None:
    told = tell(settings, tmp_path, None, is_success=False, reason=Reason.REPORT_WINDOW)

    assert not told.iteration_valid
    assert told.iteration_result == (
        "Round updateModel timeout! This iteration is invalid. Proceed to next iteration."
    )


def test_every_reason_has_its_sentence(settings: Settings) -> None:
    assert set(FAILURES) == set(Reason)
    sentence = result_sentence(Reason.AGGREGATE_FAILED, 4, settings)
    assert sentence == "Weight aggregation failed, current iteration: 4"


def test_how_a_round_ends_well_depends_on_the_mode(settings: Settings) -> None:
    masked = replace(settings, encrypt=replace(settings.encrypt, kind=EncryptType.PW_ENCRYPT))
    hybrid = replace(settings, server_mode=ServerMode.HYBRID_TRAINING)

    said = [result_sentence(None, 1, each).split("!")[0] for each in (settings, masked, hybrid)]

    assert said == [
        "Weight aggregation finished",
        "Weight unmask finished",
        "Push metrics finished",
    ]
