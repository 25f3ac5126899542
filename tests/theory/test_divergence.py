"""How a run came to NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradmend.records.history import Column, Event, History, Table
from gradmend.theory.divergence import divergence


def ended(losses: list[float], norms: list[float]) -> History:
    """A run of one optimizer whose step after these losses was no number."""
    values = {"loss": np.array([losses]).T, "log10_raw_norm": np.array([norms]).T}
    table = Table(
        name="step",
        columns=(Column(name="Adam", kind="Adam"),),
        steps=np.arange(len(losses)),
        values=values,
    )
    return History(tables={"step": table}, events=(Event(step=len(losses), kind="non-finite"),))


CLIMBS = ended([1.0, 1.1, 9.0, 4e3, 1e9], [0.0, 0.1, 1.0, 4.0, 9.0])


def test_losses_that_climb_before_nan_are_a_divergence() -> None:
    found = divergence(CLIMBS, 2.0, 0.0)
    assert found is not None
    assert found.step == 1
    assert found.decades == pytest.approx(9.0)


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(ended([1.0, 1.1, 0.9, 1.0], [0.0] * 4), id="a bad value at once"),
        pytest.param(ended([1.0, 1.1, 0.9, 1e4], [0.0, 0.0, 0.0, 4.0]), id="one loss: a batch"),
        pytest.param(ended([1.0, 5.0, 9.0, 20.0], [0.0, 0.5, 0.8, 1.0]), id="a small rise"),
        pytest.param(ended([1.0, 9.0, 4e3, 1e9], [0.0] * 4), id="a gradient that does not grow"),
        pytest.param(replace(CLIMBS, events=()), id="no NaN"),
    ],
)
def test_other_ends_are_none(seen: History) -> None:
    assert divergence(seen, 2.0, 0.0) is None
