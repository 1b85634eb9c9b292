"""The text of a YAML file as dotted names with their values, types and lines.

What YAML can say and a configuration cannot mean is a problem here: broken syntax, a key
given twice, tags that would run code, names that are not text.  What the original's reader
skips (null, lists, dates) is skipped, but remembered, so that it can be said.
Nothing is executed or constructed beyond plain scalars, and the work is bounded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fl_cluster.config.problems import SettingProblem
from fl_cluster.config.rules import Value
from fl_cluster.errors import ConfigError

MOST_NESTED = 50
MAX_FILE_BYTES = 1_048_576
"""A hundred times the largest configuration there is."""

MAX_ENTRIES = 1_000
"""Aliases can multiply a small file without bound."""

LONGEST_NUMBER = 256
"""Characters; what takes longer to write means nothing, and forever to multiply or to print."""

IMPOSSIBLE = (ValueError, ArithmeticError, AttributeError, LookupError)
"""What PyYAML's constructors raise for a scalar that only looks like a number or a date."""

MERGE_TAG = "tag:yaml.org,2002:merge"
NULL_TAG = "tag:yaml.org,2002:null"
TEXT_TAG = "tag:yaml.org,2002:str"
COUNTED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))

SKIPPED_KINDS = {
    "NoneType": "nothing",
    "list": "a list",
    "date": "a date",
    "datetime": "a date",
    "bytes": "binary data",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What one dotted name holds."""

    kind: str
    """int, float, bool, str or dict; otherwise words for what the original's reader skips."""
    value: Value | None
    """None for a mapping and for what is skipped."""
    origin: str
    line: int = 0

    @property
    def is_absent(self) -> bool:
        """Whether it counts as not given, as in the original."""
        return self.value is None and self.kind != "dict"


@dataclass(slots=True)
class Document:
    """A parsed file."""

    file: str
    text: str = ""
    root: yaml.MappingNode | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: list[SettingProblem] = field(default_factory=list)
    """What the original cannot even read, so that it gets no further."""
    problems: list[SettingProblem] = field(default_factory=list)


def read_text(path: str | Path) -> str:
    """The file's text; `ConfigError` says in a sentence why there is none."""
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(file, f"yaml config file {file} not exist") from None
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise _unreadable(file, f"yaml config file {file} cannot be read: {reason}") from exc
    if len(raw) > MAX_FILE_BYTES:
        message = f"yaml config file {file} is larger than {MAX_FILE_BYTES} bytes"
        raise _unreadable(file, message)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        message = (
            f"yaml config file {file} is not UTF-8 text: "
            f"byte {raw[exc.start]:#04x} on line {line} does not belong there"
        )
        raise _unreadable(file, message) from None


def _unreadable(file: str, message: str, origin: str = "") -> ConfigError:
    return ConfigError((SettingProblem("", message, file=file, origin=origin),))


def parse(text: str, file: str) -> Document:
    """The document in `text`; `ConfigError` when it is no mapping at all.

    Lesser problems are in the document's `problems`.
    """
    try:
        return _parsed(text, file)
    except yaml.MarkedYAMLError as exc:
        raise _syntax_error(file, exc) from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        message = (
            f"yaml config file {file} is not valid YAML: the character "
            f"U+{exc.character:04X} on line {line} is not allowed"
        )
        raise _unreadable(file, message, f"line {line}") from None
    except RecursionError:
        raise _unreadable(file, f"yaml config file {file} is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Gives up what is nested more deeply than anybody writes: the time it takes grows with the
    square of the depth."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise RecursionError
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _JsonLoader(_Loader):
    """Takes numbers as JSON writes them: to YAML 1.1, 1e-3 is text."""


_JsonLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"-?\d+[eE][+-]?\d+\Z"), list("-0123456789")
)


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(text: str, file: str) -> Document:
    # JSON has tabs between its tokens only, where YAML allows none.
    loader = _JsonLoader(text.replace("\t", " ")) if _is_json(text) else _Loader(text)
    root = loader.get_single_node()
    expected = f"Expect content of yaml config file {file} is of the dict type"
    if root is None or root.tag == NULL_TAG:
        raise _unreadable(file, f"{expected}, but it is empty")
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise _unreadable(file, f"{expected}, but it is a {kind}")
    document = Document(file, text, root)
    _Flattener(loader, document).walk(root, "")
    return document


