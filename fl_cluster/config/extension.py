"""The keys this cluster adds to the original's file, each with the reason for its default."""

from __future__ import annotations

from fl_cluster.config import schema
from fl_cluster.config.addresses import parse_address, parse_networks
from fl_cluster.config.rules import Above, Between, OneOf, Readable
from fl_cluster.config.tables import Block, Key, Kind

STR, INT, FLOAT, BOOL = Kind.STR, Kind.INT, Kind.FLOAT, Kind.BOOL

ADDRESS_FORM = "ip:port, name:port or [ipv6]:port"


def _optional_address(text: str) -> None:
    if text:
        parse_address(text)


CLUSTER = Block(
    name="cluster",
    meaning="What this cluster adds to the original; all of it may be left out.",
    server_only=False,
    is_closed=True,
    keys=(
        Key(
            "data_dir",
            STR,
            "data_dir",
            "Folder for what outlives the processes: the files of the embedded Redis.",
            default="./fl_data",
        ),
        Key(
            "durability",
            STR,
            "durability",
            (
                "When an upload is acknowledged: once Redis has it (durable), or once the "
                "server has added it (memory), which is faster and lost with the server."
            ),
            default="durable",
            rule=OneOf(schema.Durability),
        ),
        Key(
            "hold_ms",
            INT,
            "hold_ms",
            (
                "Milliseconds for which a request for a model that is not there yet is held open "
                "instead of being refused, and up to 2 s more while that model is being made: "
                "saves polling. 0 turns it off. Masked rounds have masked_hold_ms."
            ),
            default=200,
            rule=Between(0, 25_000),
        ),
        Key(
            "masked_hold_ms",
            INT,
            "masked_hold_ms",
            (
                "The same in jobs of PW_ENCRYPT and STABLE_PW_ENCRYPT, for keys, shares and lists "
                "too. An existing device that is refused comes back after ten seconds, and gives "
                "a request up after three times its timeOut (90 s unless its owner chose "
                "another): where all can wait, 20000 makes rounds of unequal devices faster."
            ),
            default=2_500,
            rule=Between(0, 25_000),
        ),
        Key(
            "body_limit_mb",
            INT,
            "body_limit_mb",
            (
                "Largest request body in MiB, so that no device can fill the memory; "
                "0 makes the limit from the model's size."
            ),
            default=0,
            rule=Between(0, 1_048_576),
        ),
        Key(
            "bytes_in_flight_mb",
            INT,
            "bytes_in_flight_mb",
            (
                "MiB of request bodies a server holds at a time; beyond it others wait, then are "
                "told to come back, so that memory does not grow with their number; 0: one and "
                "a half of the largest body, at least 32."
            ),
            default=0,
            rule=Between(0, 1_048_576),
        ),
        Key(
            "lease_ms",
            INT,
            "lease_ms",
            (
                "How long a server that says nothing still counts as alive; renewed ten times "
                "as often, so that one lost renewal means nothing."
            ),
            default=10_000,
            rule=Between(1_000, 600_000),
        ),
        Key(
            "advertise_http_address",
            STR,
            "advertise_http_address",
            (
                "Address under which devices reach this server when it is not the one it "
                "listens on: behind a load balancer, or listening on 0.0.0.0."
            ),
            default="",
            rule=Readable(_optional_address, ADDRESS_FORM),
            example="fl.example.org:6666",
        ),
        Key(
            "advertise_tcp_address",
            STR,
            "advertise_tcp_address",
            "The same for the other processes of the cluster.",
            default="",
            rule=Readable(_optional_address, ADDRESS_FORM),
            example="10.0.0.7:7777",
        ),
        Key(
            "trusted_proxies",
            STR,
            "trusted_proxies",
            (
                "Addresses of proxies and load balancers whose X-Forwarded-For and "
                "X-Forwarded-Proto are believed; nobody else's are, because anyone can write them. "
                "Each is to write both, or to add to both."
            ),
            default="",
            rule=Readable(parse_networks, "addresses or networks, separated by commas"),
            example="10.0.0.0/8, 192.168.7.1",
        ),
        Key(
            "token_file",
            STR,
            "token_file",
            (
                "File of tokens beside those of `fl-cluster token create`, one per line: the "
                "token, then optionally its label, role=operator, expires=2027-01-31. It is read "
                "again when it changes, and refused when every user of the host may read it."
            ),
            default="",
            example="/etc/fl_cluster/tokens",
        ),
        Key(
            "require_token",
            BOOL,
            "require_token",
            ("Devices need a token even before the first one was made; after that they always do."),
            default=False,
        ),
        Key(
            "allow_tokens_over_http",
            BOOL,
            "allow_tokens_over_http",
            (
                "Take tokens over plain HTTP too, where anyone on the way can read and use them: "
                "for trials on one host or in a network that is protected otherwise."
            ),
            default=False,
        ),
        Key(
            "header_timeout_s",
            INT,
            "header_timeout_s",
            "Seconds a device may take to send the head of a request.",
            default=10,
            rule=Between(1, 3_600),
        ),
        Key(
            "idle_timeout_s",
            INT,
            "idle_timeout_s",
            (
                "Seconds a connection may lie idle between requests; longer than the 60 s of "
                "common load balancers, which must be the ones to close."
            ),
            default=75,
            rule=Between(1, 86_400),
        ),
        Key(
            "redis_timeout_ms",
            INT,
            "redis_timeout_ms",
            "Milliseconds until Redis is taken to be away.",
            default=5_000,
            rule=Between(100, 600_000),
        ),
        Key(
            "redis_pool",
            INT,
            "redis_pool",
            (
                "Connections to Redis per process. Commits are batched, so few suffice; one is "
                "always taken by the listener for events."
            ),
            default=16,
            rule=Between(2, 1_024),
        ),
        Key(
            "pw_mask_layout",
            STR,
            "mask_layout",
            (
                "Where in each tensor the masks of PW_ENCRYPT begin: anew (restart), as all known "
                "devices have it, or where the tensor before ended (running). All devices of a "
                "job must do the same; those of the SDK begin anew."
            ),
            default="restart",
            rule=OneOf(schema.MaskLayout),
        ),
        Key(
            "log_level",
            STR,
            "log_level",
            "The least severe messages that are logged; `GLOG_v` wins when it is set.",
            default="INFO",
            rule=OneOf(schema.LogLevel),
        ),
        Key(
            "log_format",
            STR,
            "log_format",
            "Lines for people (text) or for machines (json).",
            default="text",
            rule=OneOf(schema.LogFormat),
        ),
    ),
)

