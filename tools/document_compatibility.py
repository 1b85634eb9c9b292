"""Writes the tables of keys and of Python names into docs/compatibility.md; the rest is by hand.

The keys are those that the configuration is checked with, the names those of docs/python-api.md.

python tools/document_compatibility.py            write the tables
python tools/document_compatibility.py --check    exit 1 when they are out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fl_cluster.config.compatibility import Standing, standing_of
from fl_cluster.config.differences import DIFFERENCES, NEW, PASSED_OVER
from fl_cluster.config.keys import BLOCKS
from fl_cluster.config.tables import Block, Key

DOCS = Path(__file__).resolve().parent.parent / "docs"
TARGET = DOCS / "compatibility.md"
NAMES = DOCS / "python-api.md"

SHOWN_BY: Mapping[str, tuple[str, ...]] = {
    "fl_name": (
        "test_a_name_that_cannot_be_part_of_a_key_or_a_file_is_refused",
        "test_a_checkpoint_has_the_name_of_job_round_and_time",
    ),
    "fl_iteration_num": (
        "test_after_the_last_round_models_are_served_and_the_next_one_never_is",
        "test_numbers_beyond_int32_are_told_as_the_largest_there_is",
    ),
    "server_mode": (
        "test_an_unknown_server_mode_has_a_sentence_of_its_own",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "enable_ssl": ("test_a_job_runs_with_everything_encrypted",),
    "aggregation.aggregation_type": (
        "test_fednova_adds_the_steps_of_workers_at_two_servers",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "aggregation.iid_rate": (
        "test_what_a_file_says_of_aggregation_is_told",
        "test_a_mindspore_program_trains_with_the_manager_as_its_callback",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "aggregation.total_client_num": (
        "test_scaffold_hands_controls_from_round_to_round",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "distributed_cache.type": ("test_keys_without_effect_are_read_and_change_nothing",),
    "distributed_cache.plugin_lib_path": ("test_keys_without_effect_are_read_and_change_nothing",),
    "distributed_cache.address": (
        "test_a_cache_address_is_shown_without_its_login_and_connected_with_it",
        "test_a_socket_a_database_and_a_user_with_a_password",
        "test_the_parts_of_an_address_of_sentinels",
    ),
    "distributed_cache.username": ("test_the_password_is_found_wherever_it_may_be",),
    "distributed_cache.password": ("test_the_password_is_found_wherever_it_may_be",),
    "distributed_cache.cacert_filename": (
        "test_a_job_runs_with_everything_encrypted",
        "test_a_tls_file_that_is_not_there_is_named_before_redis_is_touched",
    ),
    "distributed_cache.capath": (
        "test_authorities_may_be_a_folder_of_theirs",
        "test_a_tls_file_that_is_not_there_is_named_before_redis_is_touched",
    ),
    "distributed_cache.cert_filename": (
        "test_a_job_runs_with_everything_encrypted",
        "test_a_tls_file_that_is_not_there_is_named_before_redis_is_touched",
    ),
    "distributed_cache.private_key_filename": (
        "test_a_job_runs_with_everything_encrypted",
        "test_a_tls_file_that_is_not_there_is_named_before_redis_is_touched",
    ),
    "distributed_cache.server_name": (
        "test_a_redis_of_another_name_is_not_believed_unless_that_name_is_expected",
        "test_keys_that_are_handed_to_redis_take_any_single_value",
    ),
    "ssl.server_cert_path": ("test_pem_and_pkcs12_are_taken_alike", "test_a_missing_file_is_named"),
    "ssl.server_key_path": ("test_a_pem_file_without_a_key_says_how_to_name_one",),
    "ssl.client_cert_path": (
        "test_nobody_without_a_certificate_gets_to_the_cluster_side",
        "test_a_scheduler_that_was_revoked_is_refused_by_servers_that_run",
    ),
    "ssl.client_key_path": ("test_a_scheduler_that_was_revoked_is_refused_by_servers_that_run",),
    "ssl.ca_cert_path": (
        "test_a_certificate_of_another_authority_is_refused",
        "test_an_authority_that_is_missing_or_no_certificate_is_named",
    ),
    "ssl.crl_path": (
        "test_a_scheduler_that_was_revoked_is_refused_by_servers_that_run",
        "test_a_list_that_is_missing_forged_or_of_another_time_is_refused",
    ),
    "ssl.cipher_list": ("test_a_cipher_outside_the_list_is_refused",),
    "ssl.cert_expire_warning_time_in_day": (
        "test_warnings_begin_as_many_days_ahead_as_the_file_says",
    ),
    "round.start_fl_job_threshold": (
        "test_one_more_than_the_threshold_is_refused_by_either_server",
    ),
    "round.start_fl_job_time_window": (
        "test_a_round_that_too_few_devices_join_ends_at_its_window",
        "test_the_first_window_to_close_ends_the_round",
    ),
    "round.update_model_ratio": ("test_a_run_with_another_ratio_needs_as_many_updates_as_it_says",),
    "round.update_model_time_window": (
        "test_a_round_that_too_few_devices_report_to_ends_at_its_window",
        "test_the_first_window_to_close_ends_the_round",
    ),
    "round.global_iteration_time_window": (
        "test_a_round_to_which_nobody_reports_ends_at_the_window_of_the_whole",
        "test_the_first_window_to_close_ends_the_round",
    ),
    "summary.participation_time_level": (
        "test_levels_that_make_no_sense_are_replaced_with_a_warning",
        "test_participation_is_counted_cumulatively_and_limits_are_outside",
    ),
    "summary.continuous_failure_times": ("test_failed_rounds_and_a_new_run_are_accounted_for",),
    "summary.metrics_file": (
        "test_two_servers_account_for_their_job",
        "test_a_loss_is_divided_by_the_samples_of_those_whose_losses_were_added",
    ),
    "summary.failure_event_file": (
        "test_the_event_file_is_there_from_the_start_and_gets_a_line_when_it_is_due",
        "test_two_servers_account_for_their_job",
    ),
    "summary.data_rate_dir": (
        "test_two_servers_account_for_their_job",
        "test_what_is_left_is_written_at_once_when_the_server_ends",
    ),
    "unsupervised.cluster_client_num": (
        "test_the_newest_vectors_are_scored",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "unsupervised.eval_type": (
        "test_the_newest_vectors_are_scored",
        "test_scores_agree_with_scikit_learn",
        "test_a_later_server_takes_over_every_shared_setting",
    ),
    "encrypt.encrypt_type": (
        "test_an_unknown_word_gets_the_list_of_known_ones_in_order",
        "test_the_mean_is_that_of_the_updates_that_the_masks_hid",
        "test_masks_of_workers_across_silos_cancel_once_all_have_reported",
        "test_signs_that_are_none_are_refused",
    ),
    "encrypt.pw_encrypt.share_secrets_ratio": (
        "test_with_fewer_sharers_than_offers_devices_may_vanish_at_every_step",
        "test_the_number_of_sharers_shrinks_with_each_exchange",
    ),
    "encrypt.pw_encrypt.cipher_time_window": (
        "test_a_step_that_too_few_devices_take_ends_the_round_at_its_window",
    ),
    "encrypt.pw_encrypt.reconstruct_secrets_threshold": (
        "test_masked_rounds_need_as_many_updates_as_devices_to_read_the_sum",
    ),
    "encrypt.dp_encrypt.dp_eps": (
        "test_every_number_of_noise_is_told_as_it_is_configured",
        "test_what_is_infinite_in_single_precision_is_refused",
    ),
    "encrypt.dp_encrypt.dp_delta": ("test_every_number_of_noise_is_told_as_it_is_configured",),
    "encrypt.dp_encrypt.dp_norm_clip": (
        "test_every_number_of_noise_is_told_as_it_is_configured",
        "test_what_is_infinite_in_single_precision_is_refused",
    ),
    "encrypt.signds.sign_global_lr": (
        "test_signs_move_the_chosen_elements_and_nothing_else",
        "test_every_number_of_signs_is_told_as_it_is_configured",
        "test_what_is_infinite_in_single_precision_is_refused",
    ),
    "encrypt.signds": ("test_every_number_of_signs_is_told_as_it_is_configured",),
    "compression.upload_compress_type": (
        "test_each_way_is_compressed_as_its_own_key_says",
        "test_compression_gives_way_to_encryption_it_does_not_go_with",
        "test_a_sparse_update_that_is_none_is_refused",
    ),
    "compression.upload_sparse_rate": (
        "test_each_way_is_compressed_as_its_own_key_says",
        "test_the_sparse_rate_is_checked_even_when_nothing_is_compressed",
    ),
    "compression.download_compress_type": ("test_each_way_is_compressed_as_its_own_key_says",),
    "client_verify.pki_verify": (
        "test_existing_devices_prove_themselves_at_one_server_and_report_at_the_other",
    ),
    "client_verify.root_first_ca_path": (
        "test_a_server_that_cannot_read_its_roots_says_so_and_does_not_start",
    ),
    "client_verify.root_second_ca_path": (
        "test_either_of_two_roots_will_do",
        "test_devices_with_certificates_prove_themselves_to_each_other",
    ),
    "client_verify.equip_crl_path": (
        "test_devices_with_certificates_train_until_they_are_revoked",
    ),
    "client_verify.replay_attack_time_diff": (
        "test_a_clock_may_be_off_by_the_window",
        "test_an_old_signature_and_one_of_a_stranger_are_refused_with_a_time",
    ),
    "client.http_url_prefix": ("test_a_prefix_is_used_as_it_is_written",),
    "client.client_epoch_num": (
        "test_the_plan_follows_the_parameters_of_the_run",
        "test_numbers_beyond_int32_are_told_as_the_largest_there_is",
    ),
    "client.client_batch_size": (
        "test_the_plan_follows_the_parameters_of_the_run",
        "test_numbers_beyond_int32_are_told_as_the_largest_there_is",
    ),
    "client.client_learning_rate": (
        "test_the_plan_follows_the_parameters_of_the_run",
        "test_what_is_infinite_in_single_precision_is_refused",
    ),
    "client.connection_num": (
        "test_the_oldest_idle_connection_gives_way_to_one_too_many",
        "test_one_connection_too_many_is_told_so_when_all_are_busy",
    ),
    "cluster.pw_mask_layout": (
        "test_a_device_of_the_sdk_is_refused_where_masks_run_on",
        "test_devices_whose_masks_run_on_are_unmasked_where_the_job_says_so",
    ),
}
"""Key, or section for the rest of its keys -> the tests that show what it does."""

DEFAULTS = "test_the_defaults_of_the_new_section_are_these"
"""Shows of the new keys what they are when they are left out."""

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
    tests = ", ".join(f"`{test}`" for test in tests_of(path))
    return f"| `{path}` | {'; '.join(_here(path))} | {tests} |"


def _here(path: str) -> Iterator[str]:
    standing, why = standing_of(path)
    differences = DIFFERENCES.get(path, ())
    for difference in differences:
        values = f" ({difference.when})" if difference.when else ""
        yield f"{WORDS[standing]}{values}: {difference.why}"
    if differences:
        return
    if why not in ("", PASSED_OVER):
        yield f"{WORDS[standing]}: {why}"
    else:
        yield WORDS[standing]


def tests_of(path: str) -> tuple[str, ...]:
    """The tests that show what the key does."""
    name = path
    while name and name not in SHOWN_BY:
        name = name.rpartition(".")[0]
    if not name and path in NEW:
        return (DEFAULTS,)
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
