"""Invariant: any bytes are a model or a ValueError that names the file; never anything else.

Memory stays within a few times the input.  The first byte of an input says what the others
are: a whole `.ckpt`, a whole `.npz`, or one array that is put into a good `.npz`, stored or
deflated, so that the search gets past checksums.  `engine.campaign` has the command line.
"""

from __future__ import annotations

import atexit
import io
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from engine.campaign import main
from engine.target import Broken, Target, within

from fl_cluster.store.model_files import npz_bytes, read_model, write_model

CKPT, NPZ, STORED, DEFLATED = range(4)
MOST_MEMORY = 4_000_000
"""Reading happens in pieces of a megabyte, and what deflate makes of an input is a thousandfold."""

MODELS = (
    {"w": np.ones((2, 3), np.float32)},
    {f"layer{i}.weight": np.full((i + 1,), i, np.float32) for i in range(9)},
    {"scalar": np.array(1, np.float32), "long": np.zeros(900, np.float32)},
)
HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-model-files-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def seeds() -> Iterator[bytes]:
    """Models of one tensor, of many, of scalars; arrays of every type, order and version."""
    for model in MODELS:
        path = FOLDER / "seed.ckpt"
        write_model(path, model)
        yield bytes([CKPT]) + path.read_bytes()
        yield bytes([NPZ]) + npz_bytes(model)
    packed = io.BytesIO()
    np.savez_compressed(packed, w=np.zeros((50, 50)))
    yield bytes([NPZ]) + packed.getvalue()
    for dtype in ("<f2", "<f4", ">f4", "<f8"):
        for array in (np.ones((2, 3), dtype), np.asfortranarray(np.ones((2, 3), dtype))):
            file = io.BytesIO()
            np.lib.format.write_array(file, array, allow_pickle=False)
            yield bytes([STORED]) + file.getvalue()
    header = (HEADER % ("<f4", "False", "(2,)")).encode()
    for version in (2, 3):
        start = b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(4, "little")
        yield bytes([DEFLATED]) + start + header + bytes(8)


def the_file(data: bytes) -> tuple[Path, bytes]:
    """Under which name the input is read, and as which bytes."""
    kind, content = (data[0] % 4 if data else CKPT), data[1:]
    if kind in (STORED, DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            compression = zipfile.ZIP_STORED if kind == STORED else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo("w.npy"), content, compression)
        content = file.getvalue()
    return FOLDER / ("input.ckpt" if kind == CKPT else "input.npz"), content


def read(path: Path) -> None:
    try:
        model = read_model(path)
    except ValueError as exc:
        if str(path) not in str(exc):
            raise Broken(f"the refusal does not name the file: {exc}") from exc
        return
    if not model or any(a.dtype != np.float32 or a.size == 0 for a in model.values()):
        raise Broken("a model that no caller expects")


def check(data: bytes) -> None:
    path, content = the_file(data)
    path.write_bytes(content)
    within(MOST_MEMORY, lambda: read(path))


TARGET = Target(
    name="model_files",
    check=check,
    seeds=seeds,
    dictionary=(
        b"PK\3\4",
        b"PK\1\2",
        b"PK\5\6",
        b"\x93NUMPY",
        b"'descr'",
        b"'fortran_order'",
        b"'shape'",
        b"Float32",
        b"\x12\x07Float32\x1a",
        b"\xff" * 9 + b"\x01",
        b"True",
        b"((((((((",
    ),
)

if __name__ == "__main__":
    sys.exit(main(TARGET))
