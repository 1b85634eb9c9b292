"""Invariant: an operator's body is a value, or is refused with a sentence in the known words.

Nothing else ever comes out, the value can be written again, and what explains a text that is
no JSON ends.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from engine.campaign import main
from engine.target import Broken, Target, within

from fl_cluster.api.json_bodies import NOT_JSON, Refused, parse
from fl_cluster.api.json_complaint import complain

MEMORY_TIMES, MEMORY_MORE = 300, 100_000


WRONG = rb""" "\ud800" "\x" [1,] {1:2} nul - 01 1.e NaN \0 """.split()


def seeds() -> Iterator[bytes]:
    """A request of each kind, every literal, escape and number, and each the wrong way."""
    yield b'{"scheduler_http_port": 31000, "server_num": 4}'
    yield b'{"nodes": ["127.0.0.1:1::2"], "n": 20, "deep": [[{}], null, true, false]}'
    yield b'\xef\xbb\xbf["\\u00e9\\ud83d\\ude00\\n", -0.5e+3, 1E400, 0, "\xc3\xa9"]'
    yield from WRONG
    yield b"[" * 2000
    yield b'{"a":' * 700


def check(data: bytes) -> None:
    def read() -> object:
        try:
            return parse(data)
        except Refused as exc:
            if not str(exc).startswith(NOT_JSON) or len(str(exc)) == len(NOT_JSON):
                raise Broken(f"not in the known words: {exc}") from exc
            str(exc).encode("utf-8", "strict" if data.isascii() else "surrogatepass")
            return None

    value = within(MEMORY_TIMES * len(data) + MEMORY_MORE, read)
    if value is not None:
        json.dumps(value)
    complain(data)


TARGET = Target(
    name="json_bodies",
    check=check,
    seeds=seeds,
    dictionary=(
        b"\\u",
        b"\\ud83d\\ude00",
        b"true",
        b"false",
        b"null",
        b"1e999",
        b"\xef\xbb\xbf",
        b"-0",
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
