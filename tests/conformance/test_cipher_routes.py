"""The routes of masked rounds: every outcome, and which comes first when there are several."""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from blackbox.cluster import Cluster, now_ms, until
from blackbox.masking import MaskingDevice, as_bytes, public
from blackbox.wire import Message, read, table

WEIGHTS = {"w000": [0.5, 0.25, -1.0], "w001": [2.0, 4.0]}
PW = (
    "encrypt.encrypt_type=PW_ENCRYPT",
    "encrypt.pw_encrypt.share_secrets_ratio=1.0",
    "encrypt.pw_encrypt.cipher_time_window=20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold=1",
    "round.start_fl_job_threshold=3",
    "round.update_model_ratio=0.6",
    "cluster.masked_hold_ms=0",
)
PUBLISHED = Path(__file__).resolve().parents[1] / "data" / "answers"
NO_MESSAGE = b"\x05" * 64
NO_TIME = {"timestamp": None}


@pytest.fixture(scope="module")
def masked(started: Callable[..., Cluster]) -> Cluster:
    return started(2, *PW, weights=WEIGHTS)


@pytest.fixture
def cluster(masked: Cluster) -> Cluster:
    """Round 1 of a run for three devices, of which two have to report."""
    masked.fresh(start_fl_job_threshold=3, update_model_ratio=0.6)
    return masked


