"""Invariant: any bytes are a model or a ValueError that names the file; never anything else.

Memory stays within a few times the input, and an input of a megabyte takes seconds at most.
Usage: python fuzz/model_files.py [--seconds N] [--seed N].  Mutates valid files of both
formats; a finding is kept beside this file and ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from fl_cluster.store.model_files import SUFFIXES, read_model, write_model

MAX_SECONDS = 5.0
MAX_MEMORY = 4_000_000
INTERESTING = (b"", b"\0", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, b"\xff" * 9 + b"\x01", b"PK\3\4")


def seeds(folder: Path, suffix: str) -> list[bytes]:
    """Valid files: one tensor, many tensors, scalars, and a long one."""
    models = (
        {"w": np.ones((2, 3), np.float32)},
        {f"layer{i}.weight": np.full((i + 1,), i, np.float32) for i in range(9)},
        {"scalar": np.array(1, np.float32), "long": np.zeros(3000, np.float32)},
    )
    files = []
    for model in models:
        write_model(folder / f"seed{suffix}", model)
        files.append((folder / f"seed{suffix}").read_bytes())
    np.savez_compressed(folder / "packed.npz", w=np.zeros((50, 50)))
    return [*files, (folder / "packed.npz").read_bytes()] if suffix == ".npz" else files


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with a few changes: bits, bytes, cuts, copies, pieces of another."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        length = min(rng.choice((1, 2, 4, 8, 64)), len(data) - at)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + length] = rng.randbytes(length)
            case 2:
                data[at : at + length] = rng.choice(INTERESTING)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * rng.randint(1, 3)
            case _:
                other = rng.choice(corpus)
                data[at:] = other[rng.randint(0, len(other)) :]
    return bytes(data)


def complaint(path: Path, data: bytes) -> str | None:
    """What broke the invariant; None when it holds."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    start = time.monotonic()
    try:
        model = read_model(path)
    except ValueError as exc:
        if str(path) not in str(exc):
            return f"the refusal does not name the file: {exc}"
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
        return f"{type(exc).__name__}: {exc}"
    else:
        if not model or any(a.dtype != np.float32 or a.size == 0 for a in model.values()):
            return "a model that no caller expects"
    if (seconds := time.monotonic() - start) > MAX_SECONDS:
        return f"took {seconds:.1f} s"
    if (peak := tracemalloc.get_traced_memory()[1]) > MAX_MEMORY:
        return f"took {peak} bytes of memory"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpora = {suffix: seeds(folder, suffix) for suffix in SUFFIXES}
        tracemalloc.start()
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            suffix = rng.choice(SUFFIXES)
            data = mutated(rng, corpora[suffix])
            runs += 1
            if found := complaint(folder / f"input{suffix}", data):
                kept = Path(__file__).with_name(f"finding-{options.seed}{suffix}")
                kept.write_bytes(data)
                print(f"seed {options.seed}, run {runs}: {found}\nkept as {kept}")
                return 1
    print(f"model files: {runs:,} inputs, seed {options.seed}: the invariant held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
