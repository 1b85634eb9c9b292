"""Values from the environment and the command line."""

from __future__ import annotations

import pytest

from fl_cluster.config.keys import KEYS
from fl_cluster.config.overrides import VARIABLES, gather, variable_of
from fl_cluster.errors import ConfigError


def test_every_key_has_a_variable_of_its_own():
    assert len(VARIABLES) == len(KEYS)
    assert VARIABLES["FL_CLUSTER__ROUND__START_FL_JOB_THRESHOLD"] == "round.start_fl_job_threshold"
    assert variable_of("encrypt.signds.sign_k") == "FL_CLUSTER__ENCRYPT__SIGNDS__SIGN_K"


@pytest.mark.parametrize(
    ("key", "text", "kind", "value"),
    [
        ("round.start_fl_job_threshold", "10", "int", 10),
        ("round.update_model_ratio", "0.5", "float", 0.5),
        ("enable_ssl", "true", "bool", True),
        ("enable_ssl", "False", "bool", False),
        ("client.client_epoch_num", "ten", "str", "ten"),
        ("client.client_epoch_num", "'10'", "str", "10"),
        ("client.client_epoch_num", "[1]", "str", "[1]"),
        ("client.client_epoch_num", "2024-01-01", "str", "2024-01-01"),
        ("client.client_epoch_num", "a: b: c", "str", "a: b: c"),
        ("client.client_epoch_num", "null", "nothing", None),
        ("client.client_epoch_num", "", "str", ""),
        ("fl_name", "2024", "str", "2024"),
        ("fl_name", "'quoted'", "str", "quoted"),
        ("fl_name", "null", "str", "null"),
        ("fl_name", "*star: #hash", "str", "*star: #hash"),
        ("distributed_cache.password", "12:34", "str", "12:34"),
        ("distributed_cache.password", "'a'", "str", "'a'"),
    ],
)
def test_numbers_are_yaml_and_text_is_as_it_stands(key, text, kind, value):
    for over in (gather({variable_of(key): text}, {}), gather({}, {key: text})):
        assert over.problems == ()
        assert (over.entries[key].kind, over.entries[key].value) == (kind, value)


def test_the_origin_of_a_value_is_kept():
    over = gather({"FL_CLUSTER__FL_NAME": "a"}, {"fl_iteration_num": "1"})

    assert over.entries["fl_name"].origin == "environment variable FL_CLUSTER__FL_NAME"
    assert over.entries["fl_iteration_num"].origin == "command line"


def test_an_unknown_variable_is_a_problem_that_guesses():
    over = gather({"FL_CLUSTER__FL_NAM": "a", "FL_CLUSTER__X": "b", "FL_CLUSTER_KERNEL": "c"}, {})

    guessed, unknown = (str(problem) for problem in over.problems)
    assert guessed == (
        "The environment variable FL_CLUSTER__FL_NAM is not known; "
        "did you mean FL_CLUSTER__FL_NAME?"
    )
    assert unknown == "The environment variable FL_CLUSTER__X is not known"


def test_an_unknown_name_on_the_command_line_is_a_problem_that_guesses():
    over = gather({}, {"round.update_model_ration": "1"})

    (problem,) = over.problems
    assert str(problem) == (
        "The parameter 'round.update_model_ration' of the command line is not known; "
        "did you mean round.update_model_ratio?"
    )


def test_the_long_variable_for_the_password_wins_over_the_short_one():
    environ = {
        "FL_CLUSTER_REDIS_PASSWORD": "short",
        "FL_CLUSTER__DISTRIBUTED_CACHE__PASSWORD": "long",
    }

    assert gather(environ, {}).entries["distributed_cache.password"].value == "long"


def test_a_problem_with_an_override_says_where_it_was_given(bench):
    variable = "FL_CLUSTER__CLIENT__CLIENT_EPOCH_NUM"
    with pytest.raises(ConfigError) as caught:
        bench.server(environ={variable: "ten"})

    problem = caught.value.problems[0]
    assert problem.origin == f"environment variable {variable}"
    assert problem.message == (
        "The parameter 'client.client_epoch_num' is expected to be type int, actually str, "
        f"yaml config file: {bench.file}"
    )


def test_null_takes_a_value_of_the_file_back(bench):
    settings = bench.server(
        {"client.client_epoch_num": 3}, overrides={"client.client_epoch_num": "null"}
    )

    assert settings.device.epochs == 25


def test_an_override_of_a_section_the_scheduler_does_not_read_does_no_harm(bench):
    settings = bench.scheduler(environ={"FL_CLUSTER__CLIENT__CLIENT_EPOCH_NUM": "wrong"})

    assert settings.name == "Bench"


@pytest.mark.parametrize("text", ["!!timestamp soon", "1" + ":59" * 200 + ".5", "[" * 5_000])
def test_a_value_that_yaml_stumbles_over_is_told_and_not_raised(bench, text):
    key = "client.client_epoch_num"

    messages = bench.problems(bench.server, overrides={key: text})

    assert f"'{key}'" in messages[0]
