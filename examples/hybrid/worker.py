"""The worker of the hybrid example: retrains what the devices made, on rightly labelled images.

    python examples/hybrid/worker.py

It needs no server's address: it finds them in the Redis of its configuration.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import labels
import numpy as np

from fl_cluster import FederatedLearningManager, PushMetrics
from fl_cluster.errors import FlClusterError

digits = labels.digits

YAML = Path(__file__).resolve().parents[2] / "yamls" / "hybrid.yaml"
LEARNING_RATE = 0.1
BATCH_SIZE = 16


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="A worker with rightly labelled digits.")
    made.add_argument("--yaml_config", default=str(YAML), help="the job (yamls/hybrid.yaml)")
    made.add_argument("--devices", type=int, default=8, help="how many devices there are (8)")
    made.add_argument("--rounds", type=int, default=12, help="how many rounds to train (12)")
    made.add_argument("--sync-frequency", type=int, default=21, help="steps in a round (21)")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    return made


def train(options: argparse.Namespace) -> None:
    """The whole training; the weights of the first step of a round are replaced by a pull."""
    mine, _, held_out = labels.deal(options.devices, options.seed)
    columns, rng = digits.patches(mine.images), np.random.default_rng(options.seed)
    weights = digits.initial_weights(options.seed)
    manager = FederatedLearningManager(options.yaml_config, weights, options.sync_frequency)
    for number in range(1, options.rounds + 1):
        began_s, pulled = time.monotonic(), None
        for _ in range(options.sync_frequency):
            manager.on_train_step_begin()
            batch = rng.integers(0, len(mine), BATCH_SIZE)
            slopes, _ = digits.gradients(weights, columns[batch], mine.labels[batch])
            for name, slope in slopes.items():
                weights[name] -= np.float32(LEARNING_RATE) * slope
            manager.on_train_step_end()
            pulled = digits.score(weights, held_out) if pulled is None else pulled
        score = digits.score(weights, held_out)
        if not PushMetrics().construct(score.loss, score.accuracy):
            raise RuntimeError(f"the metrics of round {number} were not taken")
        print(
            f"round {number:2d}: held-out accuracy {pulled.accuracy:.4f} from the devices,"
            f" {score.accuracy:.4f} retrained, {time.monotonic() - began_s:.1f} s"
        )
    manager.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0, or 1 or 2 with one sentence, or 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
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
