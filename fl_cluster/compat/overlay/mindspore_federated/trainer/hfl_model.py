"""The Model of workers."""

from fl_cluster.program.hfl_model import HFLModel

__all__ = ["HFLModel"]
