"""Which decoder is used, what its arrays share with the body, and how large replies are made."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.wire import flat, flat_reference
from fl_cluster.wire.messages import (
    SCHEMA,
    CompressFeatureMap,
    FeatureMap,
    RequestGetModel,
    RequestUpdateModel,
    ResponseGetModel,
)
from fl_cluster.wire.schema import Kind


def test_without_the_extension_the_reference_decodes_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "fl_cluster._wire", None)

    decoder = flat._load()

    assert isinstance(decoder, flat_reference.Decoder)
    assert decoder.decode(RequestGetModel, flat.encode(RequestGetModel("a", 3))).iteration == 3
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("fl_cluster.wire.flat", "WARNING")
    assert "fl_cluster._wire was not built" in record.getMessage()
    assert "identical results but slower" in record.getMessage()


def test_with_the_extension_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    extension = pytest.importorskip("fl_cluster._wire")

    assert isinstance(flat._load(), extension.Decoder)
    assert caplog.records == []


def test_an_extension_that_fails_for_another_reason_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        """Finds an extension whose own imports fail."""

        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "fl_cluster._wire":
                raise ModuleNotFoundError("numpy is missing", name="numpy")

    monkeypatch.delitem(sys.modules, "fl_cluster._wire", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])

    with pytest.raises(ModuleNotFoundError, match="numpy is missing"):
        flat._load()


DECODERS: dict[str, Any] = {
    "in_use": flat.decode,
    "reference": flat.make_decoder(flat_reference.Decoder).decode,
}


@pytest.fixture(params=list(DECODERS))
def decode(request: pytest.FixtureRequest) -> Any:
    return DECODERS[request.param]


def an_update(*tensors: Any) -> bytes:
    features = tuple(FeatureMap(f"w{i}", tensor) for i, tensor in enumerate(tensors))
    return flat.encode(RequestUpdateModel(fl_id="a", feature_map=features))


def only_tensor(decode: Any, body: Any) -> Any:
    return decode(RequestUpdateModel, body).feature_map[0].data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_tensor_is_a_view_of_the_body_that_cannot_be_written_to(decode: Any, kind: Any) -> None:
    body = kind(an_update(np.arange(5, dtype=np.float32)))

    tensor = only_tensor(decode, body)

    start = np.frombuffer(body, np.uint8).ctypes.data
    assert start < tensor.ctypes.data < start + len(body)
    assert tensor.dtype == np.float32
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    assert not tensor.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1


def test_a_tensor_keeps_the_body_alive(decode: Any) -> None:
    class Body(bytearray):
        pass

    body = Body(an_update(np.arange(5, dtype=np.float32)))
    gone = weakref.ref(body)

    tensor = only_tensor(decode, body)
    del body
    gc.collect()

    assert gone() is not None
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    del tensor
    gc.collect()
    assert gone() is None


def test_a_refusal_does_not_keep_the_body_alive(decode: Any) -> None:
    body = bytearray(an_update(np.arange(5, dtype=np.float32)))
    body[0] = 255

    with pytest.raises(PeerProtocolError):
        decode(RequestUpdateModel, body)

    body.clear()  # BufferError while anything still looks at it
    assert not body


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_a_body_that_is_misaligned_in_memory_gives_aligned_tensors(decode: Any, shift: int) -> None:
    inner = an_update(np.arange(5, dtype=np.float32), np.ones(2, np.float32))
    body = memoryview(b"\0" * shift + inner)[shift:]

    features = decode(RequestUpdateModel, body).feature_map

    assert [each.data.tolist() for each in features] == [[0, 1, 2, 3, 4], [1, 1]]
    assert all(each.data.flags.aligned for each in features)


def test_an_empty_tensor_is_an_empty_array(decode: Any) -> None:
    tensor = only_tensor(decode, an_update(np.zeros(0, np.float32)))

    assert (tensor.size, tensor.dtype) == (0, np.float32)


def test_an_int8_tensor_is_a_view_that_cannot_be_written_to(decode: Any) -> None:
    features = (CompressFeatureMap("w", np.array([-128, 0, 127], np.int8), -1.0, 1.0),)
    body = flat.encode(RequestUpdateModel(compress_feature_map=features))

    (feature,) = decode(RequestUpdateModel, body).compress_feature_map

    assert feature.compress_data.tolist() == [-128, 0, 127]
    assert feature.compress_data.dtype == np.int8
    assert not feature.compress_data.flags.writeable
    assert not feature.compress_data.flags.owndata


def test_what_is_no_buffer_is_a_type_error(decode: Any) -> None:
    with pytest.raises(TypeError):
        decode(RequestUpdateModel, "text")


def test_a_large_reply_takes_its_size_once_to_build_and_once_to_return() -> None:
    tensors = tuple(FeatureMap(f"w{i}", np.zeros(500_000, np.float32)) for i in range(5))
    answer = ResponseGetModel(200, feature_map=tensors)
    tracemalloc.start()

    body = flat.encode(answer)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(body) > 10_000_000
    assert peak < 2.01 * len(body)


def test_a_message_that_no_flatbuffer_can_hold_is_refused_before_it_is_built() -> None:
    tensor = np.zeros(2**29, np.float32)  # 2 GiB of memory that nobody touches
    answer = ResponseGetModel(200, feature_map=(FeatureMap("w", tensor),))

    with pytest.raises(CallerProtocolError, match="a FlatBuffer holds 2147483647"):
        flat.encode(answer)


def test_every_kind_can_be_read_and_written() -> None:
    assert set(flat._PUTS) == set(flat._SLOTS) == set(flat_reference._READS) == set(Kind)


def test_the_reserve_for_a_message_is_never_too_small() -> None:
    for cls in SCHEMA:
        assert flat._most_bytes(cls()) >= len(flat.encode(cls()))
