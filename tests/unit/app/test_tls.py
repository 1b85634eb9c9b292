"""From settings and passwords to a process's TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app import tls as app_tls
from fl_cluster.app.tls import (
    SCHEDULER,
    WORKER,
    CertificateWatch,
    check_names,
    load_tls,
    missing_passwords,
    open_tls,
    store_tls,
)
from fl_cluster.config.load import load
from fl_cluster.config.schema import Settings
from fl_cluster.errors import StartupError
from fl_cluster.security.passwords import Passwords

YAML = """
fl_name: Tls
fl_iteration_num: 2
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {address: "127.0.0.1:6379"}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000
summary: {metrics_file: metrics.json, failure_event_file: event.txt}
"""


@pytest.fixture
def settings(tmp_path: Path, certificates: Any) -> Callable[..., Settings]:
    """The settings of a job with the folder's certificates, some of them changed."""
    (tmp_path / "job.yaml").write_text(YAML)

    def make(**changes: str) -> Settings:
        over = certificates.settings() | {
            key.replace("__", "."): value for key, value in changes.items()
        }
        return load(tmp_path / "job.yaml", "server", overrides=over, environ={})

    return make


@pytest.fixture
def locked(certificates: Any, settings: Callable[..., Settings]) -> Settings:
    """Both certificates are PKCS#12."""
    return settings(
        ssl__server_cert_path=certificates.path("server.p12"),
        ssl__server_key_path="",
        ssl__client_cert_path=certificates.path("client.p12"),
        ssl__client_key_path="",
    )


def password(certificates: Any, name: str) -> str:
    return Path(certificates.path(f"{name}.password")).read_text().strip()


async def test_nothing_is_looked_at_while_the_switch_is_off(
    settings: Callable[..., Settings],
) -> None:
    assert await open_tls(settings(enable_ssl="false", ssl__ca_cert_path="/nowhere"), None) is None


