"""The process's context and the checks of arguments."""

from . import _fl_context, check_type

__all__ = ["_fl_context", "check_type"]
