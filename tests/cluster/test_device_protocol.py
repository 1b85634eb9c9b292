"""Real servers are asked what the published server was asked, and answer as it did.

`tests/data/observed` holds the published server's answers in the order of asking.  Here the
same requests go to servers of ours, and what differs must be in `CHANGED`, which is the list
in docs/compatibility.md.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from fl_cluster.wire import flat, messages, packed

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

OBSERVED = Path(__file__).resolve().parents[1] / "data" / "observed" / "device.jsonl"

INITIAL = {"w000": [0.34558, 0.82162, 0.33044], "w001": [-1.30316, 0.90536]}
WHOLE = {"w000": [1.0, 2.0, 3.0], "w001": [4.0, 5.0]}
NAN, INF = float("nan"), float("inf")

MARGIN_MS = 4_000
"""How far in the future a time must lie at least; ours are 5 seconds or more ahead."""

EMPTY = '{"code":"1","error_message":"Get post message failed"}'
SAFEMODE = "The cluster is in safemode."
OVER = b"The server's training job is disabled or finished."


def load(part: int) -> dict[tuple[str, str], dict[str, Any]]:
    """(section, case) -> the published server's answer, in the order of asking."""
    answers = map(json.loads, OBSERVED.read_text("utf-8").splitlines())
    return {(each["section"], each["case"]): each for each in answers if each["part"] == part}


# -- requests ----------------------------------------------------------------------------


def check_in(device: str | None = "x", **fields: Any) -> Any:
    given = {"fl_name": "Bench", "data_size": 32, "timestamp": "1795317213000"}
    return messages.RequestFLJob(fl_id=device, **(given | fields))


def report(
    device: str | None, number: int = 1, tensors: dict[str, list[float]] = WHOLE, **fields: Any
) -> Any:
    given = {
        "fl_name": "Bench",
        "iteration": number,
        "feature_map": tuple(
            messages.FeatureMap(name, np.array(values, np.float32))
            for name, values in tensors.items()
        ),
        "timestamp": "1795317213000",
        "upload_loss": 0.5,
    }
    return messages.RequestUpdateModel(fl_id=device, **(given | fields))


def get_model(number: int, **fields: Any) -> Any:
    given = {"fl_name": "Bench", "timestamp": "1795317213000"}
    return messages.RequestGetModel(iteration=number, **(given | fields))


PATHS = {
    messages.RequestFLJob: ("startFLJob", messages.ResponseFLJob),
    messages.RequestUpdateModel: ("updateModel", messages.ResponseUpdateModel),
    messages.RequestGetModel: ("getModel", messages.ResponseGetModel),
}


def http(path: str, body: bytes | None, *headers: str, method: str = "POST") -> bytes:
    """The bytes of a request; without a length when there is no body."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, *length]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def as_device(message: Any, *headers: str) -> bytes:
    """A message as existing devices send it."""
    kind = "Content-Type: applicatiom/json;charset=utf-8"
    return http(f"/{PATHS[type(message)][0]}", flat.encode(message), kind, *headers)


def as_native(message: Any) -> bytes:
    name = PATHS[type(message)][0]
    return http(f"/{name}", packed.encode(message), "Content-Type: application/msgpack")


# -- answers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    head: str
    body: bytes

    @property
    def status(self) -> str:
        return self.head.split("\r\n")[0]

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:-2]
        return dict(line.split(": ", 1) for line in lines)


class Line:
    """One connection to a server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._stream = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Reply:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._stream.readline()
            assert line, f"the connection ended inside {head!r}"
            head += line
        length = re.search(rb"Content-Length: (\d+)", head)
        is_empty = head.startswith(b"HTTP/1.1 100 ")
        body = b"" if is_empty else self._stream.read(int(length[1]) if length else -1)
        return Reply(head.decode("latin-1"), body)

    def is_over(self) -> bool:
        return self._stream.read(1) == b""

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection as when a device loses its network."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(port: int, request: bytes) -> Reply:
    with Line(port) as line:
        line.send(request)
        return line.receive()


def told(port: int, message: Any) -> Any:
    """The answer to a message, as an existing device reads it."""
    reply = ask(port, as_device(message))
    assert reply.status == "HTTP/1.1 200 OK"
    return flat.decode(PATHS[type(message)][1], reply.body)


