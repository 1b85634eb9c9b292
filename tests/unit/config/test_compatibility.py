"""What becomes of a file of the original, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from fl_cluster.config.compatibility import (
    Finding,
    Judgement,
    Standing,
    judge,
    standing_of,
)
from fl_cluster.config.differences import DIFFERENCES, NEW, PASSED_OVER, UNUSED, USES
from fl_cluster.config.keys import KEYS
from fl_cluster.config.problems import Remark
from fl_cluster.config.schema import Role
from fl_cluster.errors import ConfigError


@pytest.fixture
def judged(bench) -> Any:
    """Judges the minimal file with changes."""

    def judge_changed(changes: dict[str, Any], role: Role = Role.SERVER) -> Judgement:
        return judge(bench.write_changed(changes), role)

    return judge_changed


LAYOUT = "cluster.pw_mask_layout"
SPARSE_TYPE = "compression.upload_compress_type"
SPARSE = {SPARSE_TYPE: "DIFF_SPARSE_QUANT"}


def finding(judgement: Judgement, key: str) -> Finding:
    (found,) = (each for each in judgement.findings if each.key == key)
    return found


def test_every_key_of_the_lists_exists():
    assert {*DIFFERENCES, *UNUSED, *NEW, *USES} <= set(KEYS)
    assert not {*DIFFERENCES} & {*UNUSED, *NEW}


def test_a_plain_file_is_supported_key_by_key_in_its_order(judged):
    judgement = judged({})

    assert judgement.problems == ()
    assert judgement.worst is Standing.DIFFERENT
    assert [each.key for each in judgement.findings][:3] == [
        "fl_name",
        "fl_iteration_num",
        "server_mode",
    ]
    assert finding(judgement, "round.update_model_ratio") == Finding(
        "round.update_model_ratio", Standing.SUPPORTED, "", "1.0", 10
    )
    different = [each.key for each in judgement.of(Standing.DIFFERENT)]
    assert different == ["summary.metrics_file", "summary.failure_event_file"]


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("fl_iteration_num", 2**31 - 1, 2**31),
        ("round.start_fl_job_time_window", 30_000, 30_001),
        ("summary.data_rate_dir", "", "."),
        ("client_verify.equip_crl_path", "", "crl.pem"),
        ("encrypt.encrypt_type", "NOT_ENCRYPT", "SIGNDS"),
        ("compression.upload_compress_type", "NO_COMPRESS", "DIFF_SPARSE_QUANT"),
        ("distributed_cache.address", "127.0.0.1:6379", "redis.local:6379"),
        ("unsupervised.eval_type", "NOT_EVAL", "SILHOUETTE_SCORE"),
    ],
)
def test_a_difference_is_told_for_the_values_it_concerns(judged, key, same, other):
    beside = {"unsupervised.cluster_client_num": 3, "client_verify.pki_verify": True}

    assert finding(judged({**beside, key: same}), key).standing is Standing.SUPPORTED
    found = finding(judged({**beside, key: other}), key)
    told = [each.why for each in DIFFERENCES[key] if each.concerns(other)]
    assert (found.standing, found.why.splitlines()) == (Standing.DIFFERENT, told)


MASKED = {
    "encrypt.encrypt_type": "PW_ENCRYPT",
    "encrypt.pw_encrypt": {
        "share_secrets_ratio": 1.0,
        "cipher_time_window": 3000,
        "reconstruct_secrets_threshold": 1,
    },
}


def test_where_masks_begin_is_told_of_every_masked_job(judged):
    told = finding(judged(MASKED), "encrypt.encrypt_type")
    given = finding(judged({**MASKED, "cluster.pw_mask_layout": "restart"}), LAYOUT)

    assert told.standing is Standing.DIFFERENT
    assert "needs cluster.pw_mask_layout: running" in told.why
    assert "the wrong layout spoils every mean" in told.why
    assert "the wrong value spoils every mean" in given.why


@pytest.mark.parametrize("kind", ["PW_ENCRYPT", "STABLE_PW_ENCRYPT", "SIGNDS"])
def test_what_gives_way_to_another_setting_is_changed(judged, kind):
    key = "compression.upload_compress_type"

    judgement = judged({**MASKED, "encrypt.encrypt_type": kind, key: "DIFF_SPARSE_QUANT"})

    found = finding(judgement, key)
    assert (found.standing, found.value) == (Standing.CHANGED, "DIFF_SPARSE_QUANT")
    assert found.why.endswith("; uploads are not compressed")
    assert judgement.worst is Standing.CHANGED


WARNED_OF = [
    {**MASKED, "encrypt.encrypt_type": "STABLE_PW_ENCRYPT"},
    {**MASKED, "server_mode": "CLOUD_TRAINING"},
    {"encrypt.encrypt_type": "DP_ENCRYPT", "server_mode": "CLOUD_TRAINING"},
    {"aggregation.aggregation_type": "Scaffold"},
    {"server_mode": "CLOUD_TRAINING", "compression.upload_compress_type": "DIFF_SPARSE_QUANT"},
    {"server_mode": "CLOUD_TRAINING", "compression.download_compress_type": "QUANT"},
    {"encrypt.encrypt_type": "SIGNDS", "compression.upload_compress_type": "DIFF_SPARSE_QUANT"},
    {
        "encrypt.encrypt_type": "DP_ENCRYPT",
        "unsupervised": {"eval_type": "SILHOUETTE_SCORE", "cluster_client_num": 9},
    },
    {
        "encrypt.encrypt_type": "SECURE_AGGREGATION",
        "encrypt.secure_aggregation.least_devices": 2,
    },
    {"round.update_model_ration": 1, "checkpoint_dir": "x", "aggregation": 5},
]


@pytest.mark.parametrize("changes", WARNED_OF)
def test_every_warning_of_the_log_stands_at_its_key(bench, judged, changes):
    warnings = bench.server(changes).warnings

    judgement = judged(changes)

    assert warnings
    told = {sentence for each in judgement.findings for sentence in each.why.splitlines()}
    for warning in warnings:
        # Of what is ignored the log repeats line and key, which are beside the reason here.
        assert warning in told or warning.rpartition(" is ignored: ")[2] in told
        assert all(
            each.standing is not Standing.SUPPORTED
            for each in judgement.findings
            if f"'{each.key}'" in warning.partition(" is ignored: ")[0]
        )


@pytest.mark.parametrize(
    ("changes", "key", "when"),
    [
        (
            {"encrypt.encrypt_type": "DP_ENCRYPT", "encrypt.signds.sign_k": "bad"},
            "encrypt.signds.sign_k",
            "encrypt_type is SIGNDS",
        ),
        ({"ssl.cipher_list": 5}, "ssl.cipher_list", "enable_ssl is true"),
        (
            {"encrypt.secure_aggregation.least_devices": 2},
            "encrypt.secure_aggregation.least_devices",
            "encrypt_type is SECURE_AGGREGATION",
        ),
    ],
)
def test_what_other_settings_keep_from_being_looked_at_is_told(judged, changes, key, when):
    found = finding(judged(changes), key)

    assert (found.standing, found.why) == (Standing.NOT_LOOKED_AT, f"only looked at when {when}")


@pytest.mark.parametrize(
    ("key", "value", "beside"),
    [
        ("aggregation.iid_rate", 0.5, {"aggregation.aggregation_type": "FedProx"}),
        ("aggregation.total_client_num", 4, {"aggregation.aggregation_type": "Scaffold"}),
        ("compression.upload_sparse_rate", 0.2, SPARSE),
        ("unsupervised.cluster_client_num", 4, {"unsupervised.eval_type": "SILHOUETTE_SCORE"}),
        ("client_verify.root_first_ca_path", "a.pem", {"client_verify.pki_verify": True}),
        ("distributed_cache.capath", "ca", {"distributed_cache.address": "rediss://r:1"}),
        (LAYOUT, "restart", MASKED),
        ("cluster.masked_hold_ms", 9, MASKED),
        ("privacy.clip_norm", 0.5, {"privacy.noise": "central"}),
        ("privacy.epsilon_budget", 9.0, {"encrypt.encrypt_type": "DP_ENCRYPT"}),
    ],
)
def test_what_has_no_effect_with_the_other_settings_is_told(judged, key, value, beside):
    idle = finding(judged({key: value}), key)
    used = finding(judged({**beside, key: value}), key)

    assert (idle.standing, idle.why) == (Standing.UNUSED, f"only used {USES[key].when}")
    assert used.standing in (Standing.SUPPORTED, Standing.NEW)


def test_what_a_changed_setting_needed_has_no_effect(judged):
    changes = {"encrypt.encrypt_type": "SIGNDS", **SPARSE, "compression.upload_sparse_rate": 0.2}

    found = finding(judged(changes), "compression.upload_sparse_rate")

    assert found.standing is Standing.UNUSED


@pytest.mark.parametrize("value", [[1, 2], None])
def test_what_counts_as_not_given_is_told(judged, value):
    found = finding(judged({"compression.upload_compress_type": value}), SPARSE_TYPE)

    assert found.standing is Standing.UNUSED
    assert found.why.endswith("counts as not given")
    assert finding(judged({"client": None}), "client").why == "nothing counts as not given"


def test_keys_of_certificates_are_new_and_pem_is_different(judged):
    tls = {
        "enable_ssl": True,
        "ssl": {
            "server_cert_path": "server.pem",
            "server_key_path": "server.key",
            "client_cert_path": "client.p12",
            "client_key_path": "client.key",
            "ca_cert_path": "ca.crt",
            "cipher_list": "ECDHE-RSA-AES128-GCM-SHA256",
        },
    }

    judgement = judged(tls)

    new = [each.key for each in judgement.of(Standing.NEW)]
    assert new == ["ssl.server_key_path", "ssl.client_key_path"]
    assert finding(judgement, "ssl.server_cert_path").standing is Standing.DIFFERENT
    assert finding(judgement, "ssl.client_cert_path").standing is Standing.SUPPORTED


def test_a_watcher_adds_what_it_would_warn_of(judged, bench):
    def watch(values: Any) -> list[Remark]:
        return [Remark(f"{values['fl_name']} is odd", ("fl_name",), is_change=True)]

    found = finding(judge(bench.write_changed({}), Role.SERVER, (watch,)), "fl_name")

    assert (found.standing, found.why) == (Standing.CHANGED, "Bench is odd")


def test_what_devices_of_the_sdk_refuse_by_default_is_told(judged):
    key = "encrypt.secure_aggregation.corrupt_ratio"
    secure = {"encrypt.encrypt_type": "SECURE_AGGREGATION", "round.start_fl_job_threshold": 4}

    found = finding(judged({**secure, key: 0.01}), key)

    assert found.standing is Standing.WARNED
    warning, new = found.why.splitlines()
    assert "devices of the SDK refuse to take part with less than 0.05, " in warning
    assert new == PASSED_OVER
    assert finding(judged({**secure, key: 0.05}), key).why == PASSED_OVER
    assert finding(judged({key: 0.01}), key).standing is Standing.NOT_LOOKED_AT


def test_what_no_version_knows_is_ignored_with_a_guess(judged):
    judgement = judged({"round.update_model_ration": 1, "checkpoint_dir": "x", "aggregation": 5})

    reasons = {each.key: each.why for each in judgement.of(Standing.IGNORED)}
    assert reasons == {
        "round.update_model_ration": (
            "no such key is known; did you mean 'round.update_model_ratio'?"
        ),
        "checkpoint_dir": "it is not read from the file: give --checkpoint_dir to the server",
        "aggregation": "it is a section, but holds a single value",
    }
    assert judgement.worst is Standing.IGNORED


def test_what_is_refused_is_told_in_the_originals_words(judged):
    judgement = judged({"round.update_model_ratio": 3.0, "fl_name": ""})

    assert judgement.worst is Standing.REFUSED
    assert finding(judgement, "fl_name").why == "The parameter 'fl_name' is missing"
    assert "but got 3.000000" in finding(judgement, "round.update_model_ratio").why
    assert judgement.problems == ()


def test_what_is_missing_is_told_without_a_line(bench, judged):
    judgement = judged({"summary": bench.absent})

    missing = judgement.of(Standing.REFUSED)
    assert [(each.key, each.line) for each in missing] == [
        ("summary.metrics_file", 0),
        ("summary.failure_event_file", 0),
    ]


def test_sections_without_indentation_are_a_problem_of_the_file(bench):
    text = "fl_name: A\nround:\nupdate_model_ratio: 1.0\n"

    judgement = judge(bench.write(text), Role.SERVER)

    assert judgement.worst is Standing.REFUSED
    told = [*judgement.problems, *(each.why for each in judgement.findings)]
    assert any("have lost their indentation" in sentence for sentence in told)


def test_a_scheduler_does_not_look_at_what_servers_look_at(judged):
    judgement = judged({"round.update_model_ratio": 3.0}, Role.SCHEDULER)

    found = finding(judgement, "round.update_model_ratio")
    assert (found.standing, found.why) == (Standing.NOT_LOOKED_AT, "only servers look at it")


def test_a_password_is_not_shown(judged):
    judgement = judged(
        {
            "distributed_cache.password": "hunter2",
            "distributed_cache.address": "redis://u:hunter3@h:1",
        }
    )

    assert "hunter" not in repr(judgement)
    assert finding(judgement, "distributed_cache.password").standing is Standing.NEW


def test_a_password_that_all_may_read_is_refused_as_a_server_would(bench):
    file = bench.write_changed({"distributed_cache.password": "hunter2"})
    bench.path.chmod(0o644)

    judgement = judge(file, Role.SERVER)

    assert finding(judgement, "distributed_cache.password").standing is Standing.REFUSED
    assert "hunter2" not in repr(judgement)


def test_text_that_does_not_print_is_shown_escaped(judged):
    assert finding(judged({"client.http_url_prefix": "a\nb"}), "client.http_url_prefix").value == (
        "'a\\nb'"
    )


def test_only_the_file_counts(judged, monkeypatch):
    monkeypatch.setenv("FL_CLUSTER__ROUND__UPDATE_MODEL_RATIO", "7")

    assert judged({}).worst is Standing.DIFFERENT


def test_a_file_that_is_no_configuration_is_told_so(bench):
    with pytest.raises(ConfigError, match="is of the dict type"):
        judge(bench.write("- 1\n"), Role.SERVER)


def test_in_general_a_key_has_the_standing_of_its_list():
    assert standing_of("distributed_cache.type")[0] is Standing.UNUSED
    assert standing_of("cluster.hold_ms")[0] is Standing.NEW
    assert standing_of("client.connection_num")[0] is Standing.DIFFERENT
    assert standing_of("round.update_model_ratio") == (Standing.SUPPORTED, "")
