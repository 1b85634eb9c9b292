"""The limits are the numbers that their reasons speak of."""

from __future__ import annotations

import inspect
import re

import numpy as np

from fl_cluster.wire import limits


def test_the_largest_float_is_that_of_float32() -> None:
    assert float(np.finfo(np.float32).max) == limits.MAX_FLOAT


def test_ints_and_enums_have_the_range_of_their_type() -> None:
    assert (np.iinfo(np.int32).min, np.iinfo(np.int32).max) == (limits.MIN_INT, limits.MAX_INT)
    assert (np.iinfo(np.int8).min, np.iinfo(np.int8).max) == (limits.MIN_ENUM, limits.MAX_ENUM)


def test_a_flatbuffer_is_as_large_as_its_offsets_reach() -> None:
    assert np.iinfo(np.int32).max == limits.MAX_FLAT_BYTES


def test_every_limit_stands_under_its_reason() -> None:
    lines = inspect.getsource(limits).splitlines()
    names = [number for number, line in enumerate(lines) if re.match(r"M(AX|IN)_\w+: Final", line)]

    for number in names:
        above = lines[number - 1]
        assert above.startswith(("# ", "MIN_", "MAX_")), lines[number]
    assert len(names) == len([name for name in vars(limits) if name.startswith(("MAX_", "MIN_"))])
