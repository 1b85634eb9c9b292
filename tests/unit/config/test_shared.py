"""The settings that all servers of a job share, in the words that management clients know."""

from __future__ import annotations

import json

import pytest

from fl_cluster.config.shared import MUST_BE_EQUAL, SharedParameters

OBSERVED = (
    '{"aggregation_type":"FedAvg","cipher_time_window":1,"client_batch_size":32,'
    '"client_epoch_num":20,"client_learning_rate":0.009999999776482582,'
    '"download_compress_type":"NO_COMPRESS","dp_delta":0.009999999776482582,"dp_eps":50.0,'
    '"dp_norm_clip":1.0,"enable_ssl":false,"encrypt_type":"NOT_ENCRYPT","fl_iteration_num":4,'
    '"global_iteration_time_window":60000,"iid_rate":0.0,"pki_verify":false,'
    '"reconstruct_secrets_threshold":1,"secure_aggregation":false,"share_secrets_ratio":1.0,'
    '"sign_dim_out":0,"sign_eps":100.0,"sign_global_lr":0.10000000149011612,'
    '"sign_k":0.009999999776482582,"sign_thr_ratio":0.6000000238418579,'
    '"start_fl_job_threshold":2,"start_fl_job_time_window":30000,"total_client_num":1,'
    '"update_model_ratio":1.0,"update_model_time_window":30000,'
    '"upload_compress_type":"NO_COMPRESS","upload_sparse_rate":0.4000000059604645}'
)
"""What a 0.1.0 cluster answers for this file, to the byte."""

OBSERVED_FILE = {
    "client.client_epoch_num": 20,
    "client.client_batch_size": 32,
    "client.client_learning_rate": 0.01,
}


@pytest.fixture
def observed(bench) -> SharedParameters:
    return SharedParameters.of(bench.server(OBSERVED_FILE))


def test_the_text_is_what_management_clients_have_always_seen(observed):
    assert observed.text == OBSERVED


def test_the_numbers_that_rounds_and_devices_need_are_read_from_the_text(observed):
    assert (
        observed.rounds_total,
        observed.cohort_size,
        observed.report_ratio,
        observed.select_window_ms,
        observed.report_window_ms,
        observed.round_window_ms,
    ) == (4, 2, 1.0, 30000, 30000, 60000)
    assert (observed.epochs, observed.batch_size) == (20, 32)
    assert observed.learning_rate == 0.009999999776482582
    assert observed.upload_sparse_rate == 0.4000000059604645


def test_the_text_says_it_all(observed):
    assert SharedParameters.parse(observed.text) == observed


def test_the_names_are_in_order_whatever_the_order_of_the_file(bench):
    names = list(json.loads(SharedParameters.of(bench.server()).text))

    assert names == sorted(names)


def test_equal_settings_differ_in_nothing(bench, observed):
    assert observed.differences(SharedParameters.of(bench.server(OBSERVED_FILE))) == []


def test_differences_are_named_with_both_values(bench, observed):
    other = SharedParameters.of(
        bench.server(
            OBSERVED_FILE | {"client.client_epoch_num": 1, "round.start_fl_job_threshold": 9}
        )
    )

    assert observed.differences(other) == [
        ("client_epoch_num", 20, 1),
        ("start_fl_job_threshold", 2, 9),
    ]


def test_a_setting_that_an_older_server_did_not_keep_differs(observed):
    values = json.loads(observed.text)
    del values["iid_rate"]

    assert observed.differences(SharedParameters.parse(json.dumps(values))) == [
        ("iid_rate", 0.0, None)
    ]


def test_what_an_older_server_kept_beyond_that_is_ignored(observed):
    older = SharedParameters.parse(json.dumps(json.loads(observed.text) | {"extra": 1}))

    assert observed.differences(older) == []


def test_what_must_be_equal_is_shared(observed):
    assert set(MUST_BE_EQUAL) <= set(json.loads(observed.text))
