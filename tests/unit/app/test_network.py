from __future__ import annotations

import socket
from typing import Any, NamedTuple

import psutil
import pytest

from fl_cluster.app.network import first_usable_ip
from fl_cluster.errors import StartupError


class Address(NamedTuple):
    address: str
    family: socket.AddressFamily = socket.AF_INET


class Stats(NamedTuple):
    isup: bool = True


def a_host(monkeypatch: pytest.MonkeyPatch, interfaces: dict[str, Any], down: set[str]) -> None:
    stats = {name: Stats(name not in down) for name in interfaces}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)


def test_the_first_interface_that_is_up_and_leads_out_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_host(
        monkeypatch,
        {
            "lo": [Address("127.0.0.1")],
            "eth0": [Address("10.0.0.1")],
            "eth1": [Address("fe80::1", socket.AF_INET6), Address("169.254.3.4")],
            "eth2": [Address("fd00::2", socket.AF_INET6), Address("192.168.7.2")],
            "eth3": [Address("192.168.8.2")],
        },
        down={"eth0"},
    )

    assert first_usable_ip() == ("192.168.7.2", "eth2")


def test_a_host_with_nothing_but_loopback_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_host(monkeypatch, {"lo": [Address("127.0.0.1")]}, down=set())

    with pytest.raises(StartupError, match="no network interface but loopback is up"):
        first_usable_ip()


def test_on_this_host_the_answer_is_an_address_of_an_interface() -> None:
    try:
        ip, interface = first_usable_ip()
    except StartupError:
        pytest.skip("this host has only loopback")

    assert ip in [address.address for address in psutil.net_if_addrs()[interface]]
