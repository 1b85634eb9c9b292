"""Model files: every model survives the trip, and any other bytes are refused in words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fl_cluster.store.model_files import MAX_NAME_BYTES, SUFFIXES, read_model, write_model

NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40
).filter(lambda name: len(name.encode()) <= MAX_NAME_BYTES)
TENSORS = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=0, max_dims=5, max_side=4),
    elements=st.floats(width=32),
)
MODELS = st.dictionaries(NAMES, TENSORS, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(model=MODELS)
def test_every_model_comes_back_bit_by_bit(
    folder: Path, suffix: str, model: dict[str, np.ndarray]
) -> None:
    path = folder / f"model{suffix}"

    write_model(path, model)
    back = read_model(path)

    assert [(name, array.shape, array.tobytes()) for name, array in model.items()] == [
        (name, array.shape, array.tobytes()) for name, array in back.items()
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_a_model_or_a_value_error(
    folder: Path, suffix: str, content: bytes
) -> None:
    assert_decoded_or_refused(folder / f"random{suffix}", content)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(model=MODELS, data=st.data())
def test_a_damaged_model_is_a_model_or_a_value_error(
    folder: Path, suffix: str, model: dict[str, np.ndarray], data: st.DataObject
) -> None:
    path = folder / f"damaged{suffix}"
    write_model(path, model)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    assert_decoded_or_refused(path, bytes(content))


def assert_decoded_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refusal = ""
    try:
        model = read_model(path)
    except ValueError as exc:
        refusal = str(exc)
    if refusal:
        assert path.name in refusal
        assert "expected" in refusal or "cannot" in refusal
        return
    assert model
    assert all(array.dtype == np.float32 and array.size > 0 for array in model.values())
