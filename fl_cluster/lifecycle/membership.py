"""A member: one process of the cluster, from the moment it has a name to its end.

    Joining --registered--> Serving --asked to stop--> Draining --left--> Gone
       ^                       |                          |
       +----- declared dead ---+---------- died ----------+---> Gone

Pure: instants and random numbers are passed in.
Invariants: a name belongs to one life and is never used again, so that a write under a dead
name can be told from one of the living; nothing leads back from Gone; a member that was
declared dead while it lives comes back under a new name, never under the old one.
Not here: who decides that a member is dead (its lease, in the store).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import assert_never

RANDOM_MIN, RANDOM_MAX = 10_000, 99_999
"""Bounds of the number that ends an id; five digits, as tools that show ids expect."""


class Role(StrEnum):
    """What a member is for."""

    SERVER = "server"
    SCHEDULER = "scheduler"
    WORKER = "worker"


class MemberState(StrEnum):
    """Where in its life a member is."""

    JOINING = "joining"
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


class MemberEvent(StrEnum):
    """What can happen to a member."""

    REGISTERED = "registered"
    STOP_ASKED = "stop_asked"
    DECLARED_DEAD = "declared_dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What the cluster knows of one process.

    `id` names this life of it; addresses are `ip:port`, empty when there is none.
    `process_started_s` is the operating system's start time of `pid` on `host`: together
    the three name a process for certain, although pids are used again.
    """

    id: str
    role: Role
    tcp_address: str
    http_address: str
    manage_address: str
    pid: int
    host: str
    process_started_s: float
    version: str
    kernel: str
    started_ms: int
    state: MemberState = MemberState.JOINING


def member_id(tcp_address: str, at_us: int, random: int, *, zone: tzinfo | None = None) -> str:
    """`ip:port::YYYY-mm-dd-HH:MM:SS.mmm.uuu::NNNNN`: unique, and sorts by address, then time.

    `at_us` are microseconds since the epoch, shown in `zone` (None: local time, as tools that
    show ids expect); `random` separates processes that start in the same microsecond.
    """
    if not RANDOM_MIN <= random <= RANDOM_MAX:
        raise ValueError(f"random must be within {RANDOM_MIN}..{RANDOM_MAX}, got {random}")
    seconds, micros = divmod(at_us, 1_000_000)
    text = datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%d-%H:%M:%S")
    return f"{tcp_address}::{text}.{micros // 1000:03d}.{micros % 1000:03d}::{random:05d}"


def step(member: Member, event: MemberEvent) -> Member:
    """The member after the event; the same object when the event changes nothing."""
    state = _next_state(member.state, event)
    return member if state is member.state else replace(member, state=state)


def _next_state(state: MemberState, event: MemberEvent) -> MemberState:
    match state:
        case MemberState.JOINING:
            return _from_joining(event)
        case MemberState.SERVING:
            return _from_serving(event)
        case MemberState.DRAINING:
            ends = event in (MemberEvent.LEFT, MemberEvent.DECLARED_DEAD)
            return MemberState.GONE if ends else state
        case MemberState.GONE:
            return state
        case _:
            assert_never(state)


def _from_joining(event: MemberEvent) -> MemberState:
    match event:
        case MemberEvent.REGISTERED:
            return MemberState.SERVING
        case MemberEvent.STOP_ASKED | MemberEvent.LEFT:
            return MemberState.GONE
        case MemberEvent.DECLARED_DEAD:
            return MemberState.JOINING
        case _:
            assert_never(event)


def _from_serving(event: MemberEvent) -> MemberState:
    match event:
        case MemberEvent.REGISTERED:
            return MemberState.SERVING
        case MemberEvent.STOP_ASKED:
            return MemberState.DRAINING
        case MemberEvent.DECLARED_DEAD:
            return MemberState.JOINING
        case MemberEvent.LEFT:
            return MemberState.GONE
        case _:
            assert_never(event)


def reborn(member: Member, new_id: str) -> Member:
    """The same process under a new name, after the old one was declared dead."""
    if new_id == member.id:
        raise ValueError(f"a new life needs a new name, got {new_id} again")
    return replace(member, id=new_id, state=MemberState.JOINING)
