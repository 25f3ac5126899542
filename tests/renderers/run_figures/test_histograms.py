"""Histograms by powers of two: shares of what was counted."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gradmend.errors import UnknownName
from gradmend.records.exponents import Exponents
from gradmend.renderers.run_figures import catalogue
from gradmend.renderers.run_figures.histograms import GRADIENTS, OUTPUTS

over_depth, over_time = GRADIENTS.over_depth, GRADIENTS.over_time


def test_over_depth_against_the_counts(runs: ModuleType, disk: Any) -> None:
    # given histograms of two steps; one layer is in the first only, one in none
    first = {0: Exponents(counts={-5: 1, -7: 3}), 1: Exponents(counts={0: 2})}
    last = {0: Exponents(counts={-24: 1, -14: 1, -6: 2}, stride=8)}
    reader = disk(runs.run(20), {4: first, 14: last})
    figure = over_depth(reader)
    assert figure is not None and figure.across
    assert figure.categories == ("layers.0.weight", "layers.1.weight")
    assert figure.layers == ("layers.0", "layers.1")
    assert len(figure.rows) == 25 and figure.rows[0] == "2^0"
    assert figure.rows[24] == "2^-24 (float16)"
    assert figure.rows[14] == "2^-14 (float16)"
    expected = np.zeros((25, 2))
    expected[24, 0] = expected[14, 0] = 0.25
    expected[6, 0] = 0.5
    expected[0, 1] = 1.0
    assert np.array_equal(figure.values, expected)
    assert "last counted at steps 4 to 14" in figure.caption
    assert "Below 2^-14 float16 loses precision" in figure.caption


def test_over_time_of_the_smallest_gradient(runs: ModuleType, disk: Any) -> None:
    # given a vanishing run
    told = {
        step: {at: Exponents(counts={-step - at: 4, 0: 4}) for at in range(3)} for step in (0, 5, 9)
    }
    reader = disk(runs.run(20, lost=2.0), told)
    figure = over_time(reader)
    # then the first layer is shown, at the steps of its histograms
    assert figure is not None
    assert figure.at.tolist() == [0, 5, 9]
    assert "layers.0.weight (the smallest gradient of all)" in figure.caption
    assert figure.values[:, 0].tolist() == [1.0, *[0.0] * 9]
    assert figure.values[0].tolist() == [1.0, 0.5, 0.5]
    assert figure.values[5, 1] == figure.values[9, 2] == 0.5
    # and every choice can be built
    assert figure.choices[0][0] == "hist-gradient-time"
    for name, label in figure.choices[1:]:
        other = over_time(reader, name.partition(":")[2])
        assert other is not None and other.id == name and label in other.caption
        assert name in [each for each, _ in other.choices]


def test_several_tellings_of_a_step_are_merged(runs: ModuleType, disk: Any) -> None:
    reader = disk(runs.run(5))
    assert over_time(reader) is None and over_depth(reader) is None


def test_exponents_of_double_precision_share_rows(runs: ModuleType, disk: Any) -> None:
    counts = Exponents(counts={-1074: 1, 0: 1, 1023: 2})
    figure = over_depth(disk(runs.run(5), {0: {0: counts}}))
    assert figure is not None
    assert len(figure.rows) <= 320
    assert figure.values.sum() == pytest.approx(1.0)
    assert figure.values[0, 0] == 0.5 and figure.values[-1, 0] == 0.25
    assert figure.rows[-1].startswith("2^-1074 .. 2^-10")


def test_empty_histograms_are_none(runs: ModuleType, disk: Any) -> None:
    assert over_depth(disk(runs.run(5), {0: {0: Exponents()}})) is None


def test_outputs_share_the_figures(runs: ModuleType, disk: Any) -> None:
    # given histograms of three outputs, of which the last is about to overflow
    counts = {at: Exponents(counts={at * 7 + 2: 3, -1: 1}) for at in range(3)}
    reader = disk(runs.run(20), {0: counts, 5: counts}, "output")
    figure = OUTPUTS.over_depth(reader)
    assert figure is not None and figure.id == "hist-output-depth"
    assert figure.categories == ("layers.0", "layers.1", "layers.2")
    assert figure.title == "Output histograms over depth"
    assert figure.rows[0] == "2^16" and figure.rows[1] == "2^15 (float16)"
    assert figure.values[:, 2].tolist() == [0.75, *[0.0] * 16, 0.25]
    assert "From 2^16 on float16 is infinite" in figure.caption
    # and over time every choice can be built, by the catalogue too
    figure = OUTPUTS.over_time(reader)
    assert figure is not None and figure.at.tolist() == [0, 5]
    assert "(the smallest output of all)" in figure.caption
    assert figure.choices[0][0] == "hist-output-time"
    for name, label in figure.choices[1:]:
        other = catalogue.build(reader, name)
        assert other is not None and other.id == name and label in other.caption
    # and gradients have none
    assert GRADIENTS.over_depth(reader) is None and GRADIENTS.over_time(reader) is None
    with pytest.raises(UnknownName, match="no such output"):
        catalogue.build(reader, "hist-output-time:elsewhere")


def test_only_columns_that_were_counted_are_offered(runs: ModuleType, disk: Any) -> None:
    # given an output of zeros only, and one that was never counted
    counts = {0: Exponents(), 1: Exponents(counts={0: 1})}
    figure = OUTPUTS.over_time(disk(runs.run(20), {0: counts}, "output"))
    assert figure is not None
    assert figure.choices == (("hist-output-time", "layers.1: smallest output"),)
