"""A logger for programs: lines in the shape they know, where the GLOG_ variables say.

    [WARNING] FEDERATED(4711:139872,MainProcess):2022-06-01-16:40:30.123.456 [train.py:7] text

It is made when it is first used, from the environment at that moment; ValueError says which
variable cannot be used.  What the cluster itself logs goes its own way.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["debug", "error", "get_level", "get_log_config", "info", "warning"]

LOG_DIR, STDERR_LEVEL = "GLOG_log_dir", "GLOG_stderrthreshold"
LEVELS = {"0": "DEBUG", "1": "INFO", "2": "WARNING", "3": "ERROR"}
DEFAULT_LEVEL = "2"
DEFAULT_MAX_BYTES = 52_428_800
DEFAULT_BACKUP_COUNT = 30
FILE_MODE = 0o600


def debug(msg: object, *args: object, **kwargs: Any) -> None:
    """Log the message, formatted with the arguments, with severity DEBUG."""
    _logger().debug(msg, *args, **_seen_from_caller(kwargs))


def info(msg: object, *args: object, **kwargs: Any) -> None:
    """Log the message, formatted with the arguments, with severity INFO."""
    _logger().info(msg, *args, **_seen_from_caller(kwargs))


def warning(msg: object, *args: object, **kwargs: Any) -> None:
    """Log the message, formatted with the arguments, with severity WARNING."""
    _logger().warning(msg, *args, **_seen_from_caller(kwargs))


def error(msg: object, *args: object, **kwargs: Any) -> None:
    """Log the message, formatted with the arguments, with severity ERROR."""
    _logger().error(msg, *args, **_seen_from_caller(kwargs))


def get_level() -> str:
    """The least severe level that is logged: 0 DEBUG, 1 INFO, 2 WARNING or 3 ERROR."""
    name = logging.getLevelName(_logger().level)
    return next(number for number, level in LEVELS.items() if level == name)


def get_log_config() -> dict[str, str]:
    """The variables in force."""
    _logger()
    found = {"GLOG_v": get_level(), "GLOG_logtostderr": _to_stderr(os.environ)}
    if found["GLOG_logtostderr"] == "0":
        found[LOG_DIR] = os.environ[LOG_DIR]
        found["logger_maxBytes"] = str(_positive(os.environ, "logger_maxBytes", DEFAULT_MAX_BYTES))
        count = _positive(os.environ, "logger_backupCount", DEFAULT_BACKUP_COUNT)
        found["logger_backupCount"] = str(count)
        found[STDERR_LEVEL] = os.environ.get(STDERR_LEVEL, DEFAULT_LEVEL)
    return found


def _seen_from_caller(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The line of whoever called our function, not ours."""
    return {**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1}


@cache
def _logger() -> logging.Logger:
    return make_logger(os.environ)


def make_logger(environ: Mapping[str, str]) -> logging.Logger:
    """A logger as these variables want it; ValueError says which of them cannot be used."""
    logger = logging.Logger("FEDERATED", _level(environ, "GLOG_v"))  # noqa: LOG001 - for us alone
    # Judged also where all goes to the terminal: a wrong value is told at once, as ever.
    console_level = _level(environ, STDERR_LEVEL)
    console = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = [console]
    if _to_stderr(environ) == "0":
        console.setLevel(console_level)
        handlers.append(_file_handler(environ))
    for handler in handlers:
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
    return logger


def _level(environ: Mapping[str, str], name: str) -> str:
    number = environ.get(name, DEFAULT_LEVEL)
    if number not in LEVELS:
        raise ValueError(
            f"Incorrect log level:{number}, Please check the configuration of GLOG_v or"
            f" GLOG_stderrthreshold, desired log level :{LEVELS}"
        )
    return LEVELS[number]


def _to_stderr(environ: Mapping[str, str]) -> str:
    value = environ.get("GLOG_logtostderr", "1")
    if value not in ("0", "1"):
        raise ValueError(
            "Incorrect value, The value of GLOG_logtostderr must be 0 or 1, Output log to console,"
            " configure to 1."
        )
    return value


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(
            f"Incorrect value, The value of {name} must be positive integer. {name}:{text}"
        )
    return int(text)


def _file_handler(environ: Mapping[str, str]) -> logging.Handler:
    folder = environ.get(LOG_DIR, "")
    if not folder:
        raise ValueError(
            "When GLOG_logtostderr is set to 0, The directory of saving log must be set,"
            " GLOG_log_dir cannot be empty."
        )
    if not Path(folder).exists():
        raise ValueError(f"The file path does not exist. GLOG_log_dir:{folder}")
    path = Path(folder) / f"mindspore_federated.log.{os.getpid()}"
    handler = logging.handlers.RotatingFileHandler(
        path,
        maxBytes=_positive(environ, "logger_maxBytes", DEFAULT_MAX_BYTES),
        backupCount=_positive(environ, "logger_backupCount", DEFAULT_BACKUP_COUNT),
        encoding="utf-8",
    )
    path.chmod(FILE_MODE)
    return handler


class _Formatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(
            "[%(levelname)s] FEDERATED(%(process)d:%(thread)d,%(processName)s):%(asctime)s"
            " [%(filename)s:%(lineno)d] %(message)s"
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - the library's
        microseconds = int(record.created * 1e6) % 1_000_000
        moment = time.strftime("%Y-%m-%d-%H:%M:%S", time.localtime(record.created))
        return f"{moment}.{microseconds // 1000:03d}.{microseconds % 1000:03d}"
