"""One device that learns digits, or many of them in one process.

    python examples/digits/device.py --server http://127.0.0.1:6666 --devices 20
    python examples/digits/device.py --server http://127.0.0.1:6666 --devices 20 --device-index 3

The images are dealt to `--devices` devices in the same way wherever this runs, so that
twenty processes or machines, each with its own `--device-index`, train on the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

import digits

from fl_cluster.errors import FlClusterError
from fl_cluster.sdk import FederatedDevice, JobResult, open_session


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Devices that learn handwritten digits.")
    made.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="URL",
        help="a server of the cluster; may be given several times",
    )
    made.add_argument("--devices", type=int, default=20, help="how many share the images (20)")
    made.add_argument("--device-index", type=int, help="be only this one of them, from 0")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    made.add_argument(
        "--patience", type=float, default=300.0, help="seconds to bear with silent servers (300)"
    )
    made.add_argument(
        "--protection",
        metavar="KIND",
        help="refuse servers that announce less, such as SECURE_AGGREGATION (take what they say)",
    )
    return made


async def take_part(options: argparse.Namespace) -> list[JobResult]:
    """Be the devices that the command line asks for, until the job is finished."""
    training, _ = digits.load(options.seed)
    shards = digits.split(training, options.devices, options.seed)
    chosen = range(options.devices) if options.device_index is None else [options.device_index]
    async with open_session(devices=len(chosen)) as session:
        devices = [
            FederatedDevice(
                options.server,
                device_id=f"digits-{index:02d}",
                train=digits.shard_trainer(shards[index], seed=index),
                data_size=len(shards[index]),
                evaluate=digits.shard_judge(shards[index]),
                eval_data_size=len(shards[index]),
                patience_s=options.patience,
                session=session,
                protection=options.protection,
            )
            for index in chosen
        ]
        return await asyncio.gather(*(device.run() for device in devices))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0, 2 or 3 with one sentence, or 130 after Ctrl-C."""
    made = parser()
    options = made.parse_args(arguments)
    if options.device_index is not None and not 0 <= options.device_index < options.devices:
        made.error(f"--device-index: expected 0 to {options.devices - 1}")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        results = asyncio.run(take_part(options))
    except FlClusterError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    _, held_out = digits.load(options.seed)
    for result in results:
        accuracy = digits.score(result.weights, held_out).accuracy
        print(
            f"{result.device_id}: took part in {len(result.rounds)} rounds; the model of round"
            f" {result.final_round} names {accuracy:.1%} of the held-out images right"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
