"""fl_cluster: a federated-learning cluster in which no acknowledged update is lost."""

from fl_cluster.version import VERSION

__version__ = VERSION

__all__ = ["__version__"]
