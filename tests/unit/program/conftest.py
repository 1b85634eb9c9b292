"""A configuration file, and a process's context as it is before anything was loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl_cluster.program.context import FLContext, fl_context

CONFIG = """
fl_name: Lenet
fl_iteration_num: 25
server_mode: FEDERATED_LEARNING
enable_ssl: false
distributed_cache: {address: "127.0.0.1:6379"}
round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 3000
  update_model_ratio: 0.5
  update_model_time_window: 4000
  global_iteration_time_window: 60000
summary: {metrics_file: metrics.json, failure_event_file: event.txt}
client: {client_epoch_num: 20, client_batch_size: 16, client_learning_rate: 0.25}
"""


@pytest.fixture
def context() -> Iterator[FLContext]:
    """The context, as in a fresh process."""
    fl_context.cache_clear()
    yield fl_context()
    fl_context.cache_clear()


@pytest.fixture
def write_config(tmp_path: Path, context: FLContext) -> Callable[..., str]:
    """Writes a file, in which texts are replaced by others; its path."""

    def write(**changes: str) -> str:
        text = CONFIG
        for name, value in changes.items():
            (line,) = [each for each in text.splitlines() if each.strip().startswith(f"{name}:")]
            text = text.replace(line, value)
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return str(path)

    return write
