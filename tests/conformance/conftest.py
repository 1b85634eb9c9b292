"""Clusters that many tests share: each test begins with a run of its own.

`cluster` are two servers that hold no request, `started` starts others for a module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from blackbox.cluster import Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.redis)


Start = Callable[..., Cluster]


def _starter(
    tmp_path_factory: pytest.TempPathFactory, run_redis: Callable[..., Any], free_port: Any
) -> Iterator[Start]:
    made: list[tuple[Cluster, Any]] = []

    def start(servers: int, *settings: str, **facts: Any) -> Cluster:
        redis = run_redis()
        folder = tmp_path_factory.mktemp("job").resolve()
        first = free_port(servers + 4)
        ports = [first + number for number in range(servers)]
        cluster = Cluster(folder, redis, free_port(), ports, **facts)
        made.append((cluster, redis))
        cluster.start(*settings)
        return cluster

    yield start
    for cluster, redis in made:
        cluster.kill()
        redis.remove()


@pytest.fixture(scope="session")
def start_shared(
    tmp_path_factory: pytest.TempPathFactory, run_redis: Any, free_port: Any
) -> Iterator[Start]:
    """`start(servers, *settings, prefix=..., weights=...)`; it lives as long as the session."""
    yield from _starter(tmp_path_factory, run_redis, free_port)


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, run_redis: Any, free_port: Any
) -> Iterator[Start]:
    """The same, for what lives as long as the test's module."""
    yield from _starter(tmp_path_factory, run_redis, free_port)


@pytest.fixture(scope="session")
def shared(start_shared: Start) -> Cluster:
    """Two servers; a request is answered at once, ready or not."""
    return start_shared(2, "cluster.hold_ms=0")


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """The shared servers in round 1 of a run of their own, for two devices."""
    shared.fresh()
    return shared
