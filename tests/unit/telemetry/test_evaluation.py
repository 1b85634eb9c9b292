"""Scores of unsupervised evaluation: values known from elsewhere, and the rules at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from fl_cluster.telemetry import evaluation
from fl_cluster.telemetry.evaluation import METHODS, Evaluation, evaluate

SILHOUETTE, CALINSKI, DAVIES = METHODS
IN_SKLEARN = {
    SILHOUETTE: metrics.silhouette_score,
    CALINSKI: metrics.calinski_harabasz_score,
    DAVIES: metrics.davies_bouldin_score,
}


def packed(*vectors) -> list[bytes]:
    return [np.asarray(vector, "<f4").tobytes() for vector in vectors]


def score(method, *vectors, size=None) -> float:
    found = evaluate(method, packed(*vectors), len(vectors) if size is None else size)
    assert found.complaint == ""
    return found.score


@pytest.mark.parametrize(
    ("method", "newest", "expected"),
    [
        (SILHOUETTE, [(5, 4, 3), (2, 3, 4), (1, 2, 3)], 0.363489),
        (DAVIES, [(2, 7), (1, 5), (4, 2), (3, 1)], 0.37062994),
        (
            CALINSKI,
            [(5, 4, 3.5), (2, 3, 4.5), (1, 2, 3.5), (5, 4, 3), (2, 3, 4), (1, 2, 3)],
            18.538462,
        ),
    ],
)
def test_values_that_are_known(method, newest, expected):
    size = 4 if method == CALINSKI else len(newest)

    assert score(method, *newest, size=size) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [1, 100, evaluation.BLOCK_ELEMENTS])
def test_scores_agree_with_scikit_learn(method, block, monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK_ELEMENTS", block)
    vectors = np.random.default_rng(7).random((60, 5), np.float32)
    labels = vectors.argmax(axis=1)

    expected = IN_SKLEARN[method](vectors.astype(np.float64), labels)

    assert score(method, *vectors) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_is_a_single_precision_number(method):
    found = score(method, (3, 1), (4, 2), (1, 5), (2, 7))

    assert found == float(np.float32(found))


@pytest.mark.parametrize("method", METHODS)
def test_groups_need_not_be_numbered_without_gaps(method):
    with_gap = [(3, 0, 1), (4, 0, 2), (1, 0, 5), (2, 0, 7)]
    without = [(3, 1), (4, 2), (1, 5), (2, 7)]

    assert score(method, *with_gap) == score(method, *without)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "vectors",
    [
        [(3, 1), (4, 2), (5, 3)],
        [(3, 1), (1, 3)],
        [(9, 1, 1), (1, 9, 1), (1, 1, 9)],
        [(3, 1)],
    ],
    ids=["one group", "two of two", "each its own", "one vector"],
)
def test_too_few_or_too_many_groups_are_worth_nothing(method, vectors):
    assert score(method, *vectors) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_until_there_are_enough_vectors_the_score_is_nothing(method):
    vectors = [(3, 1), (4, 2), (1, 5), (2, 7)]

    assert score(method, *vectors, size=5) == 0.0
    assert score(method, *vectors, size=4) != 0.0


@pytest.mark.parametrize("method", METHODS)
def test_only_the_newest_count(method):
    newest = [(3, 1), (4, 2), (1, 5), (2, 7)]

    assert score(method, *newest, (100, 1), size=4) == score(method, *newest)


def test_the_first_of_equal_maxima_is_the_group():
    assert score(CALINSKI, (3, 3), (4, 1), (5, 5)) == 0.0
    assert score(CALINSKI, (3, 3), (4, 1), (1, 5)) != 0.0


def test_a_vector_that_is_alone_or_repeated_counts_nothing_in_the_silhouette():
    assert score(SILHOUETTE, (3, 1), (3, 1), (1, 5)) == 0.0


def test_groups_without_any_spread_are_worth_one_by_calinski_and_harabasz():
    assert score(CALINSKI, (3, 1), (3, 1), (1, 5), (1, 5)) == 1.0


def test_vectors_of_another_length_are_left_out_and_named():
    vectors = [(3, 1), (4, 2), (1, 5), (2, 7)]

    found = evaluate(DAVIES, packed((1, 2, 3), *vectors), 5)

    assert found == Evaluation(score(DAVIES, *vectors), "1 vectors are not 2 numbers long")


def test_empty_vectors_are_worth_nothing():
    assert evaluate(SILHOUETTE, [b"", b""], 2) == Evaluation(complaint="the vectors are empty")


def test_more_than_can_be_compared_in_time_is_not_compared(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_DIFFERENCES", 31)
    vectors = packed((3, 1), (4, 2), (1, 5), (2, 7))

    found = evaluate(SILHOUETTE, vectors, 4)

    assert found == Evaluation(complaint="4 vectors are too many to compare each with all")
    assert evaluate(DAVIES, vectors, 4).score != 0.0


def test_nothing_is_computed_when_it_is_not_asked_for():
    assert evaluate("NOT_EVAL", packed((3, 1), (1, 3), (2, 3)), 3) == Evaluation()