def told_natively(port: int, message: Any) -> tuple[int, Any]:
    reply = ask(port, as_native(message))
    assert reply.headers["Content-Type"] == "application/msgpack", reply
    return int(reply.status.split()[1]), packed.decode(PATHS[type(message)][1], reply.body)


def shown(body: bytes, cls: type[Any]) -> dict[str, Any]:
    """A message in the words of the record, times in the future as TIME."""
    message = flat.decode(cls, body)
    time_field = "timestamp" if cls is messages.ResponseGetModel else "next_req_time"
    found: dict[str, Any] = {"retcode": message.retcode, "reason": message.reason}
    if cls is not messages.ResponseUpdateModel:
        found["iteration"] = message.iteration
    found["feature_map"] = tensors_of(message)
    found["timestamp"] = message.timestamp
    if cls is not messages.ResponseGetModel:
        found["next_req_time"] = message.next_req_time
    if cls is not messages.ResponseUpdateModel:
        found["download_compress_type"] = message.download_compress_type
    if cls is messages.ResponseFLJob:
        found |= {
            "is_selected": int(message.is_selected),
            "upload_compress_type": message.upload_compress_type,
            "upload_sparse_rate": message.upload_sparse_rate,
            "compress_feature_map": "absent" if message.compress_feature_map is None else "present",
            "unsupervised_eval_flg": message.unsupervised_eval_flg,
            "fl_plan": plan_of(message.fl_plan_config),
        }
    told_time = found[time_field]
    if told_time:
        assert int(told_time) >= time.time_ns() // 1_000_000 + MARGIN_MS, found
        found[time_field] = "TIME"
        found["reason"] = found["reason"].replace(told_time, "TIME")
    return found


def tensors_of(message: Any) -> Any:
    if message.feature_map is None:
        return "absent"
    return {
        each.weight_fullname: [round(float(value), 5) for value in each.data]
        for each in message.feature_map
    }


def plan_of(plan: Any) -> dict[str, Any]:
    cipher = plan.cipher
    parts = (cipher.pw_params, cipher.dp_params, cipher.ds_params)
    return {
        **{name: getattr(plan, name) for name in ("server_mode", "fl_name", "iterations")},
        **{name: getattr(plan, name) for name in ("epochs", "mini_batch", "lr")},
        "encrypt_type": cipher.encrypt_type,
        "pw/dp/ds present": [part is not None for part in parts],
    }


# -- the replay --------------------------------------------------------------------------

CHANGED: dict[tuple[str, str], dict[str, Any]] = {
    # Nothing is wrong with the server, so it does not say so: proxies would take it out.
    ("startFLJob", "startFLJob empty body"): {"status": "HTTP/1.1 400 Client"},
    ("startFLJob", "GET /startFLJob"): {"status": "HTTP/1.1 400 Client"},
    ("updateModel", "empty body"): {"status": "HTTP/1.1 400 Client"},
    ("updateModel", "GET /updateModel"): {"status": "HTTP/1.1 400 Client"},
    ("getModel", "getModel empty body"): {"status": "HTTP/1.1 400 Client"},
    ("getModel", "GET /getModel"): {"status": "HTTP/1.1 400 Client"},
    ("transport", "POST without Content-Length"): {"status": "HTTP/1.1 400 Client"},
    # A body has a limit that follows from the model's size.
    ("transport", "updateModel body of 150 MiB of zeros"): {
        "status": "HTTP/1.1 413 Client",
        "headers": ["Date", "Content-Length", "Content-Type", "Connection"],
        "message": None,
    },
}
"""(section, case) -> what our answer has instead of the published server's."""


@dataclass
class Replay:
    """Asks what the published server was asked, and collects what differs."""

    ports: list[int]
    observed: dict[tuple[str, str], dict[str, Any]]
    differences: list[str] = field(default_factory=list)
    asked: set[tuple[str, str]] = field(default_factory=set)

    def ask(self, section: str, case: str, message: Any, *, server: int = 0) -> None:
        """Ask with a message, in the words of existing devices."""
        self.raw(section, case, as_device(message), PATHS[type(message)][1], server=server)

    def raw(
        self, section: str, case: str, request: bytes, cls: Any = None, *, server: int = 0
    ) -> None:
        """Ask with these bytes; `cls` is what a message in the answer is."""
        self.judge(section, case, ask(self.ports[server], request), cls)

    def judge(self, section: str, case: str, reply: Reply, cls: Any = None) -> None:
        key = (section, case)
        self.asked.add(key)
        expected = {**self.observed[key], **CHANGED.get(key, {})}
        found: dict[str, Any] = {"status": reply.status, "headers": list(reply.headers)}
        if "type" in expected:
            found["type"] = reply.headers.get("Content-Type")
        if expected.get("message") is not None:
            try:
                found["message"] = shown(reply.body, cls)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is a difference
                found["message"] = f"{exc!r}: {reply.body[:80]!r}"
        elif "body" in expected:
            found["body"] = reply.body.decode("utf-8", "replace")
        for name, value in found.items():
            if value != expected[name]:
                self.differences.append(f"{key}: {name}: expected {expected[name]}, found {value}")

    def finish(self, *left_out: tuple[str, str]) -> None:
        """Everything was asked but what the test left out, and nothing differs."""
        assert "\n".join(self.differences) == ""
        assert set(self.observed) - self.asked == set(left_out)


