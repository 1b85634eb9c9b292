"""Which of a host's addresses others can reach it at, when nobody said."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from fl_cluster.errors import StartupError

AUTOMATIC = "auto"


def first_usable_ip() -> tuple[str, str]:
    """The first IPv4 address of an interface that is up and leads out, and the interface.

    Interfaces are taken in the system's own order.  Neither loopback nor link-local
    addresses lead anywhere.
    """
    states = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name not in states or not states[name].isup:
            continue
        for address in addresses:
            if address.family is not socket.AF_INET:
                continue
            ip = ipaddress.ip_address(address.address)
            if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified):
                return address.address, name
    raise StartupError("no network interface but loopback is up: name an address to listen on")


def is_loopback(host: str) -> bool:
    """Whether only this host can reach an address with that host part."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
