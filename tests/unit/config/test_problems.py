"""What a person reads when a configuration cannot be used."""

from __future__ import annotations

import pickle

import pytest

from fl_cluster.config.problems import nearest, render_problems
from fl_cluster.errors import ConfigError, Problem


def rendered(bench, changes, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        bench.server(changes, **options)
    return render_problems(caught.value)


def test_a_problem_is_shown_with_place_value_range_and_example(bench):
    text = rendered(bench, {"round.start_fl_job_threshold": 0})

    assert text == (
        f"The configuration cannot be used: one problem in {bench.file}.\n"
        "\n"
        "round.start_fl_job_threshold (line 8)\n"
        "  Failed to check value of parameter 'round.start_fl_job_threshold': value is expected to "
        f"be range of [1,4294967295], but got 0, yaml config file: {bench.file}\n"
        "  found:   0\n"
        "  allowed: a whole number from 1 to 4294967295\n"
        "  example: start_fl_job_threshold: 2\n"
    )


def test_text_that_looks_like_a_number_is_explained(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + "client:\n  client_learning_rate: 1e-3\n"

    with pytest.raises(ConfigError) as caught:
        bench.text(text)

    assert "note:    to YAML this is text; write 0.001" in render_problems(caught.value)


def test_a_number_in_place_of_text_is_explained(bench):
    assert "note:    put it in quotes" in rendered(bench, {"fl_name": 2024})


def test_a_missing_section_is_said_to_be_missing(bench):
    text = rendered(bench, {"summary": bench.absent})

    assert "2 problems" in text
    assert "note:    the section 'summary' is missing" in text


def test_a_value_from_outside_of_the_file_is_said_to_be(bench):
    text = rendered(bench, {}, overrides={"fl_iteration_num": "0"})

    assert "fl_iteration_num (command line)" in text


def test_the_error_as_text_names_lines_and_variables_behind_the_known_sentences(bench):
    environ = {"FL_CLUSTER__FL_ITERATION_NUM": "0"}
    with pytest.raises(ConfigError) as caught:
        bench.server({"round.start_fl_job_threshold": 0}, environ=environ)

    of_variable, of_file = str(caught.value).splitlines()
    assert of_file == f"{caught.value.problems[1].message} (line 8)"
    assert of_variable.startswith(caught.value.problems[0].message)
    assert of_variable.endswith(" FL_CLUSTER__FL_ITERATION_NUM)")


def test_a_line_that_a_sentence_names_already_is_named_once(bench):
    with pytest.raises(ConfigError) as caught:
        bench.text("fl_name: a\nfl_name: b\n")

    told = next(line for line in str(caught.value).splitlines() if "given twice" in line)
    assert "on lines 1 and 2" in told
    assert "(line" not in told


def test_a_plain_problem_is_shown_as_a_sentence():
    error = ConfigError((Problem("--model", "there is no such file"),))

    assert render_problems(error) == (
        "The configuration cannot be used: one problem.\n\n  there is no such file\n"
    )


def test_the_error_survives_being_sent_to_another_process(bench):
    with pytest.raises(ConfigError) as caught:
        bench.server({"fl_iteration_num": 0})

    again = pickle.loads(pickle.dumps(caught.value))

    assert again.problems == caught.value.problems
    assert str(again) == str(caught.value)


def test_a_guess_is_made_only_when_something_is_near():
    assert nearest("fl_nmae", ["fl_name", "server_mode"]) == "fl_name"
    assert nearest("quite different", ["fl_name", "server_mode"]) is None
