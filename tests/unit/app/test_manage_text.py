"""A scheduler's answers, as people read them."""

from __future__ import annotations

import time
from typing import Any

from fl_cluster.app import manage_text

MEMBER: dict[str, Any] = {
    "host": "host-a",
    "http_address": "127.0.0.1:6666",
    "id": "127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321",
    "kernel": "avx2",
    "manage_address": "",
    "pid": 4711,
    "role": "server",
    "state": "serving",
    "tcp_address": "127.0.0.1:35001",
    "version": "0.1.0",
}
MEMBER_LINE = (
    "server   127.0.0.1:6666, serving, pid 4711 on host-a, 0.1.0 (avx2), "
    "127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321"
)
ROUND: dict[str, Any] = {
    "attempt": 1,
    "cohort": 2,
    "cohort_size": 4,
    "deadline_ms": None,
    "number": 7,
    "phase": "selecting",
    "report_goal": 3,
    "reports": 1,
}
DETAIL: dict[str, Any] = {
    "durability": {"level": "always", "meaning": "nothing is lost"},
    "job": {"instance": "i_1", "name": "Lenet", "rounds_total": 25, "state": "running"},
    "members": [MEMBER],
    "round": ROUND,
}


def test_the_state_is_job_round_members_and_redis() -> None:
    assert manage_text.state({"cluster_state": "CLUSTER_READY", "detail": DETAIL}) == (
        "cluster  CLUSTER_READY\n"
        "job      Lenet, running, instance i_1\n"
        "round    7 of 25, selecting; 2 of 4 devices, 1 of 3 updates\n"
        f"{MEMBER_LINE}\n"
        "redis    durability always: nothing is lost"
    )


def test_a_deadline_is_shown_as_a_time_of_day() -> None:
    detail = DETAIL | {"round": ROUND | {"deadline_ms": 1_795_000_000_000}}

    assert "1 of 3 updates, until " in manage_text.state({"detail": detail})


def test_a_cluster_without_servers_and_a_stopped_job_are_said_to_be_so() -> None:
    assert manage_text.state({"detail": {}}) == "cluster  CLUSTER_STOP\nserver   none is running"


def test_nodes_come_with_their_load_or_why_there_is_none() -> None:
    load = {
        "bytes_in_flight": 1_572_864,
        "cpu_percent": 31.5,
        "open_connections": 12,
        "requests_per_s": 250.0,
        "resident_bytes": 73_400_320,
        "round_number": 7,
        "uploads_per_s": 80.5,
    }
    lost = {"reason": "it refuses connections", "state": "unreachable"}
    nodes = [
        MEMBER | {"load": load, "link": {"reason": "", "state": "linked"}},
        MEMBER | {"load": None, "link": lost},
        MEMBER | {"load": None, "link": {"reason": "", "state": "dialling"}},
        MEMBER | {"load": None, "link": None},
    ]

    assert manage_text.nodes({"nodes": nodes}).splitlines() == [
        MEMBER_LINE,
        (
            "         250 requests/s, 80.5 updates/s, 12 connections, 1.5 MiB in flight, "
            "cpu 31.5 %, memory 70.0 MiB"
        ),
        MEMBER_LINE,
        "         no figures: it refuses connections",
        MEMBER_LINE,
        "         no figures: dialling",
        MEMBER_LINE,
    ]


def test_without_processes_that_is_said() -> None:
    assert manage_text.nodes({"nodes": []}) == "no process is running"


def test_an_explanation_has_a_line_for_each_thing_that_is_known() -> None:
    now_ms = int(time.time() * 1000)
    answer = {
        "cause": "waiting_for_devices",
        "change": "start more devices",
        "eta": now_ms + 9_900,
        "message": "Round 7 waits.",
        "notes": ["one", "two"],
        "since": now_ms - 12_100,
        "then": "the round is abandoned",
        "until": now_ms + 29_900,
    }

    cause, since, until, then, change, eta, *notes = manage_text.explanation(answer).splitlines()

    assert cause == "waiting_for_devices: Round 7 waits."
    assert since.startswith("since    ")
    assert since.endswith(" (12 s ago)")
    assert until.startswith("until    ")
    assert until.endswith(" (in 30 s)")
    assert then == "then     the round is abandoned"
    assert change == "change   start more devices"
    assert eta.endswith(" (in 10 s)")
    assert notes == ["note     one", "note     two"]


def test_what_is_not_known_has_no_line() -> None:
    answer = {"cause": "no_job", "message": "None.", "since": None, "change": "", "notes": []}

    assert manage_text.explanation(answer) == "no_job: None."


def test_command_lines_are_named_by_their_host() -> None:
    answer = {
        "message": "Run one.",
        "commands": [{"host": "a", "command": "x"}, {"host": "b", "command": "y"}],
    }

    assert manage_text.command_lines(answer) == "Run one.\non a:\n    x\non b:\n    y"


def test_settings_are_one_in_a_line() -> None:
    text = manage_text.settings({"result": {"pki_verify": False, "dp_eps": 50.0, "x": "FedAvg"}})

    assert [line.split() for line in text.splitlines()] == [
        ["dp_eps", "50.0"],
        ["pki_verify", "false"],
        ["x", '"FedAvg"'],
    ]
