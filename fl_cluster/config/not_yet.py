"""Features whose keys are known and checked, but which this version does not have.

A value that would switch one on is refused, never ignored: a job that believes it is
encrypted must not run in the clear.  Where nothing but a file would be missing, and the
original's own examples set the key, a warning has to do.
Whoever builds a feature deletes its rows here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fl_cluster.config.rules import Value
from fl_cluster.config.tables import Values


@dataclass(frozen=True, slots=True)
class Missing:
    """One value of one key, and the feature it asks for."""

    key: str
    asks: Callable[[Value], bool]
    feature: str
    instead: str
    """What to write until the feature is there."""
    is_harmless: bool = False
    """Whether the job is what it says it is without the feature."""


def _is(wanted: Value) -> Callable[[Value], bool]:
    return lambda value: value == wanted


def _begins(prefix: str) -> Callable[[Value], bool]:
    return lambda value: str(value).startswith(prefix)


MODE = "server_mode"
AGGREGATION = "aggregation.aggregation_type"
CACHE = "distributed_cache.address"
ENCRYPT = "encrypt.encrypt_type"
UPLOAD = "compression.upload_compress_type"
DOWNLOAD = "compression.download_compress_type"
EVAL = "unsupervised.eval_type"

MISSING = (
    Missing(MODE, _is("HYBRID_TRAINING"), "workers that train on the cloud", "FEDERATED_LEARNING"),
    Missing(MODE, _is("CLOUD_TRAINING"), "training across silos", "FEDERATED_LEARNING"),
    Missing("enable_ssl", _is(True), "TLS", "false"),
    Missing(AGGREGATION, _is("FedProx"), "FedProx", "FedAvg"),
    Missing(AGGREGATION, _is("Scaffold"), "Scaffold", "FedAvg"),
    Missing(AGGREGATION, _is("FedNova"), "FedNova", "FedAvg"),
    Missing(CACHE, _begins("rediss://"), "TLS to Redis", "redis://"),
    Missing(EVAL, _is("SILHOUETTE_SCORE"), "unsupervised evaluation", "NOT_EVAL"),
    Missing(EVAL, _is("CALINSKI_HARABASZ_SCORE"), "unsupervised evaluation", "NOT_EVAL"),
    Missing(EVAL, _is("DAVIES_BOULDIN_SCORE"), "unsupervised evaluation", "NOT_EVAL"),
    Missing(ENCRYPT, _is("PW_ENCRYPT"), "secure aggregation", "NOT_ENCRYPT"),
    Missing(ENCRYPT, _is("STABLE_PW_ENCRYPT"), "secure aggregation", "NOT_ENCRYPT"),
    Missing(ENCRYPT, _is("DP_ENCRYPT"), "differential privacy", "NOT_ENCRYPT"),
    Missing(ENCRYPT, _is("SIGNDS"), "sign-based dimension selection", "NOT_ENCRYPT"),
    Missing(UPLOAD, _is("DIFF_SPARSE_QUANT"), "compressed uploads", "NO_COMPRESS"),
    Missing(DOWNLOAD, _is("QUANT"), "compressed downloads", "NO_COMPRESS"),
    Missing("client_verify.pki_verify", _is(True), "verification of devices", "false"),
    Missing("cluster.durability", _is("memory"), "acknowledging from memory", "durable"),
    Missing("summary.data_rate_dir", bool, "data-rate files", '""', is_harmless=True),
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
        sentence = (
            f"The value {_shown(row, value)} of parameter '{row.key}' asks for {row.feature}, "
            f"which this version does not have yet; set it to {row.instead}"
        )
        yield Refusal(row.key, sentence, row.is_harmless)


def _shown(row: Missing, value: Value) -> str:
    if row.key == CACHE:
        return str(value).partition("://")[0] + "://"
    return str(value).lower() if isinstance(value, bool) else str(value)
