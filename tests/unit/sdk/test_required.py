"""What the owner of a device requires: how it is said, and what is enough for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.errors import CallerProtocolError, PeerProtocolError
from fl_cluster.sdk.required import Insistence, Protection

PLAIN = Protection("NOT_ENCRYPT")
NOISE = Protection("DP_ENCRYPT", epsilon=1.0, delta=1e-5)
SIGNS = Protection("SIGNDS", epsilon=2.0)
PAIRS = Protection("PW_ENCRYPT")
RING = Protection("SECURE_AGGREGATION")
ALL = (PLAIN, NOISE, SIGNS, PAIRS, RING)
ENOUGH = {PLAIN: set(ALL), NOISE: {NOISE}, SIGNS: {SIGNS}, PAIRS: {PAIRS, RING}, RING: {RING}}

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
shares = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)


@pytest.mark.parametrize("least", ALL, ids=str)
def test_masks_are_ranked_and_noise_is_no_substitute_for_them_nor_they_for_noise(
    least: Protection,
) -> None:
    assert {found for found in ALL if found.is_at_least(least)} == ENOUGH[least]


def test_noise_is_enough_up_to_the_numbers_that_are_required() -> None:
    def is_enough(epsilon: float, delta: float = 1e-5) -> bool:
        return Protection("DP_ENCRYPT", epsilon, delta).is_at_least(NOISE)

    assert is_enough(0.5, 1e-6)
    assert not is_enough(1.01)
    assert not is_enough(1.0, 1e-4)
    assert not any(is_enough(epsilon) for epsilon in (0.0, -1.0, math.nan, math.inf))
    assert not any(is_enough(1.0, delta) for delta in (0.0, -1.0, math.nan))


@given(epsilon=st.floats(min_value=1e-30, max_value=1e30), delta=st.floats(1e-30, 0.999))
def test_what_is_rounded_to_single_precision_on_the_wire_is_still_enough(
    epsilon: float, delta: float
) -> None:
    announced = Protection("DP_ENCRYPT", float(np.float32(epsilon)), float(np.float32(delta)))

    Insistence(Protection("DP_ENCRYPT", epsilon, delta)).check(announced)


@given(
    st.sampled_from([PLAIN, PAIRS, RING])
    | st.builds(lambda epsilon: Protection("SIGNDS", epsilon), positive)
    | st.builds(lambda epsilon, delta: Protection("DP_ENCRYPT", epsilon, delta), positive, shares)
)
def test_the_text_of_a_requirement_comes_through(required: Protection) -> None:
    text = required.text()

    assert len(text.split()) == 1
    assert Protection.parse(text) == required


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "",
            "expected NOT_ENCRYPT, DP_ENCRYPT, SIGNDS, PW_ENCRYPT or SECURE_AGGREGATION, found ''",
        ),
        ("STABLE_PW_ENCRYPT", "found 'STABLE_PW_ENCRYPT'"),
        ("DP_ENCRYPT", "DP_ENCRYPT without the largest epsilon and delta that will do is no prom"),
        ("DP_ENCRYPT,epsilon=1", "DP_ENCRYPT without the largest epsilon and delta"),
        ("SIGNDS", "SIGNDS without the largest epsilon that will do"),
        ("SIGNDS,epsilon=1,delta=0.1", "SIGNDS has no delta"),
        ("SECURE_AGGREGATION,epsilon=1", "SECURE_AGGREGATION has no epsilon"),
        ("DP_ENCRYPT,epsilon=0,delta=0.1", "expected an epsilon above 0"),
        ("DP_ENCRYPT,epsilon=inf,delta=0.1", "expected an epsilon above 0"),
        ("DP_ENCRYPT,epsilon=nan,delta=0.1", "expected an epsilon above 0"),
        ("DP_ENCRYPT,epsilon=1,delta=1", "a delta between 0 and 1"),
        ("DP_ENCRYPT,epsilon=one,delta=0.1", "expected a number of epsilon, found 'one'"),
        ("DP_ENCRYPT,epsilon=1,clip=3", "expected epsilon=NUMBER or delta=NUMBER, found 'clip=3'"),
        ("DP_ENCRYPT,epsilon", "expected epsilon=NUMBER or delta=NUMBER, found 'epsilon'"),
        ("DP_ENCRYPT,epsilon=1,epsilon=9,delta=0.1", "epsilon is there twice"),
    ],
)
def test_a_requirement_that_says_nothing_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CallerProtocolError, match="protection: ") as caught:
        Protection.parse(text)

    assert complaint in str(caught.value)


def test_what_was_accepted_once_is_the_least_from_then_on() -> None:
    insistence = Insistence()
    for better in (PLAIN, PAIRS, PAIRS, RING):
        insistence.check(better)

    for less in (PAIRS, NOISE, SIGNS, PLAIN):
        with pytest.raises(PeerProtocolError, match="expected updates in SECURE_AGGREGATION as b"):
            insistence.check(less)
    insistence.check(RING)


def test_noise_never_becomes_weaker_not_even_by_little_steps() -> None:
    insistence = Insistence(NOISE)
    insistence.check(Protection("DP_ENCRYPT", 0.5, 1e-6))

    with pytest.raises(PeerProtocolError, match=r"epsilon at most 0.5 and delta at most 1e-06"):
        insistence.check(Protection("DP_ENCRYPT", 0.5 * (1 + 2**-23), 1e-6))
