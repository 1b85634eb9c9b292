"""Features that come later are refused by name, never silently left out."""

from __future__ import annotations

import pytest

from fl_cluster.config.keys import KEYS
from fl_cluster.config.not_yet import MISSING
from fl_cluster.config.rules import OneOf

BESIDES = {
    "enable_ssl": {
        "ssl.server_cert_path": "s.p12",
        "ssl.client_cert_path": "c.p12",
        "ssl.ca_cert_path": "ca.crt",
        "ssl.cipher_list": "ECDHE-RSA-AES128-GCM-SHA256",
    },
    "encrypt.encrypt_type": {
        "encrypt.pw_encrypt.share_secrets_ratio": 1.0,
        "encrypt.pw_encrypt.cipher_time_window": 3000,
        "encrypt.pw_encrypt.reconstruct_secrets_threshold": 1,
    },
}

VALUES = {"true": True, "rediss://": "rediss://cache:6379"}


@pytest.mark.parametrize("row", MISSING, ids=lambda row: f"{row.key}={row.value}")
def test_a_value_that_asks_for_a_missing_feature_is_refused(bench, row):
    changes = {row.key: VALUES.get(row.value, row.value), **BESIDES.get(row.key, {})}

    messages = bench.problems(bench.server, changes)

    expected = (
        f"The value {row.value} of parameter '{row.key}' asks for {row.feature}, which this "
        f"version does not have yet; set it to {row.instead}, yaml config file: {bench.file}"
    )
    assert messages == [expected]


@pytest.mark.parametrize("row", MISSING, ids=lambda row: f"{row.key}={row.value}")
def test_what_to_write_instead_is_accepted(bench, row):
    instead = {"false": False, "redis://": "redis://cache:6379"}.get(row.instead, row.instead)

    bench.server({row.key: instead})


def test_a_scheduler_leaves_what_concerns_servers_to_them(bench):
    accepted = bench.scheduler({"encrypt.encrypt_type": "SIGNDS"})

    assert accepted.name == "Bench"


def test_values_are_checked_in_full_before_their_feature_is_refused(bench):
    messages = bench.problems(
        bench.server,
        {
            "encrypt.encrypt_type": "PW_ENCRYPT",
            "encrypt.pw_encrypt.share_secrets_ratio": -1.0,
            "encrypt.pw_encrypt.cipher_time_window": 1_000,
            "encrypt.pw_encrypt.reconstruct_secrets_threshold": 1,
        },
    )

    assert "'encrypt.pw_encrypt.share_secrets_ratio': value is expected" in messages[0]
    assert "asks for secure aggregation" in messages[1]


def test_every_row_names_a_value_that_its_key_can_have():
    for row in MISSING:
        rule = KEYS[row.key].rule
        if isinstance(rule, OneOf):
            assert row.value in list(rule.words)
            assert row.instead in list(rule.words)
