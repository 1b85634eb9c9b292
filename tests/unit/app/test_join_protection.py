"""`fl-cluster join-line`: what the line makes devices insist on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_cluster.app.join_protection import protection_of
from fl_cluster.config.load import load
from fl_cluster.config.schema import EncryptSettings
from fl_cluster.errors import StartupError
from fl_cluster.store.ports import JobRecord

YAML = Path(__file__).parents[3] / "yamls" / "digits.yaml"


MASKS = {
    "encrypt.pw_encrypt.share_secrets_ratio": "1.0",
    "encrypt.pw_encrypt.cipher_time_window": "20000",
    "encrypt.pw_encrypt.reconstruct_secrets_threshold": "11",
}
NEEDED = {
    "PW_ENCRYPT": MASKS,
    "STABLE_PW_ENCRYPT": {**MASKS, "server_mode": "CLOUD_TRAINING"},
}
"""What of a file servers could not do without."""


def running(**values: Any) -> JobRecord:
    return JobRecord("run", 3, json.dumps(values), "[]")


def encrypt(kind: str, file: str = str(YAML)) -> Callable[[], EncryptSettings]:
    """Reads the file when it is asked to."""
    chosen = {"encrypt.encrypt_type": kind, **NEEDED.get(kind, {})}
    return lambda: load(file, "server", environ={}, overrides=chosen).encrypt


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("NOT_ENCRYPT", ""),
        ("STABLE_PW_ENCRYPT", ""),
        ("PW_ENCRYPT", "PW_ENCRYPT"),
        ("SECURE_AGGREGATION", "SECURE_AGGREGATION"),
        ("DP_ENCRYPT", "DP_ENCRYPT,epsilon=50.0,delta=0.01"),
        ("SIGNDS", "SIGNDS,epsilon=100.0"),
    ],
)
def test_the_line_holds_the_job_to_what_it_has_now(kind: str, said: str) -> None:
    assert protection_of("", None, encrypt(kind)) == said
    job = running(encrypt_type=kind, dp_eps=50.0, dp_delta=0.009999999776482582, sign_eps=100.0)
    assert protection_of("", job, encrypt("NOT_ENCRYPT")) == said


def test_a_job_of_an_older_server_that_kept_no_protection_has_none() -> None:
    assert protection_of("", running(), encrypt("SECURE_AGGREGATION")) == ""


def test_what_the_operator_says_comes_first() -> None:
    secure = encrypt("SECURE_AGGREGATION")

    assert protection_of("PW_ENCRYPT", running(encrypt_type="DP_ENCRYPT"), secure) == "PW_ENCRYPT"
    assert protection_of("NOT_ENCRYPT", None, secure) == ""
    with pytest.raises(StartupError, match=r"^--protection: expected NOT_ENCRYPT, .* found 'x'"):
        protection_of("x", None, secure)


def test_a_file_that_only_a_scheduler_can_use_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("fl_name: Lenet\n")

    assert protection_of("", None, encrypt("SECURE_AGGREGATION", str(file))) is None
