"""Every configuration that ships can be used as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_cluster.config.document import parse, read_text
from fl_cluster.config.keys import BLOCKS
from fl_cluster.config.load import load
from fl_cluster.config.shared import SharedParameters
from fl_cluster.service.methods import why_impossible

YAMLS = Path(__file__).resolve().parents[2] / "yamls"
FILES = sorted(YAMLS.glob("*.yaml"))
NAMES = [path.name for path in FILES]

LEFT_OUT_OF_LENET = {
    "aggregation.iid_rate",
    "aggregation.total_client_num",
    "distributed_cache.username",
    "distributed_cache.password",
}
"""Keys that only other methods use, and a login that does not belong into an example."""


def test_there_are_files_to_try():
    assert {"digits.yaml", "lenet.yaml", "minimal.yaml"} <= set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_shipped_configuration_loads_without_warnings(path, role):
    settings = load(path, role, environ={})

    assert settings.warnings == ()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_rounds_of_a_shipped_configuration_can_end_well(path):
    assert why_impossible(SharedParameters.of(load(path, "server", environ={}))) is None


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_shipped_configuration_is_plain_ascii_and_readable(path):
    text = path.read_bytes().decode("ascii")

    assert text.startswith("# ")
    assert "\t" not in text


def test_lenet_shows_every_key_of_the_originals_file():
    path = YAMLS / "lenet.yaml"
    given = parse(read_text(path), str(path)).entries

    ours = ("cluster", "privacy", "encrypt.secure_aggregation")
    expected = {block.path(key) for block in BLOCKS if block.name not in ours for key in block.keys}
    assert expected - set(given) == LEFT_OUT_OF_LENET


def test_lenet_is_the_job_of_the_manual():
    settings = load(YAMLS / "lenet.yaml", "server", environ={})

    assert settings.name == "Lenet"
    assert str(settings.cache.address) == "127.0.0.1:23456"
    assert settings.rounds.cohort_size == 2
    assert settings.device.epochs == 20
    assert settings.device.batch_size == 32
    assert settings.device.learning_rate == 0.009999999776482582
    assert settings.device.connection_limit == 10_000


def test_digits_needs_no_redis_of_its_own():
    settings = load(YAMLS / "digits.yaml", "server", environ={})

    assert str(settings.cache.address) == "embedded"
    assert settings.rounds.cohort_size == 20
    assert settings.rounds_total == 15
