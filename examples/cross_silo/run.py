"""Workers of several silos learn to read digits together, on this machine, start to result.

    python examples/cross_silo/run.py --aggregation FedProx

Starts a private Redis, a scheduler, two servers and the workers as processes, trains, and
stops them.  The exit code is 0 when the model reads at least 95 % of the held-out images.
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "digits"))

import digits  # noqa: E402 - NumPy reads the environment when it is imported
import numpy as np  # noqa: E402 - likewise

from fl_cluster.app.demo_cluster import RunningCluster  # noqa: E402 - likewise
from fl_cluster.app.demo_workers import WorkerDemo, WorkerProcess, run  # noqa: E402 - likewise

YAML = HERE.parents[1] / "yamls" / "cross_silo.yaml"
LEAST_ACCURACY = 0.95


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Cross-silo training on handwritten digits.")
    methods = ("FedAvg", "FedProx", "Scaffold", "FedNova")
    made.add_argument("--aggregation", choices=methods, default="FedAvg", help="(FedAvg)")
    made.add_argument("--sync-type", choices=("fixed", "adaptive"), default="fixed")
    made.add_argument("--workers", type=int, default=2, help="how many workers (2)")
    made.add_argument("--servers", type=int, default=2, help="how many servers (2)")
    made.add_argument("--rounds", type=int, default=10, help="how many rounds to train (10)")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    made.add_argument(
        "--folder",
        type=Path,
        default=Path("fl_data/cross_silo"),
        help="where model, metrics and logs are left (fl_data/cross_silo)",
    )
    return made


def initial(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """What the job starts from; the adaptive rule's numbers travel with the weights."""
    weights = digits.initial_weights(options.seed)
    if options.sync_type == "adaptive":
        weights |= {f"as_abs_grad.{name}": np.zeros_like(w) for name, w in weights.items()}
    return weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    made = parser()
    options = made.parse_args(arguments)
    if min(options.workers, options.rounds, options.servers) < 1:
        made.error("--workers, --rounds and --servers: expected 1 or more")
    try:
        training, held_out = digits.load(options.seed)
        digits.split(training, options.workers, options.seed)
    except ModuleNotFoundError as exc:
        made.error(f"{exc}; pip install 'fl_cluster[examples]'")
    except ValueError as exc:
        made.error(f"--workers: {exc}")

    def workers(cluster: RunningCluster) -> list[WorkerProcess]:
        """Each worker talks to a server of its own, as far as they go round."""
        addresses = cluster.server_addresses
        return [
            WorkerProcess(
                f"worker_{index}",
                [
                    sys.executable,
                    str(HERE / "worker.py"),
                    f"--yaml_config={YAML}",
                    f"--server={addresses[index % len(addresses)]}",
                    f"--workers={options.workers}",
                    f"--worker-index={index}",
                    f"--rounds={options.rounds}",
                    f"--sync-type={options.sync_type}",
                    f"--seed={options.seed}",
                ],
            )
            for index in range(options.workers)
        ]

    return run(
        WorkerDemo(
            yaml_config=YAML,
            job="CrossSilo",
            initial=initial(options),
            servers=options.servers,
            folder=options.folder,
            processes=workers,
            judge=digits.shard_judge(held_out),
            least_accuracy=LEAST_ACCURACY,
            overrides={
                "fl_iteration_num": str(options.rounds),
                "aggregation.aggregation_type": options.aggregation,
                "aggregation.total_client_num": str(options.workers),
                "round.start_fl_job_threshold": str(options.workers),
            },
        )
    )


if __name__ == "__main__":
    sys.exit(main())
