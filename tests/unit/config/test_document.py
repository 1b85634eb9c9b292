"""Files that cannot be read, or say what a configuration cannot mean: one sentence each."""

from __future__ import annotations

import os

import pytest

from fl_cluster.config.document import MAX_ENTRIES, MAX_FILE_BYTES
from fl_cluster.config.load import load
from fl_cluster.errors import ConfigError


def only_message(bench, content: bytes) -> str:
    bench.path.write_bytes(content)
    messages = bench.problems(load, bench.file, "server", environ={})
    assert len(messages) == 1
    return messages[0]


def test_a_file_that_is_not_there(bench):
    messages = bench.problems(load, bench.file, "server", environ={})

    assert messages == [f"yaml config file {bench.file} not exist"]


def test_a_folder_in_place_of_a_file(bench, tmp_path):
    messages = bench.problems(load, tmp_path, "server", environ={})

    assert messages == [f"yaml config file {tmp_path} cannot be read: Is a directory"]


def test_a_path_that_can_be_none(bench):
    messages = bench.problems(load, "a\0b", "server", environ={})

    assert len(messages) == 1
    assert "cannot be read" in messages[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(bench):
    bench.write("fl_name: x")
    bench.path.chmod(0)

    messages = bench.problems(load, bench.file, "server", environ={})

    assert messages == [f"yaml config file {bench.file} cannot be read: Permission denied"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n", b"---\n"])
def test_an_empty_file(bench, content):
    expected = (
        f"Expect content of yaml config file {bench.file} is of the dict type, but it is empty"
    )

    assert only_message(bench, content) == expected


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"- a\n- b\n", "list"), (b"hello\n", "single value"), (b"5", "single value")],
)
def test_a_file_that_is_no_mapping(bench, content, kind):
    expected = (
        f"Expect content of yaml config file {bench.file} is of the dict type, but it is a {kind}"
    )

    assert only_message(bench, content) == expected


def test_a_syntax_error_is_told_with_line_and_column(bench):
    message = only_message(bench, b"fl_name: a\nround: [1, 2\nsummary: 5\n")

    assert message.startswith(
        f"yaml config file {bench.file} is not valid YAML on line 3, column 8"
    )
    assert "\n" not in message


def test_a_tab_for_indentation_is_told(bench):
    message = only_message(bench, b"round:\n\tstart_fl_job_threshold: 2\n")

    assert "is not valid YAML on line 2, column 1" in message


def test_bytes_that_are_no_text(bench):
    message = only_message(bench, b"fl_name: a\nx: \xff\xfe\n")

    assert message == (
        f"yaml config file {bench.file} is not UTF-8 text: "
        "byte 0xff on line 2 does not belong there"
    )


def test_a_character_that_yaml_forbids(bench):
    message = only_message(bench, b"fl_name: a\n\nx: \x00\n")

    assert message == (
        f"yaml config file {bench.file} is not valid YAML: "
        "the character U+0000 on line 3 is not allowed"
    )


def test_a_file_of_absurd_size(bench):
    message = only_message(bench, b"#" * (MAX_FILE_BYTES + 1))

    assert message == f"yaml config file {bench.file} is larger than {MAX_FILE_BYTES} bytes"


def test_a_file_of_absurd_depth(bench):
    message = only_message(bench, b"a: " + b"[" * 20_000)

    assert message == f"yaml config file {bench.file} is nested too deeply"


def test_aliases_that_multiply_without_bound(bench):
    levels = ["a0: &a0 {x: 1, y: 2}"]
    levels += [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)]

    message = only_message(bench, "\n".join(levels).encode())

    assert message == f"yaml config file {bench.file} has more than {MAX_ENTRIES} entries"


