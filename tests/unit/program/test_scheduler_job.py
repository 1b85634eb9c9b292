from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from fl_cluster.program.context import FLContext
from fl_cluster.program.scheduler_job import FlSchedulerJob


def test_the_signature_is_the_known_one() -> None:
    parameters = inspect.signature(FlSchedulerJob).parameters

    assert list(parameters) == ["yaml_config", "manage_address", "ssl_config"]
    assert parameters["ssl_config"].default is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"manage_address": 1},
            "Parameter 'manage_address' should be str, but actually <class 'int'>",
        ),
        ({"manage_address": ""}, "Parameter 'manage_address' should not be empty str"),
        (
            {"ssl_config": 1},
            "Parameter 'ssl_config' should be None or instance of SSLConfig, but got <class 'int'>",
        ),
        ({"yaml_config": "/nowhere.yaml"}, "yaml config file /nowhere.yaml not exist"),
    ],
)
def test_arguments_are_checked(
    write_config: Callable[..., str], arguments: dict[str, Any], message: str
) -> None:
    given = {"yaml_config": write_config(), "manage_address": "127.0.0.1:11202"}

    with pytest.raises(RuntimeError) as caught:
        FlSchedulerJob(**{**given, **arguments})

    assert str(caught.value) == message


def test_the_context_knows_the_scheduler(
    write_config: Callable[..., str], context: FLContext
) -> None:
    FlSchedulerJob(write_config(), "127.0.0.1:11202")

    assert context.scheduler_manage_address() == "127.0.0.1:11202"
    assert context.ms_role() == "MS_SCHED"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:4000x", "127.0.0.1:", "127.0.0.1", "256.0.0.1:5000"]
)
def test_an_address_that_is_none_ends_the_run(
    write_config: Callable[..., str], address: str
) -> None:
    job = FlSchedulerJob(write_config(), address)

    with pytest.raises(RuntimeError) as caught:
        job.run()

    assert str(caught.value).startswith(
        f"Failed to start scheduler http server, invalid server address: {address}"
    )
