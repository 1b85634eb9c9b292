"""Who really sent a request that may have come through a proxy.

`X-Forwarded-For` and `X-Forwarded-Proto` are believed from configured addresses only: anyone
can write them.  Each proxy appends the address it was called from, so the list is read from
its end for as long as the addresses are those of trusted proxies; the first other one is the
sender.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, and whether nobody could read it on its way."""

    address: str
    is_encrypted: bool


class TrustedProxies:
    """The addresses whose word about a request's sender is believed."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def origin(self, peer: str, *, is_tls: bool, headers: Mapping[str, str]) -> Origin:
        """The origin of a request that `peer` sent us, over TLS or not."""
        if not self._networks or not self._is_trusted(peer):
            return Origin(peer, is_tls)
        address = self._sender(headers.get("X-Forwarded-For", "")) or peer
        protocols = [word.strip().lower() for word in _words(headers, "X-Forwarded-Proto")]
        # The outermost proxy's word comes first; one that lies about it would have to be ours.
        is_encrypted = is_tls if not protocols else all(word == "https" for word in protocols)
        return Origin(address, is_encrypted)

    def _sender(self, forwarded: str) -> str | None:
        """The last address that is not a trusted proxy's; the first when all are."""
        sender = None
        for word in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
            address = _address(word)
            if address is None:
                return sender
            sender = str(address)
            if not self._is_trusted(sender):
                break
        return sender

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _words(headers: Mapping[str, str], name: str) -> list[str]:
    return [word for word in headers.get(name, "").split(",") if word.strip()]


def _address(text: str) -> IpAddress | None:
    """The address in `1.2.3.4`, `1.2.3.4:5678`, `::1` or `[::1]:5678`; None when there is none."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
