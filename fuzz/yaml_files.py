"""Invariant: any text is Settings or one ConfigError of sentences, never anything else, and soon.

An input is a file as a server and a scheduler read it; one that begins with a zero byte is a
value of the command line or the environment, for a key that the second byte picks.
`engine.campaign` has the command line.
"""

from __future__ import annotations

import atexit
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from engine.campaign import main
from engine.target import ROOT, Broken, Target, within

from fl_cluster.config.keys import KEYS, SECTIONS
from fl_cluster.config.load import load
from fl_cluster.config.problems import render_problems
from fl_cluster.config.schema import JobSettings
from fl_cluster.errors import ConfigError

MINIMAL = b"\n".join(
    line
    for line in (ROOT / "yamls" / "minimal.yaml").read_bytes().splitlines()
    if not line.lstrip().startswith(b"#")
)
OWN_WORDS = 2_000
"""Characters of a sentence beside what it quotes of the input."""

MOST_MEMORY = 30_000_000
"""Nodes of YAML take a few hundred bytes for each byte of an input of four kilobytes."""

MEASURED = 8
"""Memory is measured for one input of so many, because that takes longer than all the rest."""

BOMBS = (
    b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {k: *a%d, l: *a%d}\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
    b"a0: &a0 {x: 1}\n"
    + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
    b"a: &a\n  <<: *a\n  b: *a\n",
    b"a: " + b"[" * 900,
    b"a: 1" + b":1" * 900,
)
ODD = (b"!!timestamp x", b"!!bool x", b"!!int ''", b"1:1:1.5", b"0x_", b".inf", b"2001-99-99", b"~")
NAMES = sorted(KEYS)
FILE = Path(tempfile.mkstemp(prefix="fuzz-yaml-", suffix=".yaml")[1])
atexit.register(FILE.unlink, missing_ok=True)
NO_ENVIRONMENT: Mapping[str, str] = {}


def seeds() -> Iterator[bytes]:
    """The examples of the repository, bombs, and a value of each key on the command line."""
    for path in sorted((ROOT / "yamls").glob("*.yaml")):
        yield b"\n".join(line for line in path.read_bytes().splitlines() if b"#" not in line)
    yield from BOMBS
    for value in ODD:
        yield MINIMAL + b"\nextra: " + value + b"\n"
    for at in range(len(NAMES)):
        yield bytes([0, at]) + ODD[at % len(ODD)]


def attempt(
    content: bytes, overrides: Mapping[str, str], role: Literal["server", "scheduler"]
) -> None:
    FILE.write_bytes(content)
    try:
        settings = load(FILE, role, overrides=overrides, environ=NO_ENVIRONMENT)
    except ConfigError as exc:
        judge(exc, OWN_WORDS + 8 * len(content))
        return
    if not isinstance(settings, JobSettings):
        raise Broken(f"loaded as {type(settings).__name__}")


def judge(refusal: ConfigError, longest: int) -> None:
    """Each problem is one line that names where it is, and a terminal can show them all."""
    if not refusal.problems:
        raise Broken("refused without a reason")
    for problem in refusal.problems:
        text = str(problem)
        if not text or "Traceback" in text or len(text) > longest:
            raise Broken(f"not a sentence: {text[:OWN_WORDS]!r}")
    render_problems(refusal).encode("utf-8", "backslashreplace")


def check(data: bytes) -> None:
    if data[:1] == b"\0" and len(data) > 1:
        value = data[2:].decode("utf-8", "surrogateescape")
        content, overrides = MINIMAL, {NAMES[data[1] % len(NAMES)]: value}
    else:
        content, overrides = data, {}
    luck = zlib.crc32(data)
    role: Literal["server", "scheduler"] = "scheduler" if luck % 4 == 0 else "server"
    if luck % MEASURED == 0:
        within(MOST_MEMORY, lambda: attempt(content, overrides, role))
    else:
        attempt(content, overrides, role)


TARGET = Target(
    name="yaml_files",
    check=check,
    seeds=seeds,
    longest=2048,
    dictionary=(
        *(f"{name.rpartition('.')[2]}: ".encode() for name in [*NAMES, *SECTIONS]),
        *ODD,
        *(
            b"<<: *a",
            b"&a ",
            b"*a",
            b"!!binary ",
            b"!!python/name:os",
            b"- ",
            b"? ",
            b"---",
            b"%YAML 1.1",
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
