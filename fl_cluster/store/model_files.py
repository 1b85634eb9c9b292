"""Models as files: named float32 arrays in an `.npz` or a MindSpore `.ckpt`.

A file appears whole or not at all: it is written beside its final name, synced, and renamed.
Reading never unpickles and is bounded by the size of the file, also when that was made to
harm; whatever is wrong with it is a ValueError that names the file, the place in it, and what
was expected there.  Tensors stream between file and array, so memory stays near the model's
own size.
The bytes of `.ckpt` files are `checkpoint_codec`'s business; whether the numbers are finite
and fit the job is decided by whoever uses them.
"""

from __future__ import annotations

import ast
import errno
import io
import logging
import math
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fl_cluster.store.checkpoint_codec import (
    MAX_NAME_BYTES,
    MAX_RANK,
    read_checkpoint,
    write_checkpoint,
)

Floats = npt.NDArray[np.float32]
Arrays = dict[str, Floats]

SUFFIXES = (".npz", ".ckpt")
MAX_HEADER_BYTES = 4096
CHUNK_BYTES = 1 << 20
MAX_INFLATION = 1032
"""Deflate cannot expand further (zlib's technical notes), so a bigger claim is a lie."""

_MAGIC = b"\x93NUMPY"
_FLOAT = re.compile(r"[<>=]f[248]")
_ZIP_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    OverflowError,
    RuntimeError,  # encrypted, or (NotImplementedError) compressed in another way
    ValueError,  # a name in no encoding, an offset before the start
)

log = logging.getLogger(__name__)


class _Refusal(ValueError):
    """An archive is not a model, in our words; zipfile raises plain ValueErrors in its own."""


def read_model(path: Path) -> Arrays:
    """The file's tensors in file order, each writable, in C order, with at least one element.

    ValueError when the file is missing, unreadable, or not what its suffix says.
    """
    suffix = _known_suffix(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path}: expected a file, found something else of that name")
        with path.open("rb") as file:
            if suffix == ".ckpt":
                return read_checkpoint(file, str(path))
            return _read_npz(file, path)
    except OSError as exc:
        raise ValueError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def write_model(path: Path, arrays: Mapping[str, Floats], mode: int = 0o666) -> None:
    """Put the tensors into the file `path`, replacing what had that name.

    `mode` is subject to the umask.  ValueError when a name or an array is not fit for a model
    file, OSError when the file cannot be written; then whatever was there is still there.
    """
    suffix = _known_suffix(path)
    if not arrays:
        raise ValueError(f"{path}: expected at least one tensor to write, found none")
    for name, array in arrays.items():
        _check_tensor(path, name, array)
    with _replacing(path, mode) as file:
        if suffix == ".ckpt":
            write_checkpoint(file, arrays)
        else:
            _write_npz(file, arrays)


def npz_bytes(arrays: Mapping[str, Floats]) -> bytes:
    """The tensors as the bytes of an `.npz` file; equal tensors in equal order, equal bytes."""
    file = io.BytesIO()
    _write_npz(file, arrays)
    return file.getvalue()


def _known_suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    return path.suffix


def _check_tensor(path: Path, name: str, array: Floats) -> None:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"{path}: tensor name {name!r} is not valid Unicode") from exc
    if not 1 <= len(encoded) <= MAX_NAME_BYTES or b"\0" in encoded:
        raise ValueError(
            f"{path}: expected tensor names of 1 to {MAX_NAME_BYTES} bytes without NUL,"
            f" found {name!r}"
        )
    if array.dtype != np.float32 or array.size == 0 or array.ndim > MAX_RANK:
        raise ValueError(
            f"{path}: tensor {name!r}: expected float32 with at least one element,"
            f" found {array.dtype} of shape {array.shape}"
        )


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # some network file systems have no sync of folders
            raise
    finally:
        os.close(descriptor)


