"""Every key of the original's file: the one place where the names users write appear.

The order is the order in which the original checks, so the first problem found here is the
one it reports.  A key's third word is the field of the class in `schema` that it fills; it is
empty where a field is made from several keys.
This file is long because it is a table: one row per key, nothing computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_cluster.config import schema
from fl_cluster.config.addresses import parse_cache_address
from fl_cluster.config.rules import (
    UINT32_MAX,
    Above,
    AtLeast,
    Between,
    OneOf,
    OneServerMode,
    Readable,
)
from fl_cluster.config.tables import Block, Key, Kind

STR, INT, FLOAT, BOOL = Kind.STR, Kind.INT, Kind.FLOAT, Kind.BOOL

COUNT = Between(1, UINT32_MAX)
RATIO = Between(0.0, 1.0, low_open=True)

CIPHERS = (
    "ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:"
    "ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-CHACHA20-POLY1305:"
    "ECDHE-PSK-CHACHA20-POLY1305:"
    "ECDHE-ECDSA-AES128-CCM:"
    "ECDHE-ECDSA-AES256-CCM:"
    "ECDHE-ECDSA-CHACHA20-POLY1305"
)
CACHE_FORM = (
    "ip:port, name:port, [ipv6]:port, redis://, rediss://, unix:/path, "
    "sentinel://host:port,host:port/service or embedded"
)


JOB = Block(
    name="",
    meaning="The job as a whole.",
    server_only=False,
    keys=(
        Key(
            "fl_name",
            STR,
            "name",
            "Name of the job: part of every key in Redis and of checkpoint names.",
            required=True,
            example="Lenet",
        ),
        Key(
            "fl_iteration_num",
            INT,
            "rounds_total",
            "How many rounds the job runs.",
            required=True,
            rule=COUNT,
            example="25",
        ),
        Key(
            "server_mode",
            STR,
            "server_mode",
            "What kind of job it is.",
            required=True,
            rule=OneServerMode(schema.ServerMode),
            example="FEDERATED_LEARNING",
        ),
        Key(
            "enable_ssl",
            BOOL,
            "",
            "TLS for devices, operators, servers among themselves, and Redis.",
            required=True,
            example="false",
        ),
    ),
)

AGGREGATION = Block(
    name="aggregation",
    meaning="How updates become the next model.",
    server_only=False,
    keys=(
        Key(
            "aggregation_type",
            STR,
            "method",
            "The method of aggregation.",
            default="FedAvg",
            rule=OneOf(schema.AggregationType),
        ),
        Key(
            "iid_rate",
            FLOAT,
            "proximal_weight",
            "Weight of FedProx's proximal term, for workers.",
            default=0.0,
            rule=RATIO,
            example="0.1",
        ),
        Key(
            "total_client_num",
            INT,
            "total_devices",
            "Scaffold divides by this number of devices.",
            default=1,
            rule=COUNT,
        ),
    ),
)

CACHE = Block(
    name="distributed_cache",
    meaning="Redis, where everything the servers share is kept.",
    server_only=False,
    keys=(
        Key("type", STR, "kind", "Not used: the cache is always Redis.", default=""),
        Key(
            "address",
            STR,
            "",
            (
                "Where Redis is; `embedded` starts a private one and stops it with its last user; "
                "`sentinel://` names Sentinels, who know which Redis is the primary."
            ),
            required=True,
            rule=Readable(parse_cache_address, CACHE_FORM),
            example="127.0.0.1:6379",
        ),
        Key(
            "plugin_lib_path",
            STR,
            "plugin_path",
            "Not used: there are no cache plug-ins.",
            default="",
        ),
        Key(
            "username",
            STR,
            "",
            "Redis ACL user; wins over the one in the address.",
            default="",
        ),
        Key(
            "password",
            STR,
            "",
            "Redis password; better given as `FL_CLUSTER_REDIS_PASSWORD`. A file that holds one "
            "and that every user of the host may read is refused.",
            default="",
            is_secret=True,
        ),
        Key(
            "cacert_filename",
            STR,
            "ca_file",
            "PEM file of the authorities Redis's certificate may come from.",
            default="",
            takes_scalars=True,
        ),
        Key("capath", STR, "ca_folder", "Folder of such files.", default="", takes_scalars=True),
        Key(
            "cert_filename",
            STR,
            "certificate_file",
            "PEM certificate shown to Redis.",
            default="",
            takes_scalars=True,
        ),
        Key(
            "private_key_filename",
            STR,
            "key_file",
            "PEM key of that certificate; one that every user of the host may read is warned of.",
            default="",
            takes_scalars=True,
        ),
        Key(
            "server_name",
            STR,
            "server_name",
            "Name that Redis's certificate must carry.",
            default="",
            takes_scalars=True,
        ),
    ),
)

TLS = Block(
    name="ssl",
    meaning="Certificates of the cluster's own connections.",
    server_only=False,
    applies=lambda values: values["enable_ssl"] is True,
    applies_when="enable_ssl is true",
    keys=(
        Key(
            "server_cert_path",
            STR,
            "server_certificate",
            "PKCS#12 or PEM file shown by servers and the scheduler.",
            required=True,
            default="",
            example="server.p12",
        ),
        Key(
            "server_key_path",
            STR,
            "server_key",
            "PEM file of its key, when server_cert_path is a PEM file without one.",
            default="",
        ),
        Key(
            "client_cert_path",
            STR,
            "client_certificate",
            "PKCS#12 or PEM file a process shows to the others of its cluster.",
            required=True,
            default="",
            example="client.p12",
        ),
        Key(
            "client_key_path",
            STR,
            "client_key",
            "PEM file of its key, when client_cert_path is a PEM file without one.",
            default="",
        ),
        Key(
            "ca_cert_path",
            STR,
            "ca_certificate",
            "PEM file of the authority both come from.",
            required=True,
            default="",
            example="ca.crt",
        ),
        Key("crl_path", STR, "revocation_list", "PEM file of revoked certificates.", default=""),
        Key(
            "cipher_list",
            STR,
            "cipher_list",
            "Cipher suites of TLS 1.2 allowed, separated by colons; those of TLS 1.3 it does not "
            "choose.",
            required=True,
            default="",
            example=CIPHERS,
        ),
        Key(
            "cert_expire_warning_time_in_day",
            INT,
            "expiry_warning_days",
            "Days before a certificate ends at which warnings begin.",
            default=90,
            rule=Between(7, 180),
        ),
    ),
)

ROUND = Block(
    name="round",
    meaning="How many devices a round admits and how long each part of it may take.",
    keys=(
        Key(
            "start_fl_job_threshold",
            INT,
            "cohort_size",
            "How many devices a round admits.",
            required=True,
            rule=COUNT,
            example="2",
        ),
        Key(
            "start_fl_job_time_window",
            INT,
            "select_window_ms",
            "Milliseconds from the first device's check-in until all must be in.",
            required=True,
            rule=COUNT,
            example="30000",
        ),
        Key(
            "update_model_ratio",
            FLOAT,
            "report_ratio",
            "Share of the admitted devices whose updates end the round.",
            required=True,
            rule=RATIO,
            example="1.0",
        ),
        Key(
            "update_model_time_window",
            INT,
            "report_window_ms",
            "Milliseconds from the first update until all must be in.",
            required=True,
            rule=COUNT,
            example="30000",
        ),
        Key(
            "global_iteration_time_window",
            INT,
            "round_window_ms",
            "Milliseconds a whole round may take.",
            required=True,
            rule=COUNT,
            example="60000",
        ),
    ),
)

SUMMARY = Block(
    name="summary",
    meaning="Files in which the job is accounted for.",
    keys=(
        Key(
            "participation_time_level",
            STR,
            "participation_levels",
            "Two limits in minutes by which devices' times are sorted.",
            default="5,15",
        ),
        Key(
            "continuous_failure_times",
            INT,
            "failures_in_a_row",
            "Failed rounds in a row that make an entry in the event file.",
            default=10,
            rule=AtLeast(1),
        ),
        Key(
            "metrics_file",
            STR,
            "metrics_file",
            "File that gets one JSON line per round.",
            required=True,
            example="metrics.json",
        ),
        Key(
            "failure_event_file",
            STR,
            "event_file",
            "File that gets one line per event.",
            required=True,
            example="event.txt",
        ),
        Key(
            "data_rate_dir",
            STR,
            "data_rate_dir",
            "Folder for data-rate files; empty: none are written.",
            default="",
        ),
    ),
)

UNSUPERVISED = Block(
    name="unsupervised",
    meaning="A score over unlabelled evaluation data.",
    keys=(
        Key(
            "cluster_client_num",
            INT,
            "sample_count",
            "How many uploads the score is computed over; needed when it is on.",
            default=0,
            rule=AtLeast(1),
            example="2000",
        ),
        Key(
            "eval_type",
            STR,
            "eval_type",
            "Which score is computed.",
            default="NOT_EVAL",
            rule=OneOf(schema.EvalType),
        ),
    ),
)

ENCRYPT = Block(
    name="encrypt",
    meaning="How a single update is hidden from the servers.",
    keys=(
        Key(
            "encrypt_type",
            STR,
            "kind",
            "The method.",
            default="NOT_ENCRYPT",
            rule=OneOf(schema.EncryptType, ours=(schema.EncryptType.SECURE_AGGREGATION,)),
        ),
    ),
)

MASKING = Block(
    name="encrypt.pw_encrypt",
    meaning="Secure aggregation with pairwise masks.",
    applies=lambda values: values["encrypt.encrypt_type"] in ("PW_ENCRYPT", "STABLE_PW_ENCRYPT"),
    applies_when="encrypt_type is PW_ENCRYPT or STABLE_PW_ENCRYPT",
    keys=(
        Key(
            "share_secrets_ratio",
            FLOAT,
            "share_ratio",
            "Share of the devices that must take part in each exchange.",
            required=True,
            default=1.0,
            rule=RATIO,
            example="1.0",
        ),
        Key(
            "cipher_time_window",
            INT,
            "window_ms",
            "Milliseconds each exchange may take.",
            required=True,
            default=1,
            rule=COUNT,
            example="300000",
        ),
        Key(
            "reconstruct_secrets_threshold",
            INT,
            "reconstruct_threshold",
            "How many devices can rebuild the masks of one that is gone.",
            required=True,
            default=1,
            rule=COUNT,
            example="1",
        ),
    ),
)

PRIVACY = Block(
    name="encrypt.dp_encrypt",
    meaning="Differential privacy: noise that devices add.",
    applies=lambda values: values["encrypt.encrypt_type"] == "DP_ENCRYPT",
    applies_when="encrypt_type is DP_ENCRYPT",
    keys=(
        Key(
            "dp_eps",
            FLOAT,
            "epsilon",
            "Privacy budget epsilon.",
            default=50.0,
            rule=Above(0.0),
        ),
        Key(
            "dp_delta",
            FLOAT,
            "delta",
            "Probability delta that the budget does not hold.",
            default=0.01,
            rule=Between(0.0, 1.0, low_open=True, high_open=True),
        ),
        Key(
            "dp_norm_clip",
            FLOAT,
            "norm_clip",
            "Norm to which an update is clipped.",
            default=1.0,
            rule=Above(0.0),
        ),
    ),
)

SIGNS = Block(
    name="encrypt.signds",
    meaning="Devices upload signs of a few chosen dimensions.",
    applies=lambda values: values["encrypt.encrypt_type"] == "SIGNDS",
    applies_when="encrypt_type is SIGNDS",
    keys=(
        Key(
            "sign_k",
            FLOAT,
            "top_ratio",
            "Share of the dimensions that count as the top.",
            default=0.01,
            rule=Between(0.0, 0.25, low_open=True),
        ),
        Key(
            "sign_eps",
            FLOAT,
            "epsilon",
            "Privacy budget.",
            default=100.0,
            rule=Between(0.0, 100.0, low_open=True),
        ),
        Key(
            "sign_thr_ratio",
            FLOAT,
            "threshold_ratio",
            "Share of the chosen dimensions that must be from the top.",
            default=0.6,
            rule=Between(0.5, 1.0),
        ),
        Key(
            "sign_global_lr",
            FLOAT,
            "global_learning_rate",
            "What one sign is worth.",
            default=0.1,
            rule=Above(0.0),
        ),
        Key(
            "sign_dim_out",
            INT,
            "dimensions_out",
            "How many dimensions are uploaded; 0: computed from the others.",
            default=0,
            rule=Between(0, 50),
        ),
    ),
)

COMPRESSION = Block(
    name="compression",
    meaning="How uploads and downloads are made smaller.",
    keys=(
        Key(
            "upload_compress_type",
            STR,
            "upload",
            "How devices shrink what they upload.",
            default="NO_COMPRESS",
            rule=OneOf(schema.UploadCompression),
        ),
        Key(
            "upload_sparse_rate",
            FLOAT,
            "upload_sparse_rate",
            "Share of the weights that is uploaded.",
            default=0.4,
            rule=RATIO,
        ),
        Key(
            "download_compress_type",
            STR,
            "download",
            "How servers shrink the models they hand out.",
            default="NO_COMPRESS",
            rule=OneOf(schema.DownloadCompression),
        ),
    ),
)

VERIFY = Block(
    name="client_verify",
    meaning="Whether devices must prove who they are.",
    keys=(
        Key(
            "pki_verify",
            BOOL,
            "enabled",
            "Check certificates and signatures of devices.",
            default=False,
        ),
        Key(
            "root_first_ca_path",
            STR,
            "first_root_ca",
            "PEM file of the first root authority of devices.",
            default="",
        ),
        Key(
            "root_second_ca_path",
            STR,
            "second_root_ca",
            "PEM file of the second root authority of devices.",
            default="",
        ),
        Key(
            "equip_crl_path",
            STR,
            "revocation_list",
            "PEM file of revoked device certificates.",
            default="",
        ),
        Key(
            "replay_attack_time_diff",
            INT,
            "clock_distance_ms",
            "Milliseconds a device's clock may differ from ours.",
            default=600_000,
            rule=AtLeast(0),
        ),
    ),
)

DEVICE = Block(
    name="client",
    meaning="What devices are told, and how many may be connected.",
    keys=(
        Key(
            "http_url_prefix",
            STR,
            "url_prefix",
            "Text before the path of every device request.",
            default="",
        ),
        Key(
            "client_epoch_num",
            INT,
            "epochs",
            "Passes over its own data a device makes per round.",
            default=25,
            rule=AtLeast(1),
        ),
        Key(
            "client_batch_size",
            INT,
            "batch_size",
            "Samples per training step on a device.",
            default=32,
            rule=AtLeast(1),
        ),
        Key(
            "client_learning_rate",
            FLOAT,
            "learning_rate",
            "Learning rate on a device.",
            default=0.001,
            rule=Above(0.0),
        ),
        Key(
            "connection_num",
            INT,
            "connection_limit",
            "Connections a server holds open at a time.",
            default=10_000,
            rule=AtLeast(1),
        ),
    ),
)

BLOCKS = (
    JOB,
    AGGREGATION,
    CACHE,
    TLS,
    ROUND,
    SUMMARY,
    UNSUPERVISED,
    ENCRYPT,
    MASKING,
    PRIVACY,
    SIGNS,
    COMPRESSION,
    VERIFY,
    DEVICE,
)

ELSEWHERE: Mapping[str, str] = {
    "checkpoint_dir": "it is not read from the file: give --checkpoint_dir to the server",
    "http_server_address": "it is not read from the file: give --http_server_address",
    "tcp_server_ip": "it is not read from the file: give --tcp_server_ip",
    "scheduler_manage_address": "it is not read from the file: give --scheduler_manage_address",
}
"""Keys that manuals or habit put into the file, and where they belong."""
