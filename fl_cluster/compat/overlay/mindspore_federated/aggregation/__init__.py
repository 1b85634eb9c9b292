"""What methods of aggregation ask of a worker's training."""

from . import fedprox

__all__ = ["fedprox"]
