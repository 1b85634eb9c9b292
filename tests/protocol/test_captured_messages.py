"""Messages that a genuine device wrote, and answers it accepted: whole, cut and damaged."""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.wire import flat, messages, packed

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"


def test_the_captured_files_are_those_of_the_index() -> None:
    with (GOLDEN / "INDEX.tsv").open(encoding="ascii") as lines:
        index = {name: (int(size), digest) for name, size, digest in csv.reader(lines, "excel-tab")}

    found = {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in GOLDEN.glob("*.bin")
    }

    assert index == found


def test_a_captured_message_decodes_alike_in_both_decoders(
    captured: Any, reference: Any, same: Any
) -> None:
    message = flat.decode(captured.cls, captured.body)

    assert same(reference.decode(captured.cls, captured.body), message)


def test_the_compilers_code_reads_the_same_from_a_captured_message(
    captured: Any, oracle: Any, same: Any
) -> None:
    expected = oracle.packed(captured.cls, oracle.read(captured.cls, captured.body))

    assert same(expected, flat.decode(captured.cls, captured.body))


@pytest.mark.parametrize("codec", [flat, packed], ids=["flat", "packed"])
def test_a_captured_message_survives_encoding_and_decoding(
    captured: Any, codec: Any, same: Any
) -> None:
    message = flat.decode(captured.cls, captured.body)

    assert same(message, codec.decode(captured.cls, codec.encode(message)))


def test_a_captured_message_is_whole_with_bytes_behind_it(captured: Any, same: Any) -> None:
    message = flat.decode(captured.cls, captured.body)

    assert same(message, flat.decode(captured.cls, captured.body + b"\xff" * 5))


def test_a_message_cut_at_any_byte_is_refused_or_read_alike_by_both_decoders(
    captured: Any, reference: Any, outcome: Any, same: Any
) -> None:
    refused = 0
    for size in range(len(captured.body)):
        cut = captured.body[:size]
        message, sentence = outcome(flat.decode, captured.cls, cut)
        expected, expected_sentence = outcome(reference.decode, captured.cls, cut)

        assert expected_sentence == sentence, size
        assert same(expected, message), size
        refused += bool(sentence)
    # The official builder works backwards: what stands last was written first, so little of
    # the end can be spared.
    assert refused > 0.9 * len(captured.body)


def test_a_message_with_a_flipped_bit_is_refused_or_read_alike_by_both_decoders(
    captured: Any, reference: Any, outcome: Any, same: Any
) -> None:
    rng = random.Random(captured.name)
    flips = [(at, rng.randrange(8)) for at in range(len(captured.body))]
    for at, bit in flips if len(flips) < 1000 else rng.sample(flips, 1000):
        body = bytearray(captured.body)
        body[at] ^= 1 << bit
        message, sentence = outcome(flat.decode, captured.cls, bytes(body))
        expected, expected_sentence = outcome(reference.decode, captured.cls, bytes(body))

        assert expected_sentence == sentence, (at, bit)
        assert same(expected, message), (at, bit)


Capture = Callable[[str], Any]


def test_a_genuine_device_checks_in_with_these_fields(capture: Capture) -> None:
    request = capture("ne__c1__00_startFLJob_req")

    assert flat.decode(request.cls, request.body) == messages.RequestFLJob(
        fl_name="jc.StubClient",
        fl_id="client1",
        data_size=32,
        timestamp="1795317807104",
        download_compress_types=(0, 2),
        eval_data_size=16,
    )


def test_a_genuine_device_uploads_weights_times_data_size(capture: Capture) -> None:
    request = capture("ne__c1__01_updateModel_req")

    update = flat.decode(messages.RequestUpdateModel, request.body)

    assert update.feature_map is not None
    tensors = {each.weight_fullname: each.data for each in update.feature_map}
    assert list(tensors) == ["fc.bias", "fc.weight"]
    trained = np.array([0.505, -0.24375, 0.1325], np.float32)
    assert tensors["fc.bias"] is not None
    np.testing.assert_allclose(trained * 32, tensors["fc.bias"], rtol=1e-6)
    assert update._replace(feature_map=None) == messages.RequestUpdateModel(
        fl_name="jc.StubClient",
        fl_id="client1",
        iteration=1,
        timestamp="1795317807180",
        upload_loss=0.125,
        upload_accuracy=float(np.float32(0.8)),
    )


