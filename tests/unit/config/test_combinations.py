"""The table of what goes together: no guarantee is lost in silence, and the page says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_cluster.config.combinations import (
    ROWS,
    Axis,
    Outcome,
    all_combinations,
    as_markdown,
    judge,
    plain,
)

ROOT = Path(__file__).resolve().parents[3]


def test_the_defaults_are_allowed() -> None:
    assert judge(plain()).outcome is Outcome.ALLOWED
    assert judge(plain()).rows == ()


@pytest.mark.parametrize(
    "kind", ["NOT_ENCRYPT", "PW_ENCRYPT", "DP_ENCRYPT", "SIGNDS", "SECURE_AGGREGATION"]
)
def test_every_encryption_for_devices_is_allowed_by_itself(kind: str) -> None:
    for mode in ("FEDERATED_LEARNING", "HYBRID_TRAINING"):
        assert judge(plain(encrypt=kind, mode=mode)).outcome is Outcome.ALLOWED


@pytest.mark.parametrize("kind", ["PW_ENCRYPT", "STABLE_PW_ENCRYPT", "SIGNDS"])
def test_compression_is_switched_off_where_the_original_does(kind: str) -> None:
    judgement = judge(plain(encrypt=kind, upload="DIFF_SPARSE_QUANT"))

    assert judgement.outcome is Outcome.FORCED
    assert judgement.forced == {Axis.UPLOAD: "NO_COMPRESS"}


def test_noise_and_compression_go_together_as_in_the_original() -> None:
    chosen = plain(encrypt="DP_ENCRYPT", upload="DIFF_SPARSE_QUANT", download="QUANT")

    assert judge(chosen).outcome is Outcome.ALLOWED


def test_masks_are_never_compressed() -> None:
    for chosen in all_combinations():
        if chosen[Axis.ENCRYPT] not in ("PW_ENCRYPT", "STABLE_PW_ENCRYPT", "SECURE_AGGREGATION"):
            continue
        judgement = judge(chosen)
        settled = {**chosen, **judgement.forced}
        assert judgement.outcome is Outcome.REFUSED or settled[Axis.UPLOAD] == "NO_COMPRESS"


def test_no_encryption_is_announced_to_those_who_ignore_it() -> None:
    for chosen in all_combinations():
        is_cloud = chosen[Axis.MODE] == "CLOUD_TRAINING"
        kind = chosen[Axis.ENCRYPT]
        ignored = kind != "STABLE_PW_ENCRYPT" if is_cloud else kind == "STABLE_PW_ENCRYPT"
        if ignored and kind != "NOT_ENCRYPT":
            assert {Outcome.REFUSED, Outcome.WARNED} & {row.outcome for row in judge(chosen).rows}


def test_what_published_servers_ran_is_refused_only_where_a_guarantee_would_be_lost() -> None:
    """Unmasked numbers beside masked ones: control values, and step counts."""
    for chosen in all_combinations():
        ours = chosen[Axis.ENCRYPT] == "SECURE_AGGREGATION" or chosen[Axis.NOISE] == "central"
        is_masked = chosen[Axis.ENCRYPT] in ("PW_ENCRYPT", "STABLE_PW_ENCRYPT")
        is_partly = is_masked and chosen[Axis.AGGREGATION] in ("Scaffold", "FedNova")
        if not ours and not is_partly:
            assert judge(chosen).outcome is not Outcome.REFUSED, chosen


def test_a_changed_setting_is_not_warned_of_for_what_it_was() -> None:
    judgement = judge(
        plain(encrypt="STABLE_PW_ENCRYPT", mode="CLOUD_TRAINING", upload="DIFF_SPARSE_QUANT")
    )

    assert [row.outcome for row in judgement.rows] == [Outcome.FORCED]


def test_noise_of_servers_goes_with_updates_that_they_can_read_and_weigh() -> None:
    for chosen in all_combinations():
        if chosen[Axis.NOISE] != "central":
            continue
        is_read = chosen[Axis.ENCRYPT] == "NOT_ENCRYPT"
        is_weights = chosen[Axis.AGGREGATION] in ("FedAvg", "FedProx")
        is_refused = judge(chosen).outcome is Outcome.REFUSED
        assert is_refused or (is_read and is_weights)

    for mode in ("FEDERATED_LEARNING", "HYBRID_TRAINING", "CLOUD_TRAINING"):
        assert judge(plain(noise="central", mode=mode)).outcome is Outcome.ALLOWED
    small = plain(noise="central", upload="DIFF_SPARSE_QUANT", download="QUANT")
    assert judge(small).outcome is Outcome.ALLOWED
    scored = judge(plain(noise="central", evaluation="SILHOUETTE_SCORE"))
    assert scored.outcome is Outcome.WARNED


def test_evaluation_data_in_the_clear_are_said() -> None:
    score = "SILHOUETTE_SCORE"

    assert judge(plain(encrypt="PW_ENCRYPT", evaluation=score)).outcome is Outcome.WARNED
    assert judge(plain(encrypt="SECURE_AGGREGATION", evaluation=score)).outcome is Outcome.REFUSED
    assert judge(plain(evaluation=score)).outcome is Outcome.ALLOWED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason[:40])
def test_every_row_decides_something(row: object) -> None:
    assert any(row in judge(chosen).rows for chosen in all_combinations())


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs" / "combinations.md").read_text()

    assert as_markdown() in page
