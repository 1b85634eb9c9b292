"""What is written when a round has ended, and what a disk that refuses costs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.app.hooks import NoHooks
from fl_cluster.app.recorder import FileRecorder
from fl_cluster.config.load import load
from fl_cluster.config.protection import Protection
from fl_cluster.config.shared import SharedParameters
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.finish import EndedRound
from fl_cluster.service.spending import Terms, spent_of
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.ports import JobRecord, ReportedUpdate

NOISE = "privacy.noise_multiplier"
NOON = Millis(int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp() * 1000))

CONFIG: dict[str, Any] = {
    "fl_name": "Bench",
    "fl_iteration_num": 3,
    "server_mode": "FEDERATED_LEARNING",
    "enable_ssl": False,
    "distributed_cache": {"address": "127.0.0.1:6379"},
    "round": {
        "start_fl_job_threshold": 2,
        "start_fl_job_time_window": 30_000,
        "update_model_ratio": 1.0,
        "update_model_time_window": 30_000,
        "global_iteration_time_window": 60_000,
    },
}

Make = Callable[..., "Desk"]


class Desk:
    """A recorder in a folder of its own, and what it wrote there."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        summary = {
            "metrics_file": str(folder / "sub" / "metrics.json"),
            "failure_event_file": str(folder / "event.txt"),
        }
        file = folder / "job.yaml"
        file.write_text(yaml.safe_dump(CONFIG | {"summary": summary} | changes), "utf-8")
        self.settings = load(file, "server", environ={})
        self.folder = folder
        checkpoints = CheckpointFolder(folder / "fl_ckpt", "Bench", UTC)
        self.recorder = FileRecorder(self.settings, checkpoints, "10.0.0.7:4123", NoHooks())
        self.recorder.prepare()

    def ended(self, number: int = 1, **fields: Any) -> EndedRound:
        """A round of two devices that ended well."""
        model = Model(Layout((Tensor("w", (2,)),)), np.array([1, 2], np.float32))
        job = JobRecord("i_now", 3, SharedParameters.of(self.settings).text, "[]")
        given = {
            "reason": None,
            "job_state": "running",
            "is_success": True,
            "opened_at": Millis(NOON + 7),
            "ended_at": Millis(NOON + 500),
            "cohort_count": 2,
            "reported": [update("a", 0.5, 10, 7), update("b", 0.5, 30, 400_000)],
            "evaluations": [],
            "visits": {"check_in": 3, "check_in_accepted": 2, "report": 2, "report_accepted": 2},
            "failures_in_a_row": 0,
            "is_event": False,
        }
        return EndedRound(RoundRef("i_now", number), job, model=model, **(given | fields))

    def lines(self) -> list[str]:
        return (self.folder / "sub" / "metrics.json").read_text("utf-8").splitlines()

    def events(self) -> str:
        return (self.folder / "event.txt").read_text("utf-8")

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "fl_ckpt").iterdir())


def update(device: str, loss: float, data_size: int, took_ms: int, **more: Any) -> ReportedUpdate:
    given = {"accuracy": 0.0, "eval_data_size": 0} | more
    at = Millis(NOON + took_ms)
    return ReportedUpdate(
        device, "m", 1, at, "", loss, data_size=data_size, checked_in_at=NOON, **given
    )


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **changes: Desk(tmp_path, **changes)


@pytest.fixture
def desk(make: Make) -> Desk:
    return make()


def test_the_line_has_every_key_in_order_and_single_precision_numbers(desk: Desk) -> None:
    desk.recorder.record(
        desk.ended(
            reported=[
                update("a", 6.9, 10, 7, accuracy=0.75, eval_data_size=4),
                update("b", 6.9, 30, 400_000, accuracy=0.75, eval_data_size=4),
            ]
        )
    )

    (line,) = desk.lines()
    shown = re.sub(r'("(?:end|start)Time":)"[^"]*"', r'\1"T"', line)
    shown = re.sub(r'("iterationExecutionTime":)\d+', r"\1 0", shown)
    assert shown == (
        '{"clientVisitedInfo":{"getModelAcceptClientNum":0,"getModelRejectClientNum":0,'
        '"getModelTotalClientNum":0,"participationTimeLevel1":1,"participationTimeLevel2":2,'
        '"participationTimeLevel3":2,"startFLJobAcceptClientNum":2,'
        '"startFLJobRejectClientNum":1,"startFLJobTotalClientNum":3,'
        '"updateModelAcceptClientNum":2,"updateModelRejectClientNum":0,'
        '"updateModelTotalClientNum":2},"currentIteration":1,"endTime":"T","flIterationNum":3,'
        '"flName":"Bench","instanceName":"i_now","instanceStatus":"running",'
        '"iterationExecutionTime": 0,"iterationResult":"success","metricsAuc":0.75,'
        '"metricsLoss":6.9,"startTime":"T","unsupervisedEval":0.0}'
    )


