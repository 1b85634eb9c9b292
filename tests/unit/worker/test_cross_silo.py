from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import flat
from fl_cluster.wire.messages import (
    FeatureMap,
    RequestFLJob,
    RequestGetModel,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
)
from fl_cluster.worker.answers import Closed
from fl_cluster.worker.cross_silo import CrossSiloJob, CrossSiloWorker, new_worker_id

ADMITTED = ResponseFLJob(retcode=200, reason="success", iteration=3, feature_map=())
TAKEN = ResponseUpdateModel(retcode=200, reason="success not ready")
NOT_READY = ResponseGetModel(retcode=201, reason="not ready", iteration=3, feature_map=())
UPDATE = {"w": np.array([10, 20], np.float32)}


def model(*values: float) -> ResponseGetModel:
    tensor = FeatureMap("w", np.array(values, np.float32))
    return ResponseGetModel(retcode=200, iteration=4, feature_map=(tensor,))


def a_worker(server: Any, **changes: Any) -> CrossSiloWorker:
    patience = {"check_in_patience_s": 0.05, "report_patience_s": 0.05, "model_patience_s": 0.05}
    job = CrossSiloJob("Job", **{"rest_s": 0.001, **patience, **changes})
    return CrossSiloWorker(job, server.link())


def test_worker_ids_name_the_time_and_a_random_number() -> None:
    assert re.fullmatch(
        r"worker_fl_\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d\.\d{3}\.\d{3}::\d{5}", new_worker_id()
    )


def test_a_cycle_checks_in_reports_and_gets_the_model(server) -> None:
    server.script(ADMITTED, TAKEN, NOT_READY, model(1, 2))
    worker = a_worker(server, model_patience_s=5)

    delivered = worker.check_in(32)
    received = worker.exchange(UPDATE, 32)

    assert delivered == {}
    assert received["w"].tolist() == [1, 2]
    assert server.paths == ["/startFLJob", "/updateModel", "/getModel", "/getModel"]
    offer, update, asked = (
        flat.decode(kind, body)
        for kind, (_, body) in zip(
            (RequestFLJob, RequestUpdateModel, RequestGetModel), server.asked, strict=False
        )
    )
    assert (offer.fl_name, offer.fl_id, offer.data_size) == ("Job", worker.id, 32)
    assert (offer.iteration, offer.eval_data_size) == (0, 0)
    assert (update.fl_name, update.fl_id, update.iteration) == ("Job", worker.id, 3)
    assert [(e.weight_fullname, e.data.tolist()) for e in update.feature_map] == [("w", [10, 20])]
    assert (update.upload_loss, update.upload_accuracy, update.signature) == (0, 0, None)
    assert (asked.fl_name, asked.iteration) == ("Job", 3)
    assert all(message.timestamp for message in (offer, update, asked))


def test_the_check_in_delivers_controls(server) -> None:
    control = FeatureMap("control.w", np.array([5], np.float32))
    server.script(ADMITTED._replace(feature_map=(control,)))

    delivered = a_worker(server).check_in(1)

    assert delivered is not None
    assert delivered["control.w"].tolist() == [5]


@pytest.mark.parametrize("code", [201, 300, 400, 500])
def test_any_other_answer_to_the_check_in_ends_the_training(server, code: int) -> None:
    server.script(ResponseFLJob(retcode=code, reason="Current amount has reached"))

    with pytest.raises(
        RuntimeError,
        match=r"^Launching start fl job for worker failed\. Reason: Current amount has reached$",
    ):
        a_worker(server).check_in(1)


@pytest.mark.parametrize("answer", [Closed.DISABLED_OR_FINISHED.value, 500, "nonsense", None])
def test_without_a_valid_answer_to_the_check_in_training_goes_on(
    server, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(answer)

    assert a_worker(server).check_in(1) is None
    assert "could not check in and trains on" in caplog.text


def test_a_check_in_waits_while_the_cluster_is_between_two_rounds(server) -> None:
    server.script(Closed.SAFEMODE.value, None, ADMITTED)

    assert a_worker(server, check_in_patience_s=5).check_in(1) == {}


def test_a_worker_that_could_not_check_in_tries_again_before_it_reports(server) -> None:
    server.script(500)
    worker = a_worker(server, check_in_patience_s=0)
    worker.check_in(7)
    server.answers.clear()
    server.script(ADMITTED, TAKEN, model(1))

    assert worker.exchange(UPDATE, 7)["w"].tolist() == [1]


@pytest.mark.parametrize("answer", [Closed.DISABLED_OR_FINISHED.value, Closed.SAFEMODE.value, 500])
def test_a_report_without_an_answer_is_a_value_error(server, answer: Any) -> None:
    server.script(ADMITTED, answer)
    worker = a_worker(server)
    worker.check_in(1)

    with pytest.raises(ValueError, match=r"^Feature map from getting model is empty!$"):
        worker.exchange(UPDATE, 1)


@pytest.mark.parametrize("code", [300, 400])
def test_a_report_that_is_refused_still_waits_for_the_model(server, code: int) -> None:
    server.script(ADMITTED, ResponseUpdateModel(retcode=code, reason="too late"), model(4))
    worker = a_worker(server)
    worker.check_in(1)

    assert worker.exchange(UPDATE, 1)["w"].tolist() == [4]


def test_an_empty_model_is_asked_for_again_and_silence_is_borne_with(server) -> None:
    empty = ResponseGetModel(retcode=200, feature_map=())
    server.script(ADMITTED, TAKEN, empty, None, "nonsense", Closed.SAFEMODE.value, model(4))
    worker = a_worker(server, model_patience_s=5)
    worker.check_in(1)

    assert worker.exchange(UPDATE, 1)["w"].tolist() == [4]


def test_a_model_that_never_gets_ready_is_a_value_error(server) -> None:
    server.script(ADMITTED, TAKEN, NOT_READY)
    worker = a_worker(server)
    worker.check_in(1)

    with pytest.raises(ValueError, match=r"^Feature map from getting model is empty!$"):
        worker.exchange(UPDATE, 1)


def test_any_other_answer_instead_of_the_model_ends_the_training(server) -> None:
    server.script(ADMITTED, TAKEN, ResponseGetModel(retcode=400, reason="bad schema"))
    worker = a_worker(server)
    worker.check_in(1)

    with pytest.raises(
        RuntimeError, match=r"^Launching get model for worker failed\. Reason: bad schema$"
    ):
        worker.exchange(UPDATE, 1)


def test_servers_with_a_url_prefix_are_found(server) -> None:
    server.script(404, ADMITTED, TAKEN, model(1))
    worker = a_worker(server, url_prefix="/cluster/")
    worker.check_in(1)
    worker.exchange(UPDATE, 1)

    assert server.paths == [
        "/startFLJob",
        "/cluster/startFLJob",
        "/cluster/updateModel",
        "/cluster/getModel",
    ]


def test_a_stopped_worker_waits_for_nothing(server) -> None:
    server.script(ADMITTED, TAKEN, NOT_READY)
    worker = a_worker(server, model_patience_s=100, rest_s=100)
    worker.check_in(1)
    worker.stop()

    with pytest.raises(ValueError, match="Feature map from getting model is empty!"):
        worker.exchange(UPDATE, 1)
