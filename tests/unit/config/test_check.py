"""Every key's type, range, default and message, as the original has them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from fl_cluster.config.check import single
from fl_cluster.config.keys import BLOCKS, KEYS
from fl_cluster.config.ring import DEMANDED
from fl_cluster.config.tables import Kind
from fl_cluster.privacy.ring.demands import Demands

# What has to be set besides for a key to be looked at, and to be the only thing wrong.
CONTEXT: dict[str, dict[str, Any]] = {
    "encrypt.pw_encrypt": {
        "encrypt.encrypt_type": "PW_ENCRYPT",
        "encrypt.pw_encrypt.share_secrets_ratio": 1.0,
        "encrypt.pw_encrypt.cipher_time_window": 3000,
        "encrypt.pw_encrypt.reconstruct_secrets_threshold": 1,
    },
    "encrypt.dp_encrypt": {"encrypt.encrypt_type": "DP_ENCRYPT"},
    "encrypt.signds": {"encrypt.encrypt_type": "SIGNDS"},
    "encrypt.secure_aggregation": {"encrypt.encrypt_type": "SECURE_AGGREGATION"},
    "ssl": {
        "enable_ssl": True,
        "ssl.server_cert_path": "server.p12",
        "ssl.client_cert_path": "client.p12",
        "ssl.ca_cert_path": "ca.crt",
        "ssl.cipher_list": "ECDHE-RSA-AES128-GCM-SHA256",
    },
}

WRONG = {
    Kind.STR: [(5, "int"), (1.5, "float"), (True, "bool"), ({"a": 1}, "dict")],
    Kind.INT: [("5", "str"), (1.0, "float"), (True, "bool"), ({"a": 1}, "dict")],
    Kind.FLOAT: [("0.5", "str"), (True, "bool"), ({"a": 1}, "dict")],
    Kind.BOOL: [("true", "str"), (1, "int"), (0.0, "float"), ({"a": 1}, "dict")],
}

WRONG_TYPES = [
    (block.path(key), key.kind, value, actual)
    for block in BLOCKS
    for key in block.keys
    for value, actual in WRONG[key.kind]
    if actual == "dict" or not key.takes_scalars
]


def context_of(path: str) -> dict[str, Any]:
    return CONTEXT.get(path.rpartition(".")[0], {})


@pytest.mark.parametrize(("path", "kind", "value", "actual"), WRONG_TYPES)
def test_a_value_of_the_wrong_type_gets_the_originals_message(bench, path, kind, value, actual):
    messages = bench.problems(bench.server, {**context_of(path), path: value})

    stray = "<< " if kind is Kind.STR else ""
    expected = (
        f"The parameter '{path}' is expected to be type {kind}, actually {stray}{actual}, "
        f"yaml config file: {bench.file}"
    )
    assert expected == messages[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("fl_iteration_num", -(10**30)),
        ("round.update_model_ratio", 10**200),
        ("summary.continuous_failure_times", 2**63),
        ("fl_name", 2**63),
    ],
)
def test_a_number_beyond_64_bits_comes_before_everything_else(bench, path, value):
    messages = bench.problems(bench.server, {"server_mode": 1, path: value})

    assert messages[0] == (
        f"The parameter '{path}' is an integer that does not fit 64 bits, "
        f"yaml config file: {bench.file}"
    )
    assert len(messages) == 2


def test_the_largest_number_of_64_bits_is_none_too_many(bench):
    settings = bench.server({"summary.continuous_failure_times": 2**63 - 1})

    assert settings.summary.failures_in_a_row == 2**63 - 1


def test_keys_that_are_handed_to_redis_take_any_single_value(bench):
    settings = bench.server({"distributed_cache.server_name": 5, "distributed_cache.capath": True})

    assert (settings.cache.server_name, settings.cache.ca_folder) == ("5", "True")


REQUIRED = [path for path, key in KEYS.items() if key.required]


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("value", ["absent", None, [1, 2], ""])
def test_a_required_key_that_is_not_given_is_missing(bench, path, value):
    given = bench.absent if value == "absent" else value

    messages = bench.problems(bench.server, {**context_of(path), path: given})

    if value == "" and KEYS[path].kind is not Kind.STR:
        assert "actually str" in messages[0]
    else:
        expected = f"The parameter '{path}' is missing, yaml config file: {bench.file}"
        assert expected == messages[0]


def test_the_keys_that_must_be_given_are_the_originals():
    assert set(REQUIRED) == {
        "fl_name",
        "fl_iteration_num",
        "server_mode",
        "enable_ssl",
        "distributed_cache.address",
        "ssl.server_cert_path",
        "ssl.client_cert_path",
        "ssl.ca_cert_path",
        "ssl.cipher_list",
        "round.start_fl_job_threshold",
        "round.start_fl_job_time_window",
        "round.update_model_ratio",
        "round.update_model_time_window",
        "round.global_iteration_time_window",
        "summary.metrics_file",
        "summary.failure_event_file",
        "encrypt.pw_encrypt.share_secrets_ratio",
        "encrypt.pw_encrypt.cipher_time_window",
        "encrypt.pw_encrypt.reconstruct_secrets_threshold",
    }


UINT32 = "value is expected to be range of [1,4294967295], but got "
OPEN_ONE = "value is expected value to be range of (0.000000,1.000000], but got "

OUT_OF_RANGE = [
    ("fl_iteration_num", 0, UINT32 + "0"),
    ("fl_iteration_num", 4294967296, UINT32 + "4294967296"),
    ("aggregation.iid_rate", 0.0, OPEN_ONE + "0.000000"),
    ("aggregation.iid_rate", 1.5, OPEN_ONE + "1.500000"),
    ("aggregation.total_client_num", 0, UINT32 + "0"),
    (
        "ssl.cert_expire_warning_time_in_day",
        6,
        "value is expected to be range of [7,180], but got 6",
    ),
    (
        "ssl.cert_expire_warning_time_in_day",
        181,
        "value is expected to be range of [7,180], but got 181",
    ),
    ("round.start_fl_job_threshold", 0, UINT32 + "0"),
    ("round.start_fl_job_time_window", 0, UINT32 + "0"),
    ("round.update_model_ratio", 0, OPEN_ONE + "0.000000"),
    ("round.update_model_ratio", 1.01, OPEN_ONE + "1.010000"),
    ("round.update_model_ratio", float("nan"), OPEN_ONE + "nan"),
    ("round.update_model_time_window", 0, UINT32 + "0"),
    ("round.global_iteration_time_window", 0, UINT32 + "0"),
    ("summary.continuous_failure_times", 0, "value is expected >=1, but got 0"),
    ("unsupervised.cluster_client_num", 0, "value is expected >=1, but got 0"),
    ("encrypt.pw_encrypt.share_secrets_ratio", 0.0, OPEN_ONE + "0.000000"),
    ("encrypt.pw_encrypt.cipher_time_window", 0, UINT32 + "0"),
    ("encrypt.pw_encrypt.reconstruct_secrets_threshold", 0, UINT32 + "0"),
    ("encrypt.dp_encrypt.dp_eps", 0, "value is expected >0.000000, but got 0.000000"),
    ("encrypt.dp_encrypt.dp_eps", float("inf"), "value is expected to be finite, but got inf"),
    (
        "encrypt.dp_encrypt.dp_delta",
        1.0,
        "expect value to be range of (0.000000,1.000000), but got 1.000000",
    ),
    ("encrypt.dp_encrypt.dp_norm_clip", -1.0, "value is expected >0.000000, but got -1.000000"),
    (
        "encrypt.signds.sign_k",
        0.26,
        "value is expected value to be range of (0.000000,0.250000], but got 0.260000",
    ),
    (
        "encrypt.signds.sign_eps",
        101,
        "value is expected value to be range of (0.000000,100.000000], but got 101.000000",
    ),
    (
        "encrypt.signds.sign_thr_ratio",
        0.4,
        "value is expected to be range of [0.500000,1.000000], but got 0.400000",
    ),
    ("encrypt.signds.sign_global_lr", 0, "value is expected >0.000000, but got 0.000000"),
    ("encrypt.signds.sign_dim_out", 51, "value is expected to be range of [0,50], but got 51"),
    ("compression.upload_sparse_rate", 0.0, OPEN_ONE + "0.000000"),
    ("client_verify.replay_attack_time_diff", -1, "value is expected >=0, but got -1"),
    ("client.client_epoch_num", 0, "value is expected >=1, but got 0"),
    ("client.client_batch_size", 0, "value is expected >=1, but got 0"),
    ("client.client_learning_rate", 0.0, "value is expected >0.000000, but got 0.000000"),
    ("client.connection_num", 0, "value is expected >=1, but got 0"),
    ("cluster.hold_ms", 25001, "value is expected to be range of [0,25000], but got 25001"),
    ("cluster.masked_hold_ms", -1, "value is expected to be range of [0,25000], but got -1"),
    ("cluster.redis_pool", 1, "value is expected to be range of [2,1024], but got 1"),
]


@pytest.mark.parametrize(("path", "value", "detail"), OUT_OF_RANGE)
def test_a_value_out_of_range_gets_the_originals_message(bench, path, value, detail):
    messages = bench.problems(bench.server, {**context_of(path), path: value})

    expected = (
        f"Failed to check value of parameter '{path}': {detail}, yaml config file: {bench.file}"
    )
    assert expected == messages[0]


EDGES = [
    ("fl_iteration_num", [1, 4294967295]),
    ("aggregation.iid_rate", [1e-6, 1, 1.0]),
    ("round.update_model_ratio", [1e-30, 1, 1.00000001]),
    ("unsupervised.cluster_client_num", [1]),
    ("compression.upload_sparse_rate", [0.0001, 1]),
    ("client_verify.replay_attack_time_diff", [0]),
    ("client.client_epoch_num", [1, 2**63 - 1]),
    ("client.client_learning_rate", [1e-10, 5]),
    ("cluster.hold_ms", [0, 25000]),
    ("cluster.masked_hold_ms", [0, 25000]),
    ("cluster.lease_ms", [1000, 600000]),
]


@pytest.mark.parametrize(("path", "values"), EDGES)
def test_values_at_the_edge_of_a_range_are_inside(bench, path, values):
    for value in values:
        bench.server({path: value})


ENUMERATIONS = [
    ("aggregation.aggregation_type", "FedAvg, FedProx, Scaffold, FedNova"),
    (
        "unsupervised.eval_type",
        "NOT_EVAL, SILHOUETTE_SCORE, CALINSKI_HARABASZ_SCORE, DAVIES_BOULDIN_SCORE",
    ),
    ("encrypt.encrypt_type", "NOT_ENCRYPT, PW_ENCRYPT, STABLE_PW_ENCRYPT, DP_ENCRYPT, SIGNDS"),
    ("compression.upload_compress_type", "NO_COMPRESS, DIFF_SPARSE_QUANT"),
    ("compression.download_compress_type", "NO_COMPRESS, QUANT"),
    ("cluster.durability", "durable, memory"),
    ("cluster.log_format", "text, json"),
]


@pytest.mark.parametrize(("path", "choices"), ENUMERATIONS)
def test_an_unknown_word_gets_the_list_of_known_ones_in_order(bench, path, choices):
    messages = bench.problems(bench.server, {path: "fedavg"})

    expected = (
        f"The value of parameter '{path}' can be only one of [{choices}], but got fedavg, "
        f"yaml config file: {bench.file}"
    )
    more = "; here SECURE_AGGREGATION is one as well" if path == "encrypt.encrypt_type" else ""
    assert [expected + more] == messages


@pytest.mark.parametrize(("path", "choices"), ENUMERATIONS)
def test_an_empty_word_counts_as_not_given(bench, path, choices):
    assert bench.server({path: ""}) == bench.server()


@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_an_unknown_server_mode_has_a_sentence_of_its_own(bench, role):
    messages = bench.problems(getattr(bench, role), {"server_mode": "FEDERATED"})

    expected = (
        "FEDERATED is invalid. Server mode must be FEDERATED_LEARNING or HYBRID_TRAINING or "
        "CLOUD_TRAINING"
    )
    assert [expected] == messages


def test_unsupervised_evaluation_needs_the_number_of_uploads(bench):
    messages = bench.problems(bench.server, {"unsupervised.eval_type": "SILHOUETTE_SCORE"})

    expected = "Cluster client num is <= 0 when unsupervised eval mode is opened."
    assert expected == messages[0]


def test_parts_of_encrypt_that_do_not_belong_to_its_type_are_not_even_looked_at(bench):
    settings = bench.server(
        {
            "encrypt.dp_encrypt.dp_eps": "much",
            "encrypt.signds": {"sign_k": -1},
            "encrypt.pw_encrypt": {"cipher_time_window": 0},
        }
    )

    assert settings.encrypt.privacy.epsilon == 50.0
    assert settings.encrypt.signs.top_ratio == single(0.01)
    assert settings.encrypt.masking.window_ms == 1


def test_certificates_are_not_looked_at_while_tls_is_off(bench):
    settings = bench.server({"ssl": {"server_cert_path": 5, "cipher_list": None}})

    assert settings.tls.server_certificate == ""
    assert settings.tls.expiry_warning_days == 90


def test_the_sparse_rate_is_checked_even_when_nothing_is_compressed(bench):
    messages = bench.problems(bench.server, {"compression.upload_sparse_rate": 2})

    assert "'compression.upload_sparse_rate'" in messages[0]


def test_keys_without_effect_are_read_and_change_nothing(bench):
    read = bench.server(
        {"distributed_cache.type": "mysql", "distributed_cache.plugin_lib_path": "/lib/a.so"}
    )

    assert (read.cache.kind, read.cache.plugin_path) == ("mysql", "/lib/a.so")
    assert read == replace(bench.server(), cache=read.cache)
    assert read.cache.address == bench.server().cache.address


@pytest.mark.parametrize("number", [float("inf"), 1e39])
@pytest.mark.parametrize(
    "path",
    [
        "encrypt.dp_encrypt.dp_eps",
        "encrypt.dp_encrypt.dp_norm_clip",
        "encrypt.signds.sign_global_lr",
        "client.client_learning_rate",
    ],
)
def test_what_is_infinite_in_single_precision_is_refused(bench, path, number):
    (message,) = bench.problems(bench.server, {**context_of(path), path: number})

    assert f"'{path}': value is expected to be finite, but got inf" in message


def test_the_defaults_are_the_originals(bench):
    settings = bench.server()

    assert settings.aggregation.method == "FedAvg"
    assert settings.aggregation.proximal_weight == 0.0
    assert settings.aggregation.total_devices == 1
    assert settings.summary.participation_levels == "5,15"
    assert settings.summary.failures_in_a_row == 10
    assert settings.summary.data_rate_dir == ""
    assert settings.unsupervised.sample_count == 0
    assert settings.unsupervised.eval_type == "NOT_EVAL"
    assert settings.encrypt.kind == "NOT_ENCRYPT"
    assert settings.encrypt.privacy.delta == single(0.01)
    assert settings.encrypt.signs.threshold_ratio == single(0.6)
    assert settings.encrypt.signs.global_learning_rate == single(0.1)
    assert settings.compression.upload == "NO_COMPRESS"
    assert settings.compression.upload_sparse_rate == single(0.4)
    assert settings.verify.enabled is False
    assert settings.verify.clock_distance_ms == 600_000
    assert settings.device.epochs == 25
    assert settings.device.batch_size == 32
    assert settings.device.learning_rate == single(0.001)
    assert settings.device.connection_limit == 10_000
    assert settings.device.url_prefix == ""


LARGER = {"round.start_fl_job_threshold": 4}


def test_the_defaults_of_the_new_section_are_these(bench):
    cluster = bench.server().cluster

    assert cluster.data_dir == "./fl_data"
    assert cluster.durability == "durable"
    assert cluster.hold_ms == 200
    assert cluster.masked_hold_ms == 2_500
    assert cluster.body_limit_mb == 0
    assert cluster.bytes_in_flight_mb == 0
    assert cluster.lease_ms == 10_000
    assert cluster.advertise_http_address == ""
    assert cluster.advertise_tcp_address == ""
    assert cluster.header_timeout_s == 10
    assert cluster.idle_timeout_s == 75
    assert cluster.redis_timeout_ms == 5_000
    assert cluster.redis_pool == 16
    assert cluster.log_level == "INFO"
    assert cluster.log_format == "text"
    assert cluster.mask_layout == "restart"
    assert (cluster.trusted_proxies, cluster.token_file) == ("", "")
    assert (cluster.require_token, cluster.allow_tokens_over_http) == (False, False)
    noise = bench.server().noise
    assert (noise.kind, noise.clip_norm, noise.noise_multiplier) == ("none", 1.0, 1.0)
    assert (noise.epsilon_budget, noise.delta) == (0.0, pytest.approx(1e-5))
    ring = bench.server({"encrypt.encrypt_type": "SECURE_AGGREGATION"} | LARGER).encrypt.ring
    assert (ring.corrupt, ring.dropout) == (pytest.approx(0.05), pytest.approx(0.2))
    assert (ring.least_devices, ring.window_ms) == (3, 300_000)


def test_floats_keep_what_single_precision_keeps(bench):
    settings = bench.server({"client.client_learning_rate": 0.01, "round.update_model_ratio": 0.1})

    assert settings.device.learning_rate == 0.009999999776482582
    assert settings.rounds.report_ratio == 0.10000000149011612


def test_a_whole_number_is_taken_for_a_float_but_not_the_other_way(bench):
    assert bench.server({"client.client_learning_rate": 1}).device.learning_rate == 1.0
    messages = bench.problems(bench.server, {"client.client_epoch_num": 1.0})
    assert "expected to be type int, actually float" in messages[0]


def test_masked_rounds_need_more_sharers_than_it_takes_to_rebuild(bench):
    masked = {**context_of("encrypt.pw_encrypt.x"), "round.start_fl_job_threshold": 1}

    refused = bench.problems(bench.server, masked)

    assert "cipher init fail." in refused[0]
    assert bench.server({**masked, "round.start_fl_job_threshold": 2}).rounds.cohort_size == 2


def test_masked_rounds_need_as_many_updates_as_devices_to_read_the_sum(bench):
    masked = {
        **context_of("encrypt.pw_encrypt.x"),
        "round.start_fl_job_threshold": 4,
        "round.update_model_ratio": 0.5,
        "encrypt.pw_encrypt.reconstruct_secrets_threshold": 2,
    }

    (refused,) = bench.problems(bench.server, masked)

    assert "cipher init fail." in refused
    assert "ends with 2 updates and at least 3 of their devices have to help" in refused
    assert bench.server({**masked, "round.update_model_ratio": 0.75})


def test_the_number_of_sharers_shrinks_with_each_exchange(bench):
    masked = {
        **context_of("encrypt.pw_encrypt.x"),
        "round.start_fl_job_threshold": 1000,
        "round.update_model_ratio": 0.1,
        "encrypt.pw_encrypt.share_secrets_ratio": 0.5,
    }

    # 1000 devices at a half: 500, 250, and 125 that share.
    enough = {**masked, "encrypt.pw_encrypt.reconstruct_secrets_threshold": 99}
    too_many = {**masked, "encrypt.pw_encrypt.reconstruct_secrets_threshold": 125}

    assert bench.server(enough).encrypt.masking.reconstruct_threshold == 99
    assert any("only 125 devices share" in m for m in bench.problems(bench.server, too_many))


def test_no_secure_round_is_opened_that_cannot_end_well(bench):
    def complaints(**changes: Any) -> list[str]:
        own = {f"encrypt.secure_aggregation.{name}": value for name, value in changes.items()}
        asked = {**context_of("encrypt.secure_aggregation.x"), **own}
        return bench.problems(bench.server, {**asked, "round.start_fl_job_threshold": 4})

    (too_few,) = complaints(least_devices=5)
    (nobody,) = complaints(corrupt_ratio=0.5, dropout_ratio=0.5)

    assert "a round admits only 4 devices" in too_few
    assert "leaves no device to rely on" in nobody


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("corrupt_ratio", 0.01, ("with less than 0.05, ", "(Demands(corrupt=0.01))")),
        ("least_devices", 2, ("with less than 3, ", "(Demands(least_devices=2))")),
    ],
)
def test_what_devices_of_the_sdk_refuse_by_default_is_warned_of(bench, name, value, told):
    path = f"encrypt.secure_aggregation.{name}"
    asked = {"encrypt.encrypt_type": "SECURE_AGGREGATION"} | LARGER

    [warning] = bench.server({**asked, path: value}).warnings

    assert warning.startswith(f"'{path}' {value:g}: devices of the SDK refuse to take part ")
    assert all(part in warning for part in told)
    enough = DEMANDED[path]
    assert bench.server({**asked, path: enough}).warnings == ()


def test_the_demands_that_are_warned_of_are_those_of_devices():
    demands = {"corrupt": "corrupt_ratio"}
    found = {
        f"encrypt.secure_aggregation.{demands.get(field.name, field.name)}": field.default
        for field in fields(Demands)
        if field.name != "safety_bits"
    }

    assert found == DEMANDED


@pytest.mark.parametrize("kind", ["SIGNDS", "PW_ENCRYPT"])
def test_compression_gives_way_to_encryption_it_does_not_go_with(bench, kind):
    changes = {
        **context_of("encrypt.pw_encrypt.x"),
        "encrypt.encrypt_type": kind,
        "compression.upload_compress_type": "DIFF_SPARSE_QUANT",
    }

    settings = bench.server(changes)

    assert settings.compression.upload == "NO_COMPRESS"
    [warning] = settings.warnings
    assert "uploads are not compressed" in warning


@pytest.mark.parametrize("method", ["Scaffold", "FedNova"])
@pytest.mark.parametrize("kind", ["PW_ENCRYPT", "STABLE_PW_ENCRYPT"])
def test_methods_whose_numbers_would_not_be_masked_are_refused(bench, kind, method):
    changes = {**context_of("encrypt.pw_encrypt.x"), "encrypt.encrypt_type": kind}

    (message,) = bench.problems(bench.server, {**changes, "aggregation.aggregation_type": method})

    assert "beside the weights would not be masked; write FedAvg or FedProx" in message
    assert bench.server({**changes, "aggregation.aggregation_type": "FedProx"})


@pytest.mark.parametrize("name", ["a{b", "a}b", "../x", "a\nb", "a\ud800b", "x" * 161])
def test_a_name_that_cannot_be_part_of_a_key_or_a_file_is_refused(bench, name):
    text = bench.path
    bench.write_changed({"fl_name": "PLACE"})
    escaped = "".join(f"\\u{ord(c):04x}" for c in name)
    content = text.read_text("utf-8").replace("PLACE", f'"{escaped}"')

    messages = bench.problems(bench.text, content)

    assert len(messages) == 1
    assert "The parameter 'fl_name' cannot be used" in messages[0]


@pytest.mark.parametrize("name", ["Lenet", "with blanks", "Übung 1", "a:b", "x" * 160])
def test_any_other_name_will_do(bench, name):
    assert bench.server({"fl_name": name}).name == name
