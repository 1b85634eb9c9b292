"""Kill one server of a job without warning, and start it again, to see that the job goes on."""

import argparse
import os
import signal
import sys
import time

import checkout

checkout.prepare()

from fl_cluster.app.cli import script_main  # noqa: E402 - only importable once prepared
from fl_cluster.app.ports import is_server_of  # noqa: E402 - likewise
from fl_cluster.telemetry.processes import describe_listener, find_listener  # noqa: E402

AWAY_S = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--yaml_config", default="default_yaml_config.yaml")
    parser.add_argument("--tcp_server_ip", default="127.0.0.1")
    parser.add_argument("--checkpoint_dir", default="./fl_ckpt/")
    parser.add_argument("--fl_server_port", type=int, default=6666)
    args = parser.parse_known_args()[0]
    where = f"127.0.0.1:{args.fl_server_port}"
    pid = find_listener("127.0.0.1", args.fl_server_port)
    if not pid or not is_server_of(pid, args.yaml_config):
        holder = describe_listener("127.0.0.1", args.fl_server_port) if pid else "nobody"
        sys.stderr.write(f"{where}: expected a server of {args.yaml_config}, found {holder}\n")
        return 2
    os.kill(pid, signal.SIGKILL)
    print(f"killed the server at {where}, pid {pid}; it starts again in {AWAY_S} s", flush=True)
    time.sleep(AWAY_S)
    shared = [f"--{name}={getattr(args, name)}" for name in ("yaml_config", "tcp_server_ip")]
    mine = [f"--checkpoint_dir={args.checkpoint_dir}", f"--http_server_address={where}"]
    return script_main("server", __file__, [*shared, *mine, "--local_server_num=1"])


if __name__ == "__main__":
    sys.exit(main())
