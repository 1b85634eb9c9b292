"""Builders of configuration files: a valid one, from which each test departs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl_cluster.config.load import load
from fl_cluster.config.schema import JobSettings, Settings
from fl_cluster.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "fl_name": "Bench",
    "fl_iteration_num": 4,
    "server_mode": "FEDERATED_LEARNING",
    "enable_ssl": False,
    "distributed_cache": {"address": "127.0.0.1:6379"},
    "round": {
        "start_fl_job_threshold": 2,
        "start_fl_job_time_window": 30000,
        "update_model_ratio": 1.0,
        "update_model_time_window": 30000,
        "global_iteration_time_window": 60000,
    },
    "summary": {"metrics_file": "metrics.json", "failure_event_file": "event.txt"},
}

ABSENT = object()


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The minimal configuration with dotted keys set, or left out where the value is ABSENT."""
    content = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = content
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ABSENT:
            node.pop(name, None)
        else:
            node[name] = value
    return content


class Workbench:
    """Writes one file and loads it."""

    absent = ABSENT
    changed = staticmethod(changed)

    def __init__(self, folder: Path) -> None:
        self.path = folder / "job.yaml"

    @property
    def file(self) -> str:
        return str(self.path)

    def write(self, text: str) -> str:
        self.path.write_text(text, "utf-8")
        self.path.chmod(0o600)
        return self.file

    def write_changed(self, changes: Mapping[str, Any]) -> str:
        return self.write(yaml.safe_dump(changed(changes), sort_keys=False))

    def server(self, changes: Mapping[str, Any] | None = None, **options: Any) -> Settings:
        options.setdefault("environ", {})
        return load(self.write_changed(changes or {}), "server", **options)

    def scheduler(self, changes: Mapping[str, Any] | None = None, **options: Any) -> JobSettings:
        options.setdefault("environ", {})
        return load(self.write_changed(changes or {}), "scheduler", **options)

    def text(self, text: str, **options: Any) -> Settings:
        options.setdefault("environ", {})
        return load(self.write(text), "server", **options)

    def problems(self, loading: Callable[..., Any], *args: Any, **options: Any) -> list[str]:
        """The messages of the `ConfigError` that `loading` raises."""
        with pytest.raises(ConfigError) as caught:
            loading(*args, **options)
        return [problem.message for problem in caught.value.problems]


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)