def test_a_compressed_update_of_a_genuine_device_has_int8_data(capture: Capture) -> None:
    request = capture("dsq__c1__01_updateModel_req")

    update = flat.decode(messages.RequestUpdateModel, request.body)

    assert update.feature_map is None
    assert update.name_vec == ("fc.bias", "fc.weight")
    assert update.upload_compress_type == messages.CompressType.DIFF_SPARSE_QUANT
    assert update.upload_sparse_rate == float(np.float32(0.4))
    assert update.compress_feature_map is not None
    bias, weight = update.compress_feature_map
    assert bias.compress_data is not None
    assert weight.compress_data is not None
    assert (bias.compress_data.size, weight.compress_data.tolist()) == (0, [-128, -43, 127])
    largest = float(np.finfo(np.float32).max)
    assert (bias.min_val, bias.max_val) == (largest, -largest)


def test_a_sign_based_update_of_a_genuine_device_names_dimensions(capture: Capture) -> None:
    request = capture("signds__c1__01_updateModel_req")

    update = flat.decode(messages.RequestUpdateModel, request.body)

    assert (update.sign, update.index_array) == (1, (3,))
    assert update.feature_map is not None
    assert [each.data is not None and each.data.size for each in update.feature_map] == [0, 0]


def test_getmodel_of_a_genuine_device_carries_neither_id_nor_signature(capture: Capture) -> None:
    request = capture("ne__c1__02_getModel_req")

    assert flat.decode(request.cls, request.body) == messages.RequestGetModel(
        fl_name="jc.StubClient",
        iteration=1,
        timestamp="1795317807232",
        download_compress_types=(0, 2),
    )


def test_an_accepted_answer_has_plan_cipher_and_model(capture: Capture) -> None:
    response = capture("ne__c1__00_startFLJob_res")

    answer = flat.decode(messages.ResponseFLJob, response.body)

    assert (answer.retcode, answer.is_selected) == (messages.ResponseCode.SUCCEED, True)
    plan = answer.fl_plan_config
    assert plan is not None
    assert (plan.server_mode, plan.iterations, plan.epochs, plan.mini_batch) == (
        "FEDERATED_LEARNING",
        1,
        1,
        32,
    )
    assert plan.lr == float(np.float32(0.01))
    assert plan.cipher is not None
    assert plan.cipher.pw_params is not None
    assert plan.cipher.pw_params.p == bytes(32)
    assert plan.cipher.pw_params.prime == bytes.fromhex("ff" * 31 + "feed")
    assert answer.feature_map is not None
    assert [each.weight_fullname for each in answer.feature_map] == ["fc.bias", "fc.weight"]


def test_key_material_comes_out_as_bytes_of_the_right_length(capture: Capture) -> None:
    request = capture("det__c1__01_exchangeKeys_req")

    keys = flat.decode(messages.RequestExchangeKeys, request.body)

    lengths = {
        name: len(getattr(keys, name) or b"") for name in ("c_pk", "s_pk", "ind_iv", "pw_iv")
    }
    assert lengths == {"c_pk": 32, "s_pk": 32, "ind_iv": 16, "pw_iv": 16}


def test_a_certificate_chain_comes_out_as_texts(capture: Capture) -> None:
    request = capture("pki_pw__c1__01_exchangeKeys_req")

    keys = flat.decode(messages.RequestExchangeKeys, request.body)

    assert keys.certificate_chain
    assert [text[:3] for text in keys.certificate_chain] == ["MII", "MII"]  # DER in base64
    assert keys.signature
