"""Where tensors lie: always in the order of their names' bytes."""

from __future__ import annotations

import json

import pytest

from fl_cluster.aggregate.layout import Layout, Tensor


def test_tensors_are_ordered_by_the_bytes_of_their_names():
    names = ["b", "a.b", "a", "Z", "é", "z", "a_b", "日本"]

    layout = Layout(Tensor(name, (1,)) for name in names)

    assert [tensor.name for tensor in layout] == ["Z", "a", "a.b", "a_b", "b", "z", "é", "日本"]


def test_places_follow_each_other_without_gaps():
    layout = Layout([Tensor("b", (4,)), Tensor("a", (2, 3)), Tensor("c", ())])

    assert [(p.tensor.name, p.start, p.stop) for p in layout.places] == [
        ("a", 0, 6),
        ("b", 6, 10),
        ("c", 10, 11),
    ]
    assert (layout.size, layout.sum_size, len(layout)) == (11, 11, 3)


def test_a_tensor_that_is_not_aggregated_has_no_place_in_the_sums():
    layout = Layout([Tensor("a", (2,)), Tensor("b", (3,), is_aggregated=False), Tensor("c", (4,))])

    assert [(p.sum_index, p.sum_start, p.sum_stop) for p in layout.places] == [
        (0, 0, 2),
        (-1, 2, 2),
        (1, 2, 6),
    ]
    assert [p.tensor.name for p in layout.summed] == ["a", "c"]
    assert (layout.size, layout.sum_size) == (9, 6)


def test_nothing_aggregated_and_nothing_at_all():
    fixed = Layout([Tensor("a", (2,), is_aggregated=False)])

    assert (fixed.size, fixed.sum_size, fixed.summed) == (2, 0, ())
    assert (Layout([]).size, Layout([]).sum_size, len(Layout([]))) == (0, 0, 0)


def test_a_tensor_is_found_by_its_name():
    layout = Layout([Tensor("a", (2,)), Tensor("b", (3,))])

    assert layout.find("b") == layout.places[1]
    assert layout.find("c") is None


def test_a_name_may_be_used_once():
    with pytest.raises(ValueError, match="two tensors have the same name"):
        Layout([Tensor("a", (2,)), Tensor("a", (3,))])


def test_the_text_is_a_json_list_of_name_shape_and_whether_it_is_aggregated():
    layout = Layout([Tensor("b", ()), Tensor("a", (2, 3), is_aggregated=False)])

    text = layout.to_json()

    assert json.loads(text) == [["a", [2, 3], False], ["b", [], True]]
    assert Layout.from_json(text) == layout


def test_layouts_are_equal_when_their_tensors_are():
    one, two = (Layout([Tensor("a", (2,)), Tensor("b", (3,))]) for _ in range(2))

    assert one == two
    assert hash(one) == hash(two)
    assert one != Layout([Tensor("a", (2,)), Tensor("b", (1, 3))])
    assert one != Layout([Tensor("a", (2,)), Tensor("b", (3,), is_aggregated=False)])
    assert one != "a"
