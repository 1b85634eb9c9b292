"""Who really sent a request that may have come through a proxy.

`X-Forwarded-For` and `X-Forwarded-Proto` are believed from configured addresses only: anyone
can write them.  Several lines of one name are one list (RFC 9110, section 5.3): some proxies
append to the line that came, others add a line behind it.  Each appends the address it was
called from, so the list is read from its end for as long as the addresses are those of trusted
proxies; the first other one is the sender.  What stands before that, the sender may have
written itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multidict import MultiMapping

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

    def origin(self, peer: str, *, is_tls: bool, headers: MultiMapping[str]) -> Origin:
        """The origin of a request that `peer` sent us, over TLS or not."""
        if not self._networks or not self._is_trusted(peer):
            return Origin(peer, is_tls)
        sender, proxies = self._way(_words(headers, "X-Forwarded-For"))
        # Each trusted proxy has written a word, or replaced all that were there by its own.
        protocols = _words(headers, "X-Forwarded-Proto")[-proxies:]
        is_encrypted = all(word.lower() == "https" for word in protocols) if protocols else is_tls
        return Origin(sender or peer, is_encrypted)

    def _way(self, forwarded: Sequence[str]) -> tuple[str | None, int]:
        """Who called the first trusted proxy, and how many of them the request came through.

        The sender is the last address that is not a trusted proxy's; the first when all are.
        """
        sender, proxies = None, 1
        for word in reversed(forwarded):
            address = _address(word)
            if address is None:
                break
            sender = str(address)
            if not self._is_trusted(sender):
                break
            proxies += 1
        return sender, proxies

    def _is_trusted(self, text: str) -> bool:
        address = _address(text)
        return address is not None and any(address in network for network in self._networks)


def _words(headers: MultiMapping[str], name: str) -> list[str]:
    """The members of all lines of that name, in their order; empty ones say nothing."""
    words = (word.strip() for line in headers.getall(name, ()) for word in line.split(","))
    return [word for word in words if word]


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
