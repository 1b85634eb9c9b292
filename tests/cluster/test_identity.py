"""Tokens and device certificates in clusters of real processes, and secrets that stay secret."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from fl_cluster.app import launch
from fl_cluster.app.launch import LaunchOptions, Started
from fl_cluster.errors import CallerProtocolError
from fl_cluster.sdk import (
    DeviceIdentity,
    FederatedDevice,
    Protection,
    RoundPlan,
    TrainResult,
)
from fl_cluster.store.model_files import write_model
from fl_cluster.wire import flat, messages, packed

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

CONFIG = """
fl_name: Guarded
fl_iteration_num: 3
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {{address: "redis://{address}"}}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 60000
  update_model_ratio: 1.0
  update_model_time_window: 60000
  global_iteration_time_window: 120000
summary: {{metrics_file: "{folder}/metrics.json", failure_event_file: "{folder}/event.txt"}}
cluster: {{lease_ms: 5000, data_dir: "{folder}/data", allow_tokens_over_http: true}}
"""

IN_FORCE_S = 3.0
"""By then a change is in force on all servers; it is promised after one second on a machine that
is idle."""


@dataclass
class Cluster:
    """A scheduler and two servers, and the commands of whoever runs them."""

    folder: Path
    processes: list[Started]

    @property
    def manage(self) -> str:
        return str(self.processes[0].address)

    @property
    def urls(self) -> list[str]:
        return [f"http://{server.address}" for server in self.processes[1:]]

    def command(
        self, *arguments: str, config: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        options = [f"--yaml_config={self.folder / 'job.yaml'}"] if config else []
        return subprocess.run(
            [sys.executable, "-m", "fl_cluster", *arguments, *options],
            cwd=self.folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def make_token(self, label: str, *options: str) -> str:
        done = self.command("token", "create", "--label", label, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def listed(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.command("token", "list", "--format=json").stdout)
        return {row["label"]: row for row in rows}

    def logs(self) -> str:
        return "\n".join(each.log.read_text() for each in self.processes if each.log)

    def get(self, path: str, token: str = "") -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://{self.manage}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()


@pytest.fixture
def start(tmp_path: Path, redis_server: Any, start_three: Any) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster whose configuration ends in `extra`; it is stopped after the test.

    `changes` are other values of keys that it has.
    """
    started: list[Started] = []

    def make(extra: str = "", **changes: str) -> Cluster:
        write_model(tmp_path / "initial.npz", {"w": np.arange(8, dtype=np.float32)})
        path = tmp_path / "job.yaml"
        text = CONFIG.format(address=redis_server.address, folder=tmp_path)
        for key, value in changes.items():
            text = re.sub(rf"(?<={key}: )[^,}}\n]+", value, text)
        path.write_text(text + extra)
        options = LaunchOptions(str(path), tmp_path / "logs")
        cluster = Cluster(tmp_path, start_three(options, tmp_path))
        started.extend(cluster.processes)
        return cluster

    yield make
    launch.stop(started)


def add_one(weights: Any, _: RoundPlan) -> TrainResult:
    return TrainResult({name: values + 1 for name, values in weights.items()})


@dataclass
class Load:
    """One participant who asks without a pause, and what each answer was."""

    token: str
    answers: list[tuple[float, int, str]]
    """When it was asked, HTTP status, verdict."""

    async def run(self, urls: list[str], session: aiohttp.ClientSession) -> None:
        headers = {"Content-Type": "application/msgpack", "Authorization": f"Bearer {self.token}"}
        body = packed.encode(messages.RequestGetModel(fl_name="x", iteration=0, timestamp="1"))
        for number in range(1_000_000):
            asked_s = time.monotonic()
            url = f"{urls[number % len(urls)]}/getModel"
            async with session.post(url, data=body, headers=headers) as reply:
                found = packed.decode(messages.ResponseGetModel, await reply.read())
            self.answers.append((asked_s, reply.status, str(found.verdict)))


async def test_a_token_revoked_under_load_opens_nothing_a_second_later_and_disturbs_nobody(
    start: Callable[..., Cluster],
) -> None:
    cluster = start()
    loads = [Load(cluster.make_token(label), []) for label in ("gone", "gone", "stays", "stays")]

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(load.run(cluster.urls, session)) for load in loads]
        await enough(loads, 50)
        done = await asyncio.to_thread(cluster.command, "token", "revoke", "gone")
        revoked_s = time.monotonic()
        assert done.stdout.count("is revoked") == 2, done
        await asyncio.wait(tasks, timeout=IN_FORCE_S)
        for load in loads:
            load.answers.append((0.0, 0, "mark"))
        await enough(loads, 50)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    for load in loads[:2]:
        late = [each for each in load.answers if each[0] >= revoked_s + IN_FORCE_S]
        assert len(late) > 20
        assert {each[1:] for each in late} == {(403, "token_revoked")}
        assert load.answers[0][1] == 200
    for load in loads[2:]:
        assert {each[1:] for each in load.answers if each[1]} == {(200, "accepted")}


