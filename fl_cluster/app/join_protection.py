"""What a join line makes devices insist on: what the operator says, else what the job has now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fl_cluster.config.schema import EncryptSettings, EncryptType
from fl_cluster.config.shared import visible
from fl_cluster.errors import CallerProtocolError, ConfigError, StartupError
from fl_cluster.sdk.required import Protection
from fl_cluster.store.ports import JobRecord

UNKNOWN = (
    "nothing is known yet of how updates are protected, so the line says nothing of it: give"
    " --protection, or a file that servers can use\n"
)


def protection_of(
    said: str, job: JobRecord | None, read_encrypt: Callable[[], EncryptSettings]
) -> str | None:
    """The text for the line, empty when there is nothing to insist on; None: nobody knows.

    A running job's own settings count before those of the file that the command was given:
    servers take them over as well.
    """
    if said:
        required = _parsed(said)
    elif job is not None:
        required = _announced(visible(job.hyper_parameters))
    else:
        try:
            required = _announced(_shared(read_encrypt()))
        except ConfigError:
            # It need not be a server's file; what is wrong with it is told where servers start.
            return None
    return "" if required.kind == EncryptType.NOT_ENCRYPT else required.text()


def _parsed(said: str) -> Protection:
    try:
        return Protection.parse(said)
    except CallerProtocolError as exc:
        raise StartupError(f"--{exc}") from exc


def _shared(encrypt: EncryptSettings) -> Mapping[str, Any]:
    """The file's settings, under the names of a running job's."""
    return {
        "encrypt_type": str(encrypt.kind),
        "dp_eps": encrypt.privacy.epsilon,
        "dp_delta": encrypt.privacy.delta,
        "sign_eps": encrypt.signs.epsilon,
    }


def _announced(values: Mapping[str, Any]) -> Protection:
    """What servers of these settings announce to devices."""
    kind = values.get("encrypt_type", EncryptType.NOT_ENCRYPT)
    match kind:
        case EncryptType.DP_ENCRYPT:
            return Protection(kind, _short(values["dp_eps"]), _short(values["dp_delta"]))
        case EncryptType.SIGNDS:
            return Protection(kind, _short(values["sign_eps"]))
        case EncryptType.STABLE_PW_ENCRYPT:
            # Of workers, who take no join lines; devices are told nothing of it.
            return Protection(EncryptType.NOT_ENCRYPT)
        case _:
            return Protection(kind)


def _short(number: float) -> float:
    """0.01 instead of the 0.009999999776482582 that single precision makes of it."""
    return float(str(np.float32(number)))
