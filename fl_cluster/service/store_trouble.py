"""What a store's refusal means to whoever runs the cluster, and what to do about it.

The store's adapter hands on Redis's own words; here they become a cause.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_cluster.errors import FlClusterError, JobLost, StoreUnavailable
from fl_cluster.service.explanation import Cause, Explanation


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that Redis may be in, in which servers cannot work."""

    cause: Cause
    sentence: str
    change: str


UNREACHABLE = Condition(
    Cause.STORE_UNREACHABLE,
    "Redis does not answer",
    "start Redis, or see to the network between it and this host",
)

CONDITIONS: tuple[tuple[tuple[str, ...], Condition], ...] = (
    (
        ("no TLS with", "distributed_cache.c", "distributed_cache.private_key_filename"),
        Condition(
            Cause.STORE_UNREACHABLE,
            "Redis and this process do not come to terms about TLS",
            "correct cacert_filename, capath, cert_filename, private_key_filename or server_name in"
            " distributed_cache, or the scheme of its address (redis:// or rediss://)",
        ),
    ),
    (
        ("READONLY", "read only replica"),
        Condition(
            Cause.STORE_READ_ONLY,
            "Redis is a read-only replica: it answers and takes no writes",
            "name the primary in distributed_cache.address, or promote this one with REPLICAOF "
            "NO ONE",
        ),
    ),
    (
        ("OOM", "used memory > 'maxmemory'"),
        Condition(
            Cause.STORE_OUT_OF_MEMORY,
            "Redis has reached its maxmemory and takes no writes",
            "raise it with CONFIG SET maxmemory, or remove what else is stored there",
        ),
    ),
    (
        ("MISCONF", "unable to persist", "errors writing to the AOF"),
        Condition(
            Cause.STORE_DISK,
            "Redis cannot write to its disk and therefore takes no writes",
            "make room on its disk, then BGSAVE or BGREWRITEAOF",
        ),
    ),
    (
        ("LOADING", "loading the dataset"),
        Condition(Cause.STORE_LOADING, "Redis is starting and still reads its data", ""),
    ),
    (
        # Of whoever has not logged in, Redis takes no command with many or long arguments.
        (
            *("NOAUTH", "uthentication", "unauthenticated", "NOPERM", "no permissions"),
            "invalid username-password",
        ),
        Condition(
            Cause.STORE_FORBIDDEN,
            "Redis does not accept this user or its password, or the user may not do this",
            "check distributed_cache.username, FL_CLUSTER_REDIS_PASSWORD and the user's ACL",
        ),
    ),
    (
        ("BUSY",),
        Condition(
            Cause.STORE_BUSY,
            "Redis is busy with a script that does not end",
            "find whose it is, and end it with SCRIPT KILL",
        ),
    ),
    (
        ("MASTER is down", "NOREPLICAS", "CLUSTERDOWN"),
        Condition(
            Cause.STORE_UNREACHABLE,
            "Redis has lost its primary or its replicas",
            "see to Redis's replication; a fail-over ends this by itself",
        ),
    ),
    (
        ("max number of clients",),
        Condition(
            Cause.STORE_UNREACHABLE,
            "Redis takes no more connections",
            "raise its maxclients with CONFIG SET maxclients, or end what else is connected to it",
        ),
    ),
    (
        ("No connection available",),
        Condition(
            Cause.STORE_UNREACHABLE,
            "All connections of this process to Redis are in use",
            "raise cluster.redis_pool, or see why Redis is slow",
        ),
    ),
    (
        ("no Sentinel names a primary",),
        Condition(
            Cause.STORE_UNREACHABLE,
            "The Sentinels name no Redis",
            "start them, or correct their addresses and the name in distributed_cache.address",
        ),
    ),
)
"""Words in a refusal -> the condition that they speak of; the first that fits."""


def explain_fault(fault: FlClusterError) -> Explanation:
    """Why nothing is known, or nothing can be written."""
    if isinstance(fault, JobLost):
        return Explanation(
            cause=Cause.NO_JOB,
            sentence=f"Redis has lost what it held of this job ({fault}).",
            waiting_for="server",
            then="a server that still runs brings back what it holds; the round under way is "
            "given up, and the next one starts from the newest weights",
        )
    if not isinstance(fault, StoreUnavailable):
        return Explanation(
            cause=Cause.STORE_DAMAGED,
            sentence=f"What Redis holds of this job cannot be read: {fault}.",
            waiting_for="operator",
            then="servers refuse devices until the records can be read",
            change="somebody else may write to these keys; restore Redis from its files, or "
            "remove the job's keys and start the servers again from the newest checkpoint",
        )
    fitting = (kind for words, kind in CONDITIONS if any(word in fault.reason for word in words))
    found = next(fitting, UNREACHABLE)
    return Explanation(
        cause=found.cause,
        sentence=f"{found.sentence} ({fault}).",
        waiting_for="store",
        then="as soon as Redis takes writes again the round goes on with all that was counted",
        change=found.change,
    )
