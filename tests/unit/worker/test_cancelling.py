"""Masks of cross-silo workers: they hide each update, and are gone from the sum of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import PeerProtocolError
from fl_cluster.wire import flat
from fl_cluster.wire.messages import (
    ClientPublicKeys,
    FeatureMap,
    GetExchangeKeys,
    RequestExchangeKeys,
    RequestUpdateModel,
    ResponseExchangeKeys,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
    ReturnExchangeKeys,
)
from fl_cluster.worker.answers import Closed
from fl_cluster.worker.cancelling import CancellingMasks, RoundMask
from fl_cluster.worker.cross_silo import CrossSiloJob, CrossSiloWorker
from fl_cluster.worker.faults import NothingReceived, Refused

NAMES = ["worker_a", "worker_b", "worker_c"]
UPDATE = {"w": np.array([10, 20, 30], np.float32), "b": np.array([1], np.float32)}
ADMITTED = ResponseFLJob(retcode=200, iteration=3, feature_map=())
OFFERED = ResponseExchangeKeys(retcode=200, iteration=3)
TAKEN = ResponseUpdateModel(retcode=200)
MODEL = ResponseGetModel(
    retcode=200, iteration=4, feature_map=(FeatureMap("w", np.ones(3, np.float32)),)
)


def listed(offer: RequestExchangeKeys) -> ClientPublicKeys:
    return ClientPublicKeys(offer.fl_id, None, offer.s_pk, offer.pw_iv, offer.pw_salt)


def list_of(*offers: RequestExchangeKeys) -> ReturnExchangeKeys:
    return ReturnExchangeKeys(retcode=200, remote_publickeys=tuple(map(listed, offers)))


@pytest.fixture
def masks(stream: Any) -> dict[str, RoundMask]:
    return {name: CancellingMasks(stream(name)).begin(name, 3) for name in NAMES}


def test_masks_are_gone_from_the_sum_of_all(masks: dict[str, RoundMask]) -> None:
    keys = list_of(*(mask.offer for mask in masks.values()))

    masked = [mask.add_to(UPDATE, keys) for mask in masks.values()]

    for name, values in UPDATE.items():
        total = sum(update[name].astype(np.float64) for update in masked)
        np.testing.assert_allclose(total, 3 * values, rtol=0, atol=1e-5)
        for update in masked:
            assert update[name].dtype == np.float32
            assert np.all(update[name] != values)
            assert list(update) == list(UPDATE)


def test_the_mask_runs_over_the_tensors_in_the_order_of_their_names(
    masks: dict[str, RoundMask],
) -> None:
    keys = list_of(*(mask.offer for mask in masks.values()))
    zeros = {name: np.zeros_like(values) for name, values in UPDATE.items()}

    apart = masks["worker_a"].add_to(zeros, keys)
    together = masks["worker_a"].add_to({"all": np.zeros(4, np.float32)}, keys)

    assert np.concatenate([apart["b"], apart["w"]]).tobytes() == together["all"].tobytes()


def test_every_round_has_keys_of_its_own() -> None:
    masks = CancellingMasks()

    one, two = masks.begin("a", 3).offer, masks.begin("a", 4).offer

    assert (one.iteration, two.iteration) == (3, 4)
    assert one.s_pk != two.s_pk
    assert one.pw_iv != two.pw_iv
    assert one.pw_salt != two.pw_salt
    assert (one.c_pk, one.ind_iv, one.timestamp) == (None, None, None)


def test_a_list_that_does_not_hide_the_update_is_refused(masks: dict[str, RoundMask]) -> None:
    mine, other, _ = (mask.offer for mask in masks.values())
    mask = masks["worker_a"]
    for keys, told in (
        (list_of(mine), "has no other worker"),
        (list_of(), "does not have the keys that this worker offered"),
        (list_of(other), "does not have the keys that this worker offered"),
        (list_of(mine._replace(s_pk=other.s_pk), other), "does not have the keys that this worker"),
        (list_of(mine, other, other), "names a worker twice"),
        (list_of(mine, other._replace(s_pk=bytes(32))), "expected a public key of 32 bytes"),
        (list_of(mine, other._replace(pw_iv=None)), "expected a vector of 16 bytes .* found 0"),
    ):
        with pytest.raises(PeerProtocolError, match=told):
            mask.add_to(UPDATE, keys)


class Cohort:
    """Answers one worker as a server does, together with another worker that it makes up."""

    def __init__(self, **answers: Any) -> None:
        self.other = CancellingMasks().begin("worker_x", 3)
        self.offers: list[RequestExchangeKeys] = []
        self.updates: list[RequestUpdateModel] = []
        self.answers = answers
        self.waits = 1

    def __call__(self, path: str, body: bytes) -> Any:
        name = path.removeprefix("/")
        if name == "exchangeKeys":
            self.offers.append(flat.decode(RequestExchangeKeys, body))
        if name == "updateModel":
            self.updates.append(flat.decode(RequestUpdateModel, body))
        if name in self.answers:
            return self.answers[name]
        if name == "getKeys":
            asked = flat.decode(GetExchangeKeys, body)
            assert asked.iteration == 3
            self.waits -= 1
            if self.waits >= 0:
                return ReturnExchangeKeys(retcode=201, iteration=3)
            return list_of(self.offers[-1], self.other.offer)
        return {
            "startFLJob": ADMITTED,
            "exchangeKeys": OFFERED,
            "updateModel": TAKEN,
            "getModel": MODEL,
        }[name]


def a_worker(server: Any, cohort: Cohort) -> CrossSiloWorker:
    server.respond = cohort
    job = CrossSiloJob(
        "Job",
        rest_s=0.001,
        check_in_patience_s=0.05,
        report_patience_s=0.05,
        model_patience_s=0.2,
    )
    return CrossSiloWorker(job, server.link(), masks=CancellingMasks())


def test_a_worker_agrees_on_a_mask_before_it_reports(server: Any) -> None:
    cohort = Cohort()
    worker = a_worker(server, cohort)
    worker.check_in(8)

    received = worker.exchange(UPDATE, 8)

    assert received["w"].tolist() == [1, 1, 1]
    assert server.paths == [
        "/startFLJob",
        "/exchangeKeys",
        "/getKeys",
        "/getKeys",
        "/updateModel",
        "/getModel",
    ]
    (sent,) = cohort.updates
    theirs = cohort.other.add_to(UPDATE, list_of(cohort.offers[0], cohort.other.offer))
    for feature in sent.feature_map or ():
        total = np.asarray(feature.data) + theirs[feature.weight_fullname or ""]
        expected = 2 * UPDATE[feature.weight_fullname or ""]
        np.testing.assert_allclose(total, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["exchangeKeys", "getKeys"])
def test_a_round_without_a_place_gets_no_update_and_gives_its_model(
    server: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = ResponseExchangeKeys if name == "exchangeKeys" else ReturnExchangeKeys
    cohort = Cohort(**{name: kind(retcode=300)})
    worker = a_worker(server, cohort)
    worker.check_in(8)

    assert worker.exchange(UPDATE, 8)["w"].tolist() == [1, 1, 1]
    assert cohort.updates == []
    assert "has no part in round 3" in caplog.text


@pytest.mark.parametrize(
    ("answers", "fault", "told"),
    [
        ({"exchangeKeys": ResponseExchangeKeys(retcode=400, reason="no")}, Refused, "keys .*: no"),
        ({"getKeys": ReturnExchangeKeys(retcode=500)}, Refused, "Launching get keys for worker"),
        ({"getKeys": ReturnExchangeKeys(retcode=200)}, Refused, "cannot be masked and stays here"),
        ({"exchangeKeys": Closed.DISABLED_OR_FINISHED.value}, NothingReceived, "is empty"),
        ({"exchangeKeys": 500}, NothingReceived, "is empty"),
        ({"getKeys": ReturnExchangeKeys(retcode=201)}, NothingReceived, "is empty"),
    ],
)
def test_an_update_that_cannot_be_masked_never_leaves(
    server: Any, answers: dict[str, Any], fault: type[Exception], told: str
) -> None:
    cohort = Cohort(**answers)
    worker = a_worker(server, cohort)
    worker.check_in(8)

    with pytest.raises(fault, match=told):
        worker.exchange(UPDATE, 8)

    assert cohort.updates == []
