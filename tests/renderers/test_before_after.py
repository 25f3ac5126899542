from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

from gradmend.records.verdict import Verdict
from gradmend.renderers.before_after import before_after_figure, before_and_after

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)
arm = reports.arm


def verdict_of(**arms: object) -> Verdict:
    return Verdict(kept=True, reason="", **arms)  # type: ignore[arg-type]


def test_two_looks_at_one_model_share_their_layers() -> None:
    before = reports.deep(30)
    report = replace(before, after=reports.looked_again(before).after)
    figure = before_after_figure(report)
    assert figure is not None
    assert [line.role for line in figure.series] == ["before", "after"]
    assert list(figure.layers) == [str(k) for k in range(30)]
    # the first entry holds everything from there to the output
    assert math.isclose(figure.series[0].values[0], before.ledger.total_decades)
    assert math.isclose(figure.series[1].values[-1], -0.01)


def test_two_unlike_models_are_drawn_over_a_share_of_the_depth() -> None:
    figure = before_after_figure(reports.looked_again(reports.deep(4)))
    assert figure is not None
    assert figure.x.percent and not figure.layers
    assert figure.series[0].values[-1] == 0.0
    assert all(len(line.values) == len(figure.at) for line in figure.series)


def test_one_look_has_no_before_and_after() -> None:
    for report in (reports.deep(4), reports.empty(), reports.blocked()):
        assert before_after_figure(report) is None and before_and_after(report) is None


def test_ten_thousand_layers_are_binned() -> None:
    big = reports.deep(20_001)
    figure = before_after_figure(replace(big, after=big.trace))
    assert figure is not None and len(figure.at) == 400
