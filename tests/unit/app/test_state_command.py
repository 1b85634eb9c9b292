from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from fl_cluster.app.state_command import describe, state
from fl_cluster.errors import PeerProtocolError, StartupError, StoreUnavailable

MEMBER = {
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
ANSWER = {
    "cluster_state": "CLUSTER_READY",
    "code": "0",
    "message": "Get cluster state successful.",
    "detail": {
        "durability": {"level": "always", "meaning": "nothing is lost"},
        "job": {"instance": "i_1", "name": "Lenet", "rounds_total": 25, "state": "running"},
        "members": [MEMBER],
        "round": {
            "attempt": 1,
            "cohort_size": 4,
            "deadline_ms": None,
            "number": 7,
            "phase": "selecting",
            "report_goal": 3,
        },
    },
}


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Answers every request with the given status and body; the address to ask."""
    servers: list[http.server.HTTPServer] = []

    def start(body: bytes, status: int = 200) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_people_are_told_in_words() -> None:
    assert describe(ANSWER) == (
        "cluster  CLUSTER_READY\n"
        "job      Lenet, running, instance i_1\n"
        "round    7 of 25, selecting; cohort 4, goal 3 updates\n"
        "server   127.0.0.1:6666, serving, pid 4711 on host-a, 0.1.0 (avx2), "
        "127.0.0.1:35001::2026-11-25-10:00:00.000.000::54321\n"
        "redis    durability always: nothing is lost"
    )


def test_a_deadline_is_shown_as_a_time_of_day() -> None:
    detail = ANSWER["detail"]
    assert isinstance(detail, dict)
    current = detail["round"] | {"deadline_ms": 1_795_000_000_000}

    shown = describe(ANSWER | {"detail": detail | {"round": current}})

    assert "goal 3 updates, until " in shown


def test_a_cluster_without_servers_and_a_stopped_job_are_said_to_be_so() -> None:
    shown = describe({"code": "0", "detail": {}})

    assert shown == "cluster  CLUSTER_STOP\nserver   none is running"


def test_programs_get_the_whole_answer(serve: Callable[..., str]) -> None:
    text, code = state(serve(json.dumps(ANSWER).encode()), "json")

    assert code == 0
    assert json.loads(text) == ANSWER


def test_a_refusal_is_its_sentence_and_exit_code_3(serve: Callable[..., str]) -> None:
    body = b'{"code":"1","error_message":"Cannot find cluster info for Lenet"}'

    assert state(serve(body, 400), "text") == ("Cannot find cluster info for Lenet", 3)


def test_a_proxy_of_the_environment_is_not_asked(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert state(serve(json.dumps(ANSWER).encode()), "text")[1] == 0


def test_a_scheduler_that_does_not_answer_is_one_sentence(free_port: Callable[..., int]) -> None:
    with pytest.raises(StoreUnavailable, match=r"no scheduler answers at 127\.0\.0\.1:\d+: "):
        state(f"127.0.0.1:{free_port()}", "text")


def test_an_address_that_cannot_be_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="--manage here: "):
        state("here", "text")


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_an_answer_that_is_no_scheduler_s_is_one_sentence(
    serve: Callable[..., str], body: bytes
) -> None:
    with pytest.raises(PeerProtocolError, match="JSON"):
        state(serve(body), "text")
