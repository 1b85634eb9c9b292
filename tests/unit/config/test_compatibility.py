"""What becomes of a file of the original, key by key."""

from __future__ import annotations

from typing import Any

import pytest

from fl_cluster.config.compatibility import (
    DIFFERENCES,
    NEW,
    PASSED_OVER,
    UNUSED,
    Finding,
    Judgement,
    Standing,
    judge,
    standing_of,
)
from fl_cluster.config.keys import KEYS
from fl_cluster.config.schema import Role
from fl_cluster.errors import ConfigError


@pytest.fixture
def judged(bench) -> Any:
    """Judges the minimal file with changes."""

    def judge_changed(changes: dict[str, Any], role: Role = Role.SERVER) -> Judgement:
        return judge(bench.write_changed(changes), role)

    return judge_changed


def finding(judgement: Judgement, key: str) -> Finding:
    (found,) = (each for each in judgement.findings if each.key == key)
    return found


def test_every_key_of_the_lists_exists():
    assert {*DIFFERENCES, *UNUSED, *NEW} <= set(KEYS)
    assert not set(DIFFERENCES) & (set(UNUSED) | NEW)


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
    assert different == ["summary.metrics_file"]


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ("fl_iteration_num", 2**31 - 1, 2**31),
        ("round.start_fl_job_time_window", 30_000, 30_001),
        ("summary.data_rate_dir", "", "."),
        ("ssl.crl_path", "", "crl.pem"),
        ("distributed_cache.address", "127.0.0.1:6379", "redis.local:6379"),
        ("unsupervised.eval_type", "NOT_EVAL", "SILHOUETTE_SCORE"),
    ],
)
def test_a_difference_is_told_for_the_values_it_concerns(judged, key, same, other):
    beside = {"unsupervised.cluster_client_num": 3}

    assert finding(judged({**beside, key: same}), key).standing is Standing.SUPPORTED
    found = finding(judged({**beside, key: other}), key)
    assert (found.standing, found.why) == (Standing.DIFFERENT, DIFFERENCES[key].why)


def test_what_devices_of_the_sdk_refuse_by_default_is_told(judged):
    key = "encrypt.secure_aggregation.corrupt_ratio"
    secure = {"encrypt.encrypt_type": "SECURE_AGGREGATION", "round.start_fl_job_threshold": 4}

    found = finding(judged({**secure, key: 0.01}), key)

    assert found.standing is Standing.NEW
    assert found.why.startswith("devices of the SDK refuse to take part with less than 0.05, ")
    assert finding(judged({**secure, key: 0.05}), key).why == PASSED_OVER
    assert finding(judged({key: 0.01}), key).why == PASSED_OVER


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
    assert (found.standing, found.why) == (Standing.IGNORED, "only servers look at it")


def test_a_password_is_not_shown(judged):
    judgement = judged(
        {
            "distributed_cache.password": "hunter2",
            "distributed_cache.address": "redis://u:hunter3@h:1",
        }
    )

    assert "hunter" not in repr(judgement)
    assert finding(judgement, "distributed_cache.password").standing is Standing.NEW


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
