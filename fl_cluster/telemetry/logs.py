"""How a process logs: one line per message, to people as text or to machines as JSON.

    2026-11-22 03:31:29.146 INFO fl_cluster[4711] service.collect: update counted device=c1

Details go into fields, not into the sentence, so that lines can be searched.  What looks like
a secret is blotted out on the way, whoever logs it.  Messages of other libraries pass through
the same handler from WARNING up.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from fl_cluster.errors import ConfigError, Problem

PACKAGE = "fl_cluster"
LEVEL_VARIABLE = "GLOG_v"
LEVELS = {"0": "DEBUG", "1": "INFO", "2": "WARNING", "3": "ERROR"}
"""The original's numbers."""

SECRET_NAME = re.compile(r"password|passwd|secret|token|private_key", re.IGNORECASE)
LOGIN_IN_URL = re.compile(r"(?<=://)[^\s/]*@")
TOKEN = re.compile(r"\bflt_[A-Za-z0-9_-]{8,}|(?<=[Bb]earer )[!-~]{8,}")
"""A bearer token of ours, or what follows the word in a header."""
PLAIN = re.compile(r"[!#-<>-\[\]-~]+\Z")
"""Printable ASCII without blank, quote, equals sign and backslash: needs no quoting."""

BLOTTED = "***"


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log `message` with its details as fields."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, extra={"fields": fields}, stacklevel=2)


def level_in_force(level: str, environ: Mapping[str, str]) -> str:
    """`level`, unless the variable the original knows says otherwise."""
    number = environ.get(LEVEL_VARIABLE)
    if number is None:
        return level
    if number not in LEVELS:
        message = (
            f"Incorrect log level:{number}, Please check the configuration of GLOG_v or "
            f"GLOG_stderrthreshold, desired log level :{LEVELS}"
        )
        raise ConfigError((Problem(LEVEL_VARIABLE, message),))
    return LEVELS[number]


def configure(level: str, log_format: str, stream: TextIO | None = None) -> logging.Handler:
    """Send what this process logs to `stream` (standard error), as `text` or `json`.

    The handler of an earlier call is replaced.  Returns the handler.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.set_name(PACKAGE)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if each.get_name() == PACKAGE]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(level)
    return handler


def blotted(text: str) -> str:
    """`text` without the login of any URL, and without any token, in it."""
    return TOKEN.sub(BLOTTED, LOGIN_IN_URL.sub(f"{BLOTTED}@", text))


def _area(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{PACKAGE}.")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", {})
    return {name: BLOTTED if SECRET_NAME.search(name) else value for name, value in fields.items()}


class TextFormatter(logging.Formatter):
    """Lines for people.  A line break inside a message cannot look like another message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        head = (
            f"{moment:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname} "
            f"{PACKAGE}[{record.process}] {_area(record)}:"
        )
        message = blotted(record.getMessage()).replace("\n", "\n    ")
        details = [f"{name}={_quoted(value)}" for name, value in _fields(record).items()]
        line = " ".join([head, message, *details])
        if record.exc_info:
            line += "\n" + blotted(self.formatException(record.exc_info))
        return line


def _quoted(value: object) -> str:
    text = blotted(str(value))
    return text if PLAIN.match(text) else json.dumps(text, ensure_ascii=False)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; a field never hides one of the fixed keys."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "pid": record.process,
            "area": _area(record),
            "message": blotted(record.getMessage()),
        }
        for name, value in _fields(record).items():
            plain = isinstance(value, int | float | bool | None)
            line.setdefault(name, value if plain else blotted(str(value)))
        if record.exc_info:
            line["exception"] = blotted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)
