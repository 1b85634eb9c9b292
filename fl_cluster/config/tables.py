"""The shape of the tables of keys: what is said of one key, and of one block of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from fl_cluster.config.rules import Rule, Value


class Kind(StrEnum):
    """The types of the original's messages."""

    STR = "str"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one block."""

    name: str
    kind: Kind
    attribute: str
    """Field of the block's class; empty for what is made from several keys."""
    meaning: str
    _: KW_ONLY
    default: Value | None = None
    """None: there is none, because the key is always required where it is looked at."""
    required: bool = False
    rule: Rule | None = None
    example: str = ""
    is_secret: bool = False
    takes_scalars: bool = False
    """Whether a number or a boolean is as good as the same in quotes."""


Values = Mapping[str, Value]
"""Checked values under their dotted names, defaults filled in."""


def _always(_values: Values) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One mapping of the file; `name` is its dotted path, empty for the file itself."""

    name: str
    meaning: str
    keys: tuple[Key, ...]
    server_only: bool = True
    applies: Callable[[Values], bool] = _always
    """Whether the block is looked at, given what was read before it."""
    applies_when: str = ""
    """The same for a person."""
    is_closed: bool = False
    """Whether a key that is not in the table is a problem rather than a warning."""

    def path(self, key: Key) -> str:
        """The dotted name of one of the block's keys."""
        return f"{self.name}.{key.name}" if self.name else key.name
