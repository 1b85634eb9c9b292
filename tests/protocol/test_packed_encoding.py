"""msgpack bodies, with the msgpack library as the second opinion and the stranger's device."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from fl_cluster import errors
from fl_cluster.wire import flat, limits, messages, packed
from fl_cluster.wire.messages import (
    CompressFeatureMap,
    FeatureMap,
    FLPlan,
    Receipt,
    RequestFLJob,
    RequestGetModel,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
)


def unpack(body: bytes) -> Any:
    return msgpack.unpackb(body, unicode_errors="surrogateescape")


def pack(value: object) -> bytes:
    packed_value = msgpack.packb(value)
    assert isinstance(packed_value, bytes)
    return packed_value


def floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


# What the msgpack library makes of our bodies


def test_a_request_is_a_map_from_field_names_to_values() -> None:
    request = RequestFLJob(
        fl_name="lenet",
        fl_id="phone-7",
        data_size=32,
        timestamp="1795317807104",
        sign_data=b"\x00\x01",
        download_compress_types=(0, 2),
        model_digest="ab12",
    )

    assert unpack(packed.encode(request)) == {
        "fl_name": "lenet",
        "fl_id": "phone-7",
        "iteration": 0,
        "data_size": 32,
        "timestamp": "1795317807104",
        "sign_data": b"\x00\x01",
        "download_compress_types": [0, 2],
        "eval_data_size": 0,
        "model_digest": "ab12",
    }


def test_an_update_carries_tensors_as_little_endian_float32() -> None:
    update = RequestUpdateModel(
        fl_id="phone-7",
        iteration=3,
        feature_map=(FeatureMap("w", np.array([[1.5, -2.0]], np.float32)),),
        upload_loss=0.1,
        plain_weights=True,
    )

    body = unpack(packed.encode(update))

    assert body["feature_map"] == [{"weight_fullname": "w", "data": floats(1.5, -2.0)}]
    assert (body["upload_loss"], body["plain_weights"], body["sign"]) == (0.1, True, 0)


def test_an_answer_carries_verdict_receipt_and_hint() -> None:
    answer = ResponseUpdateModel(
        retcode=200,
        reason="success not ready",
        next_req_time="1795317808687",
        verdict="accepted",
        retry_after_ms=0,
        receipt=Receipt(7, "ab" * 32, 3),
    )

    assert unpack(packed.encode(answer)) == {
        "retcode": 200,
        "reason": "success not ready",
        "next_req_time": "1795317808687",
        "verdict": "accepted",
        "retry_after_ms": 0,
        "receipt": {"round": 7, "digest": "ab" * 32, "position": 3},
    }


def test_a_model_answer_says_the_shape_of_each_tensor() -> None:
    tensor = FeatureMap("w", np.ones(6, np.float32), (2, 3))

    body = unpack(packed.encode(ResponseGetModel(200, feature_map=(tensor,), model_round=0)))

    assert body["model_round"] == 0
    assert body["feature_map"][0]["shape"] == [2, 3]


def test_what_is_absent_is_left_out_and_an_empty_list_is_not() -> None:
    body = unpack(packed.encode(ResponseFLJob(retcode=300, feature_map=())))

    assert body == {
        "retcode": 300,
        "iteration": 0,
        "is_selected": False,
        "feature_map": [],
        "upload_compress_type": 0,
        "upload_sparse_rate": 0.0,
        "download_compress_type": 0,
        "unsupervised_eval_flg": 0,
        "model_unchanged": False,
    }


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65_535, 65_536])
def test_texts_of_every_header_width_pass(size: int) -> None:
    request = RequestGetModel(fl_name="x" * size)

    assert unpack(packed.encode(request))["fl_name"] == "x" * size
    assert packed.decode(RequestGetModel, packed.encode(request)) == request


@pytest.mark.parametrize("number", [0, 127, 128, 255, 65_536, 2**31 - 1, -1, -32, -33, -(2**31)])
def test_ints_of_every_header_width_pass(number: int) -> None:
    request = RequestGetModel(iteration=number)

    assert unpack(packed.encode(request))["iteration"] == number
    assert packed.decode(RequestGetModel, packed.encode(request)) == request


@pytest.mark.parametrize("length", [0, 1, 15, 16, 65_535, 65_536])
def test_lists_of_every_header_width_pass(length: int) -> None:
    update = RequestUpdateModel(index_array=tuple(range(length)))

    assert unpack(packed.encode(update))["index_array"] == list(range(length))
    assert packed.decode(RequestUpdateModel, packed.encode(update)) == update


@pytest.mark.parametrize("name", [b"\xff\xfe", "é€".encode(), b"nul\0", b"", b"\xed\xa0\x80"])
def test_ids_survive_byte_for_byte_whatever_they_are(name: bytes) -> None:
    request = RequestFLJob(fl_id=name.decode("utf-8", "surrogateescape"))

    body = packed.encode(request)

    assert name in body
    assert packed.decode(RequestFLJob, body) == request


def test_numbers_that_are_not_finite_pass(same: Any) -> None:
    update = RequestUpdateModel(
        upload_loss=float("nan"),
        upload_accuracy=float("-inf"),
        feature_map=(FeatureMap("w", np.array([np.nan, np.inf], np.float32)),),
    )

    assert same(update, packed.decode(RequestUpdateModel, packed.encode(update)))


# Tensors are not copied


@pytest.mark.parametrize("shift", range(9))
def test_every_tensor_lies_at_a_multiple_of_4_bytes(shift: int) -> None:
    tensors = tuple(
        FeatureMap("w" * (shift + width), np.arange(5, dtype=np.float32), (5,))
        for width in (0, 1, 2, 3, 40, 300)
    )
    body = packed.encode(RequestUpdateModel(fl_id="x" * shift, feature_map=tensors))

    update = packed.decode(RequestUpdateModel, body)

    start = np.frombuffer(body, np.uint8).ctypes.data
    assert unpack(body)["feature_map"][0]["data"] == floats(0, 1, 2, 3, 4)
    assert update.feature_map is not None
    for each in update.feature_map:
        assert each.data is not None
        assert (each.data.ctypes.data - start) % 4 == 0
        assert start <= each.data.ctypes.data < start + len(body)


def test_a_tensor_that_a_stranger_put_elsewhere_is_copied_into_place() -> None:
    for pad in range(4):
        body = pack({"pad" * (pad + 1): None, "data": floats(1, 2)})

        tensor = packed.decode(FeatureMap, body)

        assert tensor.data is not None
        assert tensor.data.tolist() == [1, 2]
        assert tensor.data.flags.aligned


def test_the_header_of_a_map_is_widened_only_once() -> None:
    writer = packed._Writer()
    writer.put(b"\xde\0\x01")  # a map of 1, wide already
    writer.put(b"\xa1")

    writer.aligning_key(b"xyz", header=0)

    assert writer.parts == [b"\xde\0\x01", b"\xa1", b"\xa3xyz"]


def test_tensors_of_a_body_cannot_be_written_to() -> None:
    for pad in range(4):
        body = bytearray(pack({"p" * (pad + 1): 0, "data": floats(1), "shape": [1]}))

        tensor = packed.decode(FeatureMap, body)

        assert tensor.data is not None
        assert not tensor.data.flags.writeable


def test_a_body_that_is_misaligned_in_memory_gives_aligned_tensors() -> None:
    inner = packed.encode(FeatureMap("w", np.arange(9, dtype=np.float32)))
    for shift in range(4):
        body = memoryview(b"\0" * shift + inner)[shift:]

        tensor = packed.decode(FeatureMap, body)

        assert tensor.data is not None
        assert tensor.data.flags.aligned
        assert tensor.data.tolist() == list(range(9))


def test_an_int8_tensor_is_a_view_of_the_body() -> None:
    body = packed.encode(CompressFeatureMap("w", np.array([-128, 127], np.int8), -1.0, 1.0))

    tensor = packed.decode(CompressFeatureMap, body)

    assert tensor.compress_data is not None
    assert tensor.compress_data.tolist() == [-128, 127]
    assert not tensor.compress_data.flags.owndata


# What a stranger may write


def test_keys_may_come_in_any_order_and_unknown_ones_are_ignored() -> None:
    everything: list[object] = [
        None,
        True,
        -1,
        2**63,
        1.5,
        "text",
        b"bytes",
        [[], {}],
        {"map": {"in": "map"}},
    ]
    ext = msgpack.ExtType(5, b"x" * 3)
    fixed = [msgpack.ExtType(1, b"x" * 2**power) for power in range(5)]
    body = pack({"later": everything, "fl_name": "b", "ext": [ext, *fixed], "iteration": 2})

    assert packed.decode(RequestGetModel, body) == RequestGetModel("b", 2)


def test_a_key_that_is_no_utf8_is_unknown_like_any_other() -> None:
    body = b"\x82\xa1\xff\x01\xa9iteration\x05"

    assert packed.decode(RequestGetModel, body) == RequestGetModel(iteration=5)


def test_nil_stands_for_an_absent_field() -> None:
    body = pack({"fl_name": None, "iteration": None, "hold_ms": None})

    assert packed.decode(RequestGetModel, body) == RequestGetModel()


def test_an_int_may_stand_for_a_float() -> None:
    update = packed.decode(RequestUpdateModel, pack({"upload_loss": 1, "upload_accuracy": -2}))

    assert (update.upload_loss, update.upload_accuracy) == (1.0, -2.0)
    assert isinstance(update.upload_loss, float)


def test_a_single_precision_float_is_a_float() -> None:
    body = msgpack.packb({"upload_loss": 0.5}, use_single_float=True)
    assert body is not None

    assert packed.decode(RequestUpdateModel, body).upload_loss == 0.5


def test_headers_wider_than_needed_are_read() -> None:
    body = (
        b"\xdf\0\0\0\x02"
        b"\xdb\0\0\0\x09iteration" + b"\xd3" + struct.pack(">q", -5)
        + b"\xda\0\x07fl_name" + b"\xd9\x01a"
    )  # fmt: skip

    assert packed.decode(RequestGetModel, body) == RequestGetModel("a", -5)


# Refusals


REFUSED: dict[str, tuple[type[Any], Any, str]] = {
    "array for the message": (
        RequestGetModel,
        ["fl_name", "a"],
        "RequestGetModel: expected a map, found an array of length 2",
    ),
    "nil for the message": (RequestGetModel, None, "RequestGetModel: expected a map, found nil"),
    "int for a key": (RequestGetModel, {1: 2}, "RequestGetModel: expected a str, found the int 1"),
    "bin for a key": (
        RequestGetModel,
        {b"fl_name": "a"},
        "RequestGetModel: expected a str, found a bin of length 7",
    ),
    "bin for a text": (
        RequestGetModel,
        {"fl_name": b"abc"},
        "RequestGetModel.fl_name: expected a str, found a bin of length 3",
    ),
    "text for an int": (
        RequestGetModel,
        {"iteration": "7"},
        (
            "RequestGetModel.iteration: expected an int from -2147483648 to 2147483647, "
            "found a str of length 1"
        ),
    ),
    "float for an int": (
        RequestGetModel,
        {"iteration": 7.0},
        (
            "RequestGetModel.iteration: expected an int from -2147483648 to 2147483647, "
            "found the float 7.0"
        ),
    ),
    "bool for an int": (
        RequestGetModel,
        {"iteration": True},
        (
            "RequestGetModel.iteration: expected an int from -2147483648 to 2147483647, "
            "found the bool True"
        ),
    ),
    "int beyond 32 bits": (
        RequestGetModel,
        {"iteration": 2**31},
        (
            "RequestGetModel.iteration: expected an int from -2147483648 to 2147483647, "
            "found the int 2147483648"
        ),
    ),
    "enum beyond 8 bits": (
        RequestGetModel,
        {"download_compress_types": [0, 200]},
        (
            "RequestGetModel.download_compress_types[1]: expected an int from -128 to 127, "
            "found the int 200"
        ),
    ),
    "int for a bool": (
        RequestUpdateModel,
        {"plain_weights": 1},
        "RequestUpdateModel.plain_weights: expected a bool, found the int 1",
    ),
    "text for a float": (
        RequestUpdateModel,
        {"upload_loss": "0.1"},
        "RequestUpdateModel.upload_loss: expected a float, found a str of length 3",
    ),
    "bool for a float": (
        RequestUpdateModel,
        {"upload_loss": False},
        "RequestUpdateModel.upload_loss: expected a float, found the bool False",
    ),
    "float beyond float32": (
        RequestUpdateModel,
        {"upload_loss": -1e39},
        "RequestUpdateModel.upload_loss: expected a number within float32, found the float -1e+39",
    ),
    "numbers for a tensor": (
        RequestUpdateModel,
        {"feature_map": [{"weight_fullname": "w", "data": [1.0, 2.0]}]},
        "RequestUpdateModel.feature_map[0].data: expected a bin, found an array of length 2",
    ),
    "tensor cut inside a number": (
        RequestUpdateModel,
        {"feature_map": [{}, {"data": b"12345"}]},
        "RequestUpdateModel.feature_map[1].data: 5 bytes are not a whole number of float32",
    ),
    "text for bytes": (
        RequestUpdateModel,
        {"signature": "abc"},
        "RequestUpdateModel.signature: expected a bin, found a str of length 3",
    ),
    "map for a list": (
        RequestUpdateModel,
        {"feature_map": {"w": b""}},
        "RequestUpdateModel.feature_map: expected an array, found a map of length 1",
    ),
    "text in a list of maps": (
        RequestUpdateModel,
        {"feature_map": ["w"]},
        "RequestUpdateModel.feature_map[0]: expected a map, found a str of length 1",
    ),
    "nil in a list": (
        RequestUpdateModel,
        {"name_vec": ["a", None]},
        "RequestUpdateModel.name_vec[1]: expected a str, found nil",
    ),
    "ext for a text": (
        RequestUpdateModel,
        {"fl_id": msgpack.ExtType(1, b"abc")},
        "RequestUpdateModel.fl_id: expected a str, found an ext of length 3",
    ),
    "list inside a nested table": (
        ResponseFLJob,
        {"fl_plan_config": {"cipher": {"encrypt_type": []}}},
        (
            "ResponseFLJob.fl_plan_config.cipher.encrypt_type: "
            "expected a str, found an array of length 0"
        ),
    ),
    "long text": (
        RequestGetModel,
        {"fl_name": "x" * (limits.MAX_TEXT_BYTES + 1)},
        "RequestGetModel.fl_name: str of length 65537, the longest is 65536",
    ),
    "long bytes": (
        RequestUpdateModel,
        {"signature": b"x" * (limits.MAX_BINARY_BYTES + 1)},
        "RequestUpdateModel.signature: bin of length 65537, the longest is 65536",
    ),
    "long list": (
        RequestUpdateModel,
        {"index_array": [0] * (limits.MAX_LIST_ITEMS + 1)},
        "RequestUpdateModel.index_array: array of length 65537, the longest is 65536",
    ),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_a_value_of_another_kind_is_refused_by_its_key(refused: Any) -> None:
    cls, value, sentence = refused

    with pytest.raises(errors.PeerProtocolError) as refusal:
        packed.decode(cls, pack(value))

    assert sentence == str(refusal.value)


def test_a_key_that_comes_twice_is_refused() -> None:
    body = b"\x82\xa9iteration\x01\xa9iteration\x02"

    with pytest.raises(errors.PeerProtocolError) as refusal:
        packed.decode(RequestGetModel, body)

    assert str(refusal.value) == "RequestGetModel: the key iteration comes twice"


def test_bytes_behind_the_message_are_refused() -> None:
    with pytest.raises(errors.PeerProtocolError) as refusal:
        packed.decode(RequestGetModel, packed.encode(RequestGetModel()) + b"\xc0\xc0")

    assert str(refusal.value) == "RequestGetModel: 2 bytes follow the message"


@pytest.mark.parametrize("body", [b"\x81\xa9iteration\xc1", b"\x81\xa5later\xc1", b"\xc1"])
def test_the_byte_that_msgpack_does_not_use_is_refused(body: bytes) -> None:
    with pytest.raises(errors.PeerProtocolError, match="the byte 0xc1, which msgpack does not"):
        packed.decode(RequestGetModel, body)


def test_a_message_cut_at_any_byte_is_refused(captured: Any) -> None:
    body = packed.encode(flat.decode(captured.cls, captured.body))
    sizes = range(len(body)) if len(body) < 1000 else range(0, len(body), 7)
    for size in sizes:
        with pytest.raises(errors.PeerProtocolError, match="the body ends after"):
            packed.decode(captured.cls, body[:size])


def test_a_map_that_promises_billions_of_entries_is_refused_at_once() -> None:
    for head in (b"\xdf\xff\xff\xff\xff", b"\x81\xa1x\xdd\xff\xff\xff\xff" + b"\xc0" * 1000):
        with pytest.raises(errors.PeerProtocolError):
            packed.decode(RequestGetModel, head)


def test_unknown_values_nest_as_deep_as_they_like_without_stack() -> None:
    body = b"\x81\xa5later" + b"\x91" * 100_000 + b"\xc0"

    assert packed.decode(RequestGetModel, body) == RequestGetModel()


# Our own mistakes


UNFIT: dict[str, tuple[Any, str]] = {
    "text": (RequestFLJob(fl_id=7), "RequestFLJob.fl_id: expected a str, got int 7"),  # type: ignore[arg-type]
    "nested": (
        ResponseFLJob(fl_plan_config=FLPlan(lr="fast")),  # type: ignore[arg-type]
        "ResponseFLJob.fl_plan_config.lr: expected a float, got str",
    ),
    "in a list": (
        ResponseGetModel(feature_map=(FeatureMap("a"), FeatureMap(7))),  # type: ignore[arg-type]
        "ResponseGetModel.feature_map[1].weight_fullname: expected a str, got int 7",
    ),
    "no message": (["a"], "list: not a message"),
    "long text": (
        RequestFLJob(fl_id="x" * (limits.MAX_TEXT_BYTES + 1)),
        "RequestFLJob.fl_id: length 65537, the longest is 65536",
    ),
    "long bytes": (
        RequestFLJob(sign_data=bytes(limits.MAX_BINARY_BYTES + 1)),
        "RequestFLJob.sign_data: length 65537, the longest is 65536",
    ),
    "long list": (
        RequestUpdateModel(index_array=(0,) * (limits.MAX_LIST_ITEMS + 1)),
        "RequestUpdateModel.index_array: length 65537, the longest is 65536",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT.values(), ids=UNFIT)
def test_a_value_that_does_not_fit_its_field_is_the_callers_fault(unfit: Any) -> None:
    message, sentence = unfit

    with pytest.raises(errors.CallerProtocolError) as fault:
        packed.encode(message)

    assert sentence == str(fault.value)


def test_every_message_survives_empty() -> None:
    for cls in messages.SCHEMA:
        assert packed.decode(cls, packed.encode(cls())) == cls()
