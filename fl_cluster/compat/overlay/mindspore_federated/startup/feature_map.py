"""Models as programs hand them over."""

from fl_cluster.program.feature_map import FeatureItem, FeatureMap

__all__ = ["FeatureItem", "FeatureMap"]
