"""Exact aggregation against arithmetic that knows nothing of it: Python's integers.

Whatever the updates, however they are spread over members and in whatever order they come:
no sum overflows, all bytes are the same, and they are those of the definition.
"""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fl_cluster.aggregate.admission import read_update
from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer, Scaling, Unfit, Update
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import term_bound

LARGEST_SUM = 2**63 - 1

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(min_value=-64, max_value=64, width=32)
data_sizes = st.integers(1, 2**16 - 1)
cohort_sizes = st.one_of(
    st.integers(1, 16), st.integers(1, 2**20), st.sampled_from([4095, 4096, 4097, 2**31, 2**62])
)


def single(value: float) -> float:
    """The nearest single precision number, by the platform's own conversion."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


@st.composite
def models(draw: st.DrawFn) -> Model:
    shapes = draw(st.lists(st.tuples(st.integers(1, 4)), min_size=1, max_size=4))
    fixed = draw(st.integers(0, len(shapes)))
    layout = Layout(
        Tensor(f"t{n}", shape, is_aggregated=n != fixed) for n, shape in enumerate(shapes)
    )
    elements = draw(st.sampled_from([ordinary, floats32]))
    values = draw(st.lists(elements, min_size=layout.size, max_size=layout.size))
    return Model(layout, np.array(values, np.float32))


@st.composite
def updates(draw: st.DrawFn, layout: Layout) -> tuple[Update, int]:
    chosen = [place for place in layout.places if draw(st.booleans())] or list(layout.places)
    arrays = [
        (
            place.tensor.name,
            np.array(
                draw(st.lists(ordinary, min_size=place.tensor.size, max_size=place.tensor.size)),
                np.float32,
            ),
        )
        for place in chosen
    ]
    found = read_update(layout, arrays, is_plain=draw(st.booleans()))
    assert isinstance(found, Update)
    return found, draw(data_sizes)


def reference(
    base: Model, counted: list[tuple[Update, int]], scales: tuple[int, ...]
) -> tuple[bytes, list[list[int]]]:
    """The model's bytes and every sum, by the definition and in exact arithmetic."""
    values, all_sums = list(map(float, base.values)), []
    for place in base.layout.summed:
        unit = Fraction(2) ** scales[place.sum_index]
        sums, weight = [0] * place.tensor.size, 0
        for update, size in counted:
            factor = size if update.is_plain else 1
            for where, array in update.arrays:
                if where.tensor.name == place.tensor.name:
                    weight += size
                    for i, x in enumerate(array.tolist()):
                        sums[i] += round(Fraction(x) * factor * unit)
        all_sums.append(sums)
        if weight:
            divisor = float(weight) * float(unit)
            values[place.start : place.stop] = [float(q) / divisor for q in sums]
    return b"".join(struct.pack("<f", single(v)) for v in values), all_sums


@given(st.data())
def test_any_order_and_any_spread_over_members_gives_the_bytes_of_the_definition(data):
    base = data.draw(models())
    cohort_size = data.draw(cohort_sizes)
    drawn = data.draw(st.lists(updates(base.layout), min_size=1, max_size=min(8, cohort_size)))
    scales = exponents(base, cohort_size)
    scaling = Scaling(scales, term_bound(cohort_size))
    counted = [(u, n) for u, n in drawn if u.find_unfit(scaling, n) is None]
    members = data.draw(st.integers(1, 4))
    spread = [Partial(base.layout, scaling) for _ in range(members)]
    for update, size in data.draw(st.permutations(counted)):
        spread[data.draw(st.integers(0, members - 1))].add(update, size)
    total = Partial(base.layout, scaling)
    for partial in data.draw(st.permutations(spread)):
        stored = Pointer("p", partial.weights).to_text()
        total.merge(partial.sums, Pointer.parse(stored, len(scales)).weights)

    model, left_out = total.finalise(base)

    expected, sums = reference(base, counted, scales)
    assert model.values.tobytes() == expected
    assert total.sums.tolist() == [q for each in sums for q in each]
    assert left_out == tuple(
        place.tensor.name
        for place in base.layout.summed
        if not any(where == place for update, _ in counted for where, _ in update.arrays)
    )


@given(st.integers(1, 2**63 - 1))
def test_no_cohort_can_make_a_sum_overflow(cohort_size):
    bound = term_bound(cohort_size)

    assert 1 <= bound <= 2**51
    assert cohort_size * bound <= LARGEST_SUM


@given(st.floats(width=32, min_value=0), st.integers(1, 2**48))
def test_what_is_promised_to_fit_fits(magnitude, cohort_size):
    """A weight 2**8 times today's largest, from a device with the largest data size."""
    assume(np.isfinite(np.float32(magnitude)))
    layout = Layout([Tensor("t", (1,))])
    s = exponents(Model(layout, np.array([magnitude], np.float32)), cohort_size)[0]
    scaling = Scaling((s,), term_bound(cohort_size))
    grown = single(max(magnitude, 0.125) * 2**8) if magnitude < 2**119 else magnitude
    update = Update([(layout.places[0], np.array([grown], np.float32))], is_plain=True)

    assert update.find_unfit(scaling, 2**16 - 1) is None


