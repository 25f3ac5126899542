"""None, exact zero, underflow, clipped, never applied and vanished are told apart."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmend.records.history import History
from gradmend.theory.fates import Fate, counted, fates

_path = Path(__file__).parents[1] / "renderers" / "runs.py"
_spec = importlib.util.spec_from_file_location("runs", _path)
assert _spec is not None and _spec.loader is not None
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)


def with_column(**given: Any) -> History:
    """A healthy run whose first parameter is as given; names are ``table__quantity``."""
    history: History = runs.run()
    tables = dict(history.tables)
    for name in ("gradient", "update", "step"):
        values = {key: grid.copy() for key, grid in tables[name].values.items()}
        for key, value in given.items():
            table, _, quantity = key.partition("__")
            if table == name:
                shape = tables[name]["state"].shape
                values.setdefault(quantity, np.full(shape, np.nan))[:, 0] = value
        tables[name] = replace(tables[name], values=values)
    facts = {k.removeprefix("facts__"): v for k, v in given.items() if k.startswith("facts__")}
    dtype = given.get("dtype", "float32")
    for name in ("gradient", "update"):
        first, *others = tables[name].columns
        first = replace(first, facts={**first.facts, **facts}, dtype=dtype)
        tables[name] = replace(tables[name], columns=(first, *others))
    return replace(history, tables=tables)


TINY = {"gradient__log10_rms": -9.0, "update__log10_ratio": -10.0}
STILL = {"update__unchanged_share": 1.0, "update__log10_ratio": -np.inf}

CASES: list[tuple[Fate, dict[str, Any]]] = [
    (Fate.APPLIED, {}),
    (Fate.NONE, {"gradient__state": 0.0, "gradient__log10_rms": np.nan}),
    (Fate.ZERO, {"gradient__state": 1.0, "gradient__log10_rms": -np.inf}),
    (Fate.UNDERFLOW, {"gradient__underflow_share": 0.9}),
    (Fate.UNDERFLOW, {"gradient__state": 1.0, "gradient__underflow_share": 0.9}),
    (
        Fate.UNDERFLOW,
        {"gradient__zero_share": 0.8, "gradient__log10_min": -7.2, "dtype": "float16"},
    ),
    (Fate.UNDERFLOW, {**STILL, "update__lost_share": 1.0}),
    (Fate.NEVER_APPLIED, {"facts__optimizer": None}),
    (Fate.NEVER_APPLIED, {**STILL, "update__lost_share": 0.0}),
    (Fate.VANISHED, TINY),
    (Fate.VANISHED, {**STILL, "gradient__log10_rms": -9.0, "update__lost_share": 1.0}),
    (Fate.NON_FINITE, {"gradient__state": 3.0}),
    (Fate.FROZEN, {"facts__trainable": False, "gradient__state": 0.0}),
    (Fate.UNKNOWN, {"gradient__state": np.nan}),
    (Fate.UNKNOWN, {"update__unchanged_share": np.nan}),
    # Near misses.
    (Fate.APPLIED, {"gradient__log10_rms": -9.0}),  # Adam: the update is as large as any
    (Fate.APPLIED, {"update__log10_ratio": -10.0}),  # a small rate moves all alike
    (Fate.APPLIED, {"gradient__zero_share": 0.9, "gradient__log10_min": -5.0}),  # rare rows
    (
        Fate.APPLIED,
        {"gradient__zero_share": 0.8, "gradient__log10_min": -7.2},  # float32 has room there
    ),
]


@pytest.mark.parametrize(("fate", "given"), CASES)
def test_the_fate_of_the_first_parameter(fate: Fate, given: dict[str, Any]) -> None:
    found = fates(with_column(**given))
    assert found[0] is fate
    assert found[1:] == (Fate.APPLIED, Fate.APPLIED)  # the others are what they were


def test_clipping_that_takes_nine_tenths() -> None:
    for factor, fate in ((0.05, Fate.CLIPPED), (0.5, Fate.APPLIED), (1.0, Fate.APPLIED)):
        clip = {"step__clip_factor": factor, "step__clip_limit": 1.0}
        assert set(fates(with_column(**clip))) == {fate}
    unasked = with_column(step__clip_factor=0.05)
    assert set(fates(unasked)) == {Fate.APPLIED}
    by_value = {"step__clip_factor": np.nan, "step__clip_limit": 1.0}
    assert fates(with_column(**by_value, gradient__log10_raw=1.0))[0] is Fate.CLIPPED


@pytest.mark.parametrize("given", [{"step__skipped": 1.0}, {"step__learning_rate": 0.0}])
def test_no_step_applies_anything(given: dict[str, float]) -> None:
    assert set(fates(with_column(**given))) == {Fate.NEVER_APPLIED}


def test_empty_histories_and_counts() -> None:
    assert fates(History()) == ()
    assert counted(()) == {}
    assert counted((Fate.ZERO, Fate.APPLIED, Fate.ZERO)) == {Fate.APPLIED: 1, Fate.ZERO: 2}
    assert list(counted((Fate.ZERO, Fate.APPLIED))) == [Fate.APPLIED, Fate.ZERO]
    assert set(fates(runs.run(0))) <= {Fate.UNKNOWN}
