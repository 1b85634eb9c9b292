"""A device program starts quickly and drags in nothing of the server."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
began = time.perf_counter()
import fl_cluster.sdk
took = time.perf_counter() - began
print(json.dumps([took, sorted(sys.modules)]))
"""


def test_importing_the_sdk_is_quick_and_needs_nothing_of_the_server() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=30
    )
    took_s, modules = json.loads(done.stdout)

    unwanted = {"redis", "flatbuffers", "uvloop", "cryptography", "yaml", "psutil", "sklearn"}
    assert unwanted.isdisjoint(modules)
    server_side = ("service", "store", "rounds", "config", "api", "app", "aggregate", "kernels")
    assert {f"fl_cluster.{name}" for name in server_side}.isdisjoint(modules)
    assert took_s < 0.5
