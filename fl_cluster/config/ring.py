"""Settings of SECURE_AGGREGATION with which no round could end well, or devices would stay away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from fl_cluster.config.extension import RING
from fl_cluster.config.problems import Remark, SettingProblem
from fl_cluster.config.rules import Value
from fl_cluster.config.schema import EncryptType
from fl_cluster.config.tables import Values

DEMANDED: Final[Mapping[str, float]] = {
    f"{RING.name}.corrupt_ratio": 0.05,
    f"{RING.name}.least_devices": 3,
}
"""Key -> what devices of the SDK insist on at least, unless their owner demands something else."""


def who_refuses(path: str, value: Value | None) -> str | None:
    """Which devices will not take part with this value of a key; None when all may."""
    least = DEMANDED.get(path)
    if least is None or not isinstance(value, int | float) or value >= least:
        return None
    name = path.rpartition(".")[2].removesuffix("_ratio")
    return (
        f"devices of the SDK refuse to take part with less than {least:g}, unless their owner"
        f" gives them other demands (Demands({name}={value:g}))"
    )


def find_refusals(values: Values) -> Iterator[Remark]:
    """A remark for each setting with which devices will stay away."""
    if values["encrypt.encrypt_type"] != EncryptType.SECURE_AGGREGATION:
        return
    for path in DEMANDED:
        why = who_refuses(path, values[path])
        if why is not None:
            yield Remark(f"'{path}' {float(values[path]):g}: {why}", (path,))


def find_impossible(values: Values, file: str) -> SettingProblem | None:
    """The first thing that makes every round fail; None for another kind of job, or none.

    Whether enough neighbours of each device are left depends on the graph, and is judged when
    the job opens.
    """
    if values["encrypt.encrypt_type"] != EncryptType.SECURE_AGGREGATION:
        return None
    corrupt = float(values[f"{RING.name}.corrupt_ratio"])
    dropout = float(values[f"{RING.name}.dropout_ratio"])
    if corrupt + dropout >= 1:
        path = f"{RING.name}.dropout_ratio"
        message = (
            f"The parameter '{path}' is {dropout:g} and the corrupt_ratio beside it {corrupt:g}, "
            f"which leaves no device to rely on, yaml config file: {file}"
        )
        allowed = f"less than {1 - corrupt:g} with this corrupt_ratio"
        return SettingProblem(path, message, file=file, found=f"{dropout:g}", allowed=allowed)
    least = int(values[f"{RING.name}.least_devices"])
    cohort = int(values["round.start_fl_job_threshold"])
    if least > cohort:
        path = f"{RING.name}.least_devices"
        message = (
            f"The parameter '{path}' is {least}, but a round admits only {cohort} devices, so no "
            f"device would ever help to read a sum, yaml config file: {file}"
        )
        allowed = f"2 to {cohort} with this round section"
        return SettingProblem(path, message, file=file, found=str(least), allowed=allowed)
    return None
