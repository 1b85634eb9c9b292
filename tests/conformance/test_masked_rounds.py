"""Rounds of devices that mask what they upload, from the first key to the exact mean."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from blackbox.cluster import Cluster, until
from blackbox.masking import MaskingDevice, as_bytes, clamped, public
from blackbox.wire import Message, features, pack

LONG = {"w000": [0.5, 0.25, -1.0, 3.0, -0.125], "w001": [2.0, 4.0], "w002": [0.0, 1.0, -2.0]}
PW = (
    "encrypt.encrypt_type=PW_ENCRYPT",
    "encrypt.pw_encrypt.share_secrets_ratio=1.0",
    "encrypt.pw_encrypt.cipher_time_window=20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold=2",
    "round.start_fl_job_threshold=4",
    "round.update_model_ratio=0.75",
)

STEPS = ("exchangeKeys", "getKeys", "shareSecrets", "getSecrets", "updateModel")


def values(seed: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=len(x)).astype(np.float32).tolist() for name, x in LONG.items()}


class Cohort:
    """The devices of one round, each at a server of its own choice."""

    def __init__(self, cluster: Cluster, **facts: Any) -> None:
        self.cluster = cluster
        self.servers = list(range(len(cluster.ports)))
        """Those that devices ask, one or the other."""
        self.devices = [
            MaskingDevice(f"device-{n}", 10 * (n + 1), values(n), **facts) for n in range(4)
        ]

    def __getitem__(self, number: int) -> MaskingDevice:
        return self.devices[number]

    def every(
        self, name: str, make: Callable[[MaskingDevice], bytes], who: Iterable[int]
    ) -> dict[int, Message]:
        """All of them ask at the same time, at either server."""

        def ask(number: int) -> tuple[int, Message]:
            body = make(self[number])
            server = self.servers[(number + len(name)) % len(self.servers)]
            return number, self.cluster.say(name, body, server=server)

        with ThreadPoolExecutor(4) as pool:
            answers = dict(pool.map(ask, who))
        assert {each.retcode for each in answers.values()} <= {200}, answers
        return answers

    def check_in(self, who: Iterable[int] = range(4)) -> None:
        for number, answer in self.every("startFLJob", lambda d: d.check_in(), who).items():
            assert answer.fl_plan_config.cipher.encrypt_type == "PW_ENCRYPT"
            self[number].hear_plan(answer)

    def offer(self, who: Iterable[int] = range(4)) -> None:
        self.every("exchangeKeys", lambda device: device.keys(), who)

    def hear_keys(self, who: Iterable[int] = range(4)) -> None:
        answers = self.every("getKeys", lambda device: device.ask("GetExchangeKeys"), who)
        for number, answer in answers.items():
            self[number].hear_keys(answer)

    def share(self, who: Iterable[int] = range(4)) -> None:
        self.every("shareSecrets", lambda device: device.shares(), who)

    def hear_shares(self, who: Iterable[int] = range(4)) -> None:
        answers = self.every("getSecrets", lambda device: device.ask("GetShareSecrets"), who)
        for number, answer in answers.items():
            self[number].hear_shares(answer)

    def upload(self, who: Iterable[int] = range(4)) -> None:
        self.every("updateModel", lambda device: device.upload(), who)

    def hear_list(self, who: Iterable[int]) -> None:
        answers = self.every("getClientList", lambda device: device.ask("GetClientList"), who)
        assert len({tuple(answer.clients) for answer in answers.values()}) == 1
        for number, answer in answers.items():
            self[number].counted = answer.clients

    def reveal(self, who: Iterable[int]) -> dict[int, Message]:
        return self.every("reconstructSecrets", lambda device: device.reveal(), who)

    def run_to(self, step: str, who: Iterable[int] = range(4)) -> None:
        """Everything up to this step, which those in `who` take and others do not."""
        acts = {
            "exchangeKeys": self.offer,
            "getKeys": self.hear_keys,
            "shareSecrets": self.share,
            "getSecrets": self.hear_shares,
            "updateModel": self.upload,
        }
        self.check_in()
        for name, act in acts.items():
            act(who if name == step else range(4))
            if name == step:
                return

    def mean(self, who: Iterable[int]) -> dict[str, Any]:
        """What the round has to end with when just these are counted."""
        chosen = [self[number] for number in who]
        total = sum(device.data_size for device in chosen)
        return {
            name: sum(
                np.array(device.tensors[name], np.float64) * device.data_size for device in chosen
            )
            / total
            for name in LONG
        }


def assert_mean(cluster: Cluster, cohort: Cohort, who: Iterable[int], number: int = 1) -> None:
    for server in range(len(cluster.ports)):
        found = cluster.model(number, server=server).tensors
        assert found is not None
        for name, expected in cohort.mean(who).items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6)


@pytest.fixture(scope="module")
def masked(started: Callable[..., Cluster]) -> Cluster:
    return started(2, *PW, weights=LONG)


@pytest.fixture
def cohort(masked: Cluster) -> Cohort:
    """Four devices of a round that ends with three updates."""
    masked.fresh(start_fl_job_threshold=4, update_model_ratio=0.75)
    return Cohort(masked)


def test_a_round_of_prompt_devices_takes_two_seconds_and_gives_the_mean(
    masked: Cluster, cohort: Cohort
) -> None:
    began = time.monotonic()

    cohort.run_to("updateModel", range(3))
    cohort.hear_list(range(3))
    cohort.reveal(range(3))
    took_s = time.monotonic() - began

    assert_mean(masked, cohort, range(3))
    assert took_s < 3


def started_again(device: MaskingDevice) -> MaskingDevice:
    """The same device with the keys of a new process."""
    return replace(device, share_key=clamped(), mask_key=clamped(), pair_salt=os.urandom(32))


def test_who_is_started_again_while_keys_are_gathered_is_in_the_mean(
    masked: Cluster, cohort: Cohort
) -> None:
    cohort.check_in()
    cohort.offer(range(2))
    cohort.devices[:2] = [started_again(device) for device in cohort.devices[:2]]
    for who in ((0, 1), (2, 3)):
        cohort.offer(who)
    for step in (cohort.hear_keys, cohort.share, cohort.hear_shares):
        step()
    cohort.upload(range(3))
    cohort.hear_list(range(3))
    cohort.reveal(range(3))

    assert_mean(masked, cohort, range(3))


def test_keys_that_come_in_anew_while_the_last_ones_do_are_the_same_for_everybody(
    masked: Cluster, cohort: Cohort
) -> None:
    cohort.check_in()
    cohort.offer(range(2))
    lives = [started_again(cohort[0]) for _ in range(12)]

    def offer(number: int) -> int:
        device = lives[number] if number < len(lives) else cohort[number - len(lives) + 2]
        return masked.say("exchangeKeys", device.keys(), server=number % 2).retcode

    with ThreadPoolExecutor(14) as pool:
        told = list(pool.map(offer, range(14)))

    assert told[-2:] == [200, 200]
    taken = {public(cohort[0].mask_key)}
    taken |= {public(lives[number].mask_key) for number in range(12) if told[number] == 200}
    found = set()
    for server in (0, 1):
        for device in cohort.devices:
            answer = masked.say("getKeys", device.ask("GetExchangeKeys"), server=server)
            found |= {as_bytes(x.s_pk) for x in answer.remote_publickeys if x.fl_id == "device-0"}
    assert len(found) == 1
    assert found <= taken


@pytest.mark.parametrize(
    ("step", "takers", "helpers"),
    [
        ("getSecrets", (0, 1, 3), (0, 1, 3)),
        ("updateModel", (1, 2, 3), (1, 2, 3)),
        ("updateModel", (0, 1, 2), (0, 1, 2)),
    ],
    ids=["after sharing", "the smallest name vanishes", "the largest name vanishes"],
)
def test_who_vanishes_before_its_update_is_not_in_the_mean(
    masked: Cluster, cohort: Cohort, step: str, takers: tuple[int, ...], helpers: tuple[int, ...]
) -> None:
    cohort.run_to(step, takers)
    if step == "getSecrets":
        cohort.upload(takers)
    cohort.hear_list(helpers)
    cohort.reveal(helpers)

    assert_mean(masked, cohort, takers)


@pytest.mark.parametrize("hears", [(0, 1, 2, 3), (0, 2, 3)], ids=["the list", "nothing"])
def test_who_vanishes_after_its_update_is_in_the_mean(
    masked: Cluster, hears: tuple[int, ...]
) -> None:
    masked.fresh(start_fl_job_threshold=4, update_model_ratio=1.0)
    cohort = Cohort(masked)
    cohort.run_to("updateModel")

    cohort.hear_list(hears)
    cohort.reveal((0, 2, 3))

    assert_mean(masked, cohort, range(4))


def test_the_next_round_starts_from_the_mean_and_is_masked_anew(
    masked: Cluster, cohort: Cohort
) -> None:
    cohort.run_to("updateModel", range(3))
    cohort.hear_list(range(3))
    cohort.reveal(range(3))
    first = masked.model(1).tensors

    again = Cohort(masked, number=2)
    again.check_in()
    assert masked.model(1).tensors == first
    again.offer()
    again.hear_keys()
    again.share()
    again.hear_shares()
    again.upload((0, 2, 3))
    again.hear_list((0, 2, 3))
    again.reveal((0, 2, 3))

    assert_mean(masked, again, (0, 2, 3), number=2)


def test_repeats_are_answered_again_and_change_nothing(masked: Cluster, cohort: Cohort) -> None:
    cohort.check_in()
    for act in (cohort.offer, cohort.hear_keys, cohort.share, cohort.hear_shares):
        act()
        held = dict(cohort[0].held)
        act((0, 1))
        assert not held or cohort[0].held == held
    cohort.upload(range(3))
    cohort.hear_list(range(3))
    cohort.hear_list((0, 1))
    cohort.reveal((0,))
    again = cohort.reveal((0,))[0]
    assert again.reason == "Client has sended messages."
    cohort.reveal((1, 2))

    assert_mean(masked, cohort, range(3))


def test_stragglers_of_a_round_that_is_over_are_not_sent_away(
    masked: Cluster,
) -> None:
    masked.fresh(start_fl_job_threshold=4, update_model_ratio=1.0)
    cohort = Cohort(masked)
    cohort.run_to("updateModel")
    cohort.hear_list((0, 1, 2))
    cohort.reveal((0, 1, 2))
    assert_mean(masked, cohort, range(4))

    cohort.hear_list((3,))
    late = cohort.reveal((3,))[3]

    assert cohort[3].counted == cohort[0].counted
    assert late.reason == "Current amount for ReconstructSecretsKernel is enough."


def test_stragglers_of_the_last_round_are_not_sent_away_either(masked: Cluster) -> None:
    masked.fresh(start_fl_job_threshold=4, update_model_ratio=1.0, fl_iteration_num=1)
    cohort = Cohort(masked)
    cohort.run_to("updateModel")
    cohort.hear_list((0, 1, 2))
    cohort.reveal((0, 1, 2))
    assert_mean(masked, cohort, range(4))

    cohort.hear_list((3,))
    cohort.reveal((3,))

    over = masked.post("exchangeKeys", cohort[3].keys())
    assert over.text == "The server's training job is disabled or finished."


def test_an_update_that_lacks_a_tensor_is_refused_because_masks_would_stay(
    masked: Cluster, cohort: Cohort
) -> None:
    cohort.run_to("getSecrets")
    whole = cohort[0].upload()
    part = cohort[0].upload(feature_map=features({"w000": LONG["w000"]}))

    refused = masked.say("updateModel", part)

    assert refused.retcode == 400
    assert refused.reason.startswith("Verify model feature map failed, retry later at time:")
    assert masked.say("updateModel", whole).retcode == 200
    cohort.upload((1, 2))
    cohort.hear_list(range(3))
    cohort.reveal(range(3))
    assert_mean(masked, cohort, range(3))


def test_only_who_has_read_its_shares_may_upload(masked: Cluster, cohort: Cohort) -> None:
    cohort.run_to("getSecrets", (1, 2, 3))
    late, plain = cohort[0], cohort[0].upload()

    answers = [masked.say("updateModel", plain, server=server) for server in (0, 1)]

    for answer in answers:
        assert (answer.retcode, answer.reason) == (
            300,
            f"fl_id: {late.name} is not in get_secrets_clients. Please retry later.",
        )
        assert int(answer.next_req_time) > time.time() * 1000 + 3_000


def test_a_device_that_lies_about_its_shares_costs_the_round_and_not_the_model(
    masked: Cluster,
) -> None:
    masked.fresh(start_fl_job_threshold=4, update_model_ratio=1.0)
    base = masked.model(0).tensors
    cohort = Cohort(masked)
    cohort.run_to("updateModel")
    cohort.hear_list(range(3))
    cohort[1].counted = [name for name in cohort[1].counted if name != "device-3"]

    cohort.reveal(range(3))

    until(lambda: masked.metrics()[-1]["iterationResult"] == "fail", "the round is given up")
    assert masked.model(1).tensors == base
    assert "stays masked" in masked.log(masked.ports[0]) + masked.log(masked.ports[1])


# -- other jobs ---------------------------------------------------------------------------


def test_devices_whose_masks_run_on_are_unmasked_where_the_job_says_so(
    started: Callable[..., Cluster],
) -> None:
    running = started(1, *PW, "cluster.pw_mask_layout=running", weights=LONG)
    cohort = Cohort(running, restart=False)

    cohort.run_to("updateModel", (0, 1, 3))
    cohort.hear_list((0, 1, 3))
    cohort.reveal((0, 1, 3))

    assert_mean(running, cohort, (0, 1, 3))


def test_with_fewer_sharers_than_offers_devices_may_vanish_at_every_step(
    started: Callable[..., Cluster],
) -> None:
    """Of 10 devices 8 offer keys, 6 share, 4 report and 3 reveal."""
    settings = ("encrypt.pw_encrypt.share_secrets_ratio=0.8", "round.start_fl_job_threshold=10")
    big = started(2, *PW, *settings, "round.update_model_ratio=0.4", weights=LONG)
    cohort = Cohort(big)
    cohort.devices = [MaskingDevice(f"device-{n}", 7 + n, values(n)) for n in range(10)]

    cohort.check_in(range(10))
    cohort.offer(range(8))
    cohort.hear_keys(range(7))
    cohort.share((0, 2, 3, 4, 5, 6))
    cohort.hear_shares((0, 2, 3, 4, 5))
    cohort.upload((0, 2, 4, 5))
    cohort.hear_list((0, 2, 4))
    cohort.reveal((0, 2, 4))

    assert_mean(big, cohort, (0, 2, 4, 5))


def test_a_step_that_too_few_devices_take_ends_the_round_at_its_window(
    started: Callable[..., Cluster],
) -> None:
    hasty = started(1, *PW, "encrypt.pw_encrypt.cipher_time_window=1500", weights=LONG)
    base = hasty.model(0).tensors
    cohort = Cohort(hasty)
    cohort.check_in()
    cohort.offer(range(3))

    held = hasty.say("getKeys", cohort[0].ask("GetExchangeKeys"))

    assert held.retcode == 300
    assert int(held.next_req_time) > time.time() * 1000 + 3_000
    assert hasty.model(1).tensors == base
    assert hasty.metrics()[-1]["iterationResult"] == "fail"


STABLE = (
    "encrypt.encrypt_type=STABLE_PW_ENCRYPT",
    "encrypt.pw_encrypt.share_secrets_ratio=1.0",
    "encrypt.pw_encrypt.cipher_time_window=20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold=1",
    "round.start_fl_job_threshold=4",
)


@pytest.mark.parametrize("mode", ["CLOUD_TRAINING", "FEDERATED_LEARNING"])
def test_masks_of_workers_across_silos_cancel_once_all_have_reported(
    started: Callable[..., Cluster], mode: str
) -> None:
    own = (f"server_mode={mode}", "round.update_model_time_window=2000")
    silos = started(2, *STABLE, *own, weights=LONG)
    base = silos.model(0).tensors
    cohort = Cohort(silos, restart=False, is_alone=True)
    for number, answer in cohort.every("startFLJob", lambda d: d.check_in(), range(4)).items():
        assert answer.fl_plan_config.cipher.encrypt_type == "STABLE_PW_ENCRYPT", number
    cohort.offer()
    cohort.hear_keys()
    cohort.upload()
    assert_mean(silos, cohort, range(4))

    again = Cohort(silos, restart=False, is_alone=True, number=2)
    again.every("startFLJob", lambda device: device.check_in(), range(4))
    again.offer()
    again.hear_keys()
    again.upload(range(3))

    assert silos.model(2).tensors == silos.model(1).tensors != base
    assert silos.metrics()[-1]["iterationResult"] == "fail"
    for path in ("shareSecrets", "getSecrets", "getClientList", "reconstructSecrets"):
        assert silos.post(path, b"x").status == "HTTP/1.1 404 Not Found"


def test_devices_that_share_secrets_take_part_in_a_job_of_silos_too(
    started: Callable[..., Cluster],
) -> None:
    silos = started(2, *PW, "server_mode=CLOUD_TRAINING", weights=LONG)
    cohort = Cohort(silos)
    cohort.run_to("updateModel", range(3))
    cohort.hear_list(range(3))
    cohort.reveal(range(3))

    assert_mean(silos, cohort, range(3))


def kill_server(cluster: Cluster, number: int) -> None:
    port = str(cluster.ports[number])
    assert cluster.processes("fl_cluster.app.cli server", port)
    cluster.kill("fl_cluster.app.cli server", port)


def test_a_round_survives_the_death_of_servers_between_any_two_steps(
    started: Callable[..., Cluster],
) -> None:
    """Two of three servers are killed, one before the updates and one after, and devices go on."""
    dying = started(3, *PW, "cluster.lease_ms=1000", weights=LONG)
    cohort = Cohort(dying)
    cohort.check_in()
    cohort.offer()
    cohort.hear_keys((0, 1))

    kill_server(dying, 0)
    cohort.servers = [1, 2]
    cohort.hear_keys((2, 3))
    cohort.share()
    cohort.hear_shares()
    cohort.upload((0, 1, 3))
    cohort.hear_list((0, 1, 3))
    cohort.reveal((0, 3))

    kill_server(dying, 1)
    cohort.servers = [2]
    cohort.reveal((1,))

    expected = cohort.mean((0, 1, 3))
    found = dying.model(1, server=2).tensors or {}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6)


def test_a_repeat_after_its_server_died_is_known_to_the_others(
    started: Callable[..., Cluster],
) -> None:
    """What a device said to a server that died is said again elsewhere, to the byte."""
    dying = started(2, *PW, "cluster.lease_ms=1000", weights=LONG)
    cohort = Cohort(dying)
    cohort.servers = [0]
    cohort.run_to("getSecrets")
    updates = {number: cohort[number].upload() for number in range(3)}
    for body in updates.values():
        assert dying.say("updateModel", body).retcode == 200
    cohort.hear_list(range(3))
    first = [cohort[number].reveal() for number in range(2)]
    for body in first:
        assert dying.say("reconstructSecrets", body).retcode == 200

    kill_server(dying, 0)
    cohort.servers = [1]

    cohort.hear_list(range(3))
    again = [dying.say("reconstructSecrets", body, server=1).reason for body in first]
    assert again == ["Client has sended messages."] * 2
    assert cohort.reveal((2,))[2].reason == "Success,the secret is reconstructing."
    found = dying.model(1, server=1).tensors or {}
    for name, values in cohort.mean(range(3)).items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6)


def test_a_worker_retrains_the_mean_of_masked_updates_of_a_part_of_the_model(
    started: Callable[..., Cluster],
) -> None:
    """Devices of a hybrid job upload the tensors that they train; masks cancel in those."""
    hybrid = started(2, *PW, "server_mode=HYBRID_TRAINING", weights=LONG)
    cohort = Cohort(hybrid)
    trained = ("w000", "w002")
    for device in cohort.devices:
        device.tensors = {name: device.tensors[name] for name in trained}
    cohort.run_to("updateModel", (0, 1, 3))
    cohort.hear_list((0, 1, 3))
    early = hybrid.say("pullWeight", pack("RequestPullWeight", iteration=1, weight_names=[]))
    assert early.retcode == 201
    cohort.reveal((0, 1, 3))

    asked = pack("RequestPullWeight", iteration=1, weight_names=list(LONG))
    until(lambda: hybrid.say("pullWeight", asked).retcode == 200, "the mean is there")

    found = hybrid.say("pullWeight", asked, server=1).tensors or {}
    chosen = [cohort[number] for number in (0, 1, 3)]
    total = sum(device.data_size for device in chosen)
    for name in trained:
        products = [np.array(d.tensors[name], np.float64) * d.data_size for d in chosen]
        np.testing.assert_allclose(found[name], sum(products) / total, rtol=0, atol=2e-6)
    assert found["w001"] == LONG["w001"]


def test_devices_that_upload_different_tensors_cost_the_round_of_a_hybrid_job(
    started: Callable[..., Cluster],
) -> None:
    hybrid = started(1, *PW, "server_mode=HYBRID_TRAINING", weights=LONG)
    cohort = Cohort(hybrid)
    cohort[1].tensors = {"w000": cohort[1].tensors["w000"]}
    cohort.run_to("updateModel", (0, 1, 3))
    cohort.hear_list((0, 1, 3))

    cohort.reveal((0, 1, 3))

    until(lambda: hybrid.metrics()[-1:] != [], "the round is over")
    assert hybrid.metrics()[-1]["iterationResult"] == "fail"
    assert hybrid.model(1).tensors == LONG
