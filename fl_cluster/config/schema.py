"""What the configuration is once it has been checked: frozen values in the words of the code.

A scheduler gets `JobSettings`; a server gets `Settings`, which adds what only a server looks
at.  Every value here is inside its range.  Floats hold exactly what single precision keeps of
them, because the numbers that devices and other servers are told are single precision.

The names users write in the file are in `legacy`, and nowhere here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from fl_cluster.config.addresses import CacheAddress


class Role(StrEnum):
    """Who reads the configuration; a scheduler looks only at the sections of `JobSettings`."""

    SERVER = "server"
    SCHEDULER = "scheduler"


class ServerMode(StrEnum):
    """What kind of job the servers serve."""

    FEDERATED_LEARNING = "FEDERATED_LEARNING"
    HYBRID_TRAINING = "HYBRID_TRAINING"
    CLOUD_TRAINING = "CLOUD_TRAINING"


class AggregationType(StrEnum):
    """How updates become the next model."""

    FED_AVG = "FedAvg"
    FED_PROX = "FedProx"
    SCAFFOLD = "Scaffold"
    FED_NOVA = "FedNova"


class EvalType(StrEnum):
    """Which score of unlabelled evaluation data is computed."""

    NOT_EVAL = "NOT_EVAL"
    SILHOUETTE_SCORE = "SILHOUETTE_SCORE"
    CALINSKI_HARABASZ_SCORE = "CALINSKI_HARABASZ_SCORE"
    DAVIES_BOULDIN_SCORE = "DAVIES_BOULDIN_SCORE"


class EncryptType(StrEnum):
    """How a single update is hidden from the servers."""

    NOT_ENCRYPT = "NOT_ENCRYPT"
    PW_ENCRYPT = "PW_ENCRYPT"
    STABLE_PW_ENCRYPT = "STABLE_PW_ENCRYPT"
    DP_ENCRYPT = "DP_ENCRYPT"
    SIGNDS = "SIGNDS"
    SECURE_AGGREGATION = "SECURE_AGGREGATION"


class NoiseKind(StrEnum):
    """Who adds noise to the sum of a round."""

    NONE = "none"
    CENTRAL = "central"


class UploadCompression(StrEnum):
    """How devices shrink what they upload."""

    NO_COMPRESS = "NO_COMPRESS"
    DIFF_SPARSE_QUANT = "DIFF_SPARSE_QUANT"


class DownloadCompression(StrEnum):
    """How servers shrink the models they hand out."""

    NO_COMPRESS = "NO_COMPRESS"
    QUANT = "QUANT"


class Durability(StrEnum):
    """When an upload is acknowledged."""

    DURABLE = "durable"
    MEMORY = "memory"


class MaskLayout(StrEnum):
    """Where in each tensor the masks of existing devices begin."""

    RESTART = "restart"
    RUNNING = "running"


class LogLevel(StrEnum):
    """The least severe messages that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationSettings:
    """How updates become the next model, and the constants of that method."""

    method: AggregationType
    proximal_weight: float
    total_devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Where the shared state lives, and the files for TLS to it (empty: not given)."""

    address: CacheAddress
    kind: str
    plugin_path: str
    ca_file: str
    ca_folder: str
    certificate_file: str
    key_file: str
    server_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """Certificates of the cluster's own connections; all paths are empty unless `enabled`."""

    enabled: bool
    server_certificate: str
    server_key: str
    client_certificate: str
    client_key: str
    ca_certificate: str
    revocation_list: str
    cipher_list: str
    expiry_warning_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """What this cluster adds to the original's configuration."""

    data_dir: str
    durability: Durability
    hold_ms: int
    masked_hold_ms: int
    body_limit_mb: int
    """Largest request body; 0 stands for a limit made from the model's size."""
    bytes_in_flight_mb: int
    lease_ms: int
    advertise_http_address: str
    """Empty: the address the server listens on."""
    advertise_tcp_address: str
    """Empty: the address the server listens on."""
    trusted_proxies: str
    """Networks, separated by commas; `addresses.parse_networks` reads it."""
    token_file: str
    """Empty: there is none."""
    require_token: bool
    allow_tokens_over_http: bool
    header_timeout_s: int
    idle_timeout_s: int
    redis_timeout_ms: int
    redis_pool: int
    mask_layout: MaskLayout
    log_level: LogLevel
    log_format: LogFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettings:
    """How many devices a round admits and how long each part of it may take."""

    cohort_size: int
    select_window_ms: int
    report_ratio: float
    report_window_ms: int
    round_window_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarySettings:
    """Files in which the job is accounted for."""

    participation_levels: str
    """Two limits in minutes, as text; `telemetry.summary` reads it and has the default."""
    failures_in_a_row: int
    """How many rounds must fail one after the other to be an event."""
    metrics_file: str
    event_file: str
    data_rate_dir: str
    """Empty: no data-rate files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupervisedSettings:
    """The score over unlabelled evaluation data; `sample_count` is 0 when not given."""

    sample_count: int
    eval_type: EvalType


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingSettings:
    """Secure aggregation with pairwise masks."""

    share_ratio: float
    window_ms: int
    reconstruct_threshold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSettings:
    """Secure aggregation with masks over the integers, for devices of this project."""

    corrupt: float
    dropout: float
    least_devices: int
    window_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """Differential privacy: noise that devices add."""

    epsilon: float
    delta: float
    norm_clip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignSettings:
    """Devices upload signs of a few chosen dimensions."""

    top_ratio: float
    epsilon: float
    threshold_ratio: float
    global_learning_rate: float
    dimensions_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """Differential privacy: noise that servers add, and what any noise may cost."""

    kind: NoiseKind
    clip_norm: float
    noise_multiplier: float
    epsilon_budget: float
    """0: there is none."""
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptSettings:
    """How updates are hidden; the parts that do not belong to `kind` hold their defaults."""

    kind: EncryptType
    masking: MaskingSettings
    ring: RingSettings
    privacy: PrivacySettings
    signs: SignSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionSettings:
    """How uploads and downloads are made smaller."""

    upload: UploadCompression
    upload_sparse_rate: float
    download: DownloadCompression


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """Whether devices must prove who they are, and to whom (empty paths: not given)."""

    enabled: bool
    first_root_ca: str
    second_root_ca: str
    revocation_list: str
    clock_distance_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What devices are told, and how many connections they may hold."""

    url_prefix: str
    epochs: int
    batch_size: int
    learning_rate: float
    connection_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What every process of a job looks at."""

    file: str
    """The path of the file these settings came from, as it was given."""
    name: str
    rounds_total: int
    server_mode: ServerMode
    aggregation: AggregationSettings
    cache: CacheSettings
    tls: TlsSettings
    cluster: ClusterSettings
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """Sentences about keys that are ignored; the process logs them when it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(JobSettings):
    """What a server looks at."""

    rounds: RoundSettings
    summary: SummarySettings
    unsupervised: UnsupervisedSettings
    encrypt: EncryptSettings
    noise: NoiseSettings
    compression: CompressionSettings
    verify: VerifySettings
    device: DeviceSettings
