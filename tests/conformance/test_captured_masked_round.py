"""A round of genuine devices that mask their updates, replayed byte for byte.

Four devices of the published software took part in it; one dropped out after it had shared its
secrets.  What they sent is sent again, in the order of its steps, and the mean is the one that
follows from the updates they began with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blackbox.cluster import Cluster
from blackbox.masking import as_bytes
from blackbox.wire import Message, read

DATA = Path(__file__).resolve().parents[1] / "data"
GOLDEN = DATA / "golden"

STEPS = (
    "startFLJob",
    "exchangeKeys",
    "getKeys",
    "shareSecrets",
    "getSecrets",
    "updateModel",
    "getClientList",
    "reconstructSecrets",
)
REPORTED = ("c2", "c3", "c4")

SETTINGS = (
    "encrypt.encrypt_type=PW_ENCRYPT",
    "encrypt.pw_encrypt.share_secrets_ratio=1.0",
    "encrypt.pw_encrypt.cipher_time_window=20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold=2",
    "round.start_fl_job_threshold=4",
    "round.update_model_ratio=0.75",
)


def captured(device: str, step: str) -> list[bytes]:
    """What the device sent in that step, as often as it had to ask."""
    files = sorted(GOLDEN.glob(f"det__{device}__*_{step}_req.bin"))
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "vectors" / "vectors_pw.json").read_text())
    return found


@pytest.fixture(scope="module")
def replayed(
    started: Callable[..., Cluster], vectors: dict[str, Any]
) -> tuple[Cluster, dict[tuple[str, str], Message]]:
    """The cluster after the round, and what it answered to which device in which step."""
    weights = {name: [0.0] * len(values) for name, values in vectors["base"].items()}
    cluster = started(2, *SETTINGS, weights=weights)
    answers = {}
    for step in STEPS:
        is_late = step in STEPS[5:]
        for number, device in enumerate(REPORTED if is_late else ("c1", *REPORTED)):
            for body in captured(device, step):
                answers[device, step] = cluster.say(step, body, server=number % 2)
    return cluster, answers


def test_every_request_of_the_round_is_taken(replayed: Any) -> None:
    _, answers = replayed

    assert {pair: each.retcode for pair, each in answers.items()} == dict.fromkeys(answers, 200)
    assert len(answers) == 5 * 4 + 3 * 3


def test_the_devices_are_handed_what_they_sent_each_other(
    replayed: Any, vectors: dict[str, Any]
) -> None:
    _, answers = replayed
    clients = vectors["clients"]

    for entry in answers["c3", "getKeys"].remote_publickeys:
        expected = clients[entry.fl_id]
        assert as_bytes(entry.c_pk).hex() == expected["cpk"]
        assert as_bytes(entry.s_pk).hex() == expected["spk"]
        assert as_bytes(entry.pw_iv).hex() == expected["pw_iv"]
        assert as_bytes(entry.pw_salt).hex() == expected["pw_salt"]
    for entry in answers["c3", "getSecrets"].encrypted_shares:
        (body,) = captured(f"c{entry.fl_id[-1]}", "shareSecrets")
        sent = {each.fl_id: each for each in read("RequestShareSecrets", body).encrypted_shares}
        assert as_bytes(entry.share) == as_bytes(sent["client3"].share)
    assert answers["c3", "getClientList"].clients == ["client2", "client3", "client4"]


def test_the_mean_is_that_of_the_updates_that_the_masks_hid(
    replayed: Any, vectors: dict[str, Any]
) -> None:
    cluster, _ = replayed

    found = cluster.model(1).tensors

    assert found.keys() == vectors["aggregate"].keys()
    for name, values in vectors["aggregate"].items():
        assert found[name] == pytest.approx(values, abs=2e-6), name