def test_a_loss_is_divided_by_the_samples_of_those_whose_losses_were_added(desk: Desk) -> None:
    sent = [update("a", 0.5, 65_535, 1), update("b", 0.5, 10, 1)]

    desk.recorder.record(desk.ended(reported=sent))
    desk.recorder.record(desk.ended(2, reported=sent[:1], reason=Reason.REPORT_WINDOW))

    assert [json.loads(line)["metricsLoss"] for line in desk.lines()] == [0.5, 0.5]


def test_what_is_no_number_is_null(desk: Desk) -> None:
    desk.recorder.record(desk.ended(reported=[update("a", float("inf"), 1, 1)]))

    assert '"metricsLoss":null' in desk.lines()[0]


@pytest.mark.parametrize(("state", "word"), [("running", "running"), ("finished", "finish")])
def test_the_state_of_the_job_before_the_round_ended_is_told(
    desk: Desk, state: str, word: str
) -> None:
    desk.recorder.record(desk.ended(job_state=state))

    assert json.loads(desk.lines()[0])["instanceStatus"] == word


def test_a_round_that_nobody_joined_began_when_the_one_before_did(desk: Desk) -> None:
    nobody = {"opened_at": None, "reported": [], "cohort_count": 0, "visits": {}}

    desk.recorder.record(desk.ended(1, **nobody))
    desk.recorder.record(desk.ended(2))
    desk.recorder.record(desk.ended(3, **nobody))

    first, second, third = map(json.loads, desk.lines())
    assert first["startTime"] == ""
    assert first["iterationExecutionTime"] > NOON - 1000
    assert third["startTime"] == second["startTime"] != ""


def test_a_round_that_redis_lost_began_when_this_process_saw_it_begin(desk: Desk) -> None:
    nobody = {"opened_at": None, "reported": [], "cohort_count": 0, "visits": {}}

    desk.recorder.saw_start(Millis(NOON - 2000))
    desk.recorder.saw_start(None)
    desk.recorder.record(desk.ended(1, ended_at=Millis(NOON), **nobody))

    line = json.loads(desk.lines()[0])
    assert line["startTime"].endswith(":58.000")


def test_a_round_is_written_once_however_often_it_is_recorded(desk: Desk) -> None:
    desk.recorder.record(desk.ended())
    desk.recorder.record(desk.ended())

    assert len(desk.lines()) == 1
    assert desk.checkpoints() == ["Bench_recovery_iteration_1_20261122_120000.ckpt"]


def test_a_failed_round_leaves_a_checkpoint_of_the_weights_it_began_with(desk: Desk) -> None:
    desk.recorder.record(desk.ended(reason=Reason.SELECT_WINDOW, is_success=False))

    assert json.loads(desk.lines()[0])["iterationResult"] == "fail"
    assert len(desk.checkpoints()) == 1


def test_three_checkpoints_are_kept(desk: Desk) -> None:
    for number in range(1, 6):
        desk.recorder.record(desk.ended(number, ended_at=Millis(NOON + 1000 * number)))

    assert [name.split("_")[3] for name in desk.checkpoints()] == ["3", "4", "5"]


def test_the_event_file_is_there_from_the_start_and_gets_a_line_when_it_is_due(
    desk: Desk,
) -> None:
    assert desk.events() == ""

    desk.recorder.record(desk.ended(1, is_success=False, failures_in_a_row=1))
    desk.recorder.record(desk.ended(2, is_success=False, failures_in_a_row=2, is_event=True))

    pattern = (
        r"nodeRole:SERVER,10\.0\.0\.7:4123,"
        r"currentTime:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3},"
        r"event:Iteration failed 2 times continuously;\n"
    )
    assert re.fullmatch(pattern, desk.events())


