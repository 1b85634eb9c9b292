"""Every rule comes to the same bytes, in any order and however updates are spread."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl_cluster.aggregate.admission import read_update
from fl_cluster.aggregate.layout import Layout, Tensor
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.partial import Partial, Pointer, Scaling, Update
from fl_cluster.aggregate.rules import MEAN, Combination, Rule
from fl_cluster.aggregate.scale import exponents
from fl_cluster.kernels.bounds import term_bound

COHORT = 16
LAYOUT = Layout([Tensor("w", (3,)), Tensor("control.w", (3,)), Tensor("v", (2,))])

ordinary = st.floats(min_value=-64, max_value=64, width=32)
vectors = st.lists(ordinary, min_size=3, max_size=3)
uploads = st.lists(
    st.tuples(
        st.integers(1, 2**16 - 1),
        st.dictionaries(st.sampled_from(["w", "control.w"]), vectors, min_size=1),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
rules = st.one_of(
    st.just(MEAN),
    st.builds(Rule, is_normalised=st.just(True), divisor=st.floats(1, 2**20, width=32)),
    st.builds(Rule, has_controls=st.just(True), devices_total=st.integers(1, 2**32 - 1)),
)


def single(value: float) -> float:
    """The nearest single precision number, by the platform's own conversion."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def by_definition(
    rule: Rule, name: str, base: list[float], sums: list[int], weight: int, scale: int
) -> list[float]:
    unit = 2.0**-scale
    match rule.combination(name):
        case Combination.MEAN:
            return [single(float(q) / (float(weight) * 2.0**scale)) for q in sums]
        case Combination.NORMALISED:
            factor = float(weight) / rule.divisor * unit
        case Combination.CONTROL:
            factor = unit / float(rule.devices_total)
    return [single(x + float(q) * factor) for x, q in zip(base, sums, strict=True)]


@given(st.data(), rules, uploads)
def test_any_order_and_any_spread_gives_the_bytes_of_the_definition(
    data: st.DataObject, rule: Rule, drawn: list[tuple[int, dict[str, list[float]], bool]]
) -> None:
    values = data.draw(st.lists(ordinary, min_size=LAYOUT.size, max_size=LAYOUT.size))
    base = Model(LAYOUT, np.array(values, np.float32))
    scales = exponents(base, COHORT, rule)
    scaling = Scaling(scales, term_bound(COHORT), rule)
    sums, weights = {p.tensor.name: [0] * p.tensor.size for p in LAYOUT.summed}, dict[str, int]()
    made = []
    for size, tensors, is_plain in drawn:
        entries = [(name, np.array(sent, np.float32)) for name, sent in tensors.items()]
        update = read_update(LAYOUT, entries, is_plain=is_plain)
        assert isinstance(update, Update)
        if update.find_unfit(scaling, size) is not None:
            continue
        made.append((update, size))
        for name, sent in tensors.items():
            place = LAYOUT.find(name)
            assert place is not None
            factor = Fraction(2) ** scales[place.sum_index]
            if is_plain and rule.is_weighted(name):
                factor *= size
            terms = [round(Fraction(x) * factor) for x in sent]
            sums[name] = [q + term for q, term in zip(sums[name], terms, strict=True)]
            weights[name] = weights.get(name, 0) + size
    spread = [Partial(LAYOUT, scaling) for _ in range(data.draw(st.integers(1, 4)))]
    for update, size in data.draw(st.permutations(made)):
        spread[data.draw(st.integers(0, len(spread) - 1))].add(update, size)
    total = Partial(LAYOUT, scaling)
    for partial in data.draw(st.permutations(spread)):
        stored = Pointer.parse(Pointer("p", partial.weights).to_text(), len(scales))
        total.merge(partial.sums, stored.weights)

    model, left_out = total.finalise(base)

    for place in LAYOUT.summed:
        name = place.tensor.name
        expected = base.tensor(name).tolist()
        if name in weights:
            scale = scales[place.sum_index]
            expected = by_definition(rule, name, expected, sums[name], weights[name], scale)
        assert model.tensor(name).tolist() == expected
    assert set(left_out) == {p.tensor.name for p in LAYOUT.summed} - set(weights)


@given(rules, st.lists(ordinary, min_size=LAYOUT.size, max_size=LAYOUT.size))
def test_a_round_without_updates_leaves_the_model_alone(rule: Rule, values: list[float]) -> None:
    base = Model(LAYOUT, np.array(values, np.float32))
    scaling = Scaling(exponents(base, COHORT, rule), term_bound(COHORT), rule)

    model, _ = Partial(LAYOUT, scaling).finalise(base)

    assert model.values.tobytes() == base.values.tobytes()