def _syntax_error(file: str, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    where = f" on line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    what = ", ".join(part for part in (error.context, error.problem) if part)
    if "undefined alias" in what:
        # PyYAML would show the name, which may be the start of an unquoted password.
        what = "text that begins with * must be in quotes"
    message = f"yaml config file {file} is not valid YAML{where}: {what}"
    return _unreadable(file, message, f"line {mark.line + 1}" if mark else "")


class _Flattener:
    """Walks the nodes of one document and fills in its entries and problems."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self._loader = loader
        self._document = document
        self._open: set[int] = set()
        """Mappings being walked: meeting one again means it contains itself."""

    def walk(self, mapping: yaml.MappingNode, prefix: str) -> None:
        """Enter everything below `mapping` under names that begin with `prefix`."""
        if id(mapping) in self._open:
            self._complain(prefix, "contains itself", mapping)
            return
        self._open.add(id(mapping))
        for name, (key, node) in self._pairs(mapping, prefix).items():
            path = f"{prefix}.{name}" if prefix else name
            if len(self._document.entries) >= MAX_ENTRIES:
                message = (
                    f"yaml config file {self._document.file} has more than {MAX_ENTRIES} entries"
                )
                raise _unreadable(self._document.file, message)
            self._document.entries[path] = self._entry(path, key, node)
            if isinstance(node, yaml.MappingNode):
                self.walk(node, path)
        self._open.discard(id(mapping))

    def _pairs(
        self, mapping: yaml.MappingNode, prefix: str
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Name -> key and value; of a key given twice, the last, as YAML readers do."""
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            name = self._name(key, prefix)
            if name is None:
                continue
            line = key.start_mark.line + 1
            if name in lines:
                path = f"{prefix}.{name}" if prefix else name
                lines_text = f"on lines {lines[name]} and {line}"
                self._complain(path, f"is given twice, {lines_text}", key)
            lines[name] = line
        self._loader.flatten_mapping(mapping)
        return {str(key.value): (key, node) for key, node in mapping.value if _is_text(key)}

    def _name(self, key: yaml.Node, prefix: str) -> str | None:
        """The key as text; None for a merge key and, with a problem, for what is no text."""
        if key.tag == MERGE_TAG:
            return None
        if _is_text(key):
            return str(key.value)
        shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        line = key.start_mark.line + 1
        where = f"in '{prefix}' " if prefix else ""
        message = (
            f"The key {shown} {where}on line {line} is not text to YAML; put it in quotes, "
            f"yaml config file: {self._document.file}"
        )
        self._document.unreadable.append(
            SettingProblem(prefix, message, file=self._document.file, origin=f"line {line}")
        )
        return None

    def _entry(self, path: str, key: yaml.Node, node: yaml.Node) -> Entry:
        line = key.start_mark.line + 1
        origin = f"line {line}"
        if isinstance(node, yaml.MappingNode):
            return Entry("dict", None, origin, line)
        if isinstance(node, yaml.SequenceNode):
            return Entry("a list", None, origin, line)
        try:
            value = self._constructed(node)
        except yaml.constructor.ConstructorError:
            what = "has a YAML tag, which is not allowed; text that begins with ! must be in quotes"
            self._complain(path, what, key)
            return Entry("a tagged value", None, origin, line)
        except IMPOSSIBLE:
            self._complain(path, "looks like a number or a date and is none; put it in quotes", key)
            return Entry("an impossible value", None, origin, line)
        return entry_of(value, origin, line)

    def _constructed(self, node: yaml.Node) -> object:
        if node.tag in COUNTED_TAGS and len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"a number of more than {LONGEST_NUMBER} characters")
        return self._loader.construct_object(node)

    def _complain(self, path: str, what: str, node: yaml.Node) -> None:
        file = self._document.file
        message = f"The parameter '{path}' {what}, yaml config file: {file}"
        origin = f"line {node.start_mark.line + 1}"
        self._document.problems.append(SettingProblem(path, message, file=file, origin=origin))


def _is_text(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == TEXT_TAG


def entry_of(value: object, origin: str, line: int = 0) -> Entry:
    """What a constructed scalar amounts to; bool before int, as bool is an int in Python."""
    if isinstance(value, bool):
        return Entry("bool", value, origin, line)
    if isinstance(value, int):
        return Entry("int", value, origin, line)
    if isinstance(value, float):
        return Entry("float", value, origin, line)
    if isinstance(value, str):
        return Entry("str", value, origin, line)
    kind = type(value).__name__
    return Entry(SKIPPED_KINDS.get(kind, f"a {kind}"), None, origin, line)
