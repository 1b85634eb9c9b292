"""Checks of the arguments that programs pass; a complaint is a RuntimeError in known words."""

from __future__ import annotations


def check_str(arg_name: str, str_val: object) -> None:
    """RuntimeError unless the value is text, and not empty."""
    if not isinstance(str_val, str):
        raise RuntimeError(f"Parameter '{arg_name}' should be str, but actually {type(str_val)}")
    if not str_val:
        raise RuntimeError(f"Parameter '{arg_name}' should not be empty str")


def check_list(arg_name: str, list_val: object) -> None:
    """RuntimeError unless the value is a list, and not empty."""
    if not isinstance(list_val, list):
        # The type of the type: programs may compare the sentence that has always been there.
        raise RuntimeError(
            f"Parameter '{arg_name}' should be list, but actually {type(type(list_val))}"
        )
    if not list_val:
        raise RuntimeError(f"Parameter '{arg_name}' should not be empty list")


def check_int(arg_name: str, int_val: object) -> None:
    """RuntimeError unless the value is an int; a bool is one."""
    if not isinstance(int_val, int):
        raise RuntimeError(f"Parameter '{arg_name}' should be int, but actually {type(int_val)}")


def check_float(arg_name: str, float_val: object) -> None:
    """RuntimeError unless the value is a float; an int is none."""
    if not isinstance(float_val, float):
        raise RuntimeError(
            f"Parameter '{arg_name}' should be float, but actually {type(float_val)}"
        )
