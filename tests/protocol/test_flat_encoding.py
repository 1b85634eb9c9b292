"""What we write in FlatBuffers, as the compiler's code and genuine devices read it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from fl_cluster import errors
from fl_cluster.wire import flat, messages
from fl_cluster.wire.messages import (
    CompressFeatureMap,
    FeatureMap,
    RequestFLJob,
    RequestUpdateModel,
    ResponseFLJob,
    ResponseGetModel,
    ResponseUpdateModel,
    UnsupervisedEvalItem,
    UnsupervisedEvalItems,
)


def present_slots(body: bytes) -> set[int]:
    """The slots that the vtable of the root table fills."""
    (root,) = struct.unpack_from("<I", body, 0)
    vtable = root - struct.unpack_from("<i", body, root)[0]
    (size,) = struct.unpack_from("<H", body, vtable)
    entries = struct.unpack_from(f"<{size // 2 - 2}H", body, vtable + 4)
    return {slot for slot, offset in enumerate(entries) if offset}


def a_full(cls: type[Any]) -> Any:
    """A message of `cls` in which every field of every table has a value of its own."""
    samples: dict[str, Any] = {
        "bool": True,
        "enum": 2,
        "int": -(2**31),
        "float": 0.5,
        "string": "text",
        "[float]": np.array([1.5, -0.0, np.inf], np.float32),
        "[int]": (2**31 - 1, -1),
        "[ubyte]": b"\x00\xff",
        "[byte]": np.array([-128, 127], np.int8),
        "[enum]": (0, 2),
        "[string]": ("one", ""),
    }
    held: list[Any] = []
    for field in messages.SCHEMA[cls]:
        nested = a_full(field.table) if field.table else None
        if field.slot is None:
            held.append(field.default)
        elif field.kind == "table":
            held.append(nested)
        elif field.kind == "[table]":
            held.append((nested, nested))
        else:
            held.append(samples[field.kind])
    return cls(*held)


FLAT_CLASSES = [
    cls for cls, fields in messages.SCHEMA.items() if any(f.slot is not None for f in fields)
]


@pytest.fixture(params=FLAT_CLASSES, ids=[cls.__name__ for cls in FLAT_CLASSES])
def full(request: pytest.FixtureRequest) -> Any:
    return a_full(request.param)


def test_the_compilers_code_is_of_the_schema_that_we_use(oracle: Any) -> None:
    for cls in FLAT_CLASSES:
        expected = {oracle.attribute(f.name) for f in messages.SCHEMA[cls] if f.slot is not None}

        assert expected == set(vars(oracle.empty(cls)))
    assert {cls.__name__ for cls in FLAT_CLASSES} == oracle.names


def test_the_compilers_code_reads_every_field_that_we_write(
    full: Any, oracle: Any, same: Any
) -> None:
    table = oracle.read(type(full), flat.encode(full))

    assert same(full, oracle.packed(type(full), table))


def test_we_read_every_field_that_the_compilers_code_writes(
    full: Any, oracle: Any, any_decode: Any, same: Any
) -> None:
    assert same(full, any_decode(type(full), oracle.write(full)))


def test_we_read_every_field_that_we_write(full: Any, any_decode: Any, same: Any) -> None:
    assert same(full, any_decode(type(full), flat.encode(full)))


def test_every_field_stands_in_its_slot(full: Any) -> None:
    for field, value in zip(messages.SCHEMA[type(full)], full, strict=True):
        if field.slot is not None:
            alone = type(full)(**{field.name: value})

            assert present_slots(flat.encode(alone)) == {field.slot}


def test_a_message_without_anything_has_no_fields(full: Any, any_decode: Any) -> None:
    body = flat.encode(type(full)())

    assert present_slots(body) == set()
    assert any_decode(type(full), body) == type(full)()


def test_scalars_at_their_default_are_absent_as_genuine_devices_leave_them_out() -> None:
    request = RequestFLJob(fl_id="a", iteration=0, data_size=0, eval_data_size=0)

    assert present_slots(flat.encode(request)) == {1}


def test_an_empty_vector_is_present() -> None:
    answer = ResponseFLJob(feature_map=(), compress_feature_map=())

    assert present_slots(flat.encode(answer)) == {6, 11}


def test_an_empty_text_is_present(any_decode: Any) -> None:
    body = flat.encode(ResponseUpdateModel(next_req_time=""))

    assert present_slots(body) == {3}
    assert any_decode(ResponseUpdateModel, body).next_req_time == ""


def test_fields_of_msgpack_leave_no_trace() -> None:
    answer = ResponseUpdateModel(200, "success", next_req_time="1")
    native = answer._replace(
        verdict="accepted", retry_after_ms=5, receipt=messages.Receipt(1, "ab", 1)
    )

    assert flat.encode(answer) == flat.encode(native)


def test_no_file_identifier_is_written() -> None:
    body = flat.encode(ResponseUpdateModel(200))

    assert b"FLJ0" not in body
    (root,) = struct.unpack_from("<I", body, 0)
    assert root < len(body)


def test_the_appended_fields_stand_behind_the_older_ones(any_decode: Any) -> None:
    items = UnsupervisedEvalItems((UnsupervisedEvalItem("eval", np.ones(2, np.float32)),))
    answer = ResponseFLJob(unsupervised_eval_flg=1)

    assert present_slots(flat.encode(answer)) == {12}
    assert present_slots(flat.encode(RequestUpdateModel(unsupervised_eval_items=items))) == {14}


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"plain", b"caf\xc3\xa9", b"nul\0inside", b"", b"\xed\xa0\x80"]
)
def test_ids_survive_byte_for_byte_whatever_they_are(name: bytes, any_decode: Any) -> None:
    fl_id = name.decode("utf-8", "surrogateescape")

    body = flat.encode(RequestFLJob(fl_id=fl_id))

    assert struct.pack("<I", len(name)) + name + b"\0" in body
    assert any_decode(RequestFLJob, body).fl_id == fl_id


def test_numbers_that_are_not_finite_pass(any_decode: Any, same: Any) -> None:
    update = RequestUpdateModel(upload_loss=float("nan"), upload_accuracy=float("-inf"))

    assert same(update, any_decode(RequestUpdateModel, flat.encode(update)))


def test_a_float_becomes_the_nearest_float32(any_decode: Any) -> None:
    update = RequestUpdateModel(upload_loss=0.1)

    assert any_decode(RequestUpdateModel, flat.encode(update)).upload_loss == np.float32(0.1)


def test_an_enum_may_have_a_number_that_we_do_not_know(any_decode: Any) -> None:
    answer = ResponseFLJob(upload_compress_type=-7)

    assert any_decode(ResponseFLJob, flat.encode(answer)).upload_compress_type == -7


def test_a_tensor_is_written_in_c_order_whatever_its_shape(any_decode: Any) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    answer = ResponseGetModel(
        feature_map=(
            FeatureMap("plain", matrix),
            FeatureMap("transposed", matrix.T),
            FeatureMap("strided", np.arange(12, dtype=np.float32)[::2]),
            FeatureMap("swapped", matrix.astype(">f4")),
        )
    )

    tensors = any_decode(ResponseGetModel, flat.encode(answer)).feature_map

    assert [each.data.tolist() for each in tensors] == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [0, 2, 4, 6, 8, 10],
        [0, 1, 2, 3, 4, 5],
    ]


def test_a_list_is_written_like_a_tuple() -> None:
    names: Any = ["a", "b"]

    expected = flat.encode(RequestUpdateModel(name_vec=("a", "b"), index_array=(1, 2)))
    assert expected == flat.encode(RequestUpdateModel(name_vec=names, index_array=[1, 2]))  # type: ignore[arg-type]


MISFITS: dict[str, tuple[Any, str]] = {
    "int": (RequestFLJob(data_size="32"), "RequestFLJob.data_size: expected an int, got str"),  # type: ignore[arg-type]
    "float for int": (
        RequestFLJob(data_size=1.0),  # type: ignore[arg-type]
        "RequestFLJob.data_size: expected an int, got float 1.0",
    ),
    "bool for int": (
        RequestFLJob(data_size=True),
        "RequestFLJob.data_size: expected an int, got bool True",
    ),
    "large int": (
        RequestFLJob(iteration=2**31),
        (
            "RequestFLJob.iteration: "
            "expected an int from -2147483648 to 2147483647, got int 2147483648"
        ),
    ),
    "large enum": (
        ResponseFLJob(upload_compress_type=128),
        "ResponseFLJob.upload_compress_type: expected an int from -128 to 127, got int 128",
    ),
    "large float": (
        ResponseFLJob(upload_sparse_rate=1e39),
        "ResponseFLJob.upload_sparse_rate: expected a number within float32, got float 1e+39",
    ),
    "text for float": (
        ResponseFLJob(upload_sparse_rate="0.4"),  # type: ignore[arg-type]
        "ResponseFLJob.upload_sparse_rate: expected a float, got str",
    ),
    "int for bool": (
        ResponseFLJob(is_selected=1),  # type: ignore[arg-type]
        "ResponseFLJob.is_selected: expected a bool, got int 1",
    ),
    "bytes for text": (
        RequestFLJob(fl_id=b"a"),  # type: ignore[arg-type]
        "RequestFLJob.fl_id: expected a str, got bytes",
    ),
    "lone surrogate": (
        RequestFLJob(fl_id="\ud800"),
        "RequestFLJob.fl_id: a str that UTF-8 cannot hold: surrogates not allowed",
    ),
    "text for bytes": (
        RequestFLJob(sign_data="a"),  # type: ignore[arg-type]
        "RequestFLJob.sign_data: expected bytes, got str",
    ),
    "double tensor": (
        ResponseGetModel(feature_map=(FeatureMap("a"), FeatureMap("b", np.zeros(2)))),  # type: ignore[arg-type]
        "ResponseGetModel.feature_map[1].data: expected an array of float32, got float64 array",
    ),
    "list for tensor": (
        ResponseGetModel(feature_map=(FeatureMap("a", [0.0]),)),  # type: ignore[arg-type]
        "ResponseGetModel.feature_map[0].data: expected an array of float32, got list",
    ),
    "unsigned tensor": (
        ResponseGetModel(compress_feature_map=(CompressFeatureMap("a", np.zeros(2, np.uint8)),)),
        (
            "ResponseGetModel.compress_feature_map[0].compress_data: "
            "expected an array of int8, got uint8 array"
        ),
    ),
    "number in a list": (
        RequestUpdateModel(index_array=(1, "2")),  # type: ignore[arg-type]
        "RequestUpdateModel.index_array[1]: expected an int, got str",
    ),
    "text for a list": (
        RequestUpdateModel(name_vec="abc"),  # type: ignore[arg-type]
        "RequestUpdateModel.name_vec: expected a tuple or a list, got str",
    ),
    "another table": (
        ResponseFLJob(fl_plan_config=FeatureMap()),  # type: ignore[arg-type]
        "ResponseFLJob.fl_plan_config: expected FLPlan, got FeatureMap",
    ),
    "no message": ((1, 2), "tuple: not a message"),
}


@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_a_value_that_does_not_fit_its_field_is_the_callers_fault(misfit: Any) -> None:
    message, sentence = misfit

    with pytest.raises(errors.CallerProtocolError) as fault:
        flat.encode(message)

    assert sentence == str(fault.value)
