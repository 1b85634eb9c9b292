"""Files that lost their indentation: recognised, refused, and shown as they should be."""

from __future__ import annotations

import pytest
import yaml

from fl_cluster.config.keys import HOMES, KEYS, SECTIONS
from fl_cluster.errors import ConfigError

FLAT = """\
# the job
fl_name: Lenet
fl_iteration_num: 25
server_mode: FEDERATED_LEARNING
enable_ssl: False

distributed_cache:
type: redis
# where it is
address: 127.0.0.1:2345
plugin_lib_path: ""

round:
start_fl_job_threshold: 2
start_fl_job_time_window: 30000
update_model_ratio: 1.0
update_model_time_window: 30000
global_iteration_time_window: 60000

summary:   # files
metrics_file: "metrics.json"
failure_event_file: "event.txt"

encrypt:
encrypt_type: NOT_ENCRYPT
pw_encrypt:
share_secrets_ratio: 1.0
cipher_time_window: 3000
reconstruct_secrets_threshold: 1
dp_encrypt:
dp_eps: 50.0
"""

INDENTED = """\
# the job
fl_name: Lenet
fl_iteration_num: 25
server_mode: FEDERATED_LEARNING
enable_ssl: False

distributed_cache:
  type: redis
  # where it is
  address: 127.0.0.1:2345
  plugin_lib_path: ""

round:
  start_fl_job_threshold: 2
  start_fl_job_time_window: 30000
  update_model_ratio: 1.0
  update_model_time_window: 30000
  global_iteration_time_window: 60000

summary:   # files
  metrics_file: "metrics.json"
  failure_event_file: "event.txt"

encrypt:
  encrypt_type: NOT_ENCRYPT
  pw_encrypt:
    share_secrets_ratio: 1.0
    cipher_time_window: 3000
    reconstruct_secrets_threshold: 1
  dp_encrypt:
    dp_eps: 50.0
"""


def refusal(bench, text: str) -> str:
    """What is said about the lost indentation."""
    (message,) = (each for each in bench.problems(bench.text, text) if "indentation" in each)
    return message


def shown_form(message: str) -> str:
    return message.partition("Properly indented it reads:\n\n")[2]


def test_the_manuals_flat_form_is_answered_with_the_indented_one(bench):
    messages = bench.problems(bench.text, FLAT)

    assert len(messages) == 2
    assert messages[0] == (
        f"The parameter 'distributed_cache.address' is missing, yaml config file: {bench.file}"
    )
    assert messages[1] == (
        "On line 8 the key 'type' stands outside of its section 'distributed_cache': the sections "
        f"of this file have lost their indentation, yaml config file: {bench.file}\n"
        f"Properly indented it reads:\n\n{INDENTED}"
    )


def test_the_form_that_is_shown_is_accepted(bench):
    form = shown_form(refusal(bench, FLAT))

    settings = bench.text(form)

    assert settings.rounds.cohort_size == 2
    assert settings.warnings == ()


def test_no_form_is_shown_that_is_many_times_as_long_as_the_file(bench):
    """A name with dots is a path, and a long one as many sections, each further inside.

    Written afresh, that is, as a file with a password is.
    """
    message = refusal(bench, FLAT + "\npassword: abc\n" + "." * 300 + ": 1\n")

    assert message.startswith("On line 8 the key 'type' stands outside of its section")
    assert "\n" not in message


def test_the_problem_names_the_line(bench):
    with pytest.raises(ConfigError) as caught:
        bench.text(FLAT)

    assert caught.value.problems[1].origin == "line 8"


def test_other_problems_of_a_flat_file_are_found_as_if_it_were_indented(bench):
    text = FLAT.replace("update_model_ratio: 1.0", "update_model_ratio: 3.0")

    messages = bench.problems(bench.text, text)

    assert len(messages) == 3
    assert "'round.update_model_ratio': value is expected" in messages[2]


def test_one_key_outside_of_its_section_is_enough_when_it_is_missing_there(bench):
    bench.write_changed({"round.global_iteration_time_window": bench.absent})
    text = bench.path.read_text("utf-8") + "global_iteration_time_window: 8\n"

    message = refusal(bench, text)

    assert "the key 'global_iteration_time_window' stands outside of its section 'round'" in message
    assert "  update_model_time_window: 30000\n  global_iteration_time_window: 8\n" in message


def test_a_key_outside_that_is_not_missing_there_is_ignored_as_it_always_was(bench):
    bench.write_changed({"client.client_epoch_num": 5})
    text = bench.path.read_text("utf-8") + "client_epoch_num: 7\nupdate_model_ratio: 0.5\n"

    settings = bench.text(text)

    assert settings.device.epochs == 5
    assert [each.partition(": ")[2] for each in settings.warnings] == [
        "'client_epoch_num' is ignored: it belongs in the section 'client'",
        "'update_model_ratio' is ignored: it belongs in the section 'round'",
    ]


def test_a_section_whose_head_is_missing_gets_one(bench):
    bench.write_changed({"summary": bench.absent})
    text = bench.path.read_text("utf-8") + "metrics_file: m\nfailure_event_file: e\n"

    form = shown_form(refusal(bench, text))

    assert form.endswith("summary:\n  metrics_file: m\n  failure_event_file: e\n")


def test_keys_that_come_before_the_head_of_their_section_end_below_it(bench):
    bench.write_changed({})
    text = "client_epoch_num: 5\n" + bench.path.read_text("utf-8") + "client:\n"

    form = shown_form(refusal(bench, text))

    assert yaml.safe_load(form)["client"] == {"client_epoch_num": 5}


def test_only_the_inner_sections_may_be_flat(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + (
        "encrypt:\n  encrypt_type: NOT_ENCRYPT\n  dp_encrypt:\n  dp_eps: 10.0\n"
    )

    form = shown_form(refusal(bench, text))

    assert yaml.safe_load(form)["encrypt"] == {
        "encrypt_type": "NOT_ENCRYPT",
        "dp_encrypt": {"dp_eps": 10.0},
    }


def test_an_inner_section_in_order_may_have_lost_its_outer_one(bench):
    bench.write_changed({})
    text = bench.path.read_text("utf-8") + ("encrypt:\nsignds:\n    sign_k: 0.2\n    sign_eps: 5\n")

    form = shown_form(refusal(bench, text))

    assert yaml.safe_load(form)["encrypt"] == {"signds": {"sign_k": 0.2, "sign_eps": 5}}


def test_text_that_cannot_be_rearranged_is_written_afresh(bench):
    text = FLAT.replace("round:\n", "round: {update_model_ratio: 1.0}\n")
    text = text.replace("update_model_ratio: 1.0\nupdate", "update")

    form = shown_form(refusal(bench, text))

    assert bench.text(form).rounds.cohort_size == 2


def test_the_form_that_is_shown_has_no_password_in_it(bench):
    text = FLAT.replace(
        "address: 127.0.0.1:2345",
        "address: redis://user:hunter2@127.0.0.1:2345\npassword: >\n  correct\n  horse",
    )

    message = refusal(bench, text)

    assert "hunter2" not in message
    assert "horse" not in message
    assert "redis://***@127.0.0.1:2345" in message
    assert "password: '********'" in message


def test_a_known_key_in_the_wrong_section_is_only_unknown_there(bench):
    settings = bench.server({"client.update_model_ratio": 0.5})

    assert len(settings.warnings) == 1
    assert "'client.update_model_ratio' is ignored" in settings.warnings[0]


def test_every_key_can_be_told_by_its_last_name_alone():
    assert len(HOMES) == len(KEYS) + len(SECTIONS)
