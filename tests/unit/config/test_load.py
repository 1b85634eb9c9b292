"""From a file to settings: what wins over what, who looks at what, and what is told."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from fl_cluster.config.keys import KEYS
from fl_cluster.config.load import load
from fl_cluster.config.problems import render_problems
from fl_cluster.config.schema import JobSettings, Role, Settings
from fl_cluster.errors import ConfigError, ExitCode

THRESHOLD = "round.start_fl_job_threshold"
THRESHOLD_VARIABLE = "FL_CLUSTER__ROUND__START_FL_JOB_THRESHOLD"


def test_a_server_gets_every_section(bench):
    settings = bench.server({"client.client_epoch_num": 20})

    assert type(settings) is Settings
    assert settings.name == "Bench"
    assert settings.rounds_total == 4
    assert settings.rounds.cohort_size == 2
    assert settings.rounds.report_ratio == 1.0
    assert settings.rounds.round_window_ms == 60_000
    assert settings.device.epochs == 20
    assert str(settings.cache.address) == "127.0.0.1:6379"
    assert settings.tls.enabled is False
    assert settings.file == bench.file
    assert settings.warnings == ()


def test_settings_cannot_be_changed(bench):
    settings = bench.server()

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rounds.cohort_size = 3


def test_a_scheduler_gets_the_common_sections_and_needs_no_others(bench):
    settings = bench.scheduler(
        {"round": bench.absent, "summary": 5, "client": {"client_epoch_num": "x"}}
    )

    assert type(settings) is JobSettings
    assert settings.name == "Bench"
    assert settings.warnings == ()


def test_a_scheduler_is_stopped_by_what_it_looks_at(bench):
    messages = bench.problems(bench.scheduler, {"aggregation.iid_rate": 0.0})

    assert "'aggregation.iid_rate'" in messages[0]


def test_roles_can_be_given_as_words_or_members(bench):
    path = bench.write_changed({})

    assert load(path, Role.SCHEDULER, environ={}) == load(path, "scheduler", environ={})


def test_the_process_environment_counts_unless_another_is_given(bench, monkeypatch):
    path = bench.write_changed({})
    monkeypatch.setenv(THRESHOLD_VARIABLE, "7")

    assert load(path, "server").rounds.cohort_size == 7
    assert load(path, "server", environ={}).rounds.cohort_size == 2


def test_default_below_file_below_environment_below_command_line(bench):
    key, variable = "client.client_epoch_num", "FL_CLUSTER__CLIENT__CLIENT_EPOCH_NUM"
    file, environ, overrides = {key: 2}, {variable: "3"}, {key: "4"}

    assert bench.server().device.epochs == 25
    assert bench.server(file).device.epochs == 2
    assert bench.server(file, environ=environ).device.epochs == 3
    assert bench.server(file, environ=environ, overrides=overrides).device.epochs == 4


def test_an_override_can_give_what_the_file_lacks(bench):
    settings = bench.server({THRESHOLD: bench.absent}, overrides={THRESHOLD: "9"})

    assert settings.rounds.cohort_size == 9


def test_all_problems_come_at_once_in_the_originals_order(bench):
    with pytest.raises(ConfigError) as caught:
        bench.server(
            {
                "client.connection_num": 0,
                "round.update_model_ratio": 2.0,
                "summary.metrics_file": "",
                "aggregation.total_client_num": 0,
                "fl_iteration_num": "four",
                "fl_name": bench.absent,
                "distributed_cache.address": 6379,
                "compression.download_compress_type": "ZIP",
            }
        )

    assert [problem.path for problem in caught.value.problems] == [
        "fl_name",
        "fl_iteration_num",
        "aggregation.total_client_num",
        "distributed_cache.address",
        "round.update_model_ratio",
        "summary.metrics_file",
        "compression.download_compress_type",
        "client.connection_num",
    ]
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_our_own_complaints_come_after_the_originals(bench):
    text = bench.path
    bench.write_changed({"client.connection_num": 0, "cluster.hold": 1})
    content = text.read_text("utf-8") + "fl_name: Again\n"

    messages = bench.problems(bench.text, content, overrides={"nothing": "1"})

    assert ["client.connection_num" in messages[0]] == [True]
    assert "is given twice" in messages[1]
    assert "command line" in messages[2]
    assert "'cluster.hold' is not known" in messages[3]


def test_what_the_original_does_not_look_at_here_comes_after_what_it_does(bench):
    messages = bench.problems(
        bench.server,
        {
            "fl_name": "a/b",
            "distributed_cache.address": "127.0.0.1",
            "round.start_fl_job_threshold": 0,
            "client.connection_num": 0,
        },
    )

    assert [next(key for key in KEYS if f"'{key}'" in message) for message in messages] == [
        "round.start_fl_job_threshold",
        "client.connection_num",
        "distributed_cache.address",
        "fl_name",
    ]


def test_an_unknown_key_is_ignored_with_a_warning_that_guesses(bench):
    settings = bench.server(
        {"round.start_fl_job_treshold": 5, "checkpoint_dir": "x", "scale": {"a": 1}}
    )

    assert settings.rounds.cohort_size == 2
    typo, misplaced, unknown = (warning.partition(": ")[2] for warning in settings.warnings)
    assert typo == (
        "'round.start_fl_job_treshold' is ignored: no such key is known; "
        "did you mean 'round.start_fl_job_threshold'?"
    )
    assert misplaced == (
        "'checkpoint_dir' is ignored: it is not read from the file: "
        "give --checkpoint_dir to the server"
    )
    assert unknown == "'scale' is ignored: no such key is known"
    assert settings.warnings[0].startswith("line 13: ")


def test_an_unknown_key_does_not_change_what_settings_are_equal_to(bench):
    assert bench.server({"scale": 1}) == bench.server()


def test_a_section_written_as_a_value_counts_as_absent_with_a_warning(bench):
    settings = bench.server({"aggregation": 5})

    assert settings.aggregation.method == "FedAvg"
    assert len(settings.warnings) == 1
    assert (
        "'aggregation' is ignored: it is a section, but holds a single value"
        in settings.warnings[0]
    )


def test_an_unknown_key_inside_cluster_is_a_problem(bench):
    messages = bench.problems(bench.server, {"cluster": {"hold": 5, "log_levle": "INFO"}})

    sentence = "The parameter 'cluster.{}' is not known; did you mean 'cluster.{}'?"
    suffix = f", yaml config file: {bench.file}"
    assert messages == [
        sentence.format("hold", "hold_ms") + suffix,
        sentence.format("log_levle", "log_level") + suffix,
    ]


def test_cluster_must_be_a_section(bench):
    messages = bench.problems(bench.server, {"cluster": "yes"})

    sentence = "The parameter 'cluster' is a section, but holds a single value"
    assert messages == [f"{sentence}, yaml config file: {bench.file}"]


def test_addresses_to_advertise_are_checked(bench):
    settings = bench.server({"cluster.advertise_http_address": "fl.example.org:443"})
    messages = bench.problems(bench.server, {"cluster.advertise_tcp_address": "10.0.0.7"})

    assert settings.cluster.advertise_http_address == "fl.example.org:443"
    assert "the port is missing" in messages[0]


def test_a_wrong_cache_address_is_told_from_a_missing_one(bench):
    wrong = bench.problems(bench.server, {"distributed_cache.address": "127.0.0.1:99999"})
    missing = bench.problems(bench.server, {"distributed_cache.address": ""})

    assert "between 1 and 65535" in wrong[0]
    assert wrong[0].startswith(
        "Link to distributed cache failed, distributed cache address: 127.0.0.1:99999, enable ssl:"
        " 0: Failed to check value of parameter 'distributed_cache.address': "
    )
    assert "'distributed_cache.address' is missing" in missing[0]


SECRET = "s3cr3t&value"


def test_the_password_is_found_wherever_it_may_be(bench):
    by_key = bench.server({"distributed_cache.password": SECRET, "distributed_cache.username": "u"})
    by_variable = bench.server(environ={"FL_CLUSTER_REDIS_PASSWORD": SECRET})
    by_url = bench.server({"distributed_cache.address": "redis://u:s3cr3t%26value@h:1/2"})

    assert by_key.cache.address.username == "u"
    assert by_url.cache.address.username == "u"
    for settings in (by_key, by_variable, by_url):
        assert settings.cache.address.password == SECRET


def test_the_password_of_the_environment_wins_over_the_files(bench):
    settings = bench.server(
        {"distributed_cache.password": "old", "distributed_cache.address": "redis://:older@h:1"},
        environ={"FL_CLUSTER_REDIS_PASSWORD": SECRET},
    )

    assert settings.cache.address.password == SECRET


@pytest.mark.parametrize(
    "address",
    [
        f"redis://user:{SECRET}@host:port",
        f"redis://user:{SECRET}/x@host:6379",
        f"redis://:{SECRET}?x@host:6379/?db=1",
        f"user:{SECRET}@host:6379",
        f"{SECRET}@host:6379",
        f"rediss://user:{SECRET}@host:port",
        f"redis://user:{SECRET}@host:6379/zero",
        f"unix://user:{SECRET}@host/run/redis.sock",
    ],
)
def test_no_problem_with_an_address_shows_its_password(bench, address):
    with pytest.raises(ConfigError) as caught:
        bench.server({"distributed_cache.address": address})

    shown = str(caught.value) + repr(caught.value.problems) + render_problems(caught.value)
    assert SECRET not in shown


def test_no_problem_with_a_password_shows_it(bench):
    with pytest.raises(ConfigError) as caught:
        bench.server({"distributed_cache.password": 123456})

    assert "actually << int" in str(caught.value)
    assert "123456" not in render_problems(caught.value) + repr(caught.value.problems)


def test_settings_do_not_show_the_password(bench):
    settings = bench.server({"distributed_cache.password": SECRET})

    assert SECRET not in repr(settings) + str(settings)


def test_a_json_file_will_do(bench):
    text = (
        '{"fl_name": "J", "fl_iteration_num": 1, "server_mode": "FEDERATED_LEARNING",\n'
        ' "enable_ssl": false, "distributed_cache": {"address": "embedded"},\n'
        ' "round": {"start_fl_job_threshold": 1, "start_fl_job_time_window": 1,\n'
        '  "update_model_ratio": 0.5, "update_model_time_window": 1,\n'
        '  "global_iteration_time_window": 1},\n'
        ' "summary": {"metrics_file": "m", "failure_event_file": "e"}}\n'
    )

    assert bench.text(text).name == "J"


def test_json_may_have_tabs_and_exponents(bench):
    content = json.dumps(
        bench.changed(
            {"client.client_learning_rate": 1e-5, "client.http_url_prefix": "/a/\u00e9/"}
        ),
        indent="\t",
    )
    assert "1e-05" in content
    assert "\t" in content

    settings = bench.text(content)

    assert settings.device.learning_rate == pytest.approx(1e-5)
    assert settings.device.url_prefix == "/a/\u00e9/"


def test_a_mapping_in_braces_that_is_no_json_is_yaml(bench):
    with pytest.raises(ConfigError, match=r"'client\.client_learning_rate' is expected"):
        bench.text("{client: {client_learning_rate: 1e-5}}")


def test_keys_that_are_no_text_come_before_everything_else(bench):
    messages = bench.problems(bench.text, "fl_name: 5\n1: 2\n")

    assert messages[0].startswith("The key 1 on line 2 is not text to YAML")
    assert "'fl_name' is expected to be type str" in messages[1]


def test_reading_a_configuration_loads_no_library_that_a_scheduler_could_spare():
    code = (
        "import sys, fl_cluster.config.load;"
        "print([m for m in ('redis', 'aiohttp', 'asyncio', 'numpy', 'flatbuffers') "
        "if m in sys.modules])"
    )

    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    ).stdout

    assert output == "[]\n"
