"""The job's records, blobs and events in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from fl_cluster.errors import StoreCorrupt
from fl_cluster.rounds.phases import RoundRef
from fl_cluster.rounds.plan import RoundPlan
from fl_cluster.store.ports import Buffer, JobRecord, ModelRecord
from fl_cluster.store.redis import records
from fl_cluster.store.redis.connection import Argument, Connection, call_name
from fl_cluster.store.redis.keys import JOBS, JobKeys
from fl_cluster.store.redis.rounds import FINISHED_MS

CHUNK_BYTES = 64 * 1024 * 1024
"""Largest Redis string we write: a string ends at 512 MB, and one this long holds up the
server for tens of milliseconds."""


NOMINATION_MS = 5_000
"""How long the others wait for a member that holds more than they do."""


class RedisJobStore:
    """`JobStore` over one job's keys."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def open(
        self,
        job: JobRecord,
        first: RoundRef,
        plan: RoundPlan,
        model: ModelRecord,
        *,
        is_disabled: bool = False,
    ) -> bool:
        fields, is_over = records.job_fields(job), first.number > job.rounds_total
        args: list[Argument] = [model.number, records.model_text(model), call_name()]
        args += (job.instance, first.number, len(fields))
        of_round = records.first_round_fields(
            first, plan, is_closed=is_over, is_disabled=is_disabled
        )
        for name, value in (*fields.items(), *of_round.items()):
            args += (name, value)
        keys = (self._keys.instance, self._keys.round, self._keys.models)
        replaced = await self._connection.command("HGET", self._keys.round, "ref")
        word = await self._connection.run("open_job", keys, args)
        await self._connection.command("SADD", JOBS, self._keys.name)
        if word == b"created" and replaced not in (None, str(first).encode()):
            await self._let_go(replaced.decode("utf-8", "surrogateescape"))
        return bool(word == b"created")

    async def _let_go(self, ref: str) -> None:
        """Give the keys of a round that was replaced the lifetime of those of a finished one."""
        for key in self._keys.of_round(ref):
            await self._connection.command("PEXPIRE", key, FINISHED_MS)

    async def job(self) -> JobRecord | None:
        raw = await self._connection.command("HGETALL", self._keys.instance)
        return records.job_of(records.text_fields(records.pairs(raw))) if raw else None

    async def cluster_state(self) -> str | None:
        """running | disabled | finished; None when no run is known."""
        found = await self._connection.command("HMGET", self._keys.round, "phase", "is_disabled")
        phase, is_disabled = found
        if phase is None:
            return None
        if phase == b"closed":
            return "finished"
        return "disabled" if is_disabled == b"1" else "running"

    async def successor(self) -> JobRecord | None:
        raw = await self._connection.command("HGETALL", self._keys.successor)
        return records.job_of(records.text_fields(records.pairs(raw))) if raw else None

    async def nominate(self, number: int) -> int:
        args = (number, NOMINATION_MS)
        return int(await self._connection.run("nominate", (self._keys.nominees,), args))

    async def models(self) -> Mapping[int, ModelRecord]:
        raw = records.pairs(await self._connection.command("HGETALL", self._keys.models))
        models = [records.model_of(n, text) for n, text in records.text_fields(raw).items()]
        return {model.number: model for model in models}


class RedisBlobStore:
    """`BlobStore`: a blob is full chunks and then one that is shorter, each a string."""

    def __init__(
        self, connection: Connection, keys: JobKeys, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._chunk_bytes = chunk_bytes

    async def put(self, name: str, data: Buffer, lifetime_ms: int | None) -> None:
        view = memoryview(data).cast("B")
        expiry: tuple[Argument, ...] = () if lifetime_ms is None else ("PX", lifetime_ms)
        for start in range(0, len(view) + 1, self._chunk_bytes):
            chunk = view[start : start + self._chunk_bytes]
            await self._connection.command("SET", self._chunk_key(name, start), chunk, *expiry)

    async def get(self, name: str, into: memoryview) -> None:
        target = into.cast("B")
        offset, is_whole = 0, False
        while not is_whole:
            chunk = await self._connection.command("GET", self._chunk_key(name, offset))
            if chunk is None:
                raise StoreCorrupt(
                    f"blob {name} is missing at byte {offset}; expected {len(target)} bytes"
                )
            is_whole = len(chunk) < self._chunk_bytes
            end = offset + len(chunk)
            if end > len(target) or (is_whole and end < len(target)):
                raise StoreCorrupt(
                    f"blob {name} is {end} bytes long{'' if is_whole else ' or more'};"
                    f" expected {len(target)} bytes"
                )
            target[offset:end] = chunk
            offset = end

    async def has(self, name: str) -> bool:
        return bool(await self._connection.command("EXISTS", self._chunk_key(name, 0)))

    async def drop(self, names: Sequence[str]) -> None:
        for name in names:
            offset = 0
            while await self._connection.command("UNLINK", self._chunk_key(name, offset)):
                offset += self._chunk_bytes

    def _chunk_key(self, name: str, offset: int) -> str:
        return self._keys.blob(f"{name}+{offset}" if offset else name)


class RedisEvents:
    """`Events` over the job's channel."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    def listen(self) -> AsyncIterator[str]:
        return self._connection.listen(self._keys.events)