@dataclass(frozen=True)
class Cluster:
    """A running job: its folder and commands, and where its servers are."""

    job: Any
    ports: list[int]

    def manage(self, name: str, **changes: Any) -> None:
        """An operator's request to the scheduler, which must be granted."""
        body = json.dumps(changes).encode() if changes else None
        request = urllib.request.Request(f"http://{self.job.manage}/{name}", body, method="POST")
        with urllib.request.urlopen(request, timeout=10) as reply:
            assert json.loads(reply.read())["code"] == "0"


@pytest.fixture
def start_cluster(make_job: Any, redis_server: Any) -> Callable[..., Cluster]:
    """Starts a scheduler and so many servers, with `key=value` settings."""

    def start(servers: int, *settings: str) -> Cluster:
        job = make_job(redis_server.address, "Bench")
        weights = {name: np.array(values, np.float32) for name, values in INITIAL.items()}
        np.savez(job.folder / "initial.npz", **weights)
        common = (
            "client.client_epoch_num=20",
            "client.client_learning_rate=0.01",
            "cluster.lease_ms=10000",
        )
        options = [f"--set={each}" for each in (*common, "cluster.hold_ms=0", *settings)]
        serving = ["--model=initial.npz", f"--local_server_num={servers}"]
        for script, more in (("run_sched.py", []), ("run_server.py", serving)):
            started = job.run(script, *options, *more)
            assert started.returncode == 0, started.stdout + started.stderr
        return Cluster(job, [job.http_port + number for number in range(servers)])

    return start


@pytest.fixture
def until_model(wait_until: Callable[..., None]) -> Callable[[int, int], Any]:
    """Polls getModel of a round as existing devices do; the answer that is not `not ready`."""

    def wait(port: int, number: int) -> Any:
        answers: list[Any] = []

        def is_there() -> bool:
            answers.append(told(port, get_model(number)))
            return bool(answers[-1].retcode != 201)

        wait_until(is_there, f"the model of round {number} is there")
        return answers[-1]

    return wait


def test_two_servers_answer_as_the_published_ones_did(
    start_cluster: Any, until_model: Any, wait_until: Any
) -> None:
    cluster = start_cluster(2, "fl_iteration_num=4")
    replay = Replay(cluster.ports, load(1))

    ask_at_the_start(replay)
    ask_to_check_in(replay)
    ask_to_report(replay)
    assert until_model(cluster.ports[0], 1).retcode == 200
    ask_for_models(replay)
    ask_other_paths(replay)
    ask_in_odd_ways(replay)
    cluster.manage("disableFLS")
    wait_until(lambda: all(map(says_it_is_over, cluster.ports)), "all know that it is disabled")
    ask_while_disabled(replay)

    replay.finish(
        # It was asked within the half second that the published servers take to make a model.
        ("getModel", "getModel(1) at once"),
        # Paths of the mode in which servers train too, which is not there yet.
        *(("other paths", f"POST /{name}") for name in ("pullWeight", "pushWeight", "pushMetrics")),
    )
    cluster.manage("enableFLS")
    # The round that was under way has used up its number.
    wait_until(lambda: not any(map(says_it_is_over, cluster.ports)), "all know that it goes on")
    assert until_model(cluster.ports[1], 2).feature_map


def ask_at_the_start(replay: Replay) -> None:
    nothing = check_in("x", data_size=0)
    case = "startFLJob (data_size 0) right after start-up (may be in safemode)"
    replay.ask("start", case, nothing)
    replay.ask("start", "getModel right after start-up", get_model(1))


