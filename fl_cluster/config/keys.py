"""All keys there are, in the order in which they are checked, and how to find one by name."""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.config import legacy
from fl_cluster.config.extension import CLUSTER, NOISE, RING
from fl_cluster.config.tables import Block, Key

BLOCKS = (*legacy.BLOCKS, RING, NOISE, CLUSTER)

KEYS: Mapping[str, Key] = {block.path(key): key for block in BLOCKS for key in block.keys}
"""Dotted name -> key."""

SECTIONS: Mapping[str, Block] = {block.name: block for block in BLOCKS if block.name}
"""Dotted name -> block that is a mapping of its own in the file."""

HOMES: Mapping[str, str] = {
    name.rpartition(".")[2]: name.rpartition(".")[0] for name in (*KEYS, *SECTIONS)
}
"""Last part of a dotted name -> where it belongs; no last part occurs twice."""
