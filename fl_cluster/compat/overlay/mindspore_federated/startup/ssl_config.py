"""Passwords."""

from fl_cluster.program.ssl_config import SSLConfig

__all__ = ["SSLConfig"]
