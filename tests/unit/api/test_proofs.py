"""Devices that must prove who they are: which answer comes when, in both encodings."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.api.proofs import ProofDesk, _unarmoured
from fl_cluster.privacy.key_agreement import list_digest
from fl_cluster.sdk.identity import DeviceIdentity
from fl_cluster.security.attestation import (
    Untrusted,
    parse_certificate,
    request_text,
    verify_signature,
)
from fl_cluster.security.trust_files import TrustFiles
from fl_cluster.service.attestation import Attestor
from fl_cluster.store.memory_identity import MemoryAttestationStore
from fl_cluster.wire import flat, messages

WINDOW_MS = 600_000
NOT_PROVED = "startFLJob sign and certificate verify failed."


@pytest.fixture(scope="module")
def identities(device_authority):
    chains = [device_authority.device(name) for name in ("phone-a", "phone-b", "phone-c")]
    return [DeviceIdentity(chain.key, chain.pem) for chain in chains]


@pytest.fixture
async def verifying(bench, device_authority, tmp_path):
    """A member that verifies devices."""
    root = tmp_path / "root.pem"
    root.write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    files = TrustFiles((("first", str(root)), ("second", str(root))), ("list", ""))
    files.load()
    store = MemoryAttestationStore()
    bench.proofs = ProofDesk(Attestor(store, files, bench.now_ms, window_ms=WINDOW_MS))
    await bench.open()
    return await bench.member()


def now_ms():
    return time.time_ns() // 1_000_000


def signed_check_in(caller, identity, at_ms=None, **changes):
    timestamp = str(at_ms or now_ms())
    fields = {**identity.check_in_fields(timestamp), "timestamp": timestamp, **changes}
    device = fields.pop("device", identity.device_id)
    return caller.check_in_message(device, **fields)


def signed_report(caller, identity, at_ms=None, **changes):
    timestamp = str(at_ms or now_ms())
    message = caller.report_message(identity.device_id, **changes)
    signature = identity.sign_request(timestamp, message.iteration)
    return message._replace(timestamp=timestamp, signature=signature)


async def admit(caller, identity):
    answer = await caller.send(signed_check_in(caller, identity))
    assert answer.message.retcode == 200, answer.message


@pytest.mark.parametrize("encoding", ["flat", "packed"])
async def test_devices_that_prove_who_they_are_train_as_ever(
    verifying, bench, identities, encoding
):
    caller = getattr(verifying, encoding)
    for identity in identities[:2]:
        await admit(caller, identity)
    for identity in identities[:2]:
        answer = await caller.send(signed_report(caller, identity))
        assert answer.message.retcode == 200

    await bench.finish_round()

    assert bench.number == 2
    await admit(caller, identities[0])


@pytest.mark.parametrize("field", ["key_attestation", "equip_cert", "equip_ca_cert", "sign_data"])
async def test_a_check_in_without_its_proof_is_refused_for_its_form(verifying, identities, field):
    message = signed_check_in(verifying.flat, identities[0], **{field: None})

    old = await verifying.flat.send(message)
    new = await verifying.packed.send(message)

    assert old.text == "Verify flatbuffers schema failed for RequestFLJob."
    assert (new.status, new.message.verdict) == (400, "invalid")
    assert "devices of this job prove who they are" in new.message.reason


async def test_an_empty_signature_has_a_sentence_of_its_own(verifying, identities):
    message = signed_check_in(verifying.flat, identities[0], sign_data=b"")

    answer = (await verifying.flat.send(message)).message

    assert (answer.retcode, answer.reason) == (400, "sign data is empty.")


async def test_a_forged_check_in_is_refused_and_keeps_nobody_out(verifying, identities, bench):
    forger, victim = identities[:2]
    message = signed_check_in(verifying.flat, forger, device=victim.device_id)

    old = (await verifying.flat.send(message)).message
    new = await verifying.packed.send(message)

    assert (old.retcode, old.reason) == (400, NOT_PROVED)
    assert old.fl_plan_config is not None
    assert (new.status, new.message.verdict) == (403, "attestation_failed")
    assert (
        new.message.reason == "The check-in proves nothing: fl_id is not the SHA-256 of equip_cert."
    )
    assert bench.cohort == {}
    await admit(verifying.flat, victim)


async def test_a_wrong_clock_is_told_the_server_time(verifying, identities):
    message = signed_check_in(verifying.packed, identities[0], now_ms() - 3_600_000)

    old = (await verifying.flat.send(message)).message
    new = await verifying.packed.send(message)

    assert (old.retcode, old.reason) == (400, NOT_PROVED)
    assert abs(int(old.timestamp) - now_ms()) < 5_000
    assert (new.status, new.message.verdict) == (403, "clock_off")
    assert "The request was signed 3600 s behind the server's time" in new.message.reason
    assert new.message.retry_after_ms is None
    assert abs(int(new.message.timestamp) - now_ms()) < 5_000


async def test_a_full_cohort_is_told_before_a_forged_check_in(verifying, identities):
    for identity in identities[:2]:
        await admit(verifying.flat, identity)
    message = signed_check_in(verifying.flat, identities[2], sign_data=b"x")

    answer = (await verifying.flat.send(message)).message

    assert (answer.retcode, "has reached the threshold" in answer.reason) == (300, True)


async def test_a_forged_check_in_is_told_before_a_bad_data_size(verifying, identities):
    message = signed_check_in(verifying.flat, identities[0], sign_data=b"x", data_size=0)

    assert (await verifying.flat.send(message)).message.reason == NOT_PROVED


async def test_the_same_check_in_again_gets_its_answer_again(verifying, identities):
    message = signed_check_in(verifying.packed, identities[0])

    answers = [await verifying.packed.send(message) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3


async def test_a_check_in_of_an_earlier_round_is_worth_nothing_now(verifying, bench, identities):
    caller = verifying.flat
    old = signed_check_in(caller, identities[0])
    assert (await caller.send(old)).message.retcode == 200
    await admit(caller, identities[1])
    for identity in identities[:2]:
        await caller.send(signed_report(caller, identity))
    await bench.finish_round()

    answer = (await caller.send(old)).message

    assert (answer.retcode, answer.reason) == (300, "startFLJob: store key attestation failed")
    assert int(answer.next_req_time) > now_ms()
    assert bench.cohort == {}


async def test_a_signature_in_another_request_is_worth_nothing(verifying, identities, bench):
    caller = verifying.packed
    message = signed_check_in(caller, identities[0])
    assert (await caller.send(message)).status == 200

    answer = await caller.send(message._replace(data_size=60_000))

    assert (answer.status, answer.message.verdict) == (409, "replayed")
    assert list(bench.cohort.values()) == [10]


async def refused_report(caller, message):
    answer = await caller.send(message)
    return answer.message.retcode, answer.message.reason, answer.message.next_req_time


async def test_reports_without_a_good_signature_are_refused_in_the_known_words(
    verifying, identities, bench
):
    caller = verifying.flat
    for identity in identities[:2]:
        await admit(caller, identity)
    device = identities[0].device_id
    good = signed_report(caller, identities[0])

    for signature in (None, b"", b"x" * 256, identities[1].sign_request(good.timestamp, 1)):
        assert await refused_report(caller, good._replace(signature=signature)) == (
            400,
            f"verify signature failed for fl id {device}",
            "",
        )
    late = signed_report(caller, identities[0], now_ms() - WINDOW_MS - 5_000)
    code, reason, come_back = await refused_report(caller, late)
    assert (code, reason) == (
        300,
        f"verify signature timestamp failed or cannot find its key attestation for fl id {device}",
    )
    assert int(come_back) > now_ms()
    assert bench.counted == []
    assert (await caller.send(good)).message.retcode == 200


async def test_who_is_not_in_the_cohort_or_round_hears_that_first(verifying, identities):
    caller = verifying.flat
    for identity in identities[:2]:
        await admit(caller, identity)
    stranger = signed_report(caller, identities[2])._replace(signature=b"x")
    stale = signed_report(caller, identities[0], number=9)._replace(signature=b"x")

    assert "devices_meta for" in (await refused_report(caller, stranger))[1]
    assert "iteration number is invalid:9" in (await refused_report(caller, stale))[1]


async def test_a_bad_signature_is_told_before_bad_content(verifying, identities):
    caller = verifying.flat
    await admit(caller, identities[0])
    await admit(caller, identities[1])
    unfit = signed_report(caller, identities[0], tensors={"w000": [float("nan")] * 3})

    assert (
        "verify signature failed"
        in (await refused_report(caller, unfit._replace(signature=b"x")))[1]
    )
    assert "Verify model feature map failed" in (await refused_report(caller, unfit))[1]


async def test_a_report_again_is_a_repeat_and_with_other_content_a_replay(verifying, identities):
    caller = verifying.packed
    for identity in identities[:2]:
        await admit(caller, identity)
    message = signed_report(caller, identities[0])
    receipts = [(await caller.send(message)).message.receipt for _ in range(2)]
    assert receipts[0] == receipts[1]

    other = await caller.send(message._replace(upload_loss=9.0))

    assert other.message.verdict in ("replayed", "duplicate")
    assert other.status == 409


async def test_a_check_in_at_one_member_holds_at_another(verifying, bench, identities):
    other = await bench.member()
    for identity in identities[:2]:
        await admit(verifying.packed, identity)

    answer = await other.packed.send(signed_report(other.packed, identities[0]))

    assert answer.status == 200


GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.fixture
async def published(bench, pki_vectors, tmp_path):
    """A member that verifies devices as of the hour in which a published one was recorded."""
    root = tmp_path / "root.pem"
    root.write_text(pki_vectors["root_cert"])
    files = TrustFiles((("first", str(root)), ("second", str(root))), ("list", ""))
    files.load()
    bench.ahead_ms = int(pki_vectors["timestamp"]) + 1_000 - now_ms()
    store = MemoryAttestationStore(bench.now_ms)
    bench.proofs = ProofDesk(Attestor(store, files, bench.now_ms, window_ms=WINDOW_MS))
    await bench.open(round__start_fl_job_threshold=1)
    return await bench.member()


async def test_the_captured_bytes_of_a_published_device_prove_it(published, bench, pki_vectors):
    check_in = (GOLDEN / "pki_pw__c1__00_startFLJob_req.bin").read_bytes()
    report = (GOLDEN / "pki_pw__c1__06_updateModel_req.bin").read_bytes()

    admitted = (await published.flat.send_raw("startFLJob", check_in)).message
    unfit = (await published.flat.send_raw("updateModel", report)).message

    assert (admitted.retcode, admitted.reason) == (200, "success")
    assert list(bench.cohort) == [pki_vectors["fl_id"]]
    # Its tensors are those of another model, which is looked at only once it is proved.
    assert (unfit.retcode, "Verify model feature map failed" in unfit.reason) == (400, True)


async def test_captured_bytes_that_were_changed_prove_nothing(published, pki_vectors):
    check_in = (GOLDEN / "pki_pw__c1__00_startFLJob_req.bin").read_bytes()
    report = (GOLDEN / "pki_pw__c1__06_updateModel_req.bin").read_bytes()
    signed = bytes.fromhex(pki_vectors["sign_data"])
    assert check_in.count(signed) == 1
    assert report.count(bytes.fromhex(pki_vectors["updateModel"]["signature"])) == 1

    forged = check_in.replace(signed, signed[:-1] + bytes([signed[-1] ^ 1]))
    assert (await published.flat.send_raw("startFLJob", forged)).message.reason == NOT_PROVED
    await published.flat.send_raw("startFLJob", check_in)
    signed = bytes.fromhex(pki_vectors["updateModel"]["signature"])
    forged = report.replace(signed, bytes([signed[0] ^ 1]) + signed[1:])
    refused = (await published.flat.send_raw("updateModel", forged)).message
    assert refused.reason == f"verify signature failed for fl id {pki_vectors['fl_id']}"


async def test_captured_bytes_are_worth_nothing_an_hour_later(published, bench):
    bench.ahead_ms += 3_600_000
    check_in = (GOLDEN / "pki_pw__c1__00_startFLJob_req.bin").read_bytes()

    answer = (await published.flat.send_raw("startFLJob", check_in)).message

    assert (answer.retcode, answer.reason) == (400, NOT_PROVED)
    assert abs(int(answer.timestamp) - bench.now_ms()) < 5_000


def captured(cls, name):
    return flat.decode(cls, (GOLDEN / f"pki_pw__c1__{name}.bin").read_bytes())


def test_what_a_genuine_device_showed_and_signed_in_a_masked_round_proves_it():
    """Its certificates, its keys, its requests and its signature of the list of counted devices."""
    joined = captured(messages.RequestFLJob, "00_startFLJob_req")
    offer = captured(messages.RequestExchangeKeys, "01_exchangeKeys_req")
    listed = captured(messages.ReturnClientList, "07_getClientList_res")
    pushed = captured(messages.SendClientListSign, "08_pushListSign_req")
    revealed = captured(messages.SendReconstructSecret, "11_reconstructSecrets_req")
    attestation = parse_certificate(joined.key_attestation, "key_attestation")

    shown = (_unarmoured(joined.key_attestation), _unarmoured(joined.equip_cert))

    assert offer.certificate_chain == shown
    keys = offer.c_pk + offer.s_pk
    for sent, signature, before in (
        (offer, offer.signature, keys),
        (pushed, pushed.req_signature, b""),
        (revealed, revealed.signature, b""),
    ):
        text = request_text(sent.timestamp, sent.iteration, before)
        verify_signature(attestation, signature, text)
    verify_signature(attestation, pushed.signature, list_digest(listed.clients))
    with pytest.raises(Untrusted):
        verify_signature(attestation, pushed.signature, list_digest(listed.clients[::-1]))
