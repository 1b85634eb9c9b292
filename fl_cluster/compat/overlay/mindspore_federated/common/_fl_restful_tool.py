"""Asks a scheduler, as `python -m mindspore_federated.common._fl_restful_tool --ip ... `.

`fl-cluster manage` does the same and more; this has the arguments and the output that scripts
know.  Arguments that nobody knows are passed over.
"""

from __future__ import annotations

import argparse
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REQUESTS = ("newInstance", "queryInstance", "enableFLS", "disableFLS", "state")
FLOATS = ("update_model_ratio", "client_learning_rate")
METRICS_FILE = "/opt/huawei/mindspore/hybrid_albert/metrics.json"
PATIENCE_S = 60


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description="Ask the scheduler of a job.")
    parser.add_argument("--http_type", default="http", choices=("http", "https"))
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6666)
    parser.add_argument(
        "--request_name", default="", help=f"one of getInstanceDetail, {', '.join(REQUESTS)}"
    )
    parser.add_argument("--server_num", type=int, default=0, help="not used")
    parser.add_argument("--instance_param", default="", help="for newInstance: key=value,key=value")
    parser.add_argument("--metrics_file_path", default=METRICS_FILE, help="for getInstanceDetail")
    return parser.parse_known_args(arguments)[0]


def parameters(text: str) -> dict[str, int | float]:
    """The fields of a new instance in `key=value,key=value`; ValueError when it is not that."""
    found: dict[str, int | float] = {}
    for pair in text.split(","):
        name, is_given, value = pair.partition("=")
        if not is_given:
            raise ValueError(f"--instance_param: expected key=value, got {pair!r}")
        found[name.strip()] = float(value) if name.strip() in FLOATS else int(value)
    return found


def last_metrics(path: Path) -> dict[str, Any]:
    """The newest line of a metrics file, as an answer."""
    if not path.exists():
        return failed("error. metrics file is not existed.")
    lines = path.read_text("utf-8").splitlines()
    if not lines:
        return failed("error. metrics file has no content")
    message = "get instance metrics detail successful."
    return {"code": "0", "message": message, "result": json.loads(lines[-1])}


def failed(message: str) -> dict[str, Any]:
    """An answer that the scheduler was not needed for."""
    return {"code": "1", "message": message}


def ask(options: argparse.Namespace, body: bytes | None) -> Any:
    """The scheduler's answer, a refusal too."""
    url = f"{options.http_type}://{options.ip}:{options.port}/{options.request_name}"
    is_query = options.request_name == "state"
    data = None if is_query else (body or b"")
    request = urllib.request.Request(url, data, method="GET" if is_query else "POST")  # noqa: S310 - http and https only, by `choices`
    # As ever: the tool is for the operator's own network and does not check certificates.
    tls = ssl._create_unverified_context()  # noqa: S323, SLF001 - the way Python offers
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=tls) as reply:  # noqa: S310
            return json.loads(reply.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return json.loads(refusal.read())


def main(arguments: Sequence[str]) -> int:
    """Print the answer; 1 when there is none."""
    options = parse(arguments)
    if options.request_name == "getInstanceDetail":
        print(json.dumps(last_metrics(Path(options.metrics_file_path))))  # noqa: T201
        return 0
    if options.request_name not in REQUESTS:
        print("error. request_name is not found!")  # noqa: T201
        return 0
    body = None
    try:
        if options.request_name == "newInstance":
            if not options.instance_param:
                print(json.dumps(failed("error. instance_param is empty.")))  # noqa: T201
                return 0
            body = json.dumps(parameters(options.instance_param)).encode()
        print(ask(options, body))  # noqa: T201
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"{options.ip}:{options.port}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
