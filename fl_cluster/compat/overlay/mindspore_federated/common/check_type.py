"""Checks of arguments."""

from fl_cluster.program.check_type import check_float, check_int, check_list, check_str

__all__ = ["check_float", "check_int", "check_list", "check_str"]
