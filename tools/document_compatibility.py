"""Writes the tables of keys and of Python names into docs/compatibility.md; the rest is by hand.

The keys are those that the configuration is checked with, the names those of docs/python-api.md.

python tools/document_compatibility.py            write the tables
python tools/document_compatibility.py --check    exit 1 when they are out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fl_cluster.config.compatibility import DIFFERENCES, NEW, Standing, standing_of
from fl_cluster.config.keys import BLOCKS
from fl_cluster.config.tables import Block, Key

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET = DOCS / "compatibility.md"
NAMES = DOCS / "python-api.md"

SHOWN_BY: Mapping[str, str] = {
    "fl_name": "test_a_checkpoint_has_the_name_of_job_round_and_time",
    "fl_iteration_num": "test_the_last_round_closes_the_job",
    "server_mode": "test_an_unknown_server_mode_has_a_sentence_of_its_own",
    "enable_ssl": "test_a_job_runs_with_everything_encrypted",
    "aggregation": "test_a_later_server_takes_over_every_shared_setting",
    "distributed_cache": "test_keys_that_are_handed_to_redis_take_any_single_value",
    "distributed_cache.type": "test_a_value_of_the_wrong_type_gets_the_originals_message",
    "distributed_cache.address": "test_a_socket_a_database_and_a_user_with_a_password",
    "distributed_cache.plugin_lib_path": (
        "test_a_value_of_the_wrong_type_gets_the_originals_message"
    ),
    "distributed_cache.username": "test_the_password_is_found_wherever_it_may_be",
    "distributed_cache.password": "test_the_password_is_found_wherever_it_may_be",
    "ssl.server_cert_path": "test_pem_and_pkcs12_are_taken_alike",
    "ssl.server_key_path": "test_a_key_of_another_certificate_is_noticed",
    "ssl.client_cert_path": "test_nobody_without_a_certificate_gets_to_the_cluster_side",
    "ssl.client_key_path": "test_a_key_that_everybody_may_read_is_refused",
    "ssl.ca_cert_path": "test_a_certificate_of_another_authority_is_refused",
    "ssl.crl_path": "test_a_certificate_that_is_revoked_while_the_server_runs_is_refused",
    "ssl.cipher_list": "test_a_cipher_outside_the_list_is_refused",
    "ssl.cert_expire_warning_time_in_day": "test_what_ends_soon_is_told_with_its_file_and_day",
    "round.start_fl_job_threshold": "test_a_crowd_never_overfills_the_cohort",
    "round.update_model_ratio": "test_a_ratio_just_above_one_never_asks_for_more_than_the_cohort",
    "round": "test_the_first_window_to_close_ends_the_round",
    "summary.participation_time_level": (
        "test_levels_that_make_no_sense_are_replaced_with_a_warning"
    ),
    "summary.continuous_failure_times": (
        "test_the_event_file_is_there_from_the_start_and_gets_a_line_when_it_is_due"
    ),
    "summary.metrics_file": (
        "test_a_loss_is_divided_by_the_samples_of_those_whose_losses_were_added"
    ),
    "summary.failure_event_file": (
        "test_the_event_file_is_there_from_the_start_and_gets_a_line_when_it_is_due"
    ),
    "summary.data_rate_dir": "test_two_servers_account_for_their_job",
    "unsupervised.cluster_client_num": "test_until_there_are_enough_vectors_the_score_is_nothing",
    "unsupervised.eval_type": "test_two_servers_account_for_their_job",
    "encrypt.encrypt_type": "test_an_unknown_word_gets_the_list_of_known_ones_in_order",
    "encrypt.pw_encrypt": "test_masked_rounds_need_more_sharers_than_it_takes_to_rebuild",
    "encrypt.dp_encrypt": "test_the_numbers_of_noise_reach_devices",
    "encrypt.signds": "test_signs_move_the_chosen_elements_and_nothing_else",
    "encrypt": ("test_parts_of_encrypt_that_do_not_belong_to_its_type_are_not_even_looked_at"),
    "compression.upload_sparse_rate": (
        "test_the_sparse_rate_is_checked_even_when_nothing_is_compressed"
    ),
    "compression": "test_compression_gives_way_to_encryption_it_does_not_go_with",
    "client_verify.pki_verify": (
        "test_existing_devices_prove_themselves_at_one_server_and_report_at_the_other"
    ),
    "client_verify.root_first_ca_path": (
        "test_a_server_that_cannot_read_its_roots_says_so_and_does_not_start"
    ),
    "client_verify.root_second_ca_path": "test_either_of_two_roots_will_do",
    "client_verify.equip_crl_path": "test_devices_with_certificates_train_until_they_are_revoked",
    "client_verify.replay_attack_time_diff": "test_a_clock_may_be_off_by_the_window",
    "client.http_url_prefix": "test_a_prefix_is_used_as_it_is_written",
    "client.connection_num": "test_one_connection_too_many_is_told_so_when_all_are_busy",
    "client": "test_an_admitted_device_is_told_the_round_and_the_plan",
    "cluster": "test_the_defaults_of_the_new_section_are_these",
}
"""Key, or section for the rest of its keys -> the test that shows what it does."""

WORDS = {
    Standing.SUPPORTED: "the same",
    Standing.UNUSED: "without effect, the same",
    Standing.NEW: "new",
    Standing.DIFFERENT: "different",
}


def table() -> str:
    """The table, with its header."""
    lines = ["| key | here | shown by |", "| --- | --- | --- |"]
    lines += [_row(block, key) for block in BLOCKS for key in block.keys]
    return "\n".join(lines) + "\n"


def _row(block: Block, key: Key) -> str:
    path = block.path(key)
    return f"| `{path}` | {'; '.join(_here(path))} | `{_test_of(path)}` |"


def _here(path: str) -> Iterator[str]:
    standing, why = standing_of(path)
    difference = DIFFERENCES.get(path)
    if difference is not None:
        values = f" ({difference.when})" if difference.when else ""
        yield f"{WORDS[standing]}{values}: {why}"
    elif standing is Standing.UNUSED:
        yield f"{WORDS[standing]}: {why}"
    else:
        yield WORDS[standing]


def _test_of(path: str) -> str:
    if path in NEW and path not in SHOWN_BY:
        return SHOWN_BY["cluster"]
    name = path
    while name not in SHOWN_BY:
        name = name.rpartition(".")[0]
    return SHOWN_BY[name]


def names() -> str:
    """The tables of names of docs/python-api.md, with links from here."""
    section = NAMES.read_text("utf-8").partition("## Every name\n")[2].partition("\n## ")[0]
    text = section.strip().replace("](#", f"]({NAMES.name}#")
    return f"{text}\n"


def written(text: str, what: str, content: str) -> str:
    """The document with `content` between the marks of `what`; ValueError when it has none."""
    begin = f"<!-- {what}: written by tools/document_compatibility.py, again by `make docs`. -->\n"
    end = f"<!-- End of the {what.lower()}. -->\n"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{TARGET}: expected the lines {begin!r} and {end!r}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> int:
    """Write the tables, or only compare them."""
    text = TARGET.read_text("utf-8")
    wanted = written(written(text, "Keys", table()), "Names", names())
    if "--check" in sys.argv[1:]:
        return 0 if text == wanted else 1
    TARGET.write_text(wanted, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
