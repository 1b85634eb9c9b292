"""Programs written for 0.1.0, run unchanged: servers and schedulers in them, and their devices."""

from __future__ import annotations

import ast
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate

from fl_cluster.store.model_files import read_model, write_model
from fl_cluster.wire import flat, messages

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

PROGRAMS = Path(__file__).resolve().parents[1] / "data" / "programs"

CONFIG = """
fl_name: Program
fl_iteration_num: {rounds}
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
client: {{http_url_prefix: ""}}
cluster: {{lease_ms: 1000}}
"""

FINISHED = "Weight aggregation finished! This iteration is valid. Proceed to next iteration."
LEASE_S = 1.0


@dataclass
class Bench:
    """A folder with a job's file, and the programs that run in it."""

    folder: Path
    redis: Any
    http_port: int
    manage_port: int
    authority: ssl.SSLContext | None = None
    """What devices trust; None: there is no TLS."""
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.configure()

    def configure(self, rounds: int = 5, more: str = "", *, is_encrypted: bool = False) -> None:
        # A bare address would mean TLS to Redis too.
        redis = self.redis.url if is_encrypted else self.redis.address
        text = CONFIG.format(redis=redis, rounds=rounds) + more
        if is_encrypted:
            text = text.replace("enable_ssl: false", "enable_ssl: true")
        (self.folder / "job.yaml").write_text(text)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        return self.run(str(PROGRAMS / program), *arguments)

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "fl_cluster.compat", *arguments]
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.running.append(process)
        return process

    def serve(self, *arguments: str) -> subprocess.Popen[str]:
        address = f"--http_server_address=127.0.0.1:{self.http_port}"
        return self.start("server.py", address, *arguments)

    def schedule(self) -> subprocess.Popen[str]:
        address = f"--scheduler_manage_address=127.0.0.1:{self.manage_port}"
        return self.start("scheduler.py", address)

    def tool(self, request: str, *arguments: str) -> dict[str, Any]:
        """What the client tool prints."""
        tool = "mindspore_federated.common._fl_restful_tool"
        process = self.run(
            "-m", tool, f"--port={self.manage_port}", f"--request_name={request}", *arguments
        )
        out, _ = process.communicate(timeout=20)
        answer: dict[str, Any] = ast.literal_eval(out)
        return answer

    def lines(self, report: str = "report.jsonl") -> list[Any]:
        path = self.folder / report
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def told(self) -> list[str]:
        return [line[0] for line in self.lines()]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def ended_rounds(self) -> list[Any]:
        return [line[1] for line in self.lines() if line[0] == "on_iteration_end"]

    # -- devices ---------------------------------------------------------------------------

    def ask(self, path: str, request: Any, answer: type[Any]) -> Any:
        """The decoded answer; None while the server is not ready to give one."""
        scheme = "http" if self.authority is None else "https"
        url, body = f"{scheme}://127.0.0.1:{self.http_port}/{path}", flat.encode(request)
        with urllib.request.urlopen(url, body, timeout=10, context=self.authority) as reply:
            body = reply.read()
        return None if body.startswith(b"The ") else flat.decode(answer, body)

    def check_in(self, device: str) -> Any:
        request = messages.RequestFLJob(
            fl_name="Program", fl_id=device, data_size=32, timestamp="1"
        )
        return self.ask("startFLJob", request, messages.ResponseFLJob)

    def report(self, device: str, number: int, values: list[float]) -> Any:
        weights = messages.FeatureMap("w", 32 * np.array(values, np.float32))
        request = messages.RequestUpdateModel(
            fl_name="Program",
            fl_id=device,
            iteration=number,
            feature_map=(weights,),
            timestamp="1",
            upload_loss=0.5,
        )
        return self.ask("updateModel", request, messages.ResponseUpdateModel)

    def get_model(self, number: int) -> Any:
        request = messages.RequestGetModel(fl_name="Program", iteration=number, timestamp="1")
        return self.ask("getModel", request, messages.ResponseGetModel)

    def state(self) -> Any:
        try:
            url = f"http://127.0.0.1:{self.manage_port}/state"
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return json.loads(refusal.read())
        except OSError:
            return {}


Wait = Callable[..., None]


@pytest.fixture
def bench(tmp_path: Path, redis_server: Any, free_port: Callable[..., int]) -> Iterator[Bench]:
    made = Bench(tmp_path, redis_server, free_port(), free_port())
    (tmp_path / "fl_ckpt").mkdir()
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


