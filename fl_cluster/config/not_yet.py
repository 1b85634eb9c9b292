"""Features whose keys are known and checked, but which this version does not have.

A value that would switch one on is refused, never ignored: a job that believes it is
encrypted must not run in the clear.  Where nothing but a file would be missing, and the
original's own examples set the key, a warning has to do.
Whoever builds a feature deletes its rows here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fl_cluster.config.rules import Value
from fl_cluster.config.tables import Values


@dataclass(frozen=True, slots=True)
class Missing:
    """One value of one key, and the feature it asks for."""

    key: str
    value: str
    """The value as it is written; for addresses, how it begins; `any` stands for any text."""
    feature: str
    instead: str
    """What to write until the feature is there."""
    is_harmless: bool = False
    """Whether the job is what it says it is without the feature."""

    def asks(self, value: Value) -> bool:
        """Whether `value` is the one that asks for the feature."""
        if self.value == "any":
            return value != ""
        if self.value.endswith("://"):
            return str(value).startswith(self.value)
        return _shown(value) == self.value


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


MODE = "server_mode"
AGGREGATION = "aggregation.aggregation_type"
CACHE = "distributed_cache.address"
ENCRYPT = "encrypt.encrypt_type"
UPLOAD = "compression.upload_compress_type"
DOWNLOAD = "compression.download_compress_type"
EVAL = "unsupervised.eval_type"

MISSING = (
    Missing(MODE, "HYBRID_TRAINING", "workers that train on the cloud", "FEDERATED_LEARNING"),
    Missing(MODE, "CLOUD_TRAINING", "training across silos", "FEDERATED_LEARNING"),
    Missing("enable_ssl", "true", "TLS", "false"),
    Missing(AGGREGATION, "FedProx", "FedProx", "FedAvg"),
    Missing(AGGREGATION, "Scaffold", "Scaffold", "FedAvg"),
    Missing(AGGREGATION, "FedNova", "FedNova", "FedAvg"),
    Missing(CACHE, "rediss://", "TLS to Redis", "redis://"),
    Missing(EVAL, "SILHOUETTE_SCORE", "unsupervised evaluation", "NOT_EVAL"),
    Missing(EVAL, "CALINSKI_HARABASZ_SCORE", "unsupervised evaluation", "NOT_EVAL"),
    Missing(EVAL, "DAVIES_BOULDIN_SCORE", "unsupervised evaluation", "NOT_EVAL"),
    Missing(ENCRYPT, "PW_ENCRYPT", "secure aggregation", "NOT_ENCRYPT"),
    Missing(ENCRYPT, "STABLE_PW_ENCRYPT", "secure aggregation", "NOT_ENCRYPT"),
    Missing(ENCRYPT, "DP_ENCRYPT", "differential privacy", "NOT_ENCRYPT"),
    Missing(ENCRYPT, "SIGNDS", "sign-based dimension selection", "NOT_ENCRYPT"),
    Missing(UPLOAD, "DIFF_SPARSE_QUANT", "compressed uploads", "NO_COMPRESS"),
    Missing(DOWNLOAD, "QUANT", "compressed downloads", "NO_COMPRESS"),
    Missing("client_verify.pki_verify", "true", "verification of devices", "false"),
    Missing("summary.data_rate_dir", "any", "data-rate files", '""', is_harmless=True),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said about one value that asks for a missing feature."""

    key: str
    sentence: str
    is_harmless: bool


def missing_features(values: Values) -> Iterator[Refusal]:
    """A refusal for each value that asks for what is not there yet."""
    for row in MISSING:
        value = values.get(row.key)
        if value is None or not row.asks(value):
            continue
        # Of an address only the beginning is shown: the rest may hold a password.
        shown = row.value if row.value.endswith("://") else _shown(value)
        sentence = (
            f"The value {shown} of parameter '{row.key}' asks for {row.feature}, "
            f"which this version does not have yet; set it to {row.instead}"
        )
        yield Refusal(row.key, sentence, row.is_harmless)
