"""Arguments are read by every user of a host: a secret among them is told."""

from __future__ import annotations

import pytest

from fl_cluster.app import options
from fl_cluster.app.arguments import overrides_of


def given(*sets: str) -> dict[str, str]:
    return overrides_of(options.parse(["server", *(f"--set={each}" for each in sets)]))


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("distributed_cache.password", "hunter2", "FL_CLUSTER_REDIS_PASSWORD"),
        (
            "distributed_cache.address",
            "redis://worker:hunter2@h:1",
            "FL_CLUSTER__DISTRIBUTED_CACHE__ADDRESS",
        ),
    ],
)
def test_a_secret_is_taken_and_told_with_where_it_should_be(
    capsys: pytest.CaptureFixture[str], key: str, value: str, variable: str
) -> None:
    assert given("fl_name=a", f"{key}={value}") == {"fl_name": "a", key: value}

    assert capsys.readouterr().err == (
        f"--set {key} holds a password, and every user of this host can read the arguments of a"
        f" command: set the environment variable {variable} instead\n"
    )


def test_what_is_no_secret_is_taken_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("distributed_cache.address=redis://worker@h:1", "distributed_cache.password=", "x=y")
    assert len(given(*sets)) == 3
    assert capsys.readouterr().err == ""