RING = Block(
    name="encrypt.secure_aggregation",
    meaning="Secure aggregation with masks over the integers, for devices of this project.",
    is_closed=True,
    applies=lambda values: values["encrypt.encrypt_type"] == schema.EncryptType.SECURE_AGGREGATION,
    applies_when="encrypt_type is SECURE_AGGREGATION",
    keys=(
        Key(
            "corrupt_ratio",
            FLOAT,
            "corrupt",
            (
                "Share of a round's devices that may tell the servers everything they know "
                "without an update of the others being exposed; devices of this project insist "
                "on at least 0.05 unless their owner demands something else."
            ),
            default=0.05,
            rule=Between(0.0, 1.0, high_open=True),
        ),
        Key(
            "dropout_ratio",
            FLOAT,
            "dropout",
            (
                "Share of a round's devices that may vanish once keys are exchanged without the "
                "round being lost; the more, the more neighbours each device needs."
            ),
            default=0.2,
            rule=Between(0.0, 1.0, high_open=True),
        ),
        Key(
            "least_devices",
            INT,
            "least_devices",
            (
                "How many updates must be in a sum before devices help to read it; devices of "
                "this project insist on at least 3 unless their owner demands something else."
            ),
            default=3,
            rule=Between(2, 1_000_000_000),
        ),
        Key(
            "step_window_ms",
            INT,
            "window_ms",
            (
                "Milliseconds that each step of the exchange may take from its first message on "
                "before the round is given up; the first step waits for the cohort too."
            ),
            default=300_000,
            rule=Between(1, 9_223_372_036_854_775_807),
        ),
    ),
)

NOISE = Block(
    name="privacy",
    meaning="Central differential privacy, and what the noise of a job may cost in all.",
    is_closed=True,
    keys=(
        Key(
            "noise",
            STR,
            "kind",
            (
                "Who adds noise to the sum of a round: nobody, or the servers (central), which "
                "then clip each update first and count every device alike, whatever its data "
                "size: a weight that a device chooses itself would have no bound."
            ),
            default="none",
            rule=OneOf(schema.NoiseKind),
        ),
        Key(
            "clip_norm",
            FLOAT,
            "clip_norm",
            (
                "L2 norm to which the difference of each update from the model that its round "
                "started from is cut, over all aggregated tensors together."
            ),
            default=1.0,
            rule=Above(0.0),
            example="0.5",
        ),
        Key(
            "noise_multiplier",
            FLOAT,
            "noise_multiplier",
            (
                "Standard deviation of the noise in the sum, over clip_norm; "
                "`fl-cluster privacy plan` says what it comes to."
            ),
            default=1.0,
            rule=Above(0.0),
            example="1.1",
        ),
        Key(
            "epsilon_budget",
            FLOAT,
            "epsilon_budget",
            (
                "What the noise of the job, the servers' or with DP_ENCRYPT the devices', may "
                "cost in all; the job ends before the round that would exceed it. 0: no limit."
            ),
            default=0.0,
            rule=Between(0.0, 1e9),
            example="8.0",
        ),
        Key(
            "delta",
            FLOAT,
            "delta",
            (
                "The delta at which the cost is told and compared with the budget; far below "
                "one over the number of people whose data are used."
            ),
            default=1e-5,
            rule=Between(0.0, 1.0, low_open=True, high_open=True),
            example="1.0e-6",
        ),
    ),
)
