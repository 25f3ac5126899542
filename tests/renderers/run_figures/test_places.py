"""Places over depth: few enough, in order, with the path of what they hold."""

import numpy as np
import pytest

from gradmend.records.history import Column
from gradmend.renderers.run_figures.places import largest, places


def columns(blocks: int, layers: int = 2) -> list[Column]:
    return [
        Column(name=f"b.{b}.{la}.{kind}", module=f"b.{b}.{la}", kind=kind)
        for b in range(blocks)
        for la in range(layers)
        for kind in ("weight", "bias")
    ]


def test_few_stand_alone() -> None:
    found = places(columns(2))
    assert not found.pooled and len(found) == 8
    assert found.names[1] == "b.0.0.bias" and found.layers[1] == "b.0.0"
    values = np.arange(16.0).reshape(2, 8)
    assert np.array_equal(found.take(values), values.T)


def test_parameters_of_a_module_share_a_place_first() -> None:
    found = places(columns(2), most=4)
    assert found.names == tuple(
        f"b.{b}.{la}.weight .. b.{b}.{la}.bias" for b in (0, 1) for la in (0, 1)
    )
    assert found.layers == ("b.0.0", "b.0.1", "b.1.0", "b.1.1")
    assert found.take(np.arange(8.0)).tolist() == [0.5, 2.5, 4.5, 6.5]


def test_then_neighbouring_modules() -> None:
    # given places for whole blocks, they bear the block's path
    found = places(columns(4), most=4)
    assert found.layers == ("b.0", "b.1", "b.2", "b.3")
    # where a place straddles blocks, its first module's
    found = places(columns(3), most=2)
    assert found.layers == ("b.0.0", "b.1.1")
    assert found.take(np.array([1.0, *[0.0] * 11]), largest).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("count", [1, 7, 100, 1003])
@pytest.mark.parametrize("most", [1, 3, 99, 2000])
def test_never_too_many_and_none_lost(count: int, most: int) -> None:
    found = places(columns(count, 1), most=most)
    assert 1 <= len(found) <= max(most, 1)
    assert sorted(found.order.tolist()) == list(range(2 * count))
    sizes = np.diff(np.append(found.starts, 2 * count))
    assert sizes.min() >= 1
    together = (found.take(np.arange(2.0 * count)) * sizes).sum()
    assert together == pytest.approx(np.arange(2 * count).sum())


def test_means_leave_out_what_is_not_finite() -> None:
    found = places(columns(1, 1), most=1)
    for pair, expected in (
        ((1.0, np.nan), 1.0),
        ((1.0, -np.inf), 1.0),
        ((-np.inf, np.nan), -np.inf),
    ):
        assert found.take(np.array(pair)).tolist() == [expected]
    assert np.isnan(found.take(np.full(2, np.nan))).all()


def test_none_at_all() -> None:
    assert len(places([])) == 0 and len(places(columns(2), some=[])) == 0
