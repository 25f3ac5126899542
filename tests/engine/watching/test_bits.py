"""The watched run ends with the bits of the unwatched one."""

from typing import Any

import numpy as np
import pytest
import torch
from loops import LOOPS, compiled, run, unwatched
from torch import Tensor

import gradmend
from gradmend.engine.watching.watch import Watch


def same(a: Tensor, b: Tensor) -> bool:
    """Bitwise, NaN included."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    as_bits = kinds.get(a.element_size())
    return a.shape == b.shape and a.dtype == b.dtype and (
        torch.equal(a.view(as_bits), b.view(as_bits)) if as_bits and a.dim() else
        torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    )  # fmt: skip


def assert_same_training(loop: Any, budget: str) -> Watch:
    seen: list[Watch] = []

    def watched(models: Any, optimizers: Any) -> Watch:
        seen.append(gradmend.watch(models, optimizers, budget=budget))
        return seen[-1]

    before, states = run(loop, unwatched)
    after, states_after = run(loop, watched)
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(states[0], states_after[0])
    assert states[1] == states_after[1]
    assert np.array_equal(states[2], states_after[2])
    (watch,) = seen
    assert watch.observer.failures == []
    assert watch.history().run.steps > 0
    return watch


@pytest.mark.parametrize("budget", ["all", "2%"])
@pytest.mark.parametrize("name", LOOPS)
def test_the_watched_run_ends_with_the_same_bits(name: str, budget: str) -> None:
    assert_same_training(LOOPS[name], budget)


@pytest.mark.slow
def test_a_compiled_model_ends_with_the_same_bits() -> None:
    watch = assert_same_training(compiled, "all")
    assert any("compile" in note for note in watch.report().watched.notes)  # type: ignore[union-attr]
