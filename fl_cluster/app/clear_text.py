"""What `enable_ssl` promises of the way to Redis, and an address may take back."""

from __future__ import annotations

from fl_cluster.app.network import is_loopback
from fl_cluster.config.addresses import CacheAddress, CacheKind

IN_THE_CLEAR = (
    "enable_ssl is true, but distributed_cache.address begins with redis://, which means Redis is"
    " spoken to in the clear: write rediss:// or host:port for TLS"
)


def complaint(address: CacheAddress, *, is_tls: bool) -> str | None:
    """Why the way to Redis is not what `enable_ssl` promises; None when it is."""
    is_clear = is_tls and address.kind is CacheKind.TCP and not is_loopback(address.host)
    return IN_THE_CLEAR if is_clear else None
