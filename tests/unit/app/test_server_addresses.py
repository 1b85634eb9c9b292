"""Addresses of a server: which may be listened on, and under which it is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fl_cluster.app.server import ServerOptions, check_urls, reachable_address
from fl_cluster.config.load import load
from fl_cluster.config.schema import Settings
from fl_cluster.errors import StartupError

CONFIG: dict[str, Any] = {
    "fl_name": "Bench",
    "fl_iteration_num": 3,
    "server_mode": "FEDERATED_LEARNING",
    "enable_ssl": False,
    "distributed_cache": {"address": "127.0.0.1:6379"},
    "round": {
        "start_fl_job_threshold": 2,
        "start_fl_job_time_window": 30_000,
        "update_model_ratio": 1.0,
        "update_model_time_window": 30_000,
        "global_iteration_time_window": 60_000,
    },
    "summary": {"metrics_file": "m", "failure_event_file": "e"},
}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def settings(**changes: Any) -> Settings:
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(CONFIG | changes), "utf-8")
        return load(file, "server", environ={})

    return settings


def options(address: str) -> ServerOptions:
    return ServerOptions(address, "10.0.0.7", Path(), None, link_address=("10.0.0.7", 4123))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:6666", "localhost:6666", "fl-server:1", "[::1]:6666", "0.0.0.0:6666"]
)
@pytest.mark.parametrize("prefix", ["", "/", "/fl/v1/"])
def test_any_host_makes_urls_with_a_prefix_that_is_one(make: Any, address: str, prefix: str):
    check_urls(make(client={"http_url_prefix": prefix}), address)


@pytest.mark.parametrize("prefix", ["/a b/", "/ü/", "/{x}/"])
def test_a_prefix_that_makes_no_url_is_refused_in_the_originals_words(make: Any, prefix: str):
    with pytest.raises(StartupError, match=r"^The http url:http://localhost:1/.* is illegal!"):
        check_urls(make(client={"http_url_prefix": prefix}), "localhost:1")


@pytest.mark.parametrize(
    ("listening", "found"),
    [
        ("127.0.0.1:6666", "127.0.0.1:6666"),
        ("fl-server:6666", "fl-server:6666"),
        ("0.0.0.0:6666", "10.0.0.7:6666"),
        ("[::]:6666", "10.0.0.7:6666"),
    ],
)
def test_a_server_on_all_addresses_is_found_on_the_clusters_own(
    make: Any, listening: str, found: str
):
    assert reachable_address(make(), options(listening)) == found


def test_a_server_is_found_where_it_says(make: Any):
    settings = make(cluster={"advertise_http_address": "fl.example.org:443"})

    assert reachable_address(settings, options("0.0.0.0:6666")) == "fl.example.org:443"