def test_without_a_metrics_line_there_is_no_event_and_the_round_ends_all_the_same(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    (desk.folder / "sub").write_text("a file", "utf-8")

    desk.recorder.record(desk.ended(is_event=True))

    assert "round 1 is not accounted for" in caplog.text
    assert desk.events() == ""
    assert len(desk.checkpoints()) == 1


def test_levels_that_make_no_sense_are_replaced_with_a_warning(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = {
        "metrics_file": str(tmp_path / "sub" / "metrics.json"),
        "failure_event_file": str(tmp_path / "event.txt"),
        "participation_time_level": "15,5",
    }

    make(summary=summary)

    assert "'15,5'; expected two rising numbers of minutes" in caplog.text


def test_the_newest_vectors_are_scored(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    on = {"cluster_client_num": 4, "eval_type": "DAVIES_BOULDIN_SCORE"}
    desk = make(unsupervised=on)
    vectors = [np.array(each, "<f4").tobytes() for each in [(2, 7), (1, 5), (4, 2), (3, 1)]]

    desk.recorder.record(desk.ended(1, evaluations=vectors))
    desk.recorder.record(desk.ended(2, evaluations=vectors[:3]))
    desk.recorder.record(desk.ended(3, evaluations=[b"1234", *vectors[:3]]))

    scores = [json.loads(line)["unsupervisedEval"] for line in desk.lines()]
    assert scores[0] == pytest.approx(0.37062994, abs=1e-7)
    assert scores[1] == 0.0
    assert '"unsupervisedEval":0.37062994' in desk.lines()[0]
    assert "round 3, evaluation: 1 vectors are not 2 numbers long" in caplog.text


def test_a_checkpoint_that_cannot_be_written_costs_an_error_in_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    (desk.folder / "fl_ckpt").rmdir()
    (desk.folder / "fl_ckpt").write_text("a file", "utf-8")

    desk.recorder.record(desk.ended())

    assert "round 1 has no checkpoint" in caplog.text
    assert len(desk.lines()) == 1


def test_a_round_of_another_job_record_has_that_records_number_of_rounds(desk: Desk) -> None:
    ended = desk.ended()

    desk.recorder.record(replace(ended, job=replace(ended.job, rounds_total=9)))

    assert json.loads(desk.lines()[0])["flIterationNum"] == 9


def test_what_noise_has_cost_is_in_line_log_and_file(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    noise = {"privacy.noise": "central", NOISE: 2.0}
    terms = Terms.of(Protection.parse({}, noise))
    assert terms is not None
    with caplog.at_level(logging.INFO):
        for number in (1, 2):
            spent = spent_of(terms, {terms.name: number})
            desk.recorder.record(desk.ended(number, spent=spent))

    line = json.loads(desk.lines()[-1])
    assert (line["privacyRounds"], line["privacyEpsilonBudget"]) == (2, None)
    assert line["privacyEpsilon"] == spent.epsilon
    kept = json.loads((desk.folder / "fl_ckpt" / "Bench_privacy.json").read_text())
    assert kept == {"central 2.0": 2}
    assert f"round 2 of 3: {spent}" in caplog.text


@pytest.mark.parametrize("is_file", [True, False])
def test_a_ledger_that_has_no_folder_is_told_once(
    desk: Desk, caplog: pytest.LogCaptureFixture, *, is_file: bool
) -> None:
    folder = desk.folder / "none"
    if is_file:
        folder.write_text("no folder")
    checkpoints = CheckpointFolder(folder, "Bench", UTC, is_made=False)
    recorder = FileRecorder(desk.settings, checkpoints, "10.0.0.7:4123", NoHooks())
    terms = Terms.of(Protection.parse({}, {"privacy.noise": "central", NOISE: 2.0}))
    assert terms is not None
    recorder.record(desk.ended(1))
    assert caplog.text == ""

    for number in (2, 3):
        spent = spent_of(terms, {terms.name: number})
        recorder.record(desk.ended(number, spent=spent))

    [told] = [each for each in caplog.messages if "ledger" in each]
    assert told == (
        f"the privacy ledger is in Redis alone, and lost with it: there is no folder {folder}"
    )


def test_without_noise_there_is_no_ledger(desk: Desk) -> None:
    desk.recorder.record(desk.ended())

    assert "privacy" not in desk.lines()[0]
    assert not any("privacy" in name for name in desk.checkpoints())