def test_a_mapping_that_contains_itself(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + "loop: &loop\n  again: *loop\n"

    messages = bench.problems(bench.text, text)

    assert messages == [
        f"The parameter 'loop.again' contains itself, yaml config file: {bench.file}"
    ]


def test_a_byte_order_mark_is_no_part_of_the_text(bench):
    bench.write_changed({})
    bench.path.write_bytes(b"\xef\xbb\xbf" + bench.path.read_bytes())

    assert load(bench.file, "server", environ={}).name == "Bench"


def test_two_documents_in_one_file(bench):
    message = only_message(bench, b"fl_name: a\n---\nfl_name: b\n")

    assert "is not valid YAML on line 2" in message


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system ''", "!secret x"],
)
def test_a_tag_runs_no_code_and_is_refused(bench, tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + f"extra: {tag}\n"

    if "apply" in tag:
        settings = bench.text(text)
        assert "extra" in settings.warnings[0]
    else:
        messages = bench.problems(bench.text, text)
        assert len(messages) == 1
        assert "has a YAML tag, which is not allowed" in messages[0]
        assert "secret" not in messages[0]
    assert not (tmp_path / "pwned").exists()


def test_a_key_given_twice_is_told_with_both_lines(bench):
    bench.write_changed({})
    text = "fl_name: First\n" + bench.path.read_text("utf-8")

    messages = bench.problems(bench.text, text)

    assert messages == [
        f"The parameter 'fl_name' is given twice, on lines 1 and 2, yaml config file: {bench.file}"
    ]


def test_a_key_given_twice_inside_a_section_is_told_too(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + "client:\n  client_epoch_num: 1\n  client_epoch_num: 2\n"

    messages = bench.problems(bench.text, text)

    assert len(messages) == 1
    assert "'client.client_epoch_num' is given twice, on lines 17 and 18" in messages[0]


@pytest.mark.parametrize(
    ("key", "shown"),
    [("5", "5"), ("true", "true"), ("2024-01-01", "2024-01-01"), ("[a]", "a list")],
)
def test_a_key_that_is_not_text_is_told(bench, key, shown):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + f"client:\n  ? {key}\n  : 1\n"

    messages = bench.problems(bench.text, text)

    assert len(messages) == 1
    assert f"The key {shown}" in messages[0]
    assert "in 'client' on line 17 is not text to YAML" in messages[0]


def test_merge_keys_and_aliases_work_as_in_the_original(bench):
    bench.write_changed({"round": bench.absent})
    text = bench.path.read_text("utf-8") + (
        "base: &base\n"
        "  start_fl_job_threshold: 2\n"
        "  start_fl_job_time_window: 1000\n"
        "  update_model_ratio: 1.0\n"
        "  update_model_time_window: 1000\n"
        "  global_iteration_time_window: 2000\n"
        "round:\n"
        "  <<: *base\n"
        "  start_fl_job_threshold: 5\n"
    )

    settings = bench.text(text)

    assert settings.rounds.cohort_size == 5
    assert settings.rounds.select_window_ms == 1000


def test_a_dotted_key_is_the_same_as_a_nested_one_as_in_the_original(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + "client.client_epoch_num: 7\n"

    assert bench.text(text).device.epochs == 7


def test_what_the_originals_reader_skips_counts_as_absent(bench):
    settings = bench.server(
        {
            "client.client_epoch_num": None,
            "client.client_batch_size": [1],
            "client.http_url_prefix": None,
        }
    )

    assert settings.device.epochs == 25
    assert settings.device.batch_size == 32


def test_a_date_in_place_of_a_name_is_explained(bench):
    bench.write_changed({"fl_name": bench.absent})
    text = bench.path.read_text("utf-8") + "fl_name: 2024-01-01\n"

    with pytest.raises(ConfigError) as caught:
        bench.text(text)

    problem = caught.value.problems[0]
    assert "'fl_name' is missing" in problem.message
    assert problem.found == "a date"
    assert "put it in quotes" in problem.note


def test_a_date_that_is_none_is_told_and_not_raised(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + "client:\n  http_url_prefix: 2024-99-99\n"

    messages = bench.problems(bench.text, text)

    assert len(messages) == 1
    assert "looks like a number or a date and is none" in messages[0]


@pytest.mark.parametrize(
    "value",
    [
        "!!timestamp soon",
        "!!bool perhaps",
        "!!int ''",
        "1" + ":59" * 200 + ".5",
        "1" + ":59" * 200_000,
        "0x" + "f" * 5_000,
        "0x" + "f" * 200,
    ],
    ids=["instant", "bool", "int", "wide float", "endless", "long", "unprintable"],
)
def test_a_number_that_is_none_is_told_at_once_and_not_raised(bench, value):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + f"client:\n  client_epoch_num: {value}\n"

    messages = bench.problems(bench.text, text)

    assert "'client.client_epoch_num'" in messages[0]
    assert len("".join(messages)) < 1_000


def test_an_unquoted_star_is_explained_without_showing_what_follows(bench):
    message = only_message(bench, b"distributed_cache:\n  password: *hunter2\n")

    assert "hunter2" not in message
    assert "text that begins with * must be in quotes" in message
