"""What genuine devices sent, byte for byte, is answered with what they can go on with.

The job takes plain updates, so those of other modes are refused in words that devices know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blackbox.cluster import Cluster
from blackbox.wire import Message, read

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"

NAMES = sorted(path.stem for path in GOLDEN.glob("*_req.bin"))
CHECK_INS = [name for name in NAMES if "startFLJob" in name]
REPORTS = [name for name in NAMES if "updateModel" in name]
DOWNLOADS = [name for name in NAMES if "getModel" in name]
OTHERS = sorted({name.split("_")[-2] for name in NAMES} - {"startFLJob", "updateModel", "getModel"})

TINY = {"fc.bias": [0.0, 0.0, 0.0], "fc.weight": [0.0] * 6}


def captured(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def tensors_of(name: str) -> dict[str, list[float]]:
    return read("RequestUpdateModel", captured(name)).tensors or {}


def shapes(tensors: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [0.0] * len(values) for name, values in tensors.items()}


@pytest.fixture(scope="module")
def device_jobs(started: Callable[..., Cluster]) -> Callable[[str], Cluster]:
    """The job whose model is that of the devices of a capture, started once each."""
    jobs: dict[str, Cluster] = {}

    def find(name: str) -> Cluster:
        plain = "pki_pw__c1__06_updateModel_req" if name.startswith("pki") else NE_REPORT
        if plain not in jobs:
            weights = shapes(tensors_of(plain))
            jobs[plain] = started(1, "cluster.hold_ms=0", weights=weights)
        job = jobs[plain]
        job.fresh(start_fl_job_threshold=4, update_model_ratio=0.25)
        return job

    return find


NE_REPORT = "ne__c1__01_updateModel_req"


@pytest.mark.parametrize("name", CHECK_INS)
def test_a_captured_check_in_is_admitted(device_jobs: Any, name: str) -> None:
    job = device_jobs(name)

    answer = job.say("startFLJob", captured(name))

    assert (answer.retcode, answer.iteration, answer.is_selected) == (200, 1, True)
    assert list(answer.tensors) == list(shapes(job.weights))
    plan = answer.fl_plan_config
    assert plan.server_mode == "FEDERATED_LEARNING"
    assert min(plan.epochs, plan.mini_batch, plan.iterations) > 0
    assert plan.cipher.encrypt_type == "NOT_ENCRYPT"


def check_in_of(name: str) -> str:
    """The check-in of the device that sent an update."""
    mode, device, _ = name.split("__")
    return f"{mode}__{device}__00_startFLJob_req"


@pytest.mark.parametrize("name", REPORTS)
def test_a_captured_update_is_counted_when_it_is_plain_and_told_why_not_otherwise(
    device_jobs: Any, name: str
) -> None:
    job = device_jobs(name)
    body = captured(name)
    sent = read("RequestUpdateModel", body)
    data_size = read("RequestFLJob", captured(check_in_of(name))).data_size
    assert job.say("startFLJob", captured(check_in_of(name))).retcode == 200

    answer = job.say("updateModel", body)

    is_plain = name.startswith(("ne_", "dp_", "det_", "pki_"))
    assert answer.retcode == (200 if is_plain else 400), answer
    if is_plain:
        mean = {key: [x / data_size for x in xs] for key, xs in sent.tensors.items()}
        found = job.model(1).tensors
        assert found.keys() == mean.keys()
        for key, values in mean.items():
            assert found[key] == pytest.approx(values, rel=1e-5, abs=1e-6)
    else:
        expected = f"Verify model feature map failed, retry later at time: {answer.next_req_time}"
        assert answer.reason == expected


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_captured_download_is_answered_with_wait_and_then_with_the_model(
    device_jobs: Any, name: str
) -> None:
    job = device_jobs(name)

    waiting: Message = job.say("getModel", captured(name))

    assert (waiting.retcode, waiting.iteration, waiting.tensors) == (201, 1, {})
    assert job.say("startFLJob", captured("ne__c1__00_startFLJob_req")).retcode == 200
    job.send("client1", 1, shapes(job.weights))
    job.model(1)
    there: Message = job.say("getModel", captured(name))
    assert (there.retcode, there.iteration) == (200, 2)
    assert there.tensors == shapes(job.weights)


@pytest.mark.parametrize("path", OTHERS)
def test_paths_of_modes_that_the_job_does_not_have_are_unknown(device_jobs: Any, path: str) -> None:
    name = next(each for each in NAMES if f"_{path}_" in each)

    reply = device_jobs(name).post(path, captured(name))

    assert reply.status == "HTTP/1.1 404 Not Found"


def test_a_genuine_device_takes_part_in_a_whole_round(device_jobs: Any) -> None:
    """The device's own bytes in its order, and what it reads of the answers."""
    job = device_jobs(NE_REPORT)

    started = job.say("startFLJob", captured("ne__c1__00_startFLJob_req"))
    counted = job.say("updateModel", captured("ne__c1__01_updateModel_req"))
    job.model(1)
    model = job.say("getModel", captured("ne__c1__02_getModel_req"))

    assert [started.retcode, counted.retcode, model.retcode] == [200] * 3
    recorded = read("ResponseGetModel", captured("ne__c1__02_getModel_res"))
    assert recorded.tensors
    for key, values in recorded.tensors.items():
        assert model.tensors[key] == pytest.approx(values, rel=1e-5)
