from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_cluster.program.check_type import check_float, check_int, check_list, check_str


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (check_str, 1, "Parameter 'x' should be str, but actually <class 'int'>"),
        (check_str, "", "Parameter 'x' should not be empty str"),
        (check_list, (), "Parameter 'x' should be list, but actually <class 'type'>"),
        (check_list, [], "Parameter 'x' should not be empty list"),
        (check_int, 1.0, "Parameter 'x' should be int, but actually <class 'float'>"),
        (check_float, 1, "Parameter 'x' should be float, but actually <class 'int'>"),
    ],
)
def test_a_wrong_value_is_refused_in_the_known_words(
    check: Callable[..., None], value: Any, message: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        check("x", value)

    assert str(caught.value) == message


def test_right_values_pass_and_a_bool_is_an_int() -> None:
    check_str("x", "a")
    check_list("x", [0])
    check_int("x", True)
    check_float("x", 0.5)
