from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_cluster.program.context import FLContext
from fl_cluster.program.server_job import FLServerJob
from fl_cluster.program.ssl_config import SSLConfig


def test_the_signatures_are_the_known_ones() -> None:
    constructor = inspect.signature(FLServerJob).parameters.values()
    run = inspect.signature(FLServerJob.run).parameters.values()

    assert {each.name: each.default for each in constructor} == {
        "yaml_config": inspect.Parameter.empty,
        "http_server_address": inspect.Parameter.empty,
        "tcp_server_ip": "127.0.0.1",
        "checkpoint_dir": "./fl_ckpt/",
        "ssl_config": None,
    }
    assert [(each.name, each.default) for each in run][1:] == [
        ("feature_map", None),
        ("callback", None),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"yaml_config": 1, "http_server_address": 1},
            "Parameter 'yaml_config' should be str, but actually <class 'int'>",
        ),
        (
            {"http_server_address": "", "tcp_server_ip": ""},
            "Parameter 'http_server_address' should not be empty str",
        ),
        (
            {"tcp_server_ip": None, "checkpoint_dir": 1},
            "Parameter 'tcp_server_ip' should be str, but actually <class 'NoneType'>",
        ),
        (
            {"checkpoint_dir": b"x", "ssl_config": 1},
            "Parameter 'checkpoint_dir' should be str, but actually <class 'bytes'>",
        ),
        (
            {"ssl_config": "x", "yaml_config": "/nowhere.yaml"},
            "Parameter 'ssl_config' should be None or instance of SSLConfig, but got <class 'str'>",
        ),
        ({"yaml_config": "/nowhere.yaml"}, "yaml config file /nowhere.yaml not exist"),
    ],
)
def test_arguments_are_checked_in_their_order_and_then_the_file(
    write_config: Callable[..., str], arguments: dict[str, Any], message: str
) -> None:
    given = {"yaml_config": write_config(), "http_server_address": "127.0.0.1:6666"}

    with pytest.raises(RuntimeError) as caught:
        FLServerJob(**{**given, **arguments})

    assert str(caught.value) == message


def test_a_job_shows_what_it_was_given_and_fills_the_context(
    write_config: Callable[..., str], context: FLContext
) -> None:
    job = FLServerJob(
        write_config(), "127.0.0.1:6666", "10.0.0.7", "ckpt", SSLConfig("server", "client")
    )

    assert (job.fl_name, job.aggregation_type) == ("Lenet", "FedAvg")
    assert (job.checkpoint_dir, job.callback) == ("ckpt", None)
    assert (context.fl_name(), context.ms_role()) == ("Lenet", "MS_SERVER")
    assert context.http_server_address() == "127.0.0.1:6666"
    assert (context.tcp_server_ip(), context.checkpoint_dir()) == ("10.0.0.7", "ckpt")
    assert (context.server_password(), context.client_password()) == ("server", "client")


def test_an_address_is_looked_at_only_when_the_job_runs(write_config: Callable[..., str]) -> None:
    FLServerJob(write_config(), "nonsense")


def test_a_callback_is_one_or_none_and_is_looked_at_before_the_model(
    write_config: Callable[..., str],
) -> None:
    job = FLServerJob(write_config(), "127.0.0.1:6666")

    with pytest.raises(RuntimeError) as caught:
        job.run(5, callback=print)  # type: ignore[arg-type]

    assert str(caught.value) == (
        "Parameter 'callback' is expected to be instance of Callback when it's not None,"
        " but got <class 'builtin_function_or_method'>."
    )


def test_the_model_is_looked_at_before_anything_is_started(
    write_config: Callable[..., str], tmp_path: Path
) -> None:
    job = FLServerJob(write_config(), "127.0.0.1:6666", checkpoint_dir=str(tmp_path))

    with pytest.raises(RuntimeError, match="but got '<class 'NoneType'>'"):
        job.run()
    with pytest.raises(RuntimeError, match="is expected to be float32, but got int64"):
        job.run({"w": np.array([1])})
