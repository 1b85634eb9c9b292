from __future__ import annotations

import inspect
from typing import Any

import pytest

from fl_cluster.config.legacy import CIPHERS
from fl_cluster.program.ssl_config import SSLConfig


def test_passwords_are_all_that_must_be_given() -> None:
    config = SSLConfig("server secret", "client secret")

    assert vars(config) == {
        "server_password": "server secret",
        "client_password": "client secret",
        "crl_path": "",
        "cipher_list": CIPHERS,
        "cert_expire_warning_time_in_day": 90,
    }


def test_paths_exist_when_they_were_given() -> None:
    config = SSLConfig("a", "b", "server.p12", "client.p12", "ca.crt", "", "X", 30)

    paths = (config.server_cert_path, config.client_cert_path, config.ca_cert_path)
    assert paths == ("server.p12", "client.p12", "ca.crt")
    assert (config.crl_path, config.cipher_list) == ("", "X")
    assert config.cert_expire_warning_time_in_day == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"server_password": ""}, "Parameter 'server_password' should not be empty str"),
        (
            {"client_password": None},
            "Parameter 'client_password' should be str, but actually <class 'NoneType'>",
        ),
        ({"server_cert_path": ""}, "Parameter 'server_cert_path' should not be empty str"),
        ({"crl_path": 1}, "Parameter 'crl_path' should be str, but actually <class 'int'>"),
        (
            {"cert_expire_warning_time_in_day": "90"},
            "Parameter 'cert_expire_warning_time_in_day' should be int, but actually <class 'str'>",
        ),
    ],
)
def test_each_argument_is_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        SSLConfig(**{"server_password": "a", "client_password": "b", **arguments})

    assert str(caught.value) == message


def test_the_signature_is_the_known_one() -> None:
    assert list(inspect.signature(SSLConfig).parameters) == [
        "server_password",
        "client_password",
        "server_cert_path",
        "client_cert_path",
        "ca_cert_path",
        "crl_path",
        "cipher_list",
        "cert_expire_warning_time_in_day",
    ]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(SSLConfig("secret", "secret"))
