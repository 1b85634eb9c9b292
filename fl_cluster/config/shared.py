"""The settings that all servers of one job share, as they are kept with the job.

The first server's settings decide; a later server takes these over whatever its own file
says, except for those that it must agree on.  The JSON has the names and the order that
management clients know, and single precision numbers widened to double, as they have always
been shown there; what they do not know is kept apart in it, and not shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from fl_cluster.config import protection
from fl_cluster.config.protection import Protection
from fl_cluster.config.schema import RingSettings, Settings

T = TypeVar("T")

_PLACES: Mapping[str, str] = {
    "aggregation_type": "aggregation.method",
    "cipher_time_window": "encrypt.masking.window_ms",
    "client_batch_size": "device.batch_size",
    "client_epoch_num": "device.epochs",
    "client_learning_rate": "device.learning_rate",
    "download_compress_type": "compression.download",
    "dp_delta": "encrypt.privacy.delta",
    "dp_eps": "encrypt.privacy.epsilon",
    "dp_norm_clip": "encrypt.privacy.norm_clip",
    "enable_ssl": "tls.enabled",
    "encrypt_type": "encrypt.kind",
    "fl_iteration_num": "rounds_total",
    "global_iteration_time_window": "rounds.round_window_ms",
    "iid_rate": "aggregation.proximal_weight",
    "pki_verify": "verify.enabled",
    "reconstruct_secrets_threshold": "encrypt.masking.reconstruct_threshold",
    "share_secrets_ratio": "encrypt.masking.share_ratio",
    "sign_dim_out": "encrypt.signs.dimensions_out",
    "sign_eps": "encrypt.signs.epsilon",
    "sign_global_lr": "encrypt.signs.global_learning_rate",
    "sign_k": "encrypt.signs.top_ratio",
    "sign_thr_ratio": "encrypt.signs.threshold_ratio",
    "start_fl_job_threshold": "rounds.cohort_size",
    "start_fl_job_time_window": "rounds.select_window_ms",
    "total_client_num": "aggregation.total_devices",
    "update_model_ratio": "rounds.report_ratio",
    "update_model_time_window": "rounds.report_window_ms",
    "upload_compress_type": "compression.upload",
    "upload_sparse_rate": "compression.upload_sparse_rate",
}
"""Name in the JSON -> where the settings have it."""

_UNSHOWN: Mapping[str, str] = {
    "cluster.pw_mask_layout": "cluster.mask_layout",
    "encrypt.secure_aggregation.corrupt_ratio": "encrypt.ring.corrupt",
    "encrypt.secure_aggregation.dropout_ratio": "encrypt.ring.dropout",
    "encrypt.secure_aggregation.least_devices": "encrypt.ring.least_devices",
    "encrypt.secure_aggregation.step_window_ms": "encrypt.ring.window_ms",
    "server_mode": "server_mode",
    "unsupervised.cluster_client_num": "unsupervised.sample_count",
    "unsupervised.eval_type": "unsupervised.eval_type",
    **protection.APART,
}
"""The same for what management clients do not know."""

_DEFAULTS: Mapping[str, Any] = {
    "cluster.pw_mask_layout": "restart",
    "encrypt.secure_aggregation.corrupt_ratio": 0.05,
    "encrypt.secure_aggregation.dropout_ratio": 0.2,
    "encrypt.secure_aggregation.least_devices": 3,
    "encrypt.secure_aggregation.step_window_ms": 300_000,
    "server_mode": "FEDERATED_LEARNING",
    "unsupervised.cluster_client_num": 0,
    "unsupervised.eval_type": "NOT_EVAL",
    **protection.DEFAULTS,
}
_CONSTANTS = {"secure_aggregation": False}
_APART = "cluster"

MUST_BE_EQUAL = ("enable_ssl", "pki_verify")
"""A server that disagrees on one of these cannot serve the job at all."""


@dataclass(frozen=True, slots=True)
class SharedParameters:
    """What devices and rounds need of the shared settings, and all of them as JSON."""

    text: str
    server_mode: str
    rounds_total: int
    cohort_size: int
    report_ratio: float
    select_window_ms: int
    report_window_ms: int
    round_window_ms: int
    epochs: int
    batch_size: int
    learning_rate: float
    upload_sparse_rate: float
    aggregation_type: str
    total_devices: int
    eval_type: str
    eval_window: int
    """How many of the newest vectors of evaluation data are scored."""
    mask_layout: str
    encrypt_type: str
    pki_verify: bool
    share_ratio: float
    """How many of the devices of one step of a masked round the next one waits for."""
    reconstruct_threshold: int
    """How many shares rebuild a secret of a masked round."""
    step_window_ms: int
    """How long a step of a masked round waits for devices."""
    ring: RingSettings
    """Of SECURE_AGGREGATION."""
    protection: Protection

    @classmethod
    def of(cls, settings: Settings) -> SharedParameters:
        """The shared part of one server's settings."""
        values: dict[str, Any] = {name: _read(settings, at) for name, at in _PLACES.items()}
        apart = {name: _read(settings, at) for name, at in _UNSHOWN.items()}
        return cls.parse(_dump({**values, **_CONSTANTS, _APART: apart}))

    @classmethod
    def parse(cls, text: str) -> SharedParameters:
        """The inverse of `text`; KeyError when a setting is missing that rounds cannot do without.

        What an older server did not keep is as it was for that server.
        """
        values = json.loads(text)
        apart = _DEFAULTS | values.get(_APART, {})
        return cls(
            text=text,
            server_mode=apart["server_mode"],
            rounds_total=values["fl_iteration_num"],
            cohort_size=values["start_fl_job_threshold"],
            report_ratio=values["update_model_ratio"],
            select_window_ms=values["start_fl_job_time_window"],
            report_window_ms=values["update_model_time_window"],
            round_window_ms=values["global_iteration_time_window"],
            epochs=values["client_epoch_num"],
            batch_size=values["client_batch_size"],
            learning_rate=values["client_learning_rate"],
            upload_sparse_rate=values["upload_sparse_rate"],
            aggregation_type=values.get("aggregation_type", "FedAvg"),
            total_devices=values.get("total_client_num", 1),
            eval_type=apart["unsupervised.eval_type"],
            eval_window=apart["unsupervised.cluster_client_num"],
            mask_layout=apart["cluster.pw_mask_layout"],
            encrypt_type=values.get("encrypt_type", "NOT_ENCRYPT"),
            pki_verify=values.get("pki_verify", False),
            share_ratio=values.get("share_secrets_ratio", 1.0),
            reconstruct_threshold=values.get("reconstruct_secrets_threshold", 1),
            step_window_ms=values.get("cipher_time_window", 1),
            ring=RingSettings(
                corrupt=apart["encrypt.secure_aggregation.corrupt_ratio"],
                dropout=apart["encrypt.secure_aggregation.dropout_ratio"],
                least_devices=apart["encrypt.secure_aggregation.least_devices"],
                window_ms=apart["encrypt.secure_aggregation.step_window_ms"],
            ),
            protection=Protection.parse(values, apart),
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether devices send evaluation data, to be scored."""
        return self.eval_type != "NOT_EVAL"

    def adopted_by(self, settings: Settings) -> Settings:
        """`settings` with every shared value as it is here."""
        values = json.loads(self.text)
        apart = values.get(_APART, {})
        for kept, places in ((values, _PLACES), (apart, _UNSHOWN)):
            for name, place in places.items():
                if name in kept:
                    settings = _with(settings, place.split("."), kept[name])
        return settings

    def differences(self, other: SharedParameters) -> list[tuple[str, Any, Any]]:
        """(name, value here, value there) of the settings that differ."""
        mine, theirs = _flat(self.text), _flat(other.text)
        return [
            (name, mine[name], theirs.get(name)) for name in mine if mine[name] != theirs.get(name)
        ]


def visible(text: str) -> dict[str, Any]:
    """What management clients are shown of a job's settings."""
    return {name: value for name, value in json.loads(text).items() if name != _APART}


def _flat(text: str) -> dict[str, Any]:
    return {**visible(text), **_DEFAULTS, **json.loads(text).get(_APART, {})}


def _dump(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _read(settings: Settings, place: str) -> Any:
    return attrgetter(place)(settings)


def _with(section: T, path: Sequence[str], value: Any) -> T:
    """The section with one value of it, or of a section inside, replaced."""
    name, *inside = path
    current = getattr(section, name)
    if inside:
        value = _with(current, inside, value)
    elif isinstance(current, StrEnum | float):
        value = type(current)(value)
    changed: T = replace(section, **{name: value})  # type: ignore[type-var]
    return changed
