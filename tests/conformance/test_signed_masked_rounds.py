"""Masked rounds of devices that prove who they are: every request is signed, and so is the list."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from blackbox.cluster import Cluster, now_ms
from blackbox.masking import MaskingDevice, as_bytes, clamped, public
from blackbox.wire import Message, pack, read
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

WEIGHTS = {"w000": [0.5, 0.25, -1.0], "w001": [2.0, 4.0]}
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)

BAD_SIGNATURE = "verify signature failed."
BAD_TIME = "verify signature timestamp failed or cannot find its key attestation."


class SigningDevice(MaskingDevice):
    """A device with a key, the chain of its certificates, and an id that follows from it."""

    chain: Any

    @classmethod
    def of(cls, chain: Any, data_size: int, tensors: Any) -> SigningDevice:
        name = hashlib.sha256(chain.pem[1].encode()).hexdigest()
        made = cls(name, data_size, tensors)
        made.chain = chain
        return made

    def sign(self, text: bytes) -> list[int]:
        return list(self.chain.key.sign(text, PSS, hashes.SHA256()))

    def check_in(self) -> bytes:
        timestamp = str(now_ms())
        return pack(
            "RequestFLJob",
            fl_name="x",
            fl_id=self.name,
            data_size=self.data_size,
            timestamp=timestamp,
            sign_data=self.sign(f"{self.name} {timestamp}".encode()),
            key_attestation=self.chain.pem[0],
            equip_cert=self.chain.pem[1],
            equip_ca_cert=self.chain.pem[2],
        )

    def ask(self, table_name: str, **fields: Any) -> bytes:
        timestamp = str(fields.pop("timestamp", now_ms()))
        before = b""
        if table_name == "RequestExchangeKeys":
            before = public(self.share_key) + public(self.mask_key)
        signed = self.sign(before + f"{timestamp}{self.number}".encode())
        field = "req_signature" if table_name == "SendClientListSign" else "signature"
        return super().ask(table_name, **{"timestamp": timestamp, field: signed} | fields)

    def keys(self, **fields: Any) -> bytes:
        ders = [each.public_bytes(Encoding.DER) for each in self.chain.certificates[:2]]
        certificates = [base64.b64encode(der).decode() for der in ders]
        return super().keys(**{"certificate_chain": certificates} | fields)

    def upload(self, **fields: Any) -> bytes:
        timestamp = str(now_ms())
        signed = self.sign(f"{timestamp}{self.number}".encode())
        return super().upload(**{"timestamp": timestamp, "signature": signed} | fields)

    def confirm(self, **fields: Any) -> bytes:
        signature = self.sign(self.list_digest())
        return self.ask("SendClientListSign", **{"signature": signature} | fields)


@pytest.fixture(scope="module")
def masked(
    started: Callable[..., Cluster], device_authority: Any, tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    folder = tmp_path_factory.mktemp("trust")
    root = folder / "root.pem"
    root.write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    return started(
        2,
        "encrypt.encrypt_type=PW_ENCRYPT",
        "encrypt.pw_encrypt.share_secrets_ratio=1.0",
        "encrypt.pw_encrypt.cipher_time_window=20000",
        "encrypt.pw_encrypt.reconstruct_secrets_threshold=2",
        "round.start_fl_job_threshold=4",
        "round.update_model_ratio=0.75",
        "cluster.masked_hold_ms=0",
        "client_verify.pki_verify=true",
        f"client_verify.root_first_ca_path={root}",
        f"client_verify.root_second_ca_path={root}",
        "client_verify.replay_attack_time_diff=60000",
        weights=WEIGHTS,
    )


@pytest.fixture(scope="module")
def chains(device_authority: Any) -> list[Any]:
    return [device_authority.device(f"phone-{n}") for n in range(5)]


class Signed:
    """Four devices in a round, as far as a test wants; the fourth never reports."""

    def __init__(self, cluster: Cluster, chains: list[Any]) -> None:
        cluster.fresh(start_fl_job_threshold=4, update_model_ratio=0.75)
        self.cluster = cluster
        self.stranger = SigningDevice.of(chains[4], 8, WEIGHTS)
        self.devices = [
            SigningDevice.of(chain, 8 * (n + 1), {"w000": [n, -n, 0.5], "w001": [1.0, n]})
            for n, chain in enumerate(chains[:4])
        ]

    def say(self, name: str, body: bytes, server: int = 0) -> Message:
        return self.cluster.say(name, body, server=server)

    def accept(self, name: str, body: bytes, server: int = 0) -> Message:
        answer = self.say(name, body, server)
        assert answer.retcode == 200, answer
        return answer

    def join(self) -> Signed:
        for device in self.devices:
            device.hear_plan(self.accept("startFLJob", device.check_in()))
        return self

    def offer(self) -> Signed:
        self.join()
        for device in self.devices:
            self.accept("exchangeKeys", device.keys())
        return self

    def upload(self) -> Signed:
        self.offer()
        for device in self.devices:
            device.hear_keys(self.accept("getKeys", device.ask("GetExchangeKeys"), 1))
        for device in self.devices:
            self.accept("shareSecrets", device.shares(), 1)
        for device in self.devices:
            device.hear_shares(self.accept("getSecrets", device.ask("GetShareSecrets")))
        for device in self.devices[:3]:
            self.accept("updateModel", device.upload(), 1)
        return self

    def hear_list(self) -> Signed:
        self.upload()
        for device in self.devices[:3]:
            device.counted = self.accept("getClientList", device.ask("GetClientList")).clients
        return self

    def confirm(self) -> Signed:
        self.hear_list()
        for number, device in enumerate(self.devices[:3]):
            self.accept("pushListSign", device.confirm(), number % 2)
        return self


@pytest.fixture
def signed(masked: Cluster, chains: list[Any]) -> Signed:
    return Signed(masked, chains)


def assert_told(answer: Message, code: int, reason: str) -> None:
    assert (answer.retcode, answer.reason) == (code, reason)
    assert int(answer.next_req_time) > now_ms() + 3_000


def test_a_whole_round_with_a_signed_list_gives_the_mean(signed: Signed) -> None:
    signed.confirm()
    for device in signed.devices[:3]:
        asked = device.ask("RequestAllClientListSign")
        answer = signed.accept("getListSign", asked, 1)
        assert answer.reason == "send update model client list signature success. "
        found = {each.fl_id: as_bytes(each.signature) for each in answer.client_list_sign}
        assert sorted(found) == list(found) == sorted(device.counted)
        for peer in signed.devices[:3]:
            key = peer.chain.certificates[0].public_key()
            key.verify(found[peer.name], device.list_digest(), PSS, hashes.SHA256())
    for device in signed.devices[:3]:
        signed.accept("reconstructSecrets", device.reveal())

    model = signed.cluster.model(1).tensors or {}

    total = sum(device.data_size for device in signed.devices[:3])
    for name, values in model.items():
        products = [np.array(d.tensors[name]) * d.data_size for d in signed.devices[:3]]
        np.testing.assert_allclose(values, sum(products) / total, atol=2e-6)


def test_keys_go_out_with_what_proves_whose_they_are(signed: Signed) -> None:
    signed.offer()

    assert_keys_are_proved(signed)


def assert_keys_are_proved(signed: Signed) -> None:
    for device in signed.devices:
        answer = signed.accept("getKeys", device.ask("GetExchangeKeys"))
        assert answer.iteration == 1
        for entry in answer.remote_publickeys:
            (peer,) = [each for each in signed.devices if each.name == entry.fl_id]
            assert as_bytes(entry.s_pk) == public(peer.mask_key)
            text = as_bytes(entry.c_pk) + as_bytes(entry.s_pk)
            text += f"{entry.timestamp}{entry.iteration}".encode()
            key = peer.chain.certificates[0].public_key()
            key.verify(as_bytes(entry.signature), text, PSS, hashes.SHA256())
            ders = [each.public_bytes(Encoding.DER) for each in peer.chain.certificates[:2]]
            assert [base64.b64decode(each) for each in entry.certificate_chain] == ders


ROUTES = {
    "exchangeKeys": "RequestExchangeKeys",
    "getKeys": "GetExchangeKeys",
    "shareSecrets": "RequestShareSecrets",
    "getSecrets": "GetShareSecrets",
    "getClientList": "GetClientList",
    "pushListSign": "SendClientListSign",
    "getListSign": "RequestAllClientListSign",
    "reconstructSecrets": "SendReconstructSecret",
}


def assert_refused(answer: Message, code: int, reason: str) -> None:
    assert answer.retcode == code, answer
    if "reason" in vars(answer._held):
        assert answer.reason == reason


@pytest.mark.parametrize("name", ROUTES)
def test_a_signature_that_is_not_the_devices_is_refused_before_its_round(
    signed: Signed, name: str
) -> None:
    signed.join()
    device, other = signed.devices[:2]
    field = "req_signature" if name == "pushListSign" else "signature"
    foreign = other.sign(b"anything")

    for signature in (None, [], foreign):
        body = device.ask(ROUTES[name], **{field: signature})
        assert_refused(signed.say(name, body), 400, BAD_SIGNATURE)
        device.number = 9
        assert_refused(
            signed.say(name, device.ask(ROUTES[name], **{field: signature})), 400, BAD_SIGNATURE
        )
        device.number = 1


@pytest.mark.parametrize("name", ROUTES)
def test_an_old_signature_and_one_of_a_stranger_are_refused_with_a_time(
    signed: Signed, name: str
) -> None:
    signed.join()
    device, stranger, long_ago = signed.devices[0], signed.stranger, now_ms() - 3_600_000
    if name == "exchangeKeys":
        old, foreign = device.keys(timestamp=long_ago), stranger.keys()
    else:
        old = device.ask(ROUTES[name], timestamp=long_ago)
        foreign = stranger.ask(ROUTES[name])

    for body in (old, foreign):
        answer = signed.say(name, body)
        assert_refused(answer, 300, BAD_TIME)
        assert int(answer.next_req_time) > now_ms() + 3_000


def test_new_keys_go_out_with_what_proves_whose_they_are(signed: Signed) -> None:
    signed.join()
    device = signed.devices[0]
    signed.accept("exchangeKeys", device.keys())
    device.share_key, device.mask_key = clamped(), clamped()
    for each in signed.devices:
        signed.accept("exchangeKeys", each.keys(), 1)

    assert_keys_are_proved(signed)


def test_keys_with_somebody_elses_certificates_are_refused(signed: Signed) -> None:
    signed.join()
    device, other = signed.devices[:2]
    foreign = read("RequestExchangeKeys", other.keys()).certificate_chain
    own = read("RequestExchangeKeys", device.keys()).certificate_chain

    for chain in (None, [], own[:1], foreign, [own[0], foreign[1]]):
        answer = signed.say("exchangeKeys", device.keys(certificate_chain=chain))
        assert_told(answer, 300, "update key or client failed")

    signed.accept("exchangeKeys", device.keys())


STRANGER = "client send signature is not in get update model client list. && client is illegal"


def test_a_signature_under_another_list_is_not_handed_on(signed: Signed) -> None:
    signed.hear_list()
    device = signed.devices[0]

    for signature in (None, [], device.sign(b"another list")):
        answer = signed.say("pushListSign", device.confirm(signature=signature))
        assert_told(answer, 300, "store client list signature failed")
    signed.accept("pushListSign", device.confirm())
    again = signed.accept("pushListSign", device.confirm(), 1)
    assert again.reason == "The server has received the request, please do not request again."


def test_who_has_not_read_the_list_signs_none(signed: Signed) -> None:
    signed.upload()
    reader, counted, other = signed.devices[0], signed.devices[1], signed.devices[3]
    answer = signed.say("pushListSign", reader.confirm())
    assert_told(answer, 200, STRANGER)
    for device in signed.devices:
        device.counted = sorted(each.name for each in signed.devices[:3])

    assert_told(signed.say("pushListSign", counted.confirm()), 200, STRANGER)
    assert_told(signed.say("pushListSign", other.confirm()), 300, STRANGER)


def test_signatures_are_there_once_enough_have_signed(signed: Signed) -> None:
    signed.hear_list()
    signed.accept("pushListSign", signed.devices[0].confirm())
    early = signed.say("getListSign", signed.devices[0].ask("RequestAllClientListSign"))
    assert_told(early, 201, "The server is not ready.")
    assert early.client_list_sign is None
    for device in signed.devices[1:3]:
        signed.accept("pushListSign", device.confirm(), 1)

    other = signed.say("getListSign", signed.devices[3].ask("RequestAllClientListSign"))

    assert_told(other, 300, "client not send list signature, && client is illegal")
    assert other.client_list_sign is None


def test_stragglers_of_a_signed_round_are_not_sent_away(signed: Signed) -> None:
    signed.confirm()
    for device in signed.devices[:3]:
        signed.accept("reconstructSecrets", device.reveal())
    signed.cluster.model(1)
    late = signed.devices[0]

    assert signed.accept("getClientList", late.ask("GetClientList"), 1).clients == late.counted
    enough = "Current amount for PushListSignKernel is enough."
    assert signed.accept("pushListSign", late.confirm(), 1).reason == enough
    answer = signed.accept("getListSign", late.ask("RequestAllClientListSign"), 1)
    assert len(answer.client_list_sign) == 3
    signed.accept("reconstructSecrets", late.reveal(), 1)


def test_a_request_taken_from_the_line_is_worth_nothing_for_another_purpose(signed: Signed) -> None:
    signed.offer()
    device = signed.devices[0]
    body = device.ask("GetExchangeKeys")
    signed.accept("getKeys", body)

    assert signed.accept("getKeys", body).retcode == 200
    stolen = read("GetExchangeKeys", body)
    changed = pack(
        "GetExchangeKeys",
        fl_id=device.name,
        iteration=1,
        timestamp=stolen.timestamp,
        signature=[*as_bytes(stolen.signature)[:-1], 0],
    )
    assert signed.say("getKeys", changed).retcode == 400
