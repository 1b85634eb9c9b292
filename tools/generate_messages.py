"""Writes fl_cluster/wire/messages.py from fl_cluster/wire/fl_job.fbs.

    python tools/generate_messages.py            write the module
    python tools/generate_messages.py --check    exit 1 when the module is out of date

Understands the part of the FlatBuffers schema language that the protocol uses: one namespace,
enums, and tables of scalars, strings, tables and vectors of these.  Anything else is an error,
not a guess.  `///` lines become docstrings; `//+` lines are read as if the mark were not there
and declare what exists in msgpack only.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "fl_cluster" / "wire" / "fl_job.fbs"
TARGET = ROOT / "fl_cluster" / "wire" / "messages.py"

ENUM = re.compile(r"enum (\w+) : (\w+) \{(.*)\}$")
TABLE = re.compile(r"table (\w+) \{$")
FIELD = re.compile(r"(\w+):(\[?)(\w+)(\]?)(?: = (\S+))?;$")
IGNORED = re.compile(r"namespace [\w.]+;$")

SCALARS = {"bool": "BOOL", "int": "INT", "float": "FLOAT"}
ZEROS = {"BOOL": "False", "INT": "0", "FLOAT": "0.0", "ENUM": "0"}
VECTORS = {"float": "FLOATS", "int": "INTS", "ubyte": "BYTES", "byte": "INT8S", "string": "STRINGS"}
ANNOTATIONS = {
    "BOOL": "bool",
    "INT": "int",
    "ENUM": "int",
    "FLOAT": "float",
    "STRING": "str",
    "FLOATS": "Floats",
    "INT8S": "Int8s",
    "BYTES": "bytes",
    "INTS": "tuple[int, ...]",
    "ENUMS": "tuple[int, ...]",
    "STRINGS": "tuple[str, ...]",
}

HEADER = '''"""The messages of the device protocol: one NamedTuple per table, one IntEnum per enum.

Generated from fl_job.fbs by tools/generate_messages.py; a test fails when it is out of date.