def ask_to_check_in(replay: Replay) -> None:
    section, cls = "startFLJob", messages.ResponseFLJob
    nothing = flat.encode(check_in("x", data_size=0))
    for case, body in (
        ("startFLJob garbage 64 bytes", b"\x05" * 64),
        ("startFLJob one byte", b"\x05"),
        ("startFLJob truncated by 6 bytes", flat.encode(check_in("x"))[:-6]),
    ):
        replay.raw(section, case, http("/startFLJob", body), cls)
    replay.raw(section, "startFLJob empty body", http("/startFLJob", b""))
    replay.raw(section, "GET /startFLJob", http("/startFLJob", None, method="GET"))
    put = http("/startFLJob", nothing, method="PUT")
    replay.raw(section, "PUT /startFLJob (data_size 0)", put, cls)
    for case, size in (
        ("data_size 0", 0),
        ("data_size -5", -5),
        ("data_size 65536", 65_536),
        ("data_size 2^31-1", 2**31 - 1),
    ):
        replay.ask(section, case, check_in("x", data_size=size))
    for name in ("fl_id", "fl_name", "timestamp"):
        replay.ask(section, f"no {name}", check_in("x")._replace(**{name: None}))
    replay.raw(section, "unknown path POST", http("/nosuch", b"x"))
    replay.raw(section, "unknown path GET", http("/nosuch", None, method="GET"))
    replay.raw(section, "POST /", http("/", b"x"))
    replay.raw(section, "trailing slash", http("/startFLJob/", nothing))
    query = http("/startFLJob?x=1", nothing)
    replay.raw(section, "query string, data_size 0", query, cls)
    largest = check_in("c1", data_size=65_535, fl_name="Wrong")
    replay.ask(section, "c1 accepted, data_size 65535 (largest), fl_name Wrong", largest)
    case = "duplicate fl_id c1 in the same iteration (data_size 32), other server"
    replay.ask(section, case, check_in("c1", data_size=32), server=1)
    case = "second client c2, data_size 10, other server"
    replay.ask(section, case, check_in("c2", data_size=10), server=1)
    replay.ask(section, "third client c9: threshold 2 reached", check_in("c9"))


def ask_to_report(replay: Replay) -> None:
    section, cls = "updateModel", messages.ResponseUpdateModel
    replay.raw(section, "garbage", http("/updateModel", b"\x05" * 64), cls)
    replay.raw(section, "empty body", http("/updateModel", b""))
    replay.raw(section, "GET /updateModel", http("/updateModel", None, method="GET"))
    for case, message in (
        ("fl_id that never started", report("zz")),
        ("iteration 0", report("c1", 0)),
        ("iteration 7 (future)", report("c1", 7)),
        ("iteration -1", report("c1", -1)),
        ("no fl_id", report(None)),
        ("no timestamp", report("c1", timestamp=None)),
        ("no feature_map", report("c1", feature_map=None)),
        ("empty feature_map", report("c1", tensors={})),
        ("upload_loss NaN", report("c1", upload_loss=NAN)),
        ("upload_loss inf", report("c1", upload_loss=INF)),
        ("w000 too short", report("c1", tensors={**WHOLE, "w000": [1.0, 2.0]})),
        ("NaN weight", report("c1", tensors={**WHOLE, "w000": [NAN, 2.0, 3.0]})),
        ("inf weight", report("c1", tensors={**WHOLE, "w000": [INF, 2.0, 3.0]})),
        ("unknown extra tensor", report("c1", tensors={**WHOLE, "w999": [1.0]})),
        ("getModel(1) before any accepted update", get_model(1)),
        ("wrong fl_name, otherwise right (c1)", report("c1", fl_name="Wrong")),
        ("c1 once more (duplicate when the previous was accepted)", report("c1")),
    ):
        replay.ask(section, case, message)
    only = {"w000": [10.0, 20.0, 30.0]}
    replay.ask(section, "c2: only one of two tensors", report("c2", tensors=only), server=1)
    replay.ask(section, "c2 complete", report("c2"), server=1)
    replay.ask(section, "c2 again after the round is complete", report("c2"), server=1)


