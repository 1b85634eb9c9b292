"""One cross-silo worker that learns digits, in NumPy, with FederatedLearningManager.

    python examples/cross_silo/worker.py --server 127.0.0.1:6666 --workers 2 --worker-index 0

The images are dealt to `--workers` workers in the same way wherever this runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "digits"))

import digits
import numpy as np

from fl_cluster import FederatedLearningManager
from fl_cluster.errors import FlClusterError
from fl_cluster.program.context import FEDPROX, fl_context
from fl_cluster.worker import proximal

YAML = Path(__file__).resolve().parents[2] / "yamls" / "cross_silo.yaml"
LEARNING_RATE = 0.3
BATCH_SIZE = 32


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="A worker that learns handwritten digits.")
    made.add_argument("--yaml_config", default=str(YAML), help="the job (yamls/cross_silo.yaml)")
    made.add_argument("--server", required=True, metavar="HOST:PORT", help="a server of the job")
    made.add_argument("--workers", type=int, default=2, help="how many share the images (2)")
    made.add_argument("--worker-index", type=int, default=0, help="which of them, from 0 (0)")
    made.add_argument("--rounds", type=int, default=10, help="how many rounds to train (10)")
    made.add_argument("--sync-frequency", type=int, default=30, help="steps in a round (30)")
    made.add_argument("--sync-type", choices=("fixed", "adaptive"), default="fixed")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    return made


def train(options: argparse.Namespace) -> None:
    """The whole training: a loop that knows the manager and nothing else of the cluster."""
    training, held_out = digits.load(options.seed)
    mine = digits.split(training, options.workers, options.seed)[options.worker_index]
    columns, rng = digits.patches(mine.images), np.random.default_rng(options.worker_index)
    weights = digits.initial_weights(options.seed)
    manager = FederatedLearningManager(
        options.yaml_config,
        weights,
        options.sync_frequency,
        http_server_address=options.server,
        data_size=len(mine),
        sync_type=options.sync_type,
        learning_rate=LEARNING_RATE,
    )
    is_proximal = fl_context().aggregation_type() == FEDPROX
    judge = digits.shard_judge(held_out)
    for number in range(1, options.rounds + 1):
        began_s, losses, steps = time.monotonic(), [], manager.sync_frequency
        for _ in range(steps):
            manager.on_train_step_begin()
            batch = rng.integers(0, len(mine), BATCH_SIZE)
            slopes, loss = digits.gradients(weights, columns[batch], mine.labels[batch])
            losses.append(loss)
            pull = hold_back(manager, weights) if is_proximal else {}
            for name, slope in slopes.items():
                weights[name] -= np.float32(LEARNING_RATE) * (slope + pull.get(name, 0))
            manager.on_train_step_end()
        seconds = time.monotonic() - began_s
        print(
            f"round {number:2d}: {steps:3d} steps, loss {np.mean(losses):.4f},"
            f" held-out accuracy {judge(weights):.4f}, {seconds:.1f} s"
        )
    manager.close()


def hold_back(manager: FederatedLearningManager, weights: digits.Weights) -> digits.Weights:
    """The slopes of FedProx's term, which hold a worker to the job's model."""
    reference = {
        name: flat.reshape(weights[name].shape) for name, flat in manager.global_weights.items()
    }
    return proximal.gradient(weights, reference, fl_context().iid_rate())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0, or 1 or 2 with one sentence, or 130 after Ctrl-C."""
    made = parser()
    options = made.parse_args(arguments)
    if not 0 <= options.worker_index < options.workers:
        made.error(f"--worker-index: expected 0 to {options.workers - 1}")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        train(options)
    except FlClusterError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
