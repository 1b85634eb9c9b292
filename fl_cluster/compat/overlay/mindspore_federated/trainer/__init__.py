"""The Model of workers."""

from . import hfl_model

__all__ = ["hfl_model"]