Fields have their wire names and stand in slot order; those after the comment `msgpack only`
have no slot.  None is absent, where absent can be told from a value.  Enum fields are plain
ints: a peer may send a number that no member has.  The arrays that decoding puts here are
read-only views of the body it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from fl_cluster.wire.schema import AnyMessage, Field, Floats, Int8s, Kind
'''


class SchemaError(Exception):
    """A line of the schema that this program does not understand."""


@dataclass
class EnumDeclaration:
    name: str
    doc: str
    members: list[tuple[str, int]]


@dataclass
class FieldDeclaration:
    name: str
    kind: str
    default: str
    table: str | None
    is_native: bool

    @property
    def annotation(self) -> str:
        """The Python type, with None where the field may be absent."""
        if self.kind == "TABLE":
            plain = str(self.table)
        elif self.kind == "TABLES":
            plain = f"tuple[{self.table}, ...]"
        else:
            plain = ANNOTATIONS[self.kind]
        return f"{plain} | None" if self.default == "None" else plain


@dataclass
class TableDeclaration:
    name: str
    doc: str
    is_native: bool
    fields: list[FieldDeclaration] = field(default_factory=list)


@dataclass
class Schema:
    enums: dict[str, EnumDeclaration] = field(default_factory=dict)
    tables: dict[str, TableDeclaration] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    number: int
    text: str
    doc: str
    is_native: bool


def statements(text: str) -> list[Line]:
    """The lines that declare something, each with the doc comment above it; enums joined."""
    found: list[Line] = []
    doc: list[str] = []
    joined = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        is_native = line.startswith("//+")
        if line.startswith("///"):
            doc.append(line.removeprefix("///").strip())
            continue
        line = line.removeprefix("//+").split("//")[0].strip()
        if not line:
            continue
        joined = f"{joined} {line}".strip()
        if joined.startswith("enum ") and not joined.endswith("}"):
            continue
        found.append(Line(number, joined, " ".join(doc), is_native))
        doc, joined = [], ""
    return found


def parse_enum(match: re.Match[str], doc: str) -> EnumDeclaration:
    name, _, body = match.groups()
    members = [entry.split("=") for entry in body.split(",") if entry.strip()]
    return EnumDeclaration(name, doc, [(left.strip(), int(right)) for left, right in members])


def parse_field(schema: Schema, line: Line) -> FieldDeclaration:
    match = FIELD.match(line.text)
    if match is None:
        raise SchemaError(f"line {line.number}: not a field: {line.text!r}")
    name, opened, word, closed, given = match.groups()
    if bool(opened) != bool(closed):
        raise SchemaError(f"line {line.number}: unbalanced brackets: {line.text!r}")
    is_vector = bool(opened)
    is_table = word in schema.tables
    if word in schema.enums:
        kind = "ENUMS" if is_vector else "ENUM"
    elif is_table:
        kind = "TABLES" if is_vector else "TABLE"
    elif is_vector and word in VECTORS:
        kind = VECTORS[word]
    elif not is_vector and word in SCALARS:
        kind = SCALARS[word]
    elif not is_vector and word == "string":
        kind = "STRING"
    else:
        raise SchemaError(f"line {line.number}: unknown, or used before it is declared: {word}")
    if given not in {None, "null"} or (given == "null" and not line.is_native):
        raise SchemaError(f"line {line.number}: a default other than null in msgpack: {given}")
    default = "None" if given == "null" else ZEROS.get(kind, "None")
    return FieldDeclaration(name, kind, default, word if is_table else None, line.is_native)


def parse(text: str) -> Schema:
    """The declarations of a schema, in order; SchemaError names the line it cannot read."""
    schema = Schema()
    table: TableDeclaration | None = None
    for line in statements(text):
        if table is not None and line.text == "}":
            schema.tables[table.name] = table
            table = None
        elif table is not None:
            declared = parse_field(schema, line)
            if table.fields and table.fields[-1].is_native and not declared.is_native:
                raise SchemaError(f"line {line.number}: a field with a slot after one without")
            table.fields.append(declared)
        elif (match := ENUM.match(line.text)) is not None:
            schema.enums[match[1]] = parse_enum(match, line.doc)
        elif (match := TABLE.match(line.text)) is not None:
            table = TableDeclaration(match[1], line.doc, line.is_native)
        elif IGNORED.match(line.text) is None:
            raise SchemaError(f"line {line.number}: not understood: {line.text!r}")
    if table is not None:
        raise SchemaError(f"table {table.name} is not closed")
    return schema


def render_enum(enum: EnumDeclaration) -> list[str]:
    members = [f"    {name} = {number}" for name, number in enum.members]
    return ["", "", f"class {enum.name}(IntEnum):", f'    """{enum.doc}"""', "", *members]


def hides(declared: FieldDeclaration) -> str:
    """What the type checker has to be told where a field has the name of a tuple's method."""
    return "  # type: ignore[assignment]" if hasattr(tuple, declared.name) else ""


def render_table(table: TableDeclaration) -> list[str]:
    lines = ["", "", f"class {table.name}(NamedTuple):", f'    """{table.doc}"""', ""]
    was_native = table.is_native
    for declared in table.fields:
        if declared.is_native and not was_native:
            lines.append("    # msgpack only")
            was_native = True
        lines.append(
            f"    {declared.name}: {declared.annotation} = {declared.default}{hides(declared)}"
        )
    return lines


def render_descriptor(table: TableDeclaration) -> list[str]:
    entries = []
    for slot, declared in enumerate(table.fields):
        arguments = [
            f'"{declared.name}"',
            f"Kind.{declared.kind}",
            "None" if declared.is_native else str(slot),
        ]
        if declared.default != "None" or declared.table is not None:
            arguments.append(declared.default)
        if declared.table is not None:
            arguments.append(declared.table)
        entries.append(f"Field({', '.join(arguments)}),")
    if len(entries) == 1:
        return [f"        {table.name}: ({entries[0]}),"]
    lines = [f"            {entry}" for entry in entries]
    return [f"        {table.name}: (", *lines, "        ),"]


def render(schema: Schema) -> str:
    """The text of messages.py."""
    lines = [HEADER.rstrip("\n")]
    for enum in schema.enums.values():
        lines += render_enum(enum)
    for table in schema.tables.values():
        lines += render_table(table)
    lines += [
        "",
        "",
        "SCHEMA: Final[Mapping[type[AnyMessage], tuple[Field, ...]]] = MappingProxyType(",
        "    {",
    ]
    for table in schema.tables.values():
        lines += render_descriptor(table)
    return "\n".join([*lines, "    }", ")", ""])


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    text = render(parse(SOURCE.read_text(encoding="utf-8")))
    if not arguments:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.relative_to(ROOT)} is out of date: run python tools/generate_messages.py")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
