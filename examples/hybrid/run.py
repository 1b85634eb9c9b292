"""Devices with poor labels and a worker with a few right ones learn to read digits together.

    python examples/hybrid/run.py

Starts a private Redis, a scheduler, two servers, eight devices and the worker as processes,
trains, and stops them.  The exit code is 0 when the model reads at least 93 % of the held-out
images.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def leave(number: int, _: object) -> None:
    """End at once; before anything was started there is nothing to tidy up."""
    os.write(sys.stderr.fileno(), b"stopped\n")
    os._exit(128 + number)


signal.signal(signal.SIGINT, leave)

# Each matrix here is small: threads inside NumPy would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import labels  # noqa: E402 - NumPy reads the environment when it is imported

from fl_cluster.app.demo_cluster import RunningCluster  # noqa: E402 - likewise
from fl_cluster.app.demo_workers import WorkerDemo, WorkerProcess, run  # noqa: E402 - likewise

HERE = Path(__file__).resolve().parent
YAML = HERE.parents[1] / "yamls" / "hybrid.yaml"
LEAST_ACCURACY = 0.93


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Hybrid training on handwritten digits.")
    made.add_argument("--devices", type=int, default=8, help="how many devices (8)")
    made.add_argument("--servers", type=int, default=2, help="how many servers (2)")
    made.add_argument("--rounds", type=int, default=12, help="how many rounds to train (12)")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    made.add_argument(
        "--folder",
        type=Path,
        default=Path("fl_data/hybrid"),
        help="where model, metrics and logs are left (fl_data/hybrid)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    made = parser()
    options = made.parse_args(arguments)
    if min(options.devices, options.rounds, options.servers) < 1:
        made.error("--devices, --rounds and --servers: expected 1 or more")
    try:
        hands = labels.deal(options.devices, options.seed)
    except ModuleNotFoundError as exc:
        made.error(f"{exc}; pip install 'fl_cluster[examples]'")
    except ValueError as exc:
        made.error(f"--devices: {exc}")

    def processes(cluster: RunningCluster) -> list[WorkerProcess]:
        """The worker, which tells how it goes, and the devices."""
        common = [f"--devices={options.devices}", f"--seed={options.seed}"]
        worker = [str(HERE / "worker.py"), f"--yaml_config={YAML}", f"--rounds={options.rounds}"]
        servers = [f"--server=http://{address}" for address in cluster.server_addresses]
        return [
            WorkerProcess("worker", [sys.executable, *worker, *common]),
            WorkerProcess("devices", [sys.executable, str(HERE / "devices.py"), *servers, *common]),
        ]

    digits = labels.digits
    return run(
        WorkerDemo(
            yaml_config=YAML,
            job="Hybrid",
            initial=digits.initial_weights(options.seed),
            servers=options.servers,
            folder=options.folder,
            processes=processes,
            judge=digits.shard_judge(hands.held_out),
            least_accuracy=LEAST_ACCURACY,
            overrides={
                "fl_iteration_num": str(options.rounds),
                "round.start_fl_job_threshold": str(options.devices),
            },
        )
    )


if __name__ == "__main__":
    sys.exit(main())