@given(st.data())
def test_an_update_is_fit_exactly_when_every_term_is_within_the_bound(data):
    base = data.draw(models())
    cohort_size = data.draw(cohort_sizes)
    scales = exponents(base, cohort_size)
    bound = term_bound(cohort_size)
    place = data.draw(st.sampled_from(base.layout.places))
    assume(place.tensor.is_aggregated)
    size, is_plain = data.draw(data_sizes), data.draw(st.booleans())
    factor = (size if is_plain else 1) * Fraction(2) ** scales[place.sum_index]
    edge = single(min(float(bound / factor), float(np.finfo(np.float32).max)))
    near = st.integers(-3, 3).map(
        lambda steps: float(np.float32(edge).view(np.int32) + np.int32(steps))
    )
    candidates = st.one_of(
        st.floats(width=32), st.just(edge), st.just(-edge), near.map(lambda v: _from_bits(int(v)))
    )
    values = data.draw(st.lists(candidates, min_size=place.tensor.size, max_size=place.tensor.size))
    update = Update([(place, np.array(values, np.float32))], is_plain)

    unfit = update.find_unfit(Scaling(scales, bound), size)

    in_order = [float(v) for v in np.array(values, np.float32)]
    first = next((i for i, v in enumerate(in_order) if not _fits(v, factor, bound)), None)
    if first is None:
        assert unfit is None
    else:
        assert isinstance(unfit, Unfit)
        assert f"element {first}:" in unfit.reason
        assert unfit.is_out_of_range == bool(np.isfinite(in_order[first]))


def _from_bits(bits: int) -> float:
    return float(np.array(max(bits, 0), np.int32).view(np.float32))


def _fits(value: float, factor: Fraction, bound: int) -> bool:
    return bool(np.isfinite(value)) and abs(Fraction(value) * factor) <= bound


@given(cohort_sizes, st.integers(1, 3))
def test_a_full_cohort_at_the_bound_sums_exactly(cohort_size, members):
    """As many terms as there can be, each as large as it can be: half of them in each half."""
    bound = term_bound(cohort_size)
    layout = Layout([Tensor("t", (2,))])
    partial = Partial(layout, Scaling((0,), bound))
    extreme = [bound * cohort_size, -bound * cohort_size]
    share = [q // members for q in extreme]
    rest = [q - members * part for q, part in zip(extreme, share, strict=True)]

    for _ in range(members):
        partial.merge(np.array(share, np.int64), [1])
    partial.merge(np.array(rest, np.int64), [0])

    assert partial.sums.tolist() == extreme


@given(st.lists(st.integers(0, 2**62), max_size=6), st.text(max_size=30))
def test_a_pointer_survives_its_text(weights, blob):
    again = Pointer.parse(Pointer(blob, weights).to_text(), len(weights))

    assert (again.blob, list(again.weights)) == (blob, weights)


@given(st.text(max_size=40), st.integers(0, 5))
def test_any_other_text_is_a_pointer_or_a_value_error(text, count):
    try:
        found = Pointer.parse(text, count)
    except ValueError:
        return
    assert len(found.weights) == count


@given(models())
def test_a_layout_survives_its_text(model):
    assert Layout.from_json(model.layout.to_json()) == model.layout


def test_twenty_shuffles_of_two_hundred_updates_have_one_digest():
    rng = np.random.default_rng(20)
    layout = Layout([Tensor("w", (5, 7)), Tensor("b", (7,))])
    base = Model(layout, rng.normal(size=layout.size).astype(np.float32))
    scaling = Scaling(exponents(base, 200), term_bound(200))
    counted = []
    for n in range(200):
        size = int(rng.integers(1, 500))
        arrays = [
            (p, (size * rng.normal(size=p.tensor.size)).astype(np.float32)) for p in layout.summed
        ]
        counted.append((Update(arrays, is_plain=n % 3 == 0), size))
    digests = set()
    for _ in range(20):
        spread = [Partial(layout, scaling) for _ in range(int(rng.integers(1, 5)))]
        for n in rng.permutation(200):
            spread[rng.integers(len(spread))].add(*counted[n])
        total = Partial(layout, scaling)
        for n in rng.permutation(len(spread)):
            total.merge(spread[n].sums, spread[n].weights)
        digests.add(total.finalise(base)[0].digest)

    assert len(digests) == 1
    expected, _ = reference(base, counted, scaling.exponents)
    assert Model(layout, np.frombuffer(expected, np.float32)).digest in digests


@pytest.mark.parametrize("is_plain", [True, False])
def test_one_device_alone_gets_back_what_it_sent(is_plain):
    """Within the fixed point's step: the mean of one is the one."""
    rng = np.random.default_rng(5)
    layout = Layout([Tensor("w", (1000,))])
    base = Model(layout, rng.normal(size=1000).astype(np.float32))
    scaling = Scaling(exponents(base, 1), term_bound(1))
    weights = rng.normal(size=1000).astype(np.float32)
    sent = weights if is_plain else weights * np.float32(64)
    partial = Partial(layout, scaling)

    partial.add(Update([(layout.places[0], sent)], is_plain), 64)

    mean = partial.finalise(base)[0].values
    step = 2.0 ** -scaling.exponents[0] / 64
    assert np.abs(mean.astype(np.float64) - weights).max() <= step + np.spacing(np.float32(4))
