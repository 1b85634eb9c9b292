"""A cluster without anybody's Redis: the private one dies, and its users start it again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import redis as redis_client

from fl_cluster.store.redis import embedded

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.usefixtures("redis_program")]

REVIVED = "the embedded Redis had died and was started again"


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Any]) -> Any:
    return start_cluster("embedded")


def pid_of_redis(cluster: Any) -> int:
    url = embedded.find_running(cluster.folder / "data")
    assert url is not None
    with redis_client.Redis(unix_socket_path=unquote(urlparse(url).path)) as client:
        return int(client.info("server")["process_id"])


@pytest.mark.parametrize("life", [1, 2])
async def test_a_redis_that_was_killed_is_started_by_one_of_its_users(
    cluster: Any, devices: Any, life: int
) -> None:
    before = pid_of_redis(cluster)
    os.kill(before, signal.SIGKILL)

    await devices.resume()

    assert pid_of_redis(cluster) != before
    assert sum(cluster.logged(log).count(REVIVED) for log in cluster.logs) == 1
    for log in cluster.logs:
        cluster.sentences(log)