def tensors(message: Any) -> dict[str, list[float]]:
    return {each.weight_fullname: np.asarray(each.data).tolist() for each in message.feature_map}


def serve_until_started(bench: Bench, wait_until: Wait, *arguments: str) -> Any:
    before = bench.told().count("after_started")
    process = bench.serve(*arguments)

    def is_started() -> bool:
        return bench.told().count("after_started") > before or process.poll() is not None

    wait_until(is_started, "the server has started", timeout_s=30)
    assert process.poll() is None, bench.log()
    return process


def one_round(bench: Bench, wait_until: Wait, number: int) -> None:
    """Two devices take part; the model is 10 * number + 1, + 2, + 3."""

    def is_admitted(device: str) -> bool:
        said = bench.check_in(device)
        return said is not None and (said.retcode, said.iteration) == (200, number)

    for device in ("a", "b"):
        wait_until(lambda d=device: is_admitted(d), f"{device} is admitted")
    for device, shift in (("a", -1), ("b", 1)):
        values = [10.0 * number + place + shift for place in (1, 2, 3)]
        said = bench.report(device, number, values)
        assert said.retcode == 200, said
    wait_until(lambda: (m := bench.get_model(number)) and m.retcode == 200, "there is a model")


def stop(process: subprocess.Popen[str]) -> str:
    """Ask the program to end; what it printed."""
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    return out


def test_a_program_serves_three_rounds_and_is_told_of_each_in_its_main_thread(
    bench: Bench, wait_until: Wait
) -> None:
    process = serve_until_started(bench, wait_until)
    for number in (1, 2, 3):
        one_round(bench, wait_until, number)
    out = stop(process)

    assert (out, process.returncode) == ("", 0), bench.log()
    names = ["after_started", *["on_iteration_end"] * 3, "before_stopped", "returned"]
    assert bench.told() == names
    assert bench.lines()[-1] == ["returned", None]
    for number, ended in enumerate(bench.ended_rounds(), 1):
        weights = [10.0 * number + place for place in (1, 2, 3)]
        assert ended["features"] == {"b": [7.0, False], "w": [weights, True]}
        assert ended["is_this_instance"]
        assert (ended["fl_name"], ended["iteration_num"]) == ("Program", number)
        assert (ended["iteration_valid"], ended["iteration_result"]) == (True, FINISHED)
        name = Path(ended["checkpoint_file"]).name
        assert name.startswith(f"Program_recovery_iteration_{number}_")
    kept = read_model(bench.folder / bench.ended_rounds()[-1]["checkpoint_file"])
    assert {name: array.tolist() for name, array in kept.items()} == {"b": 7.0, "w": [31, 32, 33]}
    assert len(list((bench.folder / "fl_ckpt").iterdir())) == 3


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_server_in_a_child_process_ends_with_its_terminate(
    bench: Bench, wait_until: Wait, how: str
) -> None:
    process = serve_until_started(bench, wait_until, f"--how={how}", "--model=dict")
    one_round(bench, wait_until, 1)
    stop(process)

    assert bench.lines()[-1] == ["child", "NoneType", "None", 0], bench.log()
    told = ["after_started", "on_iteration_end", "before_stopped", "returned", "child"]
    assert bench.told() == told


@pytest.mark.parametrize("is_redis_kept", [True, False])
def test_a_job_goes_on_from_its_checkpoint_whatever_model_it_is_given(
    bench: Bench, wait_until: Wait, is_redis_kept: bool
) -> None:
    process = serve_until_started(bench, wait_until)
    for number in (1, 2, 3):
        one_round(bench, wait_until, number)
    stop(process)
    if not is_redis_kept:
        bench.redis.kill()
        bench.redis.start()

    process = serve_until_started(bench, wait_until)
    model = bench.get_model(3)
    said = bench.check_in("a")

    assert (model.retcode, tensors(model)) == (200, {"w": [31, 32, 33]})
    assert (said.retcode, said.iteration) == (200, 4)
    assert tensors(said) == {"b": [7], "w": [31, 32, 33]}


def test_a_job_that_was_finished_stays_so_when_it_comes_back_from_its_checkpoint(
    bench: Bench, wait_until: Wait
) -> None:
    bench.configure(rounds=1)
    process = serve_until_started(bench, wait_until)
    one_round(bench, wait_until, 1)
    stop(process)
    bench.redis.kill()
    bench.redis.start()

    serve_until_started(bench, wait_until)
    model = bench.get_model(1)

    assert (model.retcode, tensors(model)) == (200, {"w": [11, 12, 13]})
    assert bench.check_in("a") is None