class Three:
    """Three devices that go through a round as far as a test wants."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.devices = [MaskingDevice(f"c{n}", 8, WEIGHTS) for n in (1, 2, 3)]

    def say(self, name: str, body: bytes, server: int = 0) -> Message:
        return self.cluster.say(name, body, server=server)

    def accept(self, name: str, body: bytes, reason: str | None = None) -> Message:
        answer = self.say(name, body)
        assert answer.retcode == 200, answer
        assert reason is None or answer.reason == reason
        return answer

    def join(self) -> None:
        for device in self.devices:
            device.hear_plan(self.accept("startFLJob", device.check_in()))

    def offer(self) -> None:
        self.join()
        for device in self.devices:
            text = "Success, but the server is not ready yet."
            self.accept("exchangeKeys", device.keys(), text)

    def hear_keys(self) -> None:
        self.offer()
        for device in self.devices:
            device.hear_keys(self.accept("getKeys", device.ask("GetExchangeKeys")))

    def share(self) -> None:
        self.hear_keys()
        for device in self.devices:
            self.accept("shareSecrets", device.shares(), "OK")

    def hear_shares(self) -> None:
        self.share()
        for device in self.devices:
            device.hear_shares(self.accept("getSecrets", device.ask("GetShareSecrets")))

    def upload(self) -> None:
        self.hear_shares()
        for device in self.devices[:2]:
            self.accept("updateModel", device.upload())

    def hear_list(self) -> None:
        self.upload()
        for device in self.devices[:2]:
            ask, text = device.ask("GetClientList"), "send clients_list succeed!"
            device.counted = self.accept("getClientList", ask, text).clients


@pytest.fixture
def three(cluster: Cluster) -> Three:
    return Three(cluster)


def assert_told(answer: Message, code: int, reason: str | None, number: int = 1) -> None:
    """The code and the sentence; getKeys and getSecrets have no place for one."""
    assert answer.retcode == code, answer
    if reason is not None:
        assert answer.reason == reason
    assert answer.iteration == number
    assert int(answer.next_req_time) > now_ms() + 3_000


# -- which form a request has ------------------------------------------------------------

SCHEMAS = {
    "exchangeKeys": "The schema of RequestExchangeKeys is invalid.",
    "getKeys": None,
    "shareSecrets": "The schema of RequestShareSecrets is invalid.",
    "getSecrets": None,
    "getClientList": "The schema of GetClientList is invalid.",
    "reconstructSecrets": "The schema of SendReconstructSecret is invalid.",
}
TABLES = {
    "exchangeKeys": "RequestExchangeKeys",
    "getKeys": "GetExchangeKeys",
    "shareSecrets": "RequestShareSecrets",
    "getSecrets": "GetShareSecrets",
    "getClientList": "GetClientList",
    "reconstructSecrets": "SendReconstructSecret",
}
LISTS = {
    "getKeys": "remote_publickeys",
    "getSecrets": "encrypted_shares",
}


def assert_refused(answer: Message, name: str, code: int, reason: str | None) -> None:
    """Whether there is a list and it is empty, or there is none, is as it always was."""
    assert_told(answer, code, reason)
    if name == "getClientList":
        assert answer.clients == []
    elif name in LISTS:
        assert getattr(answer, LISTS[name]) is None


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_no_message_is_told_so(three: Three, name: str) -> None:
    assert_refused(three.say(name, NO_MESSAGE), name, 400, SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_request_of_nobody_is_no_message_either(three: Three, name: str) -> None:
    body = MaskingDevice("x", 1, {}).ask(TABLES[name], fl_id=None)

    assert_refused(three.say(name, body), name, 400, SCHEMAS[name])


@pytest.mark.parametrize("name", ["pushListSign", "getListSign"])
def test_routes_of_devices_with_certificates_are_not_there_without(
    cluster: Cluster, name: str
) -> None:
    assert cluster.post(name, NO_MESSAGE).status == "HTTP/1.1 404 Not Found"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_request_without_a_body_is_told_so(cluster: Cluster, name: str) -> None:
    reply = cluster.post(name, b"")

    assert reply.status == "HTTP/1.1 400 Client"
    assert reply.body == b'{"code":"1","error_message":"Get post message failed"}'


OTHER_ROUNDS = {
    "exchangeKeys": (300, "iter num is error."),
    "getKeys": (300, None),
    "shareSecrets": (300, "ShareSecretsKernel iteration invalid"),
    "getSecrets": (300, None),
    "getClientList": (300, "iter num is error."),
    "reconstructSecrets": (
        200,
        "Success, but the server is not ready to reconstruct secret yet.",
    ),
}


@pytest.mark.parametrize("number", [9, 0, -1, 2])
@pytest.mark.parametrize("name", OTHER_ROUNDS)
def test_the_number_of_another_round_is_refused_before_the_device(
    three: Three, name: str, number: int
) -> None:
    three.join()
    for device in ("c1", "zz"):
        body = MaskingDevice(device, 1, {}, number=number).ask(TABLES[name])

        assert_refused(three.say(name, body), name, *OTHER_ROUNDS[name])


# -- exchangeKeys ------------------------------------------------------------------------

NOT_SET = "devices_meta for {} is not set. Please retry later."
NO_KEYS = "update key or client failed"


def test_keys_of_a_device_that_did_not_check_in_are_refused(three: Three) -> None:
    stranger = MaskingDevice("zz", 1, {})
    assert_told(three.say("exchangeKeys", stranger.keys()), 300, NOT_SET.format("zz"))
    three.join()

    for body in (stranger.keys(), stranger.ask("RequestExchangeKeys")):
        for server in (0, 1):
            assert_told(three.say("exchangeKeys", body, server), 300, NOT_SET.format("zz"))


UNFIT: dict[str, dict[str, Any]] = {
    "no key for shares": {"c_pk": None},
    "no key for masks": {"s_pk": None},
    "a short key": {"s_pk": [1] * 31},
    "a long key": {"c_pk": [1] * 33},
    "a key that makes every secret zero": {"s_pk": [0] * 32},
    "another that does": {"c_pk": [1] + [0] * 31},
    "no vector of its own": {"ind_iv": None},
    "no vector for pairs": {"pw_iv": None},
    "a long vector": {"pw_iv": [1] * 17},
    "no salt": {"pw_salt": None},
    "an empty salt": {"pw_salt": []},
}


@pytest.mark.parametrize("fields", UNFIT.values(), ids=UNFIT)
def test_keys_that_nobody_could_use_are_refused_and_good_ones_taken_after(
    three: Three, fields: dict[str, Any]
) -> None:
    three.join()
    device = three.devices[0]

    assert_told(three.say("exchangeKeys", device.keys(**fields)), 300, NO_KEYS)

    three.accept("exchangeKeys", device.keys())


def test_no_further_fields_is_no_keys(three: Three) -> None:
    three.join()

    answer = three.say("exchangeKeys", three.devices[0].ask("RequestExchangeKeys"))

    assert_told(answer, 300, NO_KEYS)


def test_keys_without_a_timestamp_are_an_inner_error_and_good_ones_taken_after(
    three: Three,
) -> None:
    three.join()
    device = three.devices[0]

    response = three.cluster.post("exchangeKeys", device.keys(timestamp=None))

    assert (response.status, response.body) == ("HTTP/1.1 200 OK", b"An inner error occurred")
    three.accept("exchangeKeys", device.keys())


def test_after_the_keys_a_timestamp_is_needed_only_where_devices_sign(three: Three) -> None:
    three.offer()

    three.accept("getKeys", three.devices[0].ask("GetExchangeKeys", timestamp=None))


KNOWN = "The server has received the request, please do not request again."


def restarted(device: MaskingDevice) -> MaskingDevice:
    """The device after its process has ended: its keys are new."""
    return MaskingDevice(device.name, 8, WEIGHTS)


def test_the_same_keys_again_are_known(three: Three) -> None:
    three.join()
    device = three.devices[0]
    three.accept("exchangeKeys", device.keys())

    for server in (0, 1):
        assert_told(three.say("exchangeKeys", device.keys(), server), 200, KNOWN)


def test_keys_that_come_several_times_at_once_are_known(three: Three) -> None:
    """As those of a device whose connection broke: its HTTP client sends the request again."""
    three.join()
    bodies = [device.keys() for device in three.devices for _ in range(5)]
    bodies += [restarted(three.devices[0]).keys()] * 5

    def offer(number: int) -> int:
        return three.say("exchangeKeys", bodies[number], number % 2).retcode

    with ThreadPoolExecutor(10) as pool:
        told = list(pool.map(offer, range(len(bodies))))

    assert set(told[5:15]) == {200}  # of the first device one or the other set of keys is taken
    answer = three.accept("getKeys", three.devices[1].ask("GetExchangeKeys"))
    assert [each.fl_id for each in answer.remote_publickeys] == ["c1", "c2", "c3"]


def test_a_device_that_comes_back_with_new_keys_goes_on_with_these(three: Three) -> None:
    three.join()
    first, *others = three.devices
    three.accept("exchangeKeys", first.keys())
    for server in (0, 1):
        first = three.devices[0] = restarted(first)
        for _ in range(2):
            assert_told(three.say("exchangeKeys", first.keys(), server), 200, KNOWN)
    assert three.say("getKeys", first.ask("GetExchangeKeys")).retcode == 201

    for device in others:
        three.accept("exchangeKeys", device.keys())

    for server in (0, 1):
        for device in three.devices:
            answer = three.say("getKeys", device.ask("GetExchangeKeys"), server)
            found = {each.fl_id: each for each in answer.remote_publickeys}
            assert as_bytes(found["c1"].s_pk) == public(first.mask_key)
            assert as_bytes(found["c1"].pw_salt) == first.pair_salt


def test_new_keys_that_nobody_could_use_do_not_take_the_place_of_good_ones(three: Three) -> None:
    three.join()
    device = three.devices[0]
    three.accept("exchangeKeys", device.keys())

    for fields in UNFIT.values():
        answer = three.say("exchangeKeys", restarted(device).keys(**fields))
        assert_told(answer, 300, NO_KEYS)

    assert_told(three.say("exchangeKeys", device.keys()), 200, KNOWN)


ENOUGH_KEYS = "Current amount for exchangeKey is enough. Please retry later."


def test_enough_keys_are_told_before_anything_else_but_not_to_who_is_among_them(
    three: Three,
) -> None:
    three.offer()
    late = MaskingDevice("zz", 1, {})

    for server in (0, 1):
        bodies = (NO_MESSAGE, late.keys(), late.ask("RequestExchangeKeys", iteration=9))
        for body in bodies:
            assert_told(three.say("exchangeKeys", body, server), 300, ENOUGH_KEYS)
        assert_told(three.say("exchangeKeys", three.devices[0].keys(), server), 200, KNOWN)


def test_nobody_gets_new_keys_in_once_all_are_there(three: Three) -> None:
    """Others may have read those that are there."""
    three.offer()
    device = three.devices[0]
    other = restarted(device)

    for server in (0, 1):
        for body in (other.keys(), other.keys(s_pk=None), other.ask("RequestExchangeKeys")):
            assert_told(three.say("exchangeKeys", body, server), 300, ENOUGH_KEYS)
        answer = three.say("getKeys", device.ask("GetExchangeKeys"), server)
        [entry] = [each for each in answer.remote_publickeys if each.fl_id == device.name]
        assert as_bytes(entry.s_pk) == public(device.mask_key)


# -- getKeys -----------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["c1", "zz"])
def test_keys_are_not_there_before_all_are(three: Three, device: str) -> None:
    three.join()
    three.accept("exchangeKeys", three.devices[0].keys())

    answer = three.say("getKeys", MaskingDevice(device, 1, {}).ask("GetExchangeKeys"))

    assert_refused(answer, "getKeys", 201, None)


def test_who_offered_no_keys_gets_none(three: Three) -> None:
    three.offer()

    answer = three.say("getKeys", MaskingDevice("zz", 1, {}).ask("GetExchangeKeys"))

    assert_refused(answer, "getKeys", 400, None)


def test_everybody_gets_all_keys_in_one_order_and_as_often_as_it_asks(three: Three) -> None:
    three.offer()

    answers = [
        three.say("getKeys", device.ask("GetExchangeKeys"), server)
        for device in three.devices
        for server in (0, 1, 0)
    ]

    for answer in answers:
        assert (answer.retcode, answer.iteration) == (200, 1)
        found = {each.fl_id: each for each in answer.remote_publickeys}
        assert list(found) == ["c1", "c2", "c3"]
        for device in three.devices:
            entry = found[device.name]
            assert bytes(entry.pw_iv) == device.pair_vector
            assert bytes(entry.pw_salt) == device.pair_salt
            unsigned = (entry.timestamp, entry.iteration, entry.signature, entry.certificate_chain)
            assert unsigned == (None, 0, None, None)


# -- shareSecrets ------------------------------------------------------------------------

NO_READER = "client share secret is not in getkeys list. && client is illegal"
NO_SHARES = "update client of shares and shares failed"


def test_shares_of_a_device_that_has_no_keys_are_refused(three: Three) -> None:
    three.join()
    device = three.devices[0]
    for body in (
        device.ask("RequestShareSecrets"),
        MaskingDevice("zz", 1, {}).ask(TABLES["shareSecrets"]),
    ):
        assert_told(three.say("shareSecrets", body), 400, NO_READER)
    for each in three.devices:
        three.accept("exchangeKeys", each.keys())
    device.hear_keys(three.accept("getKeys", device.ask("GetExchangeKeys")))

    hasty = three.devices[1]
    hasty.others = {name: device.others.get(name) for name in ("c1", "c3")}  # type: ignore[misc]
    answer = three.say("shareSecrets", hasty.ask("RequestShareSecrets"))

    assert_told(answer, 400, NO_READER)


def sealed(*names: str, share: list[int] | None = None) -> list[Any]:
    given = {} if share is None else {"share": share}
    return [table("ClientShare", fl_id=name, **given) for name in names]


UNFIT_SHARES: dict[str, Any] = {
    "no list": None,
    "an empty list": [],
    "one device gets none": sealed("c2", share=[1] * 96),
    "a share without bytes": [*sealed("c2", share=[1] * 96), *sealed("c3")],
    "an empty share": [*sealed("c2", share=[1] * 96), *sealed("c3", share=[])],
    "a share without end": sealed("c2", "c3", share=[1] * 4_000),
}


@pytest.mark.parametrize("shares", UNFIT_SHARES.values(), ids=UNFIT_SHARES)
def test_shares_that_would_not_do_are_refused_and_good_ones_taken_after(
    three: Three, shares: Any
) -> None:
    three.hear_keys()
    device = three.devices[0]

    answer = three.say("shareSecrets", device.shares(encrypted_shares=shares))

    assert_told(answer, 300, NO_SHARES)
    three.accept("shareSecrets", device.shares(), "OK")


def test_shares_come_once(three: Three) -> None:
    three.hear_keys()
    device = three.devices[0]
    three.accept("shareSecrets", device.shares(), "OK")

    for server in (0, 1):
        again = three.say("shareSecrets", device.shares(), server)
        assert (again.retcode, again.reason) == (200, "client sharesecret already exists.")


def test_enough_shares_are_told_before_the_form(three: Three) -> None:
    three.share()
    late = MaskingDevice("zz", 1, {}).ask("RequestShareSecrets")

    for server in (0, 1):
        for body in (NO_MESSAGE, late):
            answer = three.say("shareSecrets", body, server)
            assert_told(answer, 300, "Current amount for ShareSecretsKernel is enough.")
        again = three.say("shareSecrets", three.devices[0].shares(), server)
        assert again.retcode == 200


# -- getSecrets --------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["c1", "zz"])
def test_shares_are_not_there_before_all_are(three: Three, device: str) -> None:
    three.hear_keys()
    three.accept("shareSecrets", three.devices[0].shares())

    answer = three.say("getSecrets", MaskingDevice(device, 1, {}).ask("GetShareSecrets"))

    assert_refused(answer, "getSecrets", 201, None)


def test_who_shared_nothing_gets_nothing(three: Three) -> None:
    three.share()

    answer = three.say("getSecrets", MaskingDevice("zz", 1, {}).ask("GetShareSecrets"))

    assert_refused(answer, "getSecrets", 400, None)


def test_a_device_gets_what_others_sealed_for_it_as_often_as_it_asks(three: Three) -> None:
    three.share()

    for server in (0, 1, 0):
        answer = three.say("getSecrets", three.devices[0].ask("GetShareSecrets"), server)
        assert (answer.retcode, answer.iteration) == (200, 1)
        assert [each.fl_id for each in answer.encrypted_shares] == ["c2", "c3"]


# -- getClientList -----------------------------------------------------------------------

NOT_READY = "The server is not ready."


@pytest.mark.parametrize("device", ["c1", "zz"])
def test_the_list_is_not_there_before_all_have_reported(three: Three, device: str) -> None:
    three.hear_shares()
    three.accept("updateModel", three.devices[0].upload())

    answer = three.say("getClientList", MaskingDevice(device, 1, {}).ask("GetClientList"))

    assert_refused(answer, "getClientList", 201, NOT_READY)


@pytest.mark.parametrize("device", ["c3", "zz"])
def test_who_is_not_in_the_list_does_not_get_it(three: Three, device: str) -> None:
    three.upload()

    answer = three.say("getClientList", MaskingDevice(device, 1, {}).ask("GetClientList"))

    text = f"fl_id: {device} is not in the update_model_clients"
    assert_refused(answer, "getClientList", 400, text)


def test_the_list_is_the_same_for_all_as_often_as_they_ask(three: Three) -> None:
    three.upload()

    for device in three.devices[:2]:
        for server in (0, 1, 0):
            answer = three.say("getClientList", device.ask("GetClientList"), server)
            assert (answer.retcode, answer.reason) == (200, "send clients_list succeed!")
            assert answer.clients == ["c1", "c2"]


# -- reconstructSecrets ------------------------------------------------------------------

TAKEN = "Success, but the server is not ready to reconstruct secret yet."
NO_UPDATE = "The client is not in update model client list."


@pytest.mark.parametrize("device", ["c1", "zz"])
def test_what_is_revealed_too_early_is_not_taken_and_not_refused(three: Three, device: str) -> None:
    three.hear_shares()

    answer = three.say(
        "reconstructSecrets", MaskingDevice(device, 1, {}).ask(TABLES["reconstructSecrets"])
    )

    assert_told(answer, 200, TAKEN)


def test_who_has_not_read_the_list_is_told_so(three: Three) -> None:
    three.upload()
    reader, hasty, other = three.devices
    for each in (reader, hasty):
        each.counted = ["c1", "c2"]

    for body in (hasty.reveal(), hasty.ask("SendReconstructSecret")):
        text = "The client c2 is not in get clients list, but in update model client list."
        assert_told(three.say("reconstructSecrets", body), 200, text)
    for body in (other.reveal(), MaskingDevice("zz", 1, {}).ask("SendReconstructSecret")):
        assert_told(three.say("reconstructSecrets", body), 400, NO_UPDATE)


def revealed(*names: str, **fields: Any) -> list[Any]:
    given = {"share": [7], "index": 1} | fields
    given = {name: value for name, value in given.items() if value is not None}
    return [table("ClientShare", fl_id=name, **given) for name in names]


UNFIT_REVEALS: dict[str, Any] = {
    "no list": None,
    "an empty list": [],
    "one is missing": revealed("c2"),
    "no bytes": revealed("c2", "c3", share=None),
    "no index": revealed("c2", "c3", index=0),
    "too long for the field": revealed("c2", "c3", share=[1] * 34),
    "beyond the prime": revealed("c2", "c3", share=[255] * 33),
}


@pytest.mark.parametrize("shares", UNFIT_REVEALS.values(), ids=UNFIT_REVEALS)
def test_what_cannot_be_a_share_does_not_take_the_place_of_one(three: Three, shares: Any) -> None:
    three.hear_list()
    device = three.devices[0]

    answer = three.say("reconstructSecrets", device.reveal(reconstruct_secret_shares=shares))

    assert_told(answer, 300, "reconstruct update shares or client failed.")
    assert three.say("reconstructSecrets", device.reveal()).reason == TAKEN


def test_shares_are_taken_once_and_the_last_says_so(three: Three) -> None:
    three.hear_list()
    first, last, other = three.devices

    assert_told(three.say("reconstructSecrets", first.reveal()), 200, TAKEN)
    again = three.say("reconstructSecrets", first.reveal(), 1)
    assert_told(again, 200, "Client has sended messages.")
    answer = three.say("reconstructSecrets", last.reveal(), 1)
    assert (answer.retcode, answer.reason) == (200, "Success,the secret is reconstructing.")

    three.cluster.model(1)
    enough = "Current amount for ReconstructSecretsKernel is enough."
    assert_told(three.say("reconstructSecrets", first.reveal()), 200, enough, 2)
    assert_told(three.say("reconstructSecrets", other.reveal()), 200, TAKEN, 2)


# -- as the published server answered ----------------------------------------------------

with (PUBLISHED / "answers.tsv").open(encoding="ascii") as lines:
    ANSWERS = {
        (name, case): bytes.fromhex(body) for name, case, body in csv.reader(lines, "excel-tab")
    }
RESPONSES = {
    "exchangeKeys": "ResponseExchangeKeys",
    "getKeys": "ReturnExchangeKeys",
    "shareSecrets": "ResponseShareSecrets",
    "getSecrets": "ReturnShareSecrets",
    "getClientList": "ReturnClientList",
    "reconstructSecrets": "ReconstructSecret",
}


def asked_in(name: str, case: str) -> bytes:
    device = "zz" if case.startswith("an unknown device") else "c1"
    number = 9 if case.endswith("iteration 9") else 1
    message = MaskingDevice(device, 1, {}, number=number).ask(TABLES[name])
    return NO_MESSAGE if case == "no FlatBuffer" else message


def fields(name: str, body: bytes) -> dict[str, Any]:
    """What the answer says; when to come back is another time each time."""
    found = read(RESPONSES[name], body).fields
    assert int(found["nextReqTime"]) > 0
    return found | {"nextReqTime": "a time"}


@pytest.mark.parametrize(("name", "case"), ANSWERS, ids=[": ".join(key) for key in ANSWERS])
def test_an_answer_has_the_fields_of_the_published_servers_and_the_same_in_them(
    three: Three, name: str, case: str
) -> None:
    """What is absent there is absent here, and what is empty there is empty here."""
    three.join()

    reply = three.cluster.post(name, asked_in(name, case))

    assert fields(name, reply.body) == fields(name, ANSWERS[name, case])


# -- all together ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_disabled_job_is_told_in_plain_text(cluster: Cluster, name: str) -> None:
    cluster.grant("/disableFLS")
    try:
        body = MaskingDevice("c1", 1, {}).ask(TABLES[name])
        text = b"The server's training job is disabled or finished."
        until(lambda: cluster.post(name, body).body == text, "devices are told")
    finally:
        cluster.grant("/enableFLS")


def test_the_plan_says_how_to_mask(three: Three) -> None:
    plan = three.accept("startFLJob", three.devices[0].check_in()).fl_plan_config

    params = plan.cipher.pw_params
    assert (plan.cipher.encrypt_type, params.t, params.g) == ("PW_ENCRYPT", 1, 1)
    assert bytes(params.p) == bytes(32)
    prime = int.from_bytes(bytes(params.prime), "big")
    assert (len(params.prime), prime) == (33, 2**264 - 275)


def test_an_update_whose_device_has_not_read_its_shares_comes_after_its_content(
    three: Three,
) -> None:
    three.share()
    device = three.devices[0]

    plain = three.say("updateModel", device.upload())
    unfit = three.say("updateModel", device.upload(feature_map=[]))

    text = "fl_id: c1 is not in get_secrets_clients. Please retry later."
    assert (plain.retcode, plain.reason) == (300, text)
    assert unfit.reason.startswith("Verify model feature map failed, retry later at time: ")


def test_a_device_whose_clock_is_fast_is_told_a_time_by_its_own_clock(three: Three) -> None:
    ahead = str(now_ms() + 3_600_000)
    body = MaskingDevice("zz", 1, {}).keys(timestamp=ahead)

    answer = three.say("exchangeKeys", body)

    assert int(answer.next_req_time) > int(ahead)


def test_an_answer_is_one_message_and_nothing_behind_it(three: Three) -> None:
    reply = three.cluster.post(
        "reconstructSecrets", MaskingDevice("zz", 1, {}).ask(TABLES["reconstructSecrets"])
    )

    assert read("ReconstructSecret", reply.body).retcode == 200
    assert len(reply.body) < 160
