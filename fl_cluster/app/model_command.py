"""`fl-cluster model FILE`: what is in a model file, and the same model as another format."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from fl_cluster.app.output import tell
from fl_cluster.errors import ExitCode
from fl_cluster.store.model_files import Arrays, Floats, read_model, write_model

_HEADINGS = ("name", "shape", "min", "mean", "max", "sha256")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 with one sentence on standard error."""
    options = _parser().parse_args(argv)
    try:
        arrays = read_model(options.file)
        tell(describe(arrays).removesuffix("\n"))
        for target in filter(None, (options.npz, options.ckpt)):
            write_model(target, arrays)
            tell(f"written: {target}")
    except (ValueError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return ExitCode.CONFIGURATION
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fl-cluster model", description="Show, and convert, a model file."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="an .npz or a MindSpore .ckpt")
    parser.add_argument("--npz", type=_named(".npz"), metavar="OUT", help="also write it as .npz")
    parser.add_argument("--ckpt", type=_named(".ckpt"), metavar="OUT", help="... as .ckpt")
    return parser


def _named(suffix: str) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if Path(text).suffix != suffix:
            raise argparse.ArgumentTypeError(f"expected a name ending in {suffix}, found {text!r}")
        return Path(text)

    return path


def describe(arrays: Arrays) -> str:
    """A table of the tensors in the order of a model, and a line about all of them.

    The last digest is the model's: of all values in that order, as the cluster reports it.
    """
    whole = hashlib.sha256()
    rows: list[tuple[str, ...]] = [_HEADINGS]
    broken = 0
    for name in sorted(arrays, key=str.encode):
        array = arrays[name]
        data = np.asarray(array, "<f4", order="C").reshape(-1).data
        whole.update(data)
        broken += array.size - int(np.count_nonzero(np.isfinite(array)))
        rows.append((name, *_figures(array), hashlib.sha256(data).hexdigest()))
    size = sum(array.size for array in arrays.values())
    lines = [*_aligned(rows), "", f"{len(arrays)} tensors, {size:,} floats, {4 * size:,} bytes"]
    if broken:
        lines.append(f"{broken:,} values are NaN or infinite: no cluster starts from this model")
    return "\n".join([*lines, f"sha256 {whole.hexdigest()}", ""])


def _figures(array: Floats) -> tuple[str, ...]:
    shape = "x".join(map(str, array.shape)) or "scalar"
    with np.errstate(invalid="ignore"):
        mean = array.mean(dtype=np.float64)
        return shape, f"{array.min():.6g}", f"{mean:.6g}", f"{array.max():.6g}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