def test_without_its_folder_a_job_has_no_checkpoints_and_does_not_make_it(
    bench: Bench, wait_until: Wait
) -> None:
    process = serve_until_started(bench, wait_until, "--checkpoint_dir=elsewhere")
    one_round(bench, wait_until, 1)
    stop(process)

    (ended,) = bench.ended_rounds()
    assert (ended["features"], ended["checkpoint_file"]) == ({}, "")
    assert not (bench.folder / "elsewhere").exists()


def test_a_job_starts_from_a_checkpoint_file(bench: Bench, wait_until: Wait) -> None:
    write_model(bench.folder / "initial.ckpt", {"w": np.array([4, 5, 6], np.float32)})
    serve_until_started(bench, wait_until, "--model=initial.ckpt")

    wait_until(lambda: bench.check_in("a"), "devices are served")
    said = bench.check_in("b")

    assert tensors(said) == {"w": [4, 5, 6]}


def test_a_callback_that_takes_its_time_costs_neither_heartbeat_nor_rounds(
    bench: Bench, wait_until: Wait
) -> None:
    scheduler = bench.schedule()
    wait_until(lambda: bench.state().get("code"), "the scheduler answers", timeout_s=30)
    process = serve_until_started(bench, wait_until, "--wait_for=go")
    deadline = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < deadline:
        (node,) = bench.state()["nodes"]
        assert node["role"] == "SERVER"
    assert bench.check_in("a").retcode == 200
    (bench.folder / "go").touch()
    stop(process)
    wait_until(lambda: "nodes" not in bench.state(), "the server has left")
    out = stop(scheduler)

    assert bench.told() == ["after_started", "before_stopped", "returned"]
    assert (out, scheduler.returncode) == ("the scheduler has returned\n", 0)


def test_a_round_that_an_operator_ends_is_told_as_failed(bench: Bench, wait_until: Wait) -> None:
    bench.schedule()
    wait_until(lambda: bench.state().get("code"), "the scheduler answers", timeout_s=30)
    serve_until_started(bench, wait_until)
    wait_until(lambda: bench.check_in("a"), "devices are served")

    assert bench.tool("disableFLS")["code"] == "0"
    assert bench.tool("state")["cluster_state"] == "CLUSTER_DISABLE"
    assert bench.tool("enableFLS")["code"] == "0"
    wait_until(bench.ended_rounds, "the program was told")
    assert bench.tool("newInstance", "--instance_param=start_fl_job_threshold=1")["code"] == "0"
    wait_until(lambda: len(bench.ended_rounds()) == 2, "the program was told")

    first, second = bench.ended_rounds()
    assert (first["iteration_valid"], first["iteration_result"]) == (False, "Disable instance")
    assert first["features"]["w"][0] == [1, 2, 3]
    assert second["is_this_instance"]
    assert bench.tool("queryInstance")["result"]["start_fl_job_threshold"] == 1


def test_control_variates_are_features_and_no_others_are_made_of_a_checkpoint(
    bench: Bench, wait_until: Wait
) -> None:
    scaffold = "aggregation: {aggregation_type: Scaffold, total_client_num: 4}\n"
    bench.configure(more=scaffold)
    process = serve_until_started(bench, wait_until)
    one_round(bench, wait_until, 1)
    stop(process)
    bench.redis.kill()
    bench.redis.start()

    serve_until_started(bench, wait_until)
    said = bench.check_in("a")

    features = bench.ended_rounds()[0]["features"]
    assert features["control.w"][0] == [0, 0, 0]
    assert set(features) == {"b", "w", "control.b", "control.w"}
    assert (said.iteration, set(tensors(said))) == (2, set(features))


SERVER_PASSWORD, CLIENT_PASSWORD = "server_password_12345", "client_password_12345"

TLS = """
ssl:
  server_cert_path: server.p12
  client_cert_path: client.p12
  ca_cert_path: ca.crt
  crl_path: ""
  cipher_list: ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256
"""


