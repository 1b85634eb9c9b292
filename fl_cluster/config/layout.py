"""Files whose sections have lost their indentation, as the original's manual prints them.

In such a file `round:` holds nothing and the keys of the section follow at its own level,
where the original would silently ignore them.  We know which section every key belongs to,
so the file can be recognised and the form it should have had can be shown.  It is not
accepted as it is: another reader of the same file would see another configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from fl_cluster.config.addresses import without_login
from fl_cluster.config.document import Document, Entry, parse
from fl_cluster.config.keys import HOMES, KEYS, SECTIONS
from fl_cluster.config.problems import SettingProblem
from fl_cluster.errors import ConfigError

INDENT = 2
MOST_GROWTH = 4
"""How many times as long as the file its indented form may be, to be worth reading."""
MASKED = "********"
ADDRESS = "distributed_cache.address"


def home_of(path: str) -> str | None:
    """Where a key or section that stands at `path` belongs, when that is further inside."""
    container, _, name = path.rpartition(".")
    home = HOMES.get(name)
    if home is None or path in KEYS or path in SECTIONS:
        return None
    is_outside = container == "" or home.startswith(f"{container}.")
    return home if is_outside and (container == "" or container in SECTIONS) else None


def has_emptied_section(document: Document) -> bool:
    """Whether a section holds nothing while keys of it stand outside, as when indents are lost."""
    homes = {home for path in document.entries if (home := home_of(path)) is not None}
    return any(home in document.entries and document.entries[home].is_absent for home in homes)


def restore_sections(document: Document) -> SettingProblem | None:
    """Put misplaced entries where they belong and say so; None when every one is in place.

    The rest of the checks then speak of the file as it was meant.
    """
    moves = {path: home for path in document.entries if (home := home_of(path)) is not None}
    if not moves:
        return None
    first = min(moves, key=lambda path: document.entries[path].line)
    line = document.entries[first].line
    for path, home in moves.items():
        _move(document, path, f"{home}.{path.rpartition('.')[2]}")
    name = first.rpartition(".")[2]
    message = (
        f"On line {line} the key '{name}' stands outside of its section '{moves[first]}': "
        f"the sections of this file have lost their indentation, "
        f"yaml config file: {document.file}"
    )
    form = indented_text(document)
    if len(form) <= MOST_GROWTH * len(document.text):
        message += f"\nProperly indented it reads:\n\n{form}"
    return SettingProblem(first, message, file=document.file, origin=f"line {line}")


def _move(document: Document, old: str, new: str) -> None:
    inside = [path for path in document.entries if path == old or path.startswith(f"{old}.")]
    for path in inside:
        entry = document.entries.pop(path)
        target = new + path.removeprefix(old)
        if target not in document.entries or document.entries[target].is_absent:
            document.entries[target] = entry


@dataclass(slots=True)
class _Piece:
    """The lines of one key, with the comments above it, and the pieces that belong inside."""

    name: str
    lines: list[str]
    column: int
    inside: dict[str, _Piece] = field(default_factory=dict)
    """Pieces that have to move into this one."""
    inner_column: int | None = None
    """Where the keys stand that are inside already."""


def indented_text(document: Document) -> str:
    """The file with every key inside its section; passwords are blotted out.

    Comments are kept where the text can be rearranged line by line; where it cannot, or
    where there is a password in it, the same content is written afresh.
    """
    wanted = _nested(document.entries)
    shown = _nested({path: _blotted(path, entry) for path, entry in document.entries.items()})
    if shown == wanted:
        text = _rearranged(document)
        if text is not None and _says(text, wanted, document.file):
            return text
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000))


def _blotted(path: str, entry: Entry) -> Entry:
    if path in KEYS and KEYS[path].is_secret and entry.value:
        return replace(entry, value=MASKED)
    if path == ADDRESS and isinstance(entry.value, str):
        return replace(entry, value=without_login(entry.value))
    return entry


def _nested(entries: Mapping[str, Entry]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for path, entry in entries.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            below = node.setdefault(parent, {})
            if not isinstance(below, dict):
                below = node[parent] = {}
            node = below
        if entry.kind == "dict" or path in SECTIONS:
            node.setdefault(name, {})
        else:
            node[name] = entry.value
    return tree


def _says(text: str, wanted: dict[str, object], file: str) -> bool:
    try:
        again = parse(text, file)
    except ConfigError:
        return False
    return not again.problems and _nested(again.entries) == wanted


def _rearranged(document: Document) -> str | None:
    root = document.root
    assert root is not None
    if root.flow_style or not root.value:
        return None
    lines = document.text.splitlines(keepends=True)
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    preamble, pieces = _cut(root, lines)
    top: dict[str, _Piece] = {}
    for piece in pieces:
        _place(top, piece, HOMES.get(piece.name, ""))
    return "".join([*preamble, *(line for piece in top.values() for line in _emit(piece, 0))])


def _cut(root: yaml.MappingNode, lines: list[str]) -> tuple[list[str], list[_Piece]]:
    """What stands before the first key, and one piece per key of the file itself."""
    starts = [_start(key.start_mark.line, lines) for key, _ in root.value]
    ends = [*starts[1:], len(lines)]
    pieces = []
    for (key, value), start, end in zip(root.value, starts, ends, strict=True):
        piece = _Piece(str(key.value), lines[start:end], key.start_mark.column)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            piece.inner_column = value.value[0][0].start_mark.column
        pieces.append(piece)
    return lines[: starts[0]], pieces


def _start(line: int, lines: list[str]) -> int:
    """The first line of the comments that stand directly above `line`."""
    while line > 0 and lines[line - 1].lstrip(" ").startswith("#"):
        line -= 1
    return line


def _place(top: dict[str, _Piece], piece: _Piece, home: str) -> None:
    """Put `piece` into the section `home` below `top`, making what is not there yet."""
    pieces = top
    for depth, name in enumerate(home.split(".") if home else ()):
        if name not in pieces:
            pieces[name] = _Piece(name, [f"{name}:\n"], 0 if depth == 0 else piece.column)
        pieces = pieces[name].inside
    if piece.name in pieces:
        # The section was made because one of its keys came first: its own lines lead now.
        piece.inside = pieces[piece.name].inside
    pieces[piece.name] = piece


def _emit(piece: _Piece, column: int) -> Iterator[str]:
    shift = column - piece.column
    for line in piece.lines:
        yield (" " * shift + line) if line.strip() and shift > 0 else line
    inner = column + INDENT if piece.inner_column is None else piece.inner_column + shift
    for below in piece.inside.values():
        yield from _emit(below, inner)
