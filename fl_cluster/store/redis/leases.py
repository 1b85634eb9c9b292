"""When members' leases end, in Redis: how a watcher sees that one was renewed meanwhile."""

from __future__ import annotations

from fl_cluster.store.redis.connection import Connection
from fl_cluster.store.redis.keys import JobKeys


class RedisLeases:
    """Reads the leases that `RedisMemberStore` writes."""

    def __init__(self, connection: Connection, keys: JobKeys) -> None:
        self._connection = connection
        self._keys = keys

    async def lease_end(self, member_id: str) -> int | None:
        """When the member's lease ends, in cluster ms; None when it has none.

        Another value than before means that the member has renewed it.
        """
        found = await self._connection.command("ZSCORE", self._keys.leases, member_id)
        return None if found is None else int(float(found))