def pack(certificates: Any, name: str, password: str, folder: Path) -> None:
    """A certificate as PKCS#12 under the password."""
    key = load_pem_private_key(Path(certificates.path(f"{name}.key")).read_bytes(), None)
    certificate = load_pem_x509_certificate(Path(certificates.path(f"{name}.crt")).read_bytes())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encryption = BestAvailableEncryption(password.encode())
    packed = serialize_key_and_certificates(None, key, certificate, None, encryption)
    (folder / f"{name}.p12").write_bytes(packed)
    (folder / f"{name}.p12").chmod(0o600)


@pytest.fixture
def encrypted(bench: Bench, certificates: Any) -> Bench:
    """With TLS between the servers and their devices; Redis has none."""
    pack(certificates, "server", SERVER_PASSWORD, bench.folder)
    pack(certificates, "client", CLIENT_PASSWORD, bench.folder)
    (bench.folder / "ca.crt").write_bytes(Path(certificates.path("ca.crt")).read_bytes())
    bench.authority = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    return bench


def test_of_two_servers_one_is_told_of_each_round(
    bench: Bench, wait_until: Wait, free_port: Callable[..., int]
) -> None:
    ports = bench.http_port, free_port()
    serve_until_started(bench, wait_until)
    bench.http_port = ports[1]
    bench.serve("--report=second.jsonl")
    wait_until(lambda: bench.lines("second.jsonl"), "the second server has started", timeout_s=30)
    for number in (1, 2, 3):
        bench.http_port = ports[number % 2]
        one_round(bench, wait_until, number)

    lines = [*bench.lines(), *bench.lines("second.jsonl")]
    told = [line[1]["iteration_num"] for line in lines if line[0] == "on_iteration_end"]
    assert sorted(told) == [1, 2, 3]
    assert len(list((bench.folder / "fl_ckpt").iterdir())) == 3


def test_a_round_that_is_cut_off_by_three_new_runs_at_once_is_told_once(
    bench: Bench, wait_until: Wait, free_port: Callable[..., int]
) -> None:
    bench.schedule()
    wait_until(lambda: bench.state().get("code"), "the scheduler answers", timeout_s=30)
    serve_until_started(bench, wait_until)
    bench.http_port = free_port()
    bench.serve("--report=second.jsonl")
    wait_until(lambda: bench.lines("second.jsonl"), "the second server has started", timeout_s=30)
    url = f"http://127.0.0.1:{bench.manage_port}/newInstance"

    for threshold in (3, 1, 2):
        body = json.dumps({"start_fl_job_threshold": threshold}).encode()
        with urllib.request.urlopen(url, body, timeout=10) as reply:
            assert json.loads(reply.read())["code"] == "0"
    one_round(bench, wait_until, 1)

    metrics = (bench.folder / "metrics.json").read_text().splitlines()
    lines = [*bench.lines(), *bench.lines("second.jsonl")]
    told = [line[1]["iteration_result"] for line in lines if line[0] == "on_iteration_end"]
    assert sorted(told) == sorted([*["New instance"] * (len(metrics) - 1), FINISHED])
    runs = [json.loads(line)["instanceName"] for line in metrics]
    assert len(runs) == len(set(runs))


def test_a_server_that_an_operator_takes_out_returns_to_its_program(
    bench: Bench, wait_until: Wait
) -> None:
    bench.schedule()
    wait_until(lambda: bench.state().get("code"), "the scheduler answers", timeout_s=30)
    process = serve_until_started(bench, wait_until)
    body = json.dumps({"node_ids": [bench.state()["nodes"][0]["node_id"]]}).encode()
    url = f"http://127.0.0.1:{bench.manage_port}/scalein"

    def is_taken_out() -> bool:
        # Refused while the scheduler has no link to the server yet.
        try:
            with urllib.request.urlopen(url, body, timeout=10) as reply:
                return reply.status == 200
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return False

    wait_until(is_taken_out, "the server is asked to end")
    out, _ = process.communicate(timeout=20)

    assert (out, process.returncode) == ("", 0)
    assert bench.told() == ["after_started", "before_stopped", "returned"]


def told_through_a_pipe(bench: Bench, *arguments: str) -> str:
    """What the server in a forked child could not start for."""
    process = bench.serve("--how=fork", *arguments)
    process.communicate(timeout=30)
    what, kind, text, exit_code = bench.lines()[-1]
    assert (what, kind, exit_code) == ("child", "RuntimeError", 0), bench.log()
    return str(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--http_server_address=256.0.0.1:6666"],
            "The format of http server address '256.0.0.1:6666' is invalid",
        ),
        (["--model=empty"], "Model size 0 cannot <=0 or >=UINT32_MAX"),
        (["--model=not finite"], "Verify feature map failed for initial model."),
    ],
)
def test_what_keeps_a_server_from_starting_comes_through_a_pipe(
    bench: Bench, arguments: list[str], words: str
) -> None:
    text = told_through_a_pipe(bench, *arguments)

    assert words in text
    assert bench.told() == ["before_stopped", "child"]


