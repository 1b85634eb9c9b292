"""FedProx's loss term."""

from fl_cluster.program.hfl_model import WithFedProxLossCell

__all__ = ["WithFedProxLossCell"]
