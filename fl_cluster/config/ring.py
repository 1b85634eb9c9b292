"""Settings of SECURE_AGGREGATION with which no round could ever end well."""

from __future__ import annotations

from fl_cluster.config.extension import RING
from fl_cluster.config.problems import SettingProblem
from fl_cluster.config.schema import EncryptType
from fl_cluster.config.tables import Values


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