def test_a_port_that_is_taken_keeps_a_server_from_starting(bench: Bench, wait_until: Wait) -> None:
    serve_until_started(bench, wait_until)

    text = told_through_a_pipe(bench)

    assert text.startswith("Http server starting failed.")
    assert f"127.0.0.1:{bench.http_port} is already in use by pid" in text


def test_a_second_server_with_another_model_is_refused(
    bench: Bench, wait_until: Wait, free_port: Callable[..., int]
) -> None:
    serve_until_started(bench, wait_until)
    bench.http_port = free_port()

    text = told_through_a_pipe(bench, "--model=other")

    assert "The number 3 of local features != the number 2 declared in the the" in text


VERIFYING = """
client_verify: {pki_verify: true, root_first_ca_path: absent.pem, root_second_ca_path: absent.pem}
"""


def test_a_second_server_hears_what_must_agree_before_what_it_lacks(
    bench: Bench, wait_until: Wait, free_port: Callable[..., int]
) -> None:
    serve_until_started(bench, wait_until)
    bench.http_port = free_port()
    bench.configure(more=VERIFYING)

    text = told_through_a_pipe(bench)

    words = "Sync hyper params with distributed cache failed, distributed_cache_address:"
    assert text.startswith(f"{words} {bench.redis.address}: pki_verify is True here and False for")


def test_a_first_server_without_its_roots_opens_no_job(bench: Bench, wait_until: Wait) -> None:
    bench.configure(more=VERIFYING)
    assert told_through_a_pipe(bench).startswith("init root cert and crl failed. (client_verify.")

    bench.configure()
    serve_until_started(bench, wait_until)


def test_a_redis_that_wants_a_password_is_named(
    tmp_path: Path, start_redis: Callable[..., Any], free_port: Callable[..., int]
) -> None:
    redis = start_redis("--requirepass", "secret")
    bench = Bench(tmp_path, redis, free_port(), free_port())

    text = told_through_a_pipe(bench)

    address = redis.address
    words = f"Link to distributed cache failed, distributed cache address: {address}, enable ssl: 0"
    assert words in text


def test_every_name_is_there_here_and_in_every_kind_of_child(bench: Bench) -> None:
    process = bench.start("names.py", "--lr", "0.1")
    out, _ = process.communicate(timeout=50)

    assert (out, process.returncode) == ("all names are there ['--lr', '0.1']\n", 7), bench.log()


def test_a_program_opens_its_certificates_with_its_passwords(
    encrypted: Bench, wait_until: Wait
) -> None:
    encrypted.configure(more=TLS, is_encrypted=True)
    process = serve_until_started(encrypted, wait_until)
    one_round(encrypted, wait_until, 1)
    stop(process)

    assert encrypted.told() == ["after_started", "on_iteration_end", "before_stopped", "returned"]


@pytest.mark.parametrize("name", ["server", "client"])
def test_a_password_that_does_not_fit_comes_through_a_pipe(
    encrypted: Bench, certificates: Any, name: str
) -> None:
    encrypted.configure(more=TLS, is_encrypted=True)
    pack(certificates, name, "another password", encrypted.folder)

    assert "PKCS12_parse failed." in told_through_a_pipe(encrypted)


@pytest.mark.parametrize("name", ["server", "client"])
def test_a_certificate_that_is_not_there_comes_through_a_pipe(encrypted: Bench, name: str) -> None:
    encrypted.configure(more=TLS, is_encrypted=True)
    (encrypted.folder / f"{name}.p12").unlink()

    words = f"The file path of {name}_cert_path {name}.p12 is not exist."
    assert words in told_through_a_pipe(encrypted)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_test_suite_runs_with_the_plugin(bench: Bench, workers: str) -> None:
    suite = str(PROGRAMS / "suite")
    options = ["-p", "fl_cluster.compat.install", "-p", "no:cacheprovider", f"-n{workers}", "-q"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "--rootdir", suite, suite],
        env={**os.environ, "YAML_CONFIG": str(bench.folder / "job.yaml")},
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "2 passed" in result.stdout, result.stdout + result.stderr