def test_passwords_come_from_the_program_or_the_environment(
    locked: Settings, certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = (password(certificates, name) for name in ("server", "client"))
    assert load_tls(locked, Passwords(server, client)) is not None
    with pytest.raises(StartupError, match="FL_CLUSTER_SERVER_PASSWORD"):
        load_tls(locked)
    monkeypatch.setenv("FL_CLUSTER_SERVER_PASSWORD", server)
    monkeypatch.setenv("FL_CLUSTER_CLIENT_PASSWORD", client)
    assert load_tls(locked) is not None
    with pytest.raises(StartupError, match=r"PKCS12_parse failed\."):
        load_tls(locked, Passwords("another"))


def test_a_scheduler_that_knows_one_password_shows_the_servers_certificate(
    locked: Settings, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = load_tls(locked, Passwords(password(certificates, "server")), SCHEDULER)
    assert made is not None
    [server, outgoing] = made.identities
    assert outgoing.certificate == server.certificate
    assert "servers are shown ssl.server_cert_path instead" in caplog.text


def test_a_scheduler_runs_whatever_is_wrong_with_its_clients_password(
    locked: Settings, certificates: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = load_tls(locked, Passwords(password(certificates, "server"), "wrong"), SCHEDULER)
    assert made is not None
    [server, outgoing] = made.identities
    assert outgoing.certificate == server.certificate
    [said] = caplog.messages
    assert said.startswith("PKCS12_parse failed. (the password does not open ssl.client_cert_path")
    assert said.endswith("; servers are shown ssl.server_cert_path instead")


@pytest.mark.parametrize("trouble", ["missing", "expired", "of another authority"])
def test_a_scheduler_runs_without_a_client_certificate_that_it_can_use(
    settings: Callable[..., Settings],
    certificates: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    if trouble == "missing":
        changed = settings(ssl__client_cert_path="/nowhere.p12")
    elif trouble == "expired":
        # The authority is older than what it issued.
        monkeypatch.setattr("fl_cluster.security.authority.BACKDATED", timedelta(days=10))
        (Path(certificates.folder) / "ca.key").unlink()
        certificates.run("init")
        certificates.issue("server")
        certificates.issue("old", days=(-3, -1))
        changed = settings(
            ssl__client_cert_path=certificates.path("old.crt"),
            ssl__client_key_path=certificates.path("old.key"),
        )
    else:
        changed = settings(ssl__client_cert_path=certificates.path("ca.crt"))
    made = load_tls(changed, None, SCHEDULER)
    assert made is not None
    assert made.outgoing() is not None
    assert "servers are shown ssl.server_cert_path instead" in caplog.text
    told = made.warnings(10_000)
    assert len(told) == len(set(told))


def test_a_scheduler_that_was_revoked_does_not_come_back_with_another_certificate(
    settings: Callable[..., Settings], certificates: Any
) -> None:
    certificates.run("revoke", "client")
    with pytest.raises(
        StartupError, match=r"Verify crl failed\. \(ssl\.client_cert_path .* revoked"
    ):
        load_tls(settings(), None, SCHEDULER)


def test_a_scheduler_without_a_certificate_to_serve_with_is_refused(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError, match=r"server_cert_path /nowhere\.p12 is not exist"):
        load_tls(settings(ssl__server_cert_path="/nowhere.p12"), None, SCHEDULER)
    with pytest.raises(StartupError, match=r"ca_cert_path /nowhere\.crt is not exist"):
        load_tls(settings(ssl__ca_cert_path="/nowhere.crt"), None, SCHEDULER)
    assert not caplog.records


def test_a_worker_needs_no_certificate_to_serve_with(
    settings: Callable[..., Settings],
) -> None:
    made = load_tls(settings(ssl__server_cert_path="/nowhere.p12"), None, WORKER)
    assert made is not None
    assert [each.files.name for each in made.identities] == ["client"]


def test_only_passwords_that_are_needed_are_missing(
    locked: Settings, settings: Callable[..., Settings]
) -> None:
    assert missing_passwords(locked.tls, Passwords()) == (True, True)
    assert missing_passwords(locked.tls, Passwords("x")) == (False, True)
    assert missing_passwords(settings().tls, Passwords()) == (False, False)
    missing = settings(ssl__server_cert_path="/nowhere.p12", ssl__server_key_path="")
    assert missing_passwords(missing.tls, Passwords()) == (False, False)


def test_a_host_that_the_certificate_does_not_name_is_warned_of(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture, certificates: Any
) -> None:
    made = load_tls(settings())
    assert made is not None
    check_names(made, ["127.0.0.1", "localhost", "LOCALHOST"])
    assert not caplog.records
    check_names(made, ["10.0.0.7"])
    [said] = caplog.messages
    path = certificates.path("server.crt")
    assert said.startswith(f"ssl.server_cert_path {path} is not for 10.0.0.7 but for localhost, ")
    assert said.endswith("fl-cluster certs issue NAME --host 10.0.0.7")


def test_a_star_stands_for_one_label(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture, certificates: Any
) -> None:
    certificates.run("issue", "star", "--host=*.example.org")
    changes = {
        f"ssl__server_{kind}": certificates.path(f"star.{end}")
        for kind, end in (("cert_path", "crt"), ("key_path", "key"))
    }
    made = load_tls(settings(**changes))
    assert made is not None
    check_names(made, ["a.example.org"])
    assert not caplog.records
    check_names(made, ["a.b.example.org", "example.org"])
    assert len(caplog.records) == 2


async def test_files_are_read_again_and_what_ends_soon_is_told(
    settings: Callable[..., Settings],
    certificates: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(app_tls, "LOOK_S", 0.01)
    made = load_tls(settings())
    assert made is not None
    told: list[str] = []
    watch = CertificateWatch(made, 30, told.append)
    watch.warn()
    assert told == []
    running = asyncio.create_task(watch.run())
    try:
        certificates.run("renew", "server", "--days=20")
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
    [said] = told
    assert said.startswith(f"ssl.server_cert_path {certificates.path('server.crt')} expires on")
    assert said in caplog.messages
    assert 19 * 86_400 < watch.first_end_s() - time.time() < 21 * 86_400


@pytest.mark.parametrize(("days", "is_told"), [("7", False), ("30", True)])
def test_warnings_begin_as_many_days_ahead_as_the_file_says(
    settings: Callable[..., Settings], certificates: Any, days: str, is_told: bool
) -> None:
    certificates.run("renew", "server", "--days=20")
    chosen = settings(ssl__cert_expire_warning_time_in_day=days)
    made = load_tls(chosen)
    assert made is not None
    told: list[str] = []

    CertificateWatch(made, chosen.tls.expiry_warning_days, told.append).warn()

    assert bool(told) is is_told


@pytest.mark.parametrize(
    ("address", "switch", "is_tls"),
    [
        ("10.0.0.1:6379", "true", True),
        ("10.0.0.1:6379", "false", False),
        ("redis://10.0.0.1:6379", "true", False),
        ("rediss://10.0.0.1:6379", "false", True),
        ("sentinel://10.0.0.1:26379/main", "true", True),
        ("sentinel://10.0.0.1:26379/main", "false", False),
        ("unix:/run/redis.sock", "true", False),
        ("embedded", "true", False),
    ],
)
def test_which_address_of_redis_means_tls(
    settings: Callable[..., Settings], address: str, switch: str, *, is_tls: bool
) -> None:
    changed = settings(enable_ssl=switch, distributed_cache__address=address)
    assert (store_tls(changed) is not None) == is_tls
    assert str(changed.cache.address).endswith(address.removeprefix("redis://"))
