"""The devices of the hybrid example, in one process: they train on poorly labelled images.

python examples/hybrid/devices.py --server http://127.0.0.1:6666 --devices 8
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

import labels

from fl_cluster.errors import FlClusterError
from fl_cluster.sdk import FederatedDevice, open_session

digits = labels.digits


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Devices with poorly labelled digits.")
    made.add_argument("--server", action="append", required=True, metavar="URL")
    made.add_argument("--devices", type=int, default=8, help="how many share the images (8)")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    return made


async def take_part(options: argparse.Namespace) -> None:
    """Be all devices, until the job is finished."""
    shards = labels.deal(options.devices, options.seed).devices
    async with open_session(devices=len(shards)) as session:
        devices = (
            FederatedDevice(
                options.server,
                device_id=f"poor-{index:02d}",
                train=digits.shard_trainer(shard, seed=index),
                data_size=len(shard),
                session=session,
            )
            for index, shard in enumerate(shards)
        )
        await asyncio.gather(*(device.run() for device in devices))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0, or a fault's with one sentence, or 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        asyncio.run(take_part(options))
    except FlClusterError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
