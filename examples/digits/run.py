"""Twenty devices learn to read digits together, on this machine, from start to result.

    python examples/digits/run.py

Starts a private Redis, a scheduler and two servers as processes, trains, and stops them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

MODES = {
    "plain": {},
    "compressed": {
        "compression.upload_compress_type": "DIFF_SPARSE_QUANT",
        "compression.upload_sparse_rate": "0.4",
        "compression.download_compress_type": "QUANT",
    },
    "dp": {
        "encrypt.encrypt_type": "DP_ENCRYPT",
        "encrypt.dp_encrypt.dp_eps": "50",
        "encrypt.dp_encrypt.dp_norm_clip": "10",
    },
    "signds": {
        "encrypt.encrypt_type": "SIGNDS",
        "encrypt.signds.sign_k": "0.2",
        "encrypt.signds.sign_eps": "100",
        "encrypt.signds.sign_global_lr": "1.0",
        "encrypt.signds.sign_dim_out": "50",
    },
    "central_dp": {
        # Fifteen rounds cost epsilon 24.8 at delta 1e-5: with twenty devices no strong promise.
        "privacy.noise": "central",
        "privacy.clip_norm": "0.5",
        "privacy.noise_multiplier": "1.0",
        "privacy.epsilon_budget": "25.0",
    },
    "pw": {
        "encrypt.encrypt_type": "PW_ENCRYPT",
        "encrypt.pw_encrypt.share_secrets_ratio": "1.0",
        "encrypt.pw_encrypt.cipher_time_window": "20000",
    },
    "secure": {"encrypt.encrypt_type": "SECURE_AGGREGATION"},
}
"""How updates are protected or made smaller, and the settings for it."""

REQUIRED = {
    "dp": "DP_ENCRYPT,epsilon=50,delta=0.01",
    "signds": "SIGNDS,epsilon=100",
    "pw": "PW_ENCRYPT",
    "secure": "SECURE_AGGREGATION",
}
"""What devices insist on in these modes: what hides an update is not left to the servers."""


def leave(number: int, _: object) -> None:
    """End at once; before anything was started there is nothing to tidy up."""
    os.write(sys.stderr.fileno(), b"stopped\n")
    os._exit(128 + number)


signal.signal(signal.SIGINT, leave)

# Each matrix here is small: threads inside NumPy would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import digits  # noqa: E402 - NumPy reads the environment when it is imported

from fl_cluster.app.demo import Demo, DemoDevice, run  # noqa: E402 - likewise

YAML = Path(__file__).resolve().parents[2] / "yamls" / "digits.yaml"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Federated training on handwritten digits.")
    made.add_argument("--devices", type=int, default=20, help="how many share the images (20)")
    made.add_argument("--rounds", type=int, default=15, help="how many rounds to train (15)")
    made.add_argument("--servers", type=int, default=2, help="how many servers to start (2)")
    made.add_argument("--seed", type=int, default=0, help="of the split and the training (0)")
    made.add_argument(
        "--folder",
        type=Path,
        default=Path("fl_data/demo"),
        help="where model, metrics and logs are left (fl_data/demo)",
    )
    made.add_argument(
        "--tokens", action="store_true", help="give each device a token, and keep others out"
    )
    made.add_argument(
        "--mode", choices=MODES, default="plain", help="what is done to updates (plain)"
    )
    made.add_argument(
        "--certs",
        type=Path,
        metavar="FOLDER",
        help="encrypt every connection with what `fl-cluster certs init --host 127.0.0.1` made",
    )
    return made


def settings_of(mode: str, devices: int) -> dict[str, str]:
    """The settings of a mode for so many devices."""
    if mode != "pw":
        return MODES[mode]
    # Masks are undone by half of the devices: fewer, and a server could learn a single update.
    needed = str((devices + 1) // 2)
    return {**MODES[mode], "encrypt.pw_encrypt.reconstruct_secrets_threshold": needed}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    made = parser()
    options = made.parse_args(arguments)
    if min(options.devices, options.rounds, options.servers) < 1:
        made.error("--devices, --rounds and --servers: expected 1 or more")
    try:
        training, held_out = digits.load(options.seed)
        shards = digits.split(training, options.devices, options.seed)
    except ModuleNotFoundError as exc:
        made.error(f"{exc}; pip install 'fl_cluster[examples]'")
    except ValueError as exc:
        made.error(f"--devices: {exc}")
    devices = [
        DemoDevice(
            id=f"digits-{index:02d}",
            evaluate=digits.shard_judge(shard),
            train=digits.shard_trainer(shard, seed=index),
            data_size=len(shard),
        )
        for index, shard in enumerate(shards)
    ]
    return run(
        Demo(
            yaml_config=YAML,
            initial=digits.initial_weights(options.seed),
            devices=devices,
            judge=digits.shard_judge(held_out),
            rounds=options.rounds,
            servers=options.servers,
            folder=options.folder,
            has_tokens=options.tokens,
            certs=options.certs,
            settings=settings_of(options.mode, options.devices),
            protection=REQUIRED.get(options.mode),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
