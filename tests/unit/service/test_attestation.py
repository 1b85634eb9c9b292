"""Signed requests: proved, forged, late, unknown, repeated and replayed, on members that agree."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.rounds.phases import RoundRef
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.security.attestation import ChainTexts
from fl_cluster.security.trust_files import TrustFiles
from fl_cluster.service.attestation import Attestor, Proof, SignedCheckIn, SignedRequest
from fl_cluster.store.memory_identity import MemoryAttestationStore

REF = RoundRef("run-1", 7)
WINDOW_MS = 600_000
NOW_MS = time.time_ns() // 1_000_000
DIGEST = hashlib.sha256(b"body").hexdigest()


@pytest.fixture(scope="module")
def chain(device_authority):
    return device_authority.device("phone")


@pytest.fixture
def identity(chain):
    return DeviceIdentity(chain.key, chain.pem)


@pytest.fixture
def trust_files(tmp_path, device_authority):
    root = tmp_path / "root.pem"
    root.write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    files = TrustFiles((("first", str(root)), ("second", str(root))), ("list", str(tmp_path / "l")))
    files.load()
    return files


@pytest.fixture
def store():
    return MemoryAttestationStore(lambda: NOW_MS)


@pytest.fixture
def make_attestor(store, trust_files):
    def make(now_ms=NOW_MS):
        return Attestor(store, trust_files, lambda: now_ms, window_ms=WINDOW_MS)

    return make


def check_in_of(identity, at_ms=NOW_MS, **changes):
    fields = identity.check_in_fields(str(at_ms))
    texts = ChainTexts(fields["key_attestation"], fields["equip_cert"], fields["equip_ca_cert"])
    sent = SignedCheckIn(identity.device_id, str(at_ms), fields["sign_data"], texts, DIGEST)
    return replace(sent, **changes)


def request_of(identity, at_ms=NOW_MS, **changes):
    sent = SignedRequest(
        endpoint="updateModel",
        device=identity.device_id,
        timestamp=str(at_ms),
        number=7,
        signature=identity.sign_request(str(at_ms), 7),
        digest=DIGEST,
    )
    return replace(sent, **changes)


async def test_a_device_proves_its_check_in_and_then_its_update(make_attestor, identity):
    sent = check_in_of(identity)
    assert (await make_attestor().check_in(sent, "run-1.7")).proof is Proof.GOOD
    await make_attestor().remember(REF, sent)

    found = await make_attestor().request(REF, request_of(identity))

    assert found.proof is Proof.GOOD


async def test_an_id_that_is_not_that_of_the_certificate_is_forged(make_attestor, identity):
    for device in (identity.device_id.upper(), "0" * 64, ""):
        found = await make_attestor().check_in(check_in_of(identity, device=device), "r")
        assert (found.proof, "fl_id is not" in found.sentence) == (Proof.FORGED, True)


@pytest.mark.parametrize("signature", [b"", b"x" * 256])
async def test_a_check_in_that_is_not_signed_by_the_key_is_forged(
    make_attestor, identity, signature
):
    found = await make_attestor().check_in(check_in_of(identity, signature=signature), "r")

    assert found.proof is Proof.FORGED


async def test_a_signature_for_another_time_is_forged(make_attestor, identity):
    other = check_in_of(identity, timestamp=str(NOW_MS + 1))

    assert (await make_attestor().check_in(other, "r")).proof is Proof.FORGED


@pytest.mark.parametrize("off_ms", [-WINDOW_MS, WINDOW_MS, 0])
async def test_a_clock_may_be_off_by_the_window(make_attestor, identity, off_ms):
    found = await make_attestor().check_in(check_in_of(identity, NOW_MS + off_ms), "r")

    assert found.proof is Proof.GOOD


@pytest.mark.parametrize(
    ("off_ms", "words"), [(-WINDOW_MS - 1, "600 s behind"), (7_200_000, "7200 s ahead of")]
)
async def test_a_clock_that_is_off_is_told_the_server_time(make_attestor, identity, off_ms, words):
    found = await make_attestor().check_in(check_in_of(identity, NOW_MS + off_ms), "r")

    assert found.proof is Proof.CLOCK_OFF
    assert f"{words} the server's time, {NOW_MS} (" in found.sentence
    assert "at most 600 s are allowed" in found.sentence


@pytest.mark.parametrize(
    "timestamp",
    ["2026/11/22/19/18", "1", "", f"0{NOW_MS}", f"{NOW_MS}0"],
    ids=["a date", "one", "nothing", "a leading zero", "a digit too many"],
)
async def test_a_timestamp_that_is_no_number_of_milliseconds_is_refused(
    make_attestor, chain, identity, timestamp
):
    signed = identity.check_in_fields(timestamp)["sign_data"]
    sent = check_in_of(identity, timestamp=timestamp, signature=signed)

    found = await make_attestor().check_in(sent, "r")

    assert found.proof is Proof.CLOCK_OFF
    assert str(NOW_MS) in found.sentence


async def test_the_same_request_again_is_a_repeat_on_every_member(make_attestor, identity):
    for attestor in (make_attestor(), make_attestor(), make_attestor()):
        assert (await attestor.check_in(check_in_of(identity), "r")).proof is Proof.GOOD


async def test_a_signature_in_another_round_or_request_is_a_replay(make_attestor, identity):
    await make_attestor().check_in(check_in_of(identity), "run-1.7")

    later = await make_attestor().check_in(check_in_of(identity), "run-1.8")
    other = await make_attestor().check_in(check_in_of(identity, digest="other"), "run-1.7")

    assert (later.proof, other.proof) == (Proof.REPLAYED, Proof.REPLAYED)


async def test_a_request_of_who_never_checked_in_is_unknown(make_attestor, identity):
    assert (await make_attestor().request(REF, request_of(identity))).proof is Proof.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "proof"),
    [
        ({"signature": None}, Proof.FORGED),
        ({"signature": b""}, Proof.FORGED),
        ({"timestamp": None}, Proof.FORGED),
        ({"number": 8}, Proof.FORGED),
        ({"before": b"key"}, Proof.FORGED),
    ],
)
async def test_a_request_that_is_not_signed_as_it_is_sent_is_forged(
    make_attestor, identity, changes, proof
):
    await make_attestor().remember(REF, check_in_of(identity))

    assert (await make_attestor().request(REF, request_of(identity, **changes))).proof is proof


async def test_a_request_with_keys_before_the_time_is_proved(make_attestor, identity):
    await make_attestor().remember(REF, check_in_of(identity))
    keys = bytes(range(64))
    signature = identity.sign_request(str(NOW_MS), 7, keys)
    sent = request_of(identity, endpoint="exchangeKeys", before=keys, signature=signature)

    assert (await make_attestor().request(REF, sent)).proof is Proof.GOOD


async def test_a_request_signed_too_long_ago_is_late(make_attestor, identity):
    await make_attestor().remember(REF, check_in_of(identity))
    sent = request_of(identity, NOW_MS - WINDOW_MS - 5)

    found = await make_attestor().request(REF, sent)

    assert found.proof is Proof.CLOCK_OFF


async def test_a_device_revoked_within_the_round_is_refused_at_its_next_request(
    make_attestor, identity, chain, device_authority, tmp_path
):
    attestor = make_attestor()
    await attestor.remember(REF, check_in_of(identity))
    (tmp_path / "l").write_bytes(device_authority.revocations())
    await attestor.reload()
    assert (await attestor.request(REF, request_of(identity))).proof is Proof.GOOD

    (tmp_path / "l").write_bytes(device_authority.revocations(chain.certificates[1]))
    await attestor.reload()
    found = await attestor.request(REF, request_of(identity))
    again = await attestor.check_in(check_in_of(identity, NOW_MS + 1), "r")

    assert "equip_cert is revoked" in found.sentence
    assert again.proof is Proof.FORGED


async def test_a_root_that_is_replaced_is_no_root_any_more(
    make_attestor, identity, make_device_authority, tmp_path
):
    attestor = make_attestor()
    assert (await attestor.check_in(check_in_of(identity), "r")).proof is Proof.GOOD
    new = make_device_authority("new").root

    (tmp_path / "root.pem").write_bytes(new.public_bytes(Encoding.PEM))
    await attestor.reload()

    found = await attestor.check_in(check_in_of(identity, NOW_MS + 1), "r")
    assert "neither of the configured roots" in found.sentence


async def test_published_devices_are_proved_by_their_vectors(store, pki_vectors, tmp_path):
    root = tmp_path / "published.pem"
    root.write_text(pki_vectors["root_cert"])
    files = TrustFiles((("first", str(root)), ("second", str(root))), ("list", ""))
    files.load()
    now_ms = int(pki_vectors["timestamp"])
    attestor = Attestor(store, files, lambda: now_ms, window_ms=WINDOW_MS)
    names = ("key_attestation", "equip_cert", "equip_ca_cert")
    sent = SignedCheckIn(
        pki_vectors["fl_id"],
        pki_vectors["timestamp"],
        bytes.fromhex(pki_vectors["sign_data"]),
        ChainTexts(*(pki_vectors[name] for name in names)),
        DIGEST,
    )
    assert (await attestor.check_in(sent, "r")).proof is Proof.GOOD
    await attestor.remember(REF, sent)

    for endpoint in ("getKeys", "updateModel", "pushListSign", "exchangeKeys"):
        given = pki_vectors[endpoint]
        request = SignedRequest(
            endpoint=endpoint,
            device=pki_vectors["fl_id"],
            timestamp=given["timestamp"],
            number=given["iteration"],
            signature=bytes.fromhex(given.get("req_signature", given["signature"])),
            digest=DIGEST,
            before=bytes.fromhex(given.get("c_pk", "") + given.get("s_pk", "")),
        )
        assert (await attestor.request(REF, request)).proof is Proof.GOOD, endpoint
