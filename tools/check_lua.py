"""Lints the scripts that run inside Redis: what a reader has to know is in their header.

python tools/check_lua.py [FOLDER]

Of every script: at most 50 lines of at most 100 characters; the header names each KEYS and
ARGV that the script uses, and each word that it answers; a word is a verdict, or one of the
few that only the store itself understands; no key is built, every command gets a KEYS.
Of the prelude, which is put before scripts and answers nothing: keys are its functions' own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fl_cluster.rounds.events import Verdict

SCRIPTS = Path(__file__).resolve().parent.parent / "fl_cluster" / "store" / "redis" / "scripts"
PRELUDE = "prelude"
NEEDS_PRELUDE = "-- needs prelude"
MOST_LINES, MOST_COLUMNS = 50, 100

STORE_WORDS = {"OK", "created", "exists", "renewed", "fenced", "unknown", "left"} | {
    "fresh",
    "repeated",
    "replayed",
}
"""Answers about records, members and signatures, not about an event of the round."""

KEYLESS = {"TIME", "PUBLISH"}

ANSWER = re.compile(r"""(?:\bword\(|\ball(?:_with_zero)?\(|\banswer = |status_reply\()'(\w+)'""")
CALL = re.compile(r"redis\.p?call\(\s*([^,)]+)\s*(?:,\s*([^,)]+))?")
TAKES_KEY = re.compile(r"\b(?:read|give_up|collected)\(([^,)]+)")
FROM_PRELUDE = re.compile(
    r"\b(?:clock|read|collecting|ending|hybrid|finishable|overdue|word|all|all_with_zero|holder"
    r"|give_up|masked|goal_of|completed|stalled|unaggregated|collected)\("
)
LISTED = re.compile(r"\w+(?: \|\s+\w+)+")


def split(text: str) -> tuple[str, str]:
    """The header as one line of text, and the script without any comment."""
    lines = text.splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    header = " ".join(line.removeprefix("--").strip() for line in lines[:length])
    body = "\n".join(line.partition("--")[0] for line in lines[length:])
    return header, body


def numbers_named(header: str, what: str) -> set[str]:
    """The numbers that the header explains of KEYS or ARGV."""
    sentence = re.search(rf"\b{what} (.*?)\.(?: |$)", header)
    return set(re.findall(r"(?:^|, )(\d+) ", sentence[1])) if sentence else set()


def problems_of_header(header: str, body: str) -> Iterator[str]:
    """What the script uses or answers and its header does not say, or the other way round."""
    for what in ("KEYS", "ARGV"):
        used = set(re.findall(rf"{what}\[(\d+)\]", body))
        for number in sorted(used - numbers_named(header, what), key=int):
            yield f"{what}[{number}] is used and not in the header"
    answers = set(ANSWER.findall(body))
    listed = {word for found in LISTED.findall(header) for word in re.findall(r"\w+", found)}
    for word in sorted(answers - set(re.findall(r"\w+", header))):
        yield f"answers '{word}', which is not in the header"
    for word in sorted(listed - answers):
        yield f"the header lists '{word}', which is never answered"
    for word in sorted(answers - STORE_WORDS - set(Verdict)):
        yield f"answers '{word}', which is no verdict"


def problems_of_keys(body: str, *, is_prelude: bool) -> Iterator[str]:
    """Commands whose key is not one that the caller named."""
    allowed = {"key"} if is_prelude else set()
    for command, key in CALL.findall(body):
        if not re.fullmatch(r"'[A-Z]+'", command):
            yield f"runs {command}, whose name is not written out"
        elif command.strip("'") not in KEYLESS and not is_named(key.strip(), allowed):
            name = command.strip("'")
            yield f"{name} gets {key.strip() or 'no key'}, which is no KEYS[n]"
    if not is_prelude:
        for key in TAKES_KEY.findall(body):
            if not is_named(key.strip(), allowed):
                yield f"a function of the prelude gets {key.strip()}, which is no KEYS[n]"


def is_named(key: str, allowed: set[str]) -> bool:
    """Whether the key is an element of KEYS, or an argument that stands for one."""
    return key in allowed or re.fullmatch(r"KEYS\[\w+\]", key) is not None


def problems(name: str, text: str) -> Iterator[str]:
    """Everything wrong with one script."""
    lines = text.splitlines()
    header, body = split(text)
    is_prelude = name == PRELUDE
    for number, line in enumerate(lines, 1):
        if len(line) > MOST_COLUMNS:
            yield f"line {number} has {len(line)} characters, at most {MOST_COLUMNS}"
    yield from problems_of_keys(body, is_prelude=is_prelude)
    if is_prelude:
        return
    if len(lines) > MOST_LINES:
        yield f"has {len(lines)} lines, at most {MOST_LINES}"
    if FROM_PRELUDE.search(body) and not text.startswith(NEEDS_PRELUDE):
        yield f"uses the prelude, but does not begin with '{NEEDS_PRELUDE}'"
    yield from problems_of_header(header, body)


def main(arguments: list[str]) -> int:
    """Check all scripts of the folder; 1 when anything is wrong."""
    folder = Path(arguments[0]) if arguments else SCRIPTS
    files = sorted(folder.glob("*.lua"))
    found = [
        f"{path}: {problem}"
        for path in files
        for problem in problems(path.stem, path.read_text("utf-8"))
    ]
    print("\n".join(found) or f"lua: {len(files)} scripts say what they do")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
