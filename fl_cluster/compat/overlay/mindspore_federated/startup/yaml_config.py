"""Reading a configuration file into the process's context."""

from fl_cluster.program.yaml_config import load_yaml_config

__all__ = ["load_yaml_config"]
