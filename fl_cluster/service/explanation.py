"""What an explanation is, and the facts it is made from: data, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from fl_cluster.lifecycle.membership import Member, Role
from fl_cluster.rounds.exchange import Step
from fl_cluster.rounds.plan import Millis
from fl_cluster.service.spending import Spent
from fl_cluster.store.ports import Counts, Snapshot

NOBODY = Counts(0, 0, 0)


class Cause(StrEnum):
    """What the job waits for, or why it waits for nothing."""

    STORE_UNREACHABLE = "store_unreachable"
    STORE_LOADING = "store_loading"
    STORE_READ_ONLY = "store_read_only"
    STORE_OUT_OF_MEMORY = "store_out_of_memory"
    STORE_DISK = "store_disk"
    STORE_FORBIDDEN = "store_forbidden"
    STORE_BUSY = "store_busy"
    STORE_DAMAGED = "store_damaged"
    NO_JOB = "no_job"
    JOB_FINISHED = "job_finished"
    BUDGET_SPENT = "privacy_budget_spent"
    JOB_DISABLED = "job_disabled"
    NO_SERVER = "no_server"
    LEASES_EXPIRED = "leases_expired"
    SERVERS_DRAINING = "servers_draining"
    WAITING_FOR_FIRST_DEVICE = "waiting_for_first_device"
    WAITING_FOR_DEVICES = "waiting_for_devices"
    WAITING_FOR_UPDATES = "waiting_for_updates"
    WAITING_FOR_EXCHANGE = "waiting_for_exchange"
    WAITING_FOR_COMMIT = "waiting_for_commit"
    WAITING_FOR_WORKER = "waiting_for_worker"
    WINDOW_OVER = "window_over"
    AGGREGATION_TO_BEGIN = "aggregation_to_begin"
    AGGREGATING = "aggregating"
    RECORDING = "recording"
    RESTARTING = "restarting"
    LEASE_EXPIRED = "lease_expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The cause and what follows from it; instants are the store's, in ms since the epoch."""

    cause: Cause
    sentence: str
    waiting_for: str = ""
    """devices | updates | commit | worker | server | aggregation | store | operator, or empty:
    for nothing."""
    have: int | None = None
    need: int | None = None
    since: Millis | None = None
    until: Millis | None = None
    then: str = ""
    """What happens at `until`, or as soon as what is waited for is there."""
    change: str = ""
    """What to do about it; empty when all goes well."""
    eta: Millis | None = None
    """When it will be over if devices go on to arrive as they have."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a job at one instant."""

    at: Millis
    job_name: str
    snapshot: Snapshot | None
    counts: Counts = NOBODY
    rounds_total: int = 0
    spent: Spent | None = None
    """What noise has cost; None in a job without any."""
    is_secure: bool = False
    """Whether the job's masked rounds are those of SECURE_AGGREGATION."""
    told: Mapping[Step, int] = field(default_factory=dict)
    """How many devices have taken each step of a masked round."""
    members: Sequence[Member] = ()
    """Those whose lease has not ended."""
    overdue: Mapping[str, Millis | None] = field(default_factory=dict)
    """Member id -> when its lease ended, of those whom nobody has declared dead yet."""
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """Member id -> why this scheduler has no link to it."""

    @property
    def servers(self) -> list[Member]:
        """The live ones."""
        return [member for member in self.members if member.role is Role.SERVER]
