"""Be one process of a job, in the foreground, through the Python API; `--help` shows all arguments.

A server starts from `--checkpoint_dir`, else from a freshly seeded LeNet.
"""

import argparse
import sys

import checkout

checkout.prepare()

from fl_cluster import FlSchedulerJob, FLServerJob  # noqa: E402 - only importable once prepared
from fl_cluster.store.initial_models import lenet  # noqa: E402 - likewise


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ms_role", default="MS_SERVER", choices=("MS_SERVER", "MS_SCHED"))
    parser.add_argument("--yaml_config", default="default_yaml_config.yaml")
    parser.add_argument("--http_server_address", default="127.0.0.1:6666")
    parser.add_argument("--tcp_server_ip", default="127.0.0.1")
    parser.add_argument("--checkpoint_dir", default="./fl_ckpt/")
    parser.add_argument("--scheduler_manage_address", default="127.0.0.1:11202")
    return parser.parse_known_args()[0]


def main() -> int:
    args = parse()
    try:
        if args.ms_role == "MS_SCHED":
            FlSchedulerJob(args.yaml_config, args.scheduler_manage_address).run()
        else:
            where = (args.http_server_address, args.tcp_server_ip, args.checkpoint_dir)
            FLServerJob(args.yaml_config, *where).run(lenet())
    except RuntimeError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
