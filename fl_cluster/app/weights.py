"""The weights that a job without records starts from, and where a server finds them."""

from __future__ import annotations

from pathlib import Path

from fl_cluster.aggregate.model import Model
from fl_cluster.errors import StartupError
from fl_cluster.service.job import StartingPoint
from fl_cluster.store.checkpoints import CheckpointFolder
from fl_cluster.store.initial_models import lenet
from fl_cluster.store.model_files import Arrays, read_model


def starting_point(
    checkpoints: CheckpointFolder, model_file: Path | None
) -> tuple[StartingPoint, str]:
    """The weights to start from when the job is new, and a sentence that says which they are."""
    if model_file is not None:
        try:
            arrays = read_model(model_file)
        except ValueError as exc:
            raise StartupError(f"--model {exc}") from exc
        return StartingPoint(_finite(arrays, model_file), 0), f"the weights in {model_file}"
    newest = checkpoints.newest()
    if newest is not None:
        info, arrays = newest
        return (
            StartingPoint(_finite(arrays, info.path), info.number),
            f"the checkpoint of round {info.number}, {info.path}",
        )
    model = Model.from_arrays(lenet())
    return StartingPoint(
        model, 0, is_given=False
    ), "a freshly seeded LeNet (give --model FILE.npz for another)"


def _finite(arrays: Arrays, path: Path) -> Model:
    try:
        return Model.from_arrays(arrays)
    except ValueError as exc:
        raise StartupError(f"Verify feature map failed for initial model. {path}: {exc}") from exc
