"""The logger that programs use."""

from fl_cluster.program.log import debug, error, get_level, get_log_config, info, warning

__all__ = ["debug", "error", "get_level", "get_log_config", "info", "warning"]
