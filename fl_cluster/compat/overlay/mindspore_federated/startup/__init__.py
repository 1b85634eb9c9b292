"""Jobs, what they are given, and how their files are read."""

from . import feature_map, federated_local, ssl_config, yaml_config

__all__ = ["feature_map", "federated_local", "ssl_config", "yaml_config"]