async def enough(loads: list[Load], count: int) -> None:
    """Wait until each load has had so many answers more."""
    goals = [len(load.answers) + count for load in loads]
    async with asyncio.timeout(30):
        while any(len(load.answers) < goal for load, goal in zip(loads, goals, strict=True)):
            await asyncio.sleep(0.01)


async def test_participants_join_by_one_line_and_no_secret_is_ever_shown(
    start: Callable[..., Cluster], wait_until: Callable[..., None]
) -> None:
    cluster = start()
    lines = [cluster.command("join-line", "--label", label).stdout.strip() for label in ("a", "b")]
    operator = cluster.make_token("ops", "--role", "operator")
    secrets = [line.partition("token=")[2].partition("&")[0] for line in lines] + [operator]
    assert all(secret.startswith("flt_") for secret in secrets)

    with pytest.raises(CallerProtocolError, match="token_unknown: The token is not known"):
        await FederatedDevice.join(
            lines[0].replace(secrets[0], "flt_" + "x" * 40), train=add_one, data_size=1
        ).run()
    results = await asyncio.gather(
        *(FederatedDevice.join(line, train=add_one, data_size=1).run() for line in lines)
    )

    assert [result.final_round for result in results] == [3, 3]
    headers = {"Content-Type": "application/msgpack", "Authorization": f"Bearer {secrets[0]}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in ("pullWeight", "pushWeight", "pushMetrics"):
            async with session.post(f"{cluster.urls[0]}/{path}", data=b"x") as reply:
                assert reply.status == 403
                assert b"token_role" in await reply.read()
    np.testing.assert_allclose(results[0].weights["w"], np.arange(8) + 3)
    shown = [cluster.get(path, operator) for path in ("/state?detail=1", "/explain", "/metrics")]
    assert [status for status, _ in shown] == [200] * 3
    wait_until(lambda: cluster.get("/state")[0] == 401, "the scheduler asks for a token")
    shown += [cluster.get("/state"), cluster.get("/state", secrets[0])]
    assert [status for status, _ in shown[3:]] == [401, 403]
    wait_until(lambda: cluster.listed()["a"]["last_used"] is not None, "the last use is told")
    told = cluster.command("token", "list").stdout
    wait_until(lambda: "requests were refused" in cluster.logs(), "refusals are logged")
    titles = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    everything = "\n".join([cluster.logs(), told, *titles, *(text for _, text in shown)])
    for secret in secrets:
        assert secret not in everything
        assert secret.removeprefix("flt_") not in everything


def test_operators_commands_take_their_token_from_a_file_or_the_environment(
    start: Callable[..., Cluster], wait_until: Callable[..., None]
) -> None:
    cluster = start()
    asking = ("state", "--manage", cluster.manage)
    assert cluster.command(*asking, config=False).returncode == 0
    made = cluster.command("token", "create", "--label=ops", "--role=operator", "--out=ops.token")
    assert (made.returncode, made.stdout) == (0, "")
    file = cluster.folder / "ops.token"
    assert file.stat().st_mode & 0o777 == 0o600
    secret = file.read_text().strip()
    wait_until(lambda: cluster.get("/state")[0] == 401, "the scheduler asks for a token")

    refused = cluster.command(*asking, config=False)
    by_file = cluster.command(*asking, "--token-file", str(file), config=False)
    by_environ = cluster.command(*asking, config=False, FL_CLUSTER_OPERATOR_TOKEN=secret)
    file.chmod(0o644)
    by_open_file = cluster.command(*asking, "--token-file", str(file), config=False)

    assert refused.returncode == 1
    assert "The request has no token" in refused.stderr
    assert (by_file.returncode, by_environ.returncode) == (0, 0), by_file
    assert by_open_file.returncode == 2
    assert "every user of this host may read or write it" in by_open_file.stderr
    assert cluster.get("/healthz")[0] == 200
    again = cluster.command("token", "create", "--label=ops", "--out=ops.token")
    assert "ops.token: File exists" in again.stderr
    nobody = cluster.command("token", "revoke", "nobody")
    assert (nobody.returncode, "no token has the label or id" in nobody.stderr) == (1, True)


PKI = """
client_verify:
  pki_verify: true
  root_first_ca_path: "{folder}/root.pem"
  root_second_ca_path: "{folder}/root.pem"
  equip_crl_path: "{folder}/revoked.crl"
  replay_attack_time_diff: 60000
"""


@pytest.fixture
def verifying(
    start: Callable[..., Cluster], tmp_path: Path, device_authority: Any
) -> Callable[..., Cluster]:
    """Starts a cluster that verifies devices, none of which is revoked."""
    root = device_authority.root.public_bytes(Encoding.PEM)
    (tmp_path / "root.pem").write_bytes(root)
    (tmp_path / "revoked.crl").write_bytes(device_authority.revocations())
    return lambda: start(PKI.format(folder=tmp_path))


async def test_devices_with_certificates_train_until_they_are_revoked(
    verifying: Callable[..., Cluster],
    device_authority: Any,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    cluster = verifying()
    chains = [device_authority.device(f"phone-{n}") for n in range(2)]
    identities = [
        DeviceIdentity.from_files(*chain.write(tmp_path, f"phone-{n}"))
        for n, chain in enumerate(chains)
    ]

    def device(identity: DeviceIdentity | None) -> FederatedDevice:
        return FederatedDevice(
            cluster.urls,
            train=add_one,
            data_size=1,
            identity=identity,
            source=random.Random(1),
        )

    with pytest.raises(CallerProtocolError, match="devices of this job prove who they are"):
        await device(None).run()
    results = await asyncio.gather(*(device(identity).run() for identity in identities))
    assert [result.rounds for result in results] == [(1, 2, 3)] * 2

    cluster.command("new-instance", "--manage", cluster.manage, config=False)
    (tmp_path / "revoked.crl").write_bytes(device_authority.revocations(chains[0].certificates[1]))
    wait_until(
        lambda: cluster.logs().count("revocations of devices were read again") == 2,
        "both servers have the new list",
        timeout_s=IN_FORCE_S,
    )
    with pytest.raises(CallerProtocolError, match=r"attestation_failed: .*equip_cert is revoked"):
        await device(identities[0]).run()
    assert "Traceback" not in cluster.logs()


async def test_devices_with_certificates_sign_what_they_offer_under_secure_aggregation(
    start: Callable[..., Cluster], device_authority: Any, tmp_path: Path
) -> None:
    (tmp_path / "root.pem").write_bytes(device_authority.root.public_bytes(Encoding.PEM))
    (tmp_path / "revoked.crl").write_bytes(device_authority.revocations())
    cluster = start(
        PKI.format(folder=tmp_path) + "encrypt: {encrypt_type: SECURE_AGGREGATION}\n",
        start_fl_job_threshold="3",
    )
    chains = [device_authority.device(f"phone-{n}") for n in range(3)]
    devices = [
        FederatedDevice(
            cluster.urls,
            train=add_one,
            data_size=n + 1,
            identity=DeviceIdentity.from_files(*chain.write(tmp_path, f"phone-{n}")),
            source=random.Random(n),
        )
        for n, chain in enumerate(chains)
    ]

    results = await asyncio.gather(*(device.run() for device in devices))

    assert [result.rounds for result in results] == [(1, 2, 3)] * 3
    for result in results:
        assert result.weights["w"].tolist() == list(range(3, 11))
    assert "Traceback" not in cluster.logs()


async def raw(session: aiohttp.ClientSession, url: str, message: Any, answer: type[Any]) -> Any:
    """What an existing device is answered; it speaks FlatBuffers."""
    path = "startFLJob" if isinstance(message, messages.RequestFLJob) else "updateModel"
    async with session.post(f"{url}/{path}", data=flat.encode(message)) as reply:
        assert reply.status == 200
        return flat.decode(answer, await reply.read())


async def test_existing_devices_prove_themselves_at_one_server_and_report_at_the_other(
    verifying: Callable[..., Cluster], device_authority: Any
) -> None:
    cluster = verifying()
    chains = [device_authority.device(f"old-{n}") for n in range(2)]
    devices = [DeviceIdentity(chain.key, chain.pem) for chain in chains]

    def offer(device: DeviceIdentity, off_ms: int = 0) -> messages.RequestFLJob:
        timestamp = str(time.time_ns() // 1_000_000 + off_ms)
        return messages.RequestFLJob(
            fl_name="com.acme.Lenet",
            fl_id=device.device_id,
            data_size=1,
            timestamp=timestamp,
            **device.check_in_fields(timestamp),
        )

    async with aiohttp.ClientSession() as session:
        late = await raw(
            session, cluster.urls[0], offer(devices[0], -61_000), messages.ResponseFLJob
        )
        assert (late.retcode, late.reason) == (
            400,
            "startFLJob sign and certificate verify failed.",
        )
        assert abs(int(late.timestamp) - time.time() * 1000) < 5_000
        for device, url in zip(devices, cluster.urls, strict=True):
            said = await raw(session, url, offer(device), messages.ResponseFLJob)
            assert (said.retcode, said.reason) == (200, "success")
        for device, url in zip(devices, reversed(cluster.urls), strict=True):
            timestamp = str(time.time_ns() // 1_000_000)
            report = messages.RequestUpdateModel(
                fl_name="com.acme.Lenet",
                fl_id=device.device_id,
                iteration=1,
                feature_map=(messages.FeatureMap("w", np.ones(8, np.float32)),),
                timestamp=timestamp,
                signature=device.sign_request(timestamp, 2),
            )
            forged = await raw(session, url, report, messages.ResponseUpdateModel)
            assert (forged.retcode, forged.reason) == (
                400,
                f"verify signature failed for fl id {device.device_id}",
            )
            signed = report._replace(signature=device.sign_request(timestamp, 1))
            said = await raw(session, url, signed, messages.ResponseUpdateModel)
            assert (said.retcode, said.reason) == (200, "success not ready")


def test_a_server_that_cannot_read_its_roots_says_so_and_does_not_start(
    verifying: Callable[..., Cluster], tmp_path: Path
) -> None:
    (tmp_path / "root.pem").write_text("junk")

    with pytest.raises(Exception, match=r"init root cert and crl failed\. .*expected a certif"):
        verifying()


async def test_the_line_of_a_job_under_masks_holds_its_servers_to_them(
    start: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start("encrypt: {encrypt_type: SECURE_AGGREGATION}\n", start_fl_job_threshold="3")
    made = [cluster.command("join-line", "--label", label) for label in ("a", "b", "c")]
    own = cluster.command("join-line", "--label", "d", "--protection", "DP_ENCRYPT,epsilon=1")
    other = cluster.command("join-line", "--label", "d", "--protection", "NOT_ENCRYPT")
    plain = (tmp_path / "job.yaml").read_text().replace("SECURE_AGGREGATION", "NOT_ENCRYPT")
    (tmp_path / "job.yaml").write_text(plain)
    running = cluster.command("join-line", "--label", "e")

    lines = [each.stdout.strip() for each in made]
    devices = [FederatedDevice.join(line, train=add_one, data_size=1) for line in lines]
    results = await asyncio.gather(*(device.run() for device in devices))

    assert [result.rounds for result in results] == [(1, 2, 3)] * 3
    assert {device.protection for device in devices} == {Protection("SECURE_AGGREGATION")}
    assert "devices that use the line insist on SECURE_AGGREGATION" in made[0].stderr
    assert "protection=" not in other.stdout
    assert (own.returncode, own.stdout) == (2, "")
    assert "--protection: DP_ENCRYPT without the largest epsilon and delta" in own.stderr
    # What runs decides, as it does for a server that has another file.
    assert "protection=SECURE_AGGREGATION" in running.stdout


def test_a_participant_needs_nothing_but_the_line_to_join_over_tls(
    start: Callable[..., Cluster], tmp_path: Path
) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "fl_cluster", "certs", "init", "--host=127.0.0.1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    settings = made.stdout.partition("ssl:\n")[2].replace('"certs/', f'"{tmp_path}/certs/')
    cluster = start(
        f"ssl:\n{settings}",
        enable_ssl="true",
        allow_tokens_over_http="false",
        start_fl_job_threshold="1",
    )
    line = cluster.command("join-line", "--label", "site-a").stdout.strip()

    result = FederatedDevice.join(line, train=add_one, data_size=1).run_sync()

    assert result.rounds == (1, 2, 3)
    assert "tls=1" in line
    cluster.command("token", "revoke", "site-a")
    with pytest.raises(CallerProtocolError, match="token_revoked: The token site-a was revoked"):
        FederatedDevice.join(line, train=add_one, data_size=1).run_sync()
    other = line.replace("tls=1", "tls=0")
    with pytest.raises(CallerProtocolError, match="over plain HTTP, where anyone can read it"):
        FederatedDevice.join(other, train=add_one, data_size=1)