def ask_for_models(replay: Replay) -> None:
    section = "getModel"
    for case, message in (
        ("getModel: previous iteration 1", get_model(1)),
        ("getModel: iteration 0", get_model(0)),
        ("getModel: current iteration 2", get_model(2)),
        ("getModel: future iteration 9", get_model(9)),
        ("getModel: iteration -3", get_model(-3)),
        ("getModel wrong fl_name", get_model(1, fl_name="Wrong")),
        ("getModel no timestamp", get_model(1, timestamp=None)),
    ):
        replay.ask(section, case, message)
    cls = messages.ResponseGetModel
    replay.raw(section, "getModel garbage", http("/getModel", b"\x05" * 32), cls)
    replay.raw(section, "getModel empty body", http("/getModel", b""))
    replay.raw(section, "GET /getModel", http("/getModel", None, method="GET"))


def ask_other_paths(replay: Replay) -> None:
    for name in (
        *("exchangeKeys", "getKeys", "shareSecrets", "getSecrets", "getClientList"),
        *("pushListSign", "getListSign", "reconstructSecrets", "getResult", "queryInstance"),
        "state",
    ):
        replay.raw("other paths", f"POST /{name}", http(f"/{name}", b"\x05" * 32))


def ask_in_odd_ways(replay: Replay) -> None:
    section, cls = "transport", messages.ResponseFLJob
    port = replay.ports[0]
    nothing = flat.encode(check_in("x", data_size=0))
    for case, length in (("Content-Length negative", "-5"), ("Content-Length not a number", "abc")):
        request = http("/startFLJob", None, f"Content-Length: {length}")
        replay.raw(section, case, request)
    replay.raw(section, "POST without Content-Length", http("/startFLJob", None))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (nothing[:9], nothing[9:]))
    chunked = http("/startFLJob", None, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"
    replay.raw(section, "chunked request body (valid startFLJob, data_size 0)", chunked, cls)
    with Line(port) as line:
        waiting = http("/startFLJob", nothing, "Expect: 100-continue")
        line.send(waiting[: -len(nothing)])
        replay.judge(section, "Expect: 100-continue", line.receive())
        line.send(nothing)
        assert line.receive().status == "HTTP/1.1 200 OK"
    long = http("/startFLJob", nothing, "X-Long: " + "a" * 128 * 1024)
    replay.raw(section, "128 KiB header", long, cls)
    # Of 150 MiB of zeros the first are enough to be refused.
    huge = http("/updateModel", None, f"Content-Length: {150 * 1024 * 1024}") + bytes(1000)
    replay.raw(section, "updateModel body of 150 MiB of zeros", huge)
    trailing = http("/updateModel", flat.encode(report("zz")) + bytes(1024 * 1024))
    case = "updateModel: valid body followed by 1 MiB of trailing zeros (fl_id zz)"
    replay.raw(section, case, trailing, messages.ResponseUpdateModel)
    with Line(port) as line:
        line.send(2 * as_device(get_model(1)))
        first, second = line.receive(), line.receive()
    assert first.body == second.body
    replay.judge(section, "two pipelined requests (getModel 1 twice)", first)
    closing = as_device(get_model(1), "Connection: close")
    replay.raw(section, "Connection: close", closing, messages.ResponseGetModel)


def says_it_is_over(port: int) -> bool:
    return ask(port, as_device(get_model(1))).body == OVER


def ask_while_disabled(replay: Replay) -> None:
    for case, message in (
        ("startFLJob while disabled", check_in("c1")),
        ("updateModel while disabled", report("c1", 2)),
        ("getModel while disabled", get_model(1)),
    ):
        for server in range(len(replay.ports)):
            replay.ask("disabled", case, message, server=server)


def test_rounds_that_fail_and_a_job_that_ends_are_told_as_they_were(
    start_cluster: Any, until_model: Any, wait_until: Any
) -> None:
    windows = ("start_fl_job", "update_model")
    cluster = start_cluster(
        1,
        "fl_iteration_num=3",
        *(f"round.{name}_time_window=3000" for name in windows),
        "round.global_iteration_time_window=6000",
    )
    [port] = cluster.ports
    replay = Replay(cluster.ports, load(2))
    c1, c2 = (check_in(device, data_size=20) for device in ("c1", "c2"))

    replay.ask("start window", "c1 starts", c1)
    assert tensors_of(until_model(port, 1)) == INITIAL
    case = "c1 updates iteration 1 after the expiry"
    until_told(wait_until, port, report("c1", 1), "devices_meta")
    replay.ask("start window", case, report("c1", 1))

    replay.ask("update window", "c1 starts", c1)
    replay.ask("update window", "c2 starts", c2)
    replay.ask("update window", "c1 updates iteration 2", report("c1", 2))
    assert tensors_of(until_model(port, 2)) == INITIAL
    until_told(wait_until, port, report("c2", 2), "devices_meta")
    replay.ask("update window", "c2 updates iteration 2 too late", report("c2", 2))
    replay.ask("update window", "getModel(2) of the failed iteration", get_model(2))

    replay.ask("end", "c1", c1)
    replay.ask("end", "c2", c2)
    replay.ask("end", "c1 updates", report("c1", 3))
    replay.ask("end", "c2 updates", report("c2", 3))
    assert until_model(port, 3).retcode == 200
    replay.ask("end", "startFLJob after finish", c1)
    replay.ask("end", "updateModel after finish", report("c1", 3))
    for number in (3, 2, 1, 0, 4, 99):
        replay.ask("end", f"getModel({number}) after finish", get_model(number))

    cluster.manage("newInstance", fl_iteration_num=1)
    wait_until(lambda: told(port, get_model(0)).iteration == 1, "the new run has begun")
    replay.ask("end", "getModel(0) after newInstance", get_model(0))
    replay.ask("end", "c1 (2)", c1)
    replay.ask("end", "c2 (2)", c2)
    replay.ask("end", "c1 updates (2)", report("c1", 1))
    replay.ask("end", "c2 updates (2)", report("c2", 1))
    assert until_model(port, 1).retcode == 200

    cluster.manage("newInstance", start_fl_job_threshold=1, fl_iteration_num=2)
    wait_until(lambda: told(port, get_model(0)).iteration == 1, "the new run has begun")
    replay.ask("end", "c1 (3)", c1)
    replay.ask("end", "c1 updates (3)", report("c1", 1))
    # The published server went on waiting for two updates, in vain.
    assert tensors_of(until_model(port, 1)) == {
        name: [value / 20 for value in values] for name, values in WHOLE.items()
    }

    replay.finish()


def until_told(wait_until: Any, port: int, message: Any, reason: str) -> None:
    """Return when this is what the device is told.

    The server notes that the model was handed out after it has handed it out.
    """
    wait_until(lambda: told(port, message).reason.startswith(reason), f"{reason} is told")


# -- what the record does not show -------------------------------------------------------


def test_a_connection_is_kept_and_closed_as_devices_expect(start_cluster: Any) -> None:
    [port] = start_cluster(1).ports
    body = flat.encode(check_in("x", data_size=0))

    with Line(port) as line:
        for _ in range(50):
            line.send(as_device(get_model(0)))
            assert line.receive().status == "HTTP/1.1 200 OK"
        for method in ("PUT", "DELETE", "GET"):
            line.send(http("/startFLJob", body, method=method))
            answer = flat.decode(messages.ResponseFLJob, line.receive().body)
            assert answer.reason == "FL job data size is not enough."
            line.send(http("/startFLJob", None, method=method))
            refused = line.receive()
            assert (refused.status, refused.body.decode()) == ("HTTP/1.1 400 Client", EMPTY)
        line.send(http("/startFLJob", None, method="HEAD"))
        headless = line.receive()
    assert headless.body.decode() == EMPTY
    assert headless.headers["Connection"] == "close"

    for request, status in (
        (http("/startFLJob", body, method="OPTIONS"), "HTTP/1.1 501 Not Implemented"),
        (http("/nosuch", body), "HTTP/1.1 404 Not Found"),
        (b"nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (as_device(get_model(0), "Connection: close"), "HTTP/1.1 200 OK"),
    ):
        with Line(port) as line:
            line.send(request)
            assert line.receive().status == status
            assert line.is_over()


def test_requests_that_are_not_whole_are_none(start_cluster: Any) -> None:
    cluster = start_cluster(1)
    [port] = cluster.ports
    for device in ("c1", "c2"):
        told(port, check_in(device))
    whole = as_device(report("c1"))

    for cut in (10, len(whole) // 2, len(whole) - 1):
        with Line(port) as line:
            line.send(whole[:cut])
            line.half_close()
            assert line.is_over()
        with Line(port) as line:
            line.send(whole[:cut])
            line.reset()
    chunked = http("/updateModel", None, "Transfer-Encoding: chunked")
    with Line(port) as line:
        line.send(chunked + b"zz\r\n")
        assert line.receive().status == "HTTP/1.1 400 Bad Request"
    with Line(port) as line:
        line.send(http("/updateModel", None, "Content-Length: 5000000000"))
        assert line.receive().status == "HTTP/1.1 413 Client"

    assert told(port, report("c1")).reason == "success not ready"
    assert "Traceback" not in cluster.job.log(f"server_{port}/server.log")


def test_a_prefix_is_used_as_it_is_written(start_cluster: Any) -> None:
    [port] = start_cluster(1, "client.http_url_prefix=/fl/").ports
    body = flat.encode(get_model(0))

    statuses = {path: ask(port, http(path, body)).status for path in ("/fl/getModel", "/getModel")}

    assert statuses == {
        "/fl/getModel": "HTTP/1.1 200 OK",
        "/getModel": "HTTP/1.1 404 Not Found",
    }


def test_an_answer_that_could_not_be_delivered_is_given_by_either_server(
    start_cluster: Any, redis_server: Any, until_model: Any
) -> None:
    one, other = start_cluster(2).ports
    for device in ("c1", "c2"):
        told(one, check_in(device, data_size=10))
    # Nothing can be stored while the device's connection breaks.
    redis_call(redis_server, "CLIENT", "PAUSE", "1000", "WRITE")
    with Line(one) as line:
        line.send(as_device(report("c1")))
        line.reset()

    repeats = [told(port, report("c1")) for port in (other, one, other)]

    assert [answer.retcode for answer in repeats] == [200, 300, 300]
    assert repeats[2].reason == "Updating metadata of UpdateModelClientList failed for fl id c1"
    assert told(other, report("c2", tensors={"w000": [0.0] * 3, "w001": [0.0] * 2})).retcode == 200
    assert tensors_of(until_model(one, 1)) == {
        name: [value / 20 for value in values] for name, values in WHOLE.items()
    }


def redis_call(redis_server: Any, *words: str) -> None:
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as link:
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        link.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        assert link.recv(64) == b"+OK\r\n"


def test_msgpack_tells_the_truth_and_gives_the_same_receipt_everywhere(
    start_cluster: Any, until_model: Any
) -> None:
    one, other = start_cluster(2).ports
    status, admitted = told_natively(one, check_in("c1", data_size=10))
    assert (status, admitted.verdict, admitted.model_round) == (200, "accepted", 0)
    assert told_natively(other, check_in("c1", data_size=10))[0] == 200
    assert told_natively(one, check_in("c2", data_size=10))[0] == 200
    status, full = told_natively(other, check_in("c3"))
    assert (status, full.verdict, full.retry_after_ms) == (429, "cohort_full", 1000)

    update = report("c1", plain_weights=True)
    with ThreadPoolExecutor(2) as pool:
        counted = list(pool.map(lambda port: told_natively(port, update), (one, other)))
    assert [(status, answer.verdict) for status, answer in counted] == [(200, "accepted")] * 2
    receipts = [answer.receipt for _, answer in counted]
    assert receipts[0] == receipts[1]
    assert receipts[0].position == 1

    for message, expected in (
        (report("c1", upload_loss=0.25), (409, "duplicate")),
        (report("c1", 7), (409, "stale_round")),
        (report("zz"), (409, "not_in_cohort")),
        (report("c2", tensors={"w000": [NAN, 1.0, 1.0]}), (400, "invalid")),
        (report("c2", tensors={"w000": [3e38, 1.0, 1.0]}), (400, "out_of_range")),
        (get_model(1), (202, "not_ready")),
    ):
        status, answer = told_natively(other, message)
        assert (status, answer.verdict) == expected
    assert told_natively(other, report("c2", plain_weights=True))[1].receipt.position == 2
    assert tensors_of(until_model(one, 1)) == WHOLE
    assert told_natively(other, update)[1].receipt == receipts[0]


def test_without_redis_the_newest_model_is_served_and_the_rest_waits(
    start_cluster: Any, redis_server: Any, wait_until: Any
) -> None:
    [port] = start_cluster(1, "cluster.redis_timeout_ms=200").ports
    told(port, check_in("c1"))

    redis_server.kill()

    assert ask(port, as_device(check_in("c2"))).body.decode() == SAFEMODE
    assert ask(port, as_device(report("c1"))).body.decode() == SAFEMODE
    assert tensors_of(told(port, get_model(0))) == INITIAL
    assert told(port, get_model(1)).retcode == 201
    status, answer = told_natively(port, report("c1"))
    assert (status, answer.verdict, answer.retry_after_ms) == (503, "unavailable", 200)