def _write_npz(file: BinaryIO, arrays: Mapping[str, Floats]) -> None:
    """As `numpy.savez`, but with a fixed date, so that equal models are equal files."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.file_size = array.nbytes + MAX_HEADER_BYTES
            with archive.open(entry, "w") as member:
                in_order = np.asarray(array, np.float32, order="C")
                npy.write_array(member, in_order, allow_pickle=False)


def _read_npz(file: BinaryIO, path: Path) -> Arrays:
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_sizes(entries, path)
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in arrays or name == entry.filename or not name:
                    raise _Refusal(
                        f"{path}: expected members NAME.npy, each name once,"
                        f" found {entry.filename!r}"
                    )
                with archive.open(entry) as member:
                    arrays[name] = _read_npy(member, entry, f"{path}: {entry.filename}")
    except _Refusal:
        raise
    except _ZIP_FAULTS as exc:
        raise _Refusal(f"{path}: expected an .npz archive, found a broken one: {exc}") from exc
    if not arrays:
        raise _Refusal(f"{path}: expected at least one tensor, found none")
    return arrays


def _check_sizes(entries: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive that says it holds more than its own bytes can: a decompression bomb."""
    packed = sum(entry.compress_size for entry in entries)
    if packed > path.stat().st_size:
        raise _Refusal(f"{path}: expected members that fit the file, found {packed} bytes")
    for entry in entries:
        if entry.file_size > MAX_INFLATION * entry.compress_size:
            raise _Refusal(
                f"{path}: {entry.filename}: {entry.compress_size} bytes cannot unpack"
                f" to {entry.file_size}"
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Refusal(f"{path}: {entry.filename}: expected a stored or deflated member")


def _read_npy(member: IO[bytes], entry: zipfile.ZipInfo, place: str) -> Floats:
    """One member, converted to float32 piece by piece when it holds other floats."""
    header_bytes, dtype, is_fortran, shape = _read_header(member, place)
    size = math.prod(shape)
    if size < 1 or header_bytes + size * dtype.itemsize != entry.file_size:
        raise _Refusal(
            f"{place}: expected the data of shape {shape} after byte {header_bytes},"
            f" {size * dtype.itemsize} bytes, found {entry.file_size - header_bytes}"
        )
    if dtype.itemsize != 4:
        log.info("%s: %s is converted to float32", place, dtype.name)
    flat = np.empty(size, np.float32)
    step = CHUNK_BYTES // dtype.itemsize
    for start in range(0, size, step):
        piece = flat[start : start + step]
        data = _read_exactly(member, piece.size * dtype.itemsize, place)
        with np.errstate(over="ignore"):  # an overflow is infinity, which the user of it refuses
            piece[:] = np.frombuffer(data, dtype)
    return (
        np.ascontiguousarray(flat.reshape(shape, order="F")) if is_fortran else flat.reshape(shape)
    )


def _read_header(
    member: IO[bytes], place: str
) -> tuple[int, np.dtype[np.generic], bool, tuple[int, ...]]:
    """Its length in bytes, the type, whether in Fortran order, and the shape."""
    magic = _read_exactly(member, 8, place)
    if magic[:6] != _MAGIC or magic[6] not in (1, 2, 3):
        raise _Refusal(f"{place}: expected an array of the .npy format 1 to 3 at byte 0")
    width = 2 if magic[6] == 1 else 4
    count = int.from_bytes(_read_exactly(member, width, place), "little")
    if count > MAX_HEADER_BYTES:
        raise _Refusal(f"{place}: expected a header of at most {MAX_HEADER_BYTES} bytes")
    text = _read_exactly(member, count, place).decode("latin1")
    try:
        header = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as exc:
        raise _Refusal(f"{place}: expected a Python dict as header at byte 8") from exc
    match header:
        case {"descr": str(descr), "fortran_order": bool(is_fortran), "shape": tuple(shape)}:
            return 8 + width + count, _float_type(descr, place), is_fortran, _shape(shape, place)
    raise _Refusal(f"{place}: expected descr, fortran_order and shape in the header at byte 8")


def _float_type(descr: str, place: str) -> np.dtype[np.generic]:
    if not _FLOAT.fullmatch(descr):
        raise _Refusal(f"{place}: expected float16, float32 or float64, found type {descr!r}")
    return np.dtype(descr)


def _shape(sizes: tuple[object, ...], place: str) -> tuple[int, ...]:
    shape = tuple(size for size in sizes if type(size) is int and 0 <= size < 2**63)
    if len(shape) != len(sizes) or len(shape) > MAX_RANK:
        raise _Refusal(f"{place}: expected a shape of at most {MAX_RANK} sizes, found {sizes}")
    return shape


def _read_exactly(member: IO[bytes], count: int, place: str) -> bytes:
    data = member.read(count)
    if len(data) != count:
        raise _Refusal(f"{place}: expected {count} more bytes, found the end")
    return data
