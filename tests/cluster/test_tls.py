"""A whole cluster over TLS: devices, operators, the cluster's own links, Redis."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.sdk import FederatedDevice, RoundPlan, TrainResult, tls_context

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

PROGRAM = [sys.executable, "-m", "fl_cluster.app.cli"]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits" / "run.py"
PLAIN = b"This port speaks TLS: use https://"


def certs(folder: Path, *arguments: str) -> str:
    """`fl-cluster certs`, for the authority in `folder/certs`."""
    action, *rest = arguments
    done = subprocess.run(
        [*PROGRAM, "certs", action, "--dir", "certs", *rest],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Sealed:
    """A job of which every connection is encrypted."""

    job: Any
    servers: list[str]

    @property
    def authority(self) -> Path:
        path: Path = self.job.folder / "certs" / "ca.crt"
        return path

    def context(self) -> ssl.SSLContext:
        return tls_context(self.authority)

    def state(self, context: ssl.SSLContext | None = None) -> dict[str, Any]:
        url = f"https://{self.job.manage}/state"
        with urllib.request.urlopen(url, context=context or self.context(), timeout=10) as reply:
            decoded: dict[str, Any] = json.loads(reply.read())
        return decoded

    def device(self, name: str, **options: Any) -> FederatedDevice:
        def train(weights: dict[str, Any], _: RoundPlan) -> TrainResult:
            return TrainResult({key: value + np.float32(1) for key, value in weights.items()})

        given = {"tls": self.context(), "patience_s": 20.0} | options
        return FederatedDevice(self.servers, device_id=name, train=train, data_size=10, **given)


@pytest.fixture
def sealed(
    make_job: Callable[..., Any],
    tls_redis_program: str,
    free_port: Callable[..., int],
) -> Iterator[Sealed]:
    job = make_job("127.0.0.1:1", "Sealed")
    section = certs(job.folder, "init", "--host", "127.0.0.1", "--host", "localhost")
    folder = job.folder / "certs"
    port = free_port()
    redis = subprocess.Popen(
        [
            *(
                tls_redis_program,
                "--port",
                "0",
                "--tls-port",
                str(port),
                "--save",
                "",
                "--dir",
                ".",
            ),
            *("--tls-cert-file", str(folder / "server.crt")),
            *("--tls-key-file", str(folder / "server.key")),
            *("--tls-ca-cert-file", str(folder / "ca.crt")),
        ],
        cwd=job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        _until_it_serves(redis)
        text = (job.folder / "job.yaml").read_text()
        cache = (
            f'distributed_cache: {{type: redis, address: "127.0.0.1:{port}",'
            f" cacert_filename: certs/ca.crt, cert_filename: certs/client.crt,"
            f" private_key_filename: certs/client.key}}"
        )
        lines = [
            cache if line.startswith("distributed_cache") else line
            for line in text.splitlines()
            if not line.startswith("enable_ssl")
        ]
        tls = section[section.index("enable_ssl") :]
        (job.folder / "job.yaml").write_text("\n".join([*lines, tls]))
        (job.folder / "initial").mkdir()
        np.savez(job.folder / "initial" / "model.npz", w=np.zeros(8, np.float32))
        yield Sealed(job, [f"https://127.0.0.1:{job.http_port + index}" for index in (0, 1)])
    finally:
        redis.kill()
        redis.communicate()


def _until_it_serves(redis: subprocess.Popen[bytes]) -> None:
    assert redis.stdout is not None
    said = b""
    for line in redis.stdout:
        said += line
        if b"Ready to accept connections" in line:
            return
    pytest.fail(said.decode())


def start(sealed: Sealed) -> None:
    for script, arguments in (
        ("run_sched.py", []),
        ("run_server.py", ["--local_server_num=2", "--model=initial/model.npz"]),
    ):
        done = sealed.job.run(script, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def plain(address: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://{address}/state", timeout=10) as reply:
            body: bytes = reply.read()
    except urllib.error.HTTPError as exc:
        with exc:
            body = exc.read()
    return body


async def test_a_job_runs_with_everything_encrypted(
    sealed: Sealed, wait_until: Callable[..., None]
) -> None:
    start(sealed)
    results = await asyncio.gather(*(sealed.device(name).run() for name in ("a", "b")))

    assert [result.final_round for result in results] == [3, 3]
    assert results[0].weights["w"].tolist() == [3.0] * 8
    wait_until(lambda: len(sealed.state()["nodes"]) == 2, "both servers are linked")
    assert sealed.state()["cluster_state"] == "CLUSTER_FINISH"

    unknowing = ssl.create_default_context()
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        sealed.state(unknowing)
    unknowing.check_hostname, unknowing.verify_mode = False, ssl.CERT_NONE
    assert sealed.state(unknowing)["code"] == "0", "curl -k"
    for address in (sealed.job.manage, sealed.servers[0].removeprefix("https://")):
        assert plain(address).startswith(PLAIN)
    log = sealed.job.log("scheduler/scheduler.log")
    assert "Traceback" not in log


async def test_a_device_is_told_in_a_sentence_why_it_cannot_connect(
    sealed: Sealed, tmp_path: Path
) -> None:
    start(sealed)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    certs(stranger, "init", "--host", "127.0.0.1")

    reasons = {}
    for what, tls in (
        ("another authority", tls_context(stranger / "certs" / "ca.crt")),
        ("the system's authorities", None),
    ):
        with pytest.raises(Exception, match=r"TLS|certificate") as caught:
            await sealed.device("a", tls=tls, patience_s=1.0).run()
        reasons[what] = str(caught.value)
    plain_url = [url.replace("https", "http") for url in sealed.servers]
    with pytest.raises(Exception, match="https") as caught:
        await FederatedDevice(
            plain_url, device_id="a", train=lambda w, _: TrainResult(w), data_size=1, patience_s=1.0
        ).run()
    reasons["plain text"] = str(caught.value)

    for what in ("another authority", "the system's authorities"):
        assert "it does not come from the CA that is trusted here" in reasons[what]
    assert all("\n" not in reason for reason in reasons.values())


async def test_a_renewed_certificate_is_used_at_once_and_costs_no_connection(
    sealed: Sealed, wait_until: Callable[..., None]
) -> None:
    start(sealed)
    before = serial_of(sealed)
    faults: list[Exception] = []
    answered = 0
    stop = threading.Event()

    def keep_asking() -> None:
        nonlocal answered
        while not stop.is_set():
            try:
                sealed.state()
                answered += 1
            except OSError as exc:
                faults.append(exc)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        certs(sealed.job.folder, "renew", "server")
        wait_until(lambda: serial_of(sealed) != before, "the new certificate is shown")
        seen = answered
        wait_until(lambda: answered > seen + 10, "questions are answered after it too")
    finally:
        stop.set()
        asking.join()

    assert faults == []
    results = await asyncio.gather(*(sealed.device(name).run() for name in ("a", "b")))
    assert results[0].final_round == 3


def serial_of(sealed: Sealed) -> str:
    host, port = sealed.job.manage.split(":")
    return ssl.get_server_certificate((host, int(port)))


def test_who_was_revoked_keeps_its_links_and_cannot_come_back(
    sealed: Sealed, wait_until: Callable[..., None]
) -> None:
    start(sealed)
    certs(sealed.job.folder, "revoke", "client")
    wait_until(lambda: len(sealed.state()["nodes"]) == 2, "what is linked goes on")
    scheduler = next(p for p in sealed.job.processes() if "sched" in p.cmdline())
    scheduler.kill()
    scheduler.wait(10)

    again = sealed.job.run("run_sched.py")

    assert again.returncode != 0
    assert "revoked" in again.stdout + again.stderr


def test_a_scheduler_that_was_revoked_is_refused_by_servers_that_run(
    sealed: Sealed, free_port: Callable[..., int], wait_until: Callable[..., None]
) -> None:
    folder = sealed.job.folder
    certs(folder, "issue", "leaver")
    start(sealed)
    certs(folder, "revoke", "leaver")
    logs = [f"server_{sealed.job.http_port + index}/server.log" for index in (0, 1)]
    for log in logs:
        wait_until(
            lambda log=log: "certificates were read again" in sealed.job.log(log),
            "the server knows of it",
            timeout_s=5,
        )
    address = f"127.0.0.1:{free_port()}"
    # It does not know that it was revoked.
    unknowing = {
        "ssl.client_cert_path": "certs/leaver.crt",
        "ssl.client_key_path": "certs/leaver.key",
        "ssl.crl_path": "",
    }
    overrides = [f"--set={key}={value}" for key, value in unknowing.items()]
    other = sealed.job.start_here(
        "run_sched.py", f"--scheduler_manage_address={address}", *overrides
    )
    try:
        for log in logs:
            wait_until(
                lambda log=log: "its certificate is refused: it was revoked" in sealed.job.log(log),
                "the server says whom it refused",
            )
    finally:
        other.terminate()
        said, _ = other.communicate(timeout=20)
    assert "it refused this connection: the certificate shown to it was revoked" in said
    assert "is declared dead" not in said
    assert len(sealed.state()["nodes"]) == 2, "the first scheduler keeps its links"


def test_a_server_that_is_killed_is_found_dead_by_tls_as_well(
    sealed: Sealed, wait_until: Callable[..., None]
) -> None:
    start(sealed)
    wait_until(lambda: len(sealed.state()["nodes"]) == 2, "both servers are linked")
    port = str(sealed.job.http_port + 1)
    victim = next(p for p in sealed.job.processes() if any(port in w for w in p.cmdline()))
    victim.kill()
    victim.wait(10)
    wait_until(lambda: len(sealed.state()["nodes"]) == 1, "one is left")
    assert "is declared dead" in sealed.job.log("scheduler/scheduler.log")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda certs: (certs / "server.key").chmod(0o644), "certs/server.key"),
        (lambda certs: (certs / "server.crt").unlink(), "server_cert_path certs/server.crt is not"),
        (
            lambda certs: (certs / "server.key").write_bytes((certs / "client.key").read_bytes()),
            "key and certificate do not belong together",
        ),
        (lambda certs: (certs / "ca.crt").write_text("nothing"), "certs/ca.crt"),
    ],
    ids=["readable by all", "missing", "another key", "no authority"],
)
def test_what_is_wrong_with_a_file_is_said_before_redis_is_touched(
    make_job: Callable[..., Any], spoil: Callable[[Path], object], sentence: str
) -> None:
    job = make_job("127.0.0.1:1", "Spoilt")
    section = certs(job.folder, "init", "--host", "127.0.0.1")
    text = (job.folder / "job.yaml").read_text().replace("enable_ssl: false\n", "")
    (job.folder / "job.yaml").write_text(text + section[section.index("enable_ssl") :])
    spoil(job.folder / "certs")

    for script in ("run_sched.py", "run_server.py"):
        done = job.run(script)
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert sentence in said
        assert "Redis" not in said
        assert "Traceback" not in said


def test_a_wrong_password_of_a_p12_is_one_line(make_job: Callable[..., Any]) -> None:
    job = make_job("127.0.0.1:1", "Locked")
    section = certs(job.folder, "init", "--host", "127.0.0.1")
    section = section[section.index("enable_ssl") :].replace(".crt", ".p12", 1)
    lines = [line for line in section.splitlines() if "server_key_path" not in line]
    text = (job.folder / "job.yaml").read_text().replace("enable_ssl: false\n", "")
    (job.folder / "job.yaml").write_text(text + "\n".join(lines) + "\n")
    password = job.folder / "password"
    password.write_text("wrong\n")
    password.chmod(0o600)

    done = job.run("run_server.py", "--server_password_file=password")
    said = done.stdout + done.stderr
    password.chmod(0o644)
    open_to_all = job.run("run_server.py", "--server_password_file=password")

    assert done.returncode != 0
    assert "PKCS12_parse failed." in said
    assert "wrong\n" not in said
    assert "password" in open_to_all.stderr + open_to_all.stdout
    assert open_to_all.returncode != 0


def test_the_digits_are_learnt_over_tls_and_with_tokens(tmp_path: Path) -> None:
    certs(tmp_path, "init", "--host", "127.0.0.1")
    command = [sys.executable, str(EXAMPLE), "--certs", "certs", "--tokens", "--rounds", "3"]
    done = subprocess.run(
        [*command, "--devices", "6", "--folder", "result"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "each with a token of its own, over TLS" in done.stdout
    lines = (tmp_path / "result" / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iterationResult"] for line in lines] == ["success"] * 3
