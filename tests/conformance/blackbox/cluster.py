"""A job as its users see it: a folder, the scripts that start it, devices and an operator."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from blackbox.line import Reply, ask, request
from blackbox.wire import Message, features, pack, read

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
JAVA = "Content-Type: applicatiom/json;charset=utf-8"

INITIAL = {"w000": [0.5, 0.25, -1.0], "w001": [2.0, 4.0]}
"""The model that the job starts from."""

ANSWERS = {
    "startFLJob": "ResponseFLJob",
    "updateModel": "ResponseUpdateModel",
    "getModel": "ResponseGetModel",
    "pullWeight": "ResponsePullWeight",
    "pushWeight": "ResponsePushWeight",
    "pushMetrics": "ResponsePushMetrics",
    "exchangeKeys": "ResponseExchangeKeys",
    "getKeys": "ReturnExchangeKeys",
    "shareSecrets": "ResponseShareSecrets",
    "getSecrets": "ReturnShareSecrets",
    "getClientList": "ReturnClientList",
    "pushListSign": "ResponseClientListSign",
    "getListSign": "ReturnAllClientListSign",
    "reconstructSecrets": "ReconstructSecret",
}

CONFIG = """
fl_name: Bench
fl_iteration_num: 4
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{type: redis, address: "{redis}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {{metrics_file: metrics.json, failure_event_file: event.txt}}
client: {{client_epoch_num: 20, client_batch_size: 32, client_learning_rate: 0.01}}
"""

RUN = {
    "global_iteration_time_window": 60_000,
    "start_fl_job_threshold": 2,
    "start_fl_job_time_window": 30_000,
    "update_model_ratio": 1.0,
    "update_model_time_window": 30_000,
    "client_epoch_num": 20,
    "client_batch_size": 32,
    "client_learning_rate": 0.01,
    "fl_iteration_num": 4,
}
"""What a fresh run has unless the test says otherwise."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# -- what devices send -------------------------------------------------------------------


def check_in(device: str | bytes | None = "x", **fields: Any) -> bytes:
    """A RequestFLJob; a field that is None is absent."""
    given = {"fl_name": "com.example.Client", "data_size": 32, "timestamp": str(now_ms())}
    return _packed("RequestFLJob", given | {"fl_id": device} | fields)


def report(
    device: str | bytes | None = "x",
    number: int = 1,
    tensors: Mapping[str, Sequence[float]] = INITIAL,
    **fields: Any,
) -> bytes:
    """A RequestUpdateModel."""
    given = {
        "fl_name": "com.example.Client",
        "iteration": number,
        "feature_map": features(tensors),
        "timestamp": str(now_ms()),
        "upload_loss": 0.5,
    }
    return _packed("RequestUpdateModel", given | {"fl_id": device} | fields)


def get_model(number: int, **fields: Any) -> bytes:
    """A RequestGetModel."""
    given = {"fl_name": "com.example.Client", "iteration": number, "timestamp": str(now_ms())}
    return _packed("RequestGetModel", given | fields)


def _packed(name: str, fields: Mapping[str, Any]) -> bytes:
    return pack(name, **{field: value for field, value in fields.items() if value is not None})


# -- the job -----------------------------------------------------------------------------


def until(condition: Callable[[], object], what: str, *, timeout_s: float = 20.0) -> Any:
    """Wait until the condition holds, and return what it found."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain until {what}"
        time.sleep(0.01)
    return found


@dataclass
class Cluster:
    """A scheduler and some servers; `prefix` is what devices put before the names."""

    folder: Path
    redis: Any
    manage_port: int
    ports: list[int]
    prefix: str = "/"
    runs: int = 0
    weights: Mapping[str, Sequence[float]] = field(default_factory=lambda: INITIAL)

    def start(self, *settings: str) -> None:
        """Start everything, with `key=value` settings beside the configuration file."""
        (self.folder / "job.yaml").write_text(CONFIG.format(redis=self.redis.address))
        weights = {name: np.array(values, np.float32) for name, values in self.weights.items()}
        np.savez(self.folder / "initial.npz", **weights)
        self.settings = [f"--set={each}" for each in settings]
        self.script("run_sched.py", f"--scheduler_manage_address=127.0.0.1:{self.manage_port}")
        self.start_servers()

    def start_servers(self) -> None:
        """Start the servers, again after they were killed."""
        if not self.ports:
            return
        self.script(
            "run_server.py",
            "--tcp_server_ip=127.0.0.1",
            "--checkpoint_dir=fl_ckpt",
            "--model=initial.npz",
            f"--http_server_address=127.0.0.1:{self.ports[0]}",
            f"--local_server_num={len(self.ports)}",
        )

    def script(self, name: str, *arguments: str) -> None:
        command = [sys.executable, str(SCRIPTS / name), "--yaml_config=job.yaml", *arguments]
        done = subprocess.run(
            [*command, *self.settings],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes that work in this job's folder, and have these words in their command."""
        found = []
        for process in psutil.process_iter(["cwd", "status", "cmdline"]):
            is_ours = process.info["cwd"] == str(self.folder)
            is_zombie = process.info["status"] == psutil.STATUS_ZOMBIE
            said = " ".join(process.info["cmdline"] or ())
            if is_ours and not is_zombie and all(word in said for word in words):
                found.append(process)
        return found

    def kill(self, *words: str) -> None:
        """End processes without warning, and return when they are gone."""
        killed = self.processes(*words)
        for process in killed:
            process.kill()
        psutil.wait_procs(killed, timeout=10)

    def log(self, port: int) -> str:
        return (self.folder / "logs" / f"server_{port}" / "server.log").read_text()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of the metrics file."""
        file = self.folder / "metrics.json"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    # Devices

    def post(self, name: str, body: bytes, *headers: str, server: int = 0) -> Reply:
        """A device's request, and the answer whatever it is."""
        return ask(self.ports[server], request(f"{self.prefix}{name}", body, JAVA, *headers))

    def say(self, name: str, body: bytes, *headers: str, server: int = 0) -> Message:
        """A device's request, and the message that answers it."""
        reply = self.post(name, body, *headers, server=server)
        assert reply.status == "HTTP/1.1 200 OK", reply
        return read(ANSWERS[name], reply.body)

    def join(self, *devices: str, data_size: int = 32, server: int = 0) -> Message:
        """All of them are admitted; the last one's answer."""
        answer = None
        for device in devices:
            answer = self.say("startFLJob", check_in(device, data_size=data_size), server=server)
            assert (answer.retcode, answer.reason) == (200, "success")
        assert answer is not None
        return answer

    def send(
        self,
        device: str,
        number: int = 1,
        tensors: Mapping[str, Sequence[float]] = INITIAL,
        *,
        server: int = 0,
        **fields: Any,
    ) -> Message:
        """A device's update is counted."""
        answer = self.say("updateModel", report(device, number, tensors, **fields), server=server)
        assert (answer.retcode, answer.reason) == (200, "success not ready")
        return answer

    def model(self, number: int, *, server: int = 0) -> Message:
        """The model of a round, asked for as devices do until it is there."""

        def found() -> Message | None:
            reply = self.post("getModel", get_model(number), server=server)
            answer = read("ResponseGetModel", reply.body) if len(reply.body) > 60 else None
            return answer if answer is not None and answer.retcode == 200 else None

        return until(found, f"the model of round {number} is there")  # type: ignore[no-any-return]

    # Operators

    def manage(self, path: str, body: bytes | None = b"", *, method: str = "POST") -> Reply:
        """The scheduler's answer, whatever it is."""
        return ask(self.manage_port, request(path, body, method=method))

    def grant(self, path: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The scheduler's answer to something that it grants."""
        body = b"" if changes is None else json.dumps(changes).encode()
        answer: dict[str, Any] = json.loads(self.manage(path, body).body)
        assert answer["code"] == "0", answer
        return answer

    def fresh(self, **changes: Any) -> None:
        """A new run in round 1, known to every server; `changes` of the nine parameters."""
        self.runs += 1
        rate = self.runs / 1024
        self.grant("/newInstance", RUN | {"client_learning_rate": rate} | changes)
        rate = changes.get("client_learning_rate", rate)
        for server in range(len(self.ports)):
            until(lambda s=server: self.is_at(rate, s), f"server {server} is in the new run")

    def is_at(self, learning_rate: float, server: int) -> bool:
        """Whether this is what a server tells devices."""
        unproved = dict.fromkeys(("key_attestation", "equip_cert", "equip_ca_cert"), "")
        asked = check_in("nobody", data_size=0, sign_data=[], **unproved)
        reply = self.post("startFLJob", asked, server=server)
        if len(reply.body) < 60:
            return False
        answer = read("ResponseFLJob", reply.body)
        return bool(abs(answer.fl_plan_config.lr - learning_rate) < 1e-7)
