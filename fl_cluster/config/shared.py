"""The settings that all servers of one job share, as they are kept with the job.

The first server's settings decide; a later server takes these over whatever its own file
says.  The JSON has the names and the order that management clients know, and single
precision numbers widened to double, as they have always been shown there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fl_cluster.config.schema import Settings

_FIELDS: dict[str, Callable[[Settings], Any]] = {
    "aggregation_type": lambda s: s.aggregation.method.value,
    "cipher_time_window": lambda s: s.encrypt.masking.window_ms,
    "client_batch_size": lambda s: s.device.batch_size,
    "client_epoch_num": lambda s: s.device.epochs,
    "client_learning_rate": lambda s: s.device.learning_rate,
    "download_compress_type": lambda s: s.compression.download.value,
    "dp_delta": lambda s: s.encrypt.privacy.delta,
    "dp_eps": lambda s: s.encrypt.privacy.epsilon,
    "dp_norm_clip": lambda s: s.encrypt.privacy.norm_clip,
    "enable_ssl": lambda s: s.tls.enabled,
    "encrypt_type": lambda s: s.encrypt.kind.value,
    "fl_iteration_num": lambda s: s.rounds_total,
    "global_iteration_time_window": lambda s: s.rounds.round_window_ms,
    "iid_rate": lambda s: s.aggregation.proximal_weight,
    "pki_verify": lambda s: s.verify.enabled,
    "reconstruct_secrets_threshold": lambda s: s.encrypt.masking.reconstruct_threshold,
    "secure_aggregation": lambda _: False,
    "share_secrets_ratio": lambda s: s.encrypt.masking.share_ratio,
    "sign_dim_out": lambda s: s.encrypt.signs.dimensions_out,
    "sign_eps": lambda s: s.encrypt.signs.epsilon,
    "sign_global_lr": lambda s: s.encrypt.signs.global_learning_rate,
    "sign_k": lambda s: s.encrypt.signs.top_ratio,
    "sign_thr_ratio": lambda s: s.encrypt.signs.threshold_ratio,
    "start_fl_job_threshold": lambda s: s.rounds.cohort_size,
    "start_fl_job_time_window": lambda s: s.rounds.select_window_ms,
    "total_client_num": lambda s: s.aggregation.total_devices,
    "update_model_ratio": lambda s: s.rounds.report_ratio,
    "update_model_time_window": lambda s: s.rounds.report_window_ms,
    "upload_compress_type": lambda s: s.compression.upload.value,
    "upload_sparse_rate": lambda s: s.compression.upload_sparse_rate,
}

MUST_BE_EQUAL = ("enable_ssl", "pki_verify", "encrypt_type", "aggregation_type")
"""A server that disagrees on one of these cannot serve the job at all."""


@dataclass(frozen=True, slots=True)
class SharedParameters:
    """What devices and rounds need of the shared settings, and all of them as JSON."""

    text: str
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

    @classmethod
    def of(cls, settings: Settings) -> SharedParameters:
        """The shared part of one server's settings."""
        values = {name: read(settings) for name, read in _FIELDS.items()}
        return cls.parse(json.dumps(values, sort_keys=True, separators=(",", ":")))

    @classmethod
    def parse(cls, text: str) -> SharedParameters:
        """The inverse of `text`."""
        values = json.loads(text)
        return cls(
            text=text,
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
        )

    def differences(self, other: SharedParameters) -> list[tuple[str, Any, Any]]:
        """(name, value here, value there) of the settings that differ."""
        mine, theirs = json.loads(self.text), json.loads(other.text)
        return [
            (name, mine[name], theirs.get(name)) for name in mine if mine[name] != theirs.get(name)
        ]
