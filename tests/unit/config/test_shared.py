"""The settings that all servers of a job share, in the words that management clients know."""

from __future__ import annotations

import json

import pytest

from fl_cluster.config.shared import MUST_BE_EQUAL, SharedParameters, visible

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


def test_what_management_clients_are_shown_is_what_they_have_always_seen(observed):
    assert json.dumps(visible(observed.text), separators=(",", ":")) == OBSERVED


def test_what_management_clients_do_not_know_is_kept_and_not_shown(bench):
    evaluated = {
        "unsupervised.cluster_client_num": 7,
        "unsupervised.eval_type": "DAVIES_BOULDIN_SCORE",
    }

    shared = SharedParameters.of(bench.server(evaluated))

    assert (shared.eval_type, shared.eval_window) == ("DAVIES_BOULDIN_SCORE", 7)
    assert shared.server_mode == "FEDERATED_LEARNING"
    assert shared.is_evaluated
    assert not SharedParameters.of(bench.server()).is_evaluated
    assert "eval" not in json.dumps(visible(shared.text))


def test_a_later_server_takes_over_every_shared_setting(bench):
    first = bench.server(
        {
            "fl_iteration_num": 9,
            "server_mode": "HYBRID_TRAINING",
            "aggregation.aggregation_type": "FedProx",
            "aggregation.iid_rate": 0.5,
            "aggregation.total_client_num": 6,
            "unsupervised.cluster_client_num": 3,
            "unsupervised.eval_type": "SILHOUETTE_SCORE",
            "round.update_model_ratio": 0.5,
            "client.client_learning_rate": 0.25,
        }
    )
    second = bench.server({"summary.metrics_file": "mine.json"})

    adopted = SharedParameters.of(first).adopted_by(second)

    assert SharedParameters.of(adopted) == SharedParameters.of(first)
    assert type(adopted.unsupervised.eval_type) is type(first.unsupervised.eval_type)
    assert adopted.rounds_total == 9
    assert adopted.server_mode == "HYBRID_TRAINING"
    assert adopted.aggregation == first.aggregation
    assert adopted.summary.metrics_file == "mine.json"


def test_settings_that_an_older_server_did_not_keep_stay_as_they_are(bench, observed):
    values = json.loads(observed.text)
    del values["iid_rate"], values["cluster"]
    settings = bench.server({"aggregation.iid_rate": 0.5})

    adopted = SharedParameters.parse(json.dumps(values)).adopted_by(settings)

    assert adopted.aggregation.proximal_weight == 0.5
    assert adopted.device.epochs == 20


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
