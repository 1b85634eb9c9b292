"""Writes docs/configuration.md from the tables the configuration is checked with.

python tools/document_configuration.py            write the file
python tools/document_configuration.py --check    exit 1 when it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from fl_cluster.config.keys import BLOCKS
from fl_cluster.config.overrides import PASSWORD_VARIABLE, variable_of
from fl_cluster.config.tables import Block, Key, Kind

TARGET = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
EXAMPLE = "round.start_fl_job_threshold"

INTRODUCTION = f"""\
# Configuration

<!-- Written by tools/document_configuration.py; `make docs` writes it again. -->

One YAML file configures every process of a job.
Its keys are those of MindSpore Federated 0.1.0, with the same defaults, ranges and messages; \
the sections `privacy` and `cluster` are new and may be left out.
`yamls/minimal.yaml` has the least a job needs, `yamls/lenet.yaml` every section with comments.

A value is taken from the last of these that has it:

1. the default in the tables below;
2. the file;
3. the environment: `{variable_of(EXAMPLE)}=10` sets `{EXAMPLE}`;
4. the command line, where keys are named as in the file.

In the environment and on the command line numbers and booleans are written as in YAML; \
text is taken as it stands.
`null` for a number or a boolean there means: not given, so the default counts.
The Redis password is best given as `{PASSWORD_VARIABLE}`; it is never logged.

- Everything that is wrong is reported at once: the line of the file, what was found, what is \
allowed.
- A key that no table knows is ignored, with a warning when the process starts; inside `privacy` \
and `cluster` it is an error, and so is an unknown `FL_CLUSTER__` variable.
- A key given twice is an error.
- A file whose sections have lost their indentation is refused, and shown as it should have been.
- An empty text counts as not given.
- The scheduler looks only at the tables marked *all processes*; the others may be missing from \
its file.
"""


def document() -> str:
    """The whole file."""
    parts = [INTRODUCTION, *(_block(block) for block in BLOCKS)]
    return "\n".join(parts)


def _block(block: Block) -> str:
    title = f"`{block.name}`" if block.name else "The file itself"
    readers = "all processes" if not block.server_only else "servers"
    condition = f", looked at when {block.applies_when}" if block.applies_when else ""
    lines = [
        f"## {title}",
        "",
        f"{block.meaning} *({readers}{condition})*",
        "",
        "| key | type | default | allowed | meaning |",
        "| --- | --- | --- | --- | --- |",
        *(_row(key) for key in block.keys),
        "",
    ]
    return "\n".join(lines)


def _row(key: Key) -> str:
    kind = {Kind.STR: "text", Kind.INT: "int", Kind.FLOAT: "float", Kind.BOOL: "bool"}[key.kind]
    allowed = key.rule.allowed if key.rule else ""
    return f"| `{key.name}` | {kind} | {_default(key)} | {allowed} | {key.meaning} |"


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    if key.default == "":
        return "empty"
    assert key.default is not None
    outside = key.rule is not None and key.rule.complaint(key.name, key.default) is not None
    return "not given" if outside else f"`{key.default}`"


def main() -> int:
    """Write the file, or only compare it."""
    wanted = document()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text("utf-8") == wanted else 1
    TARGET.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
