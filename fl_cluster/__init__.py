"""fl_cluster: a federated-learning cluster in which no acknowledged update is lost."""

from fl_cluster.version import VERSION as __version__

__all__ = ["__version__"]
