"""A device program starts quickly and drags in nothing of the server."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
began = time.process_time()
import fl_cluster.sdk
took = time.process_time() - began
print(json.dumps([took, sorted(sys.modules)]))
"""


def import_in_a_new_process() -> tuple[float, list[str]]:
    """Seconds of processor time that it took, and the modules that are loaded afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=30
    )
    took_s, modules = json.loads(done.stdout)
    return took_s, modules


def test_importing_the_sdk_needs_nothing_of_the_server() -> None:
    _, modules = import_in_a_new_process()

    unwanted = {"redis", "flatbuffers", "uvloop", "cryptography", "yaml", "psutil", "sklearn"}
    assert unwanted.isdisjoint(modules)
    server_side = ("service", "store", "rounds", "config", "api", "app", "aggregate", "kernels")
    assert {f"fl_cluster.{name}" for name in server_side}.isdisjoint(modules)


def test_importing_the_sdk_is_quick() -> None:
    assert min(import_in_a_new_process()[0] for _ in range(3)) < 0.5
