"""Small tensors are measured in NumPy, and give what torch gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gradmend.probe import backward, signals, small, statistics, weighing

SHAPES = [(5,), (1,), (64, 32), (1, 7), (4, 3, 5, 5), (2, 3, 4), (64, 1)]
TENSORS = {
    "normal": lambda shape: torch.randn(shape),
    "float64": lambda shape: torch.randn(shape, dtype=torch.float64),
    "bfloat16": lambda shape: torch.randn(shape).bfloat16(),
    "offset": lambda shape: torch.randn(shape) * 1e-3 + 1e3,
    "zeros": lambda shape: torch.zeros(shape),
    "some zeros": lambda shape: torch.randn(shape).relu(),
    "huge": lambda shape: torch.randn(shape, dtype=torch.float64) * 1e200,
    "tiny": lambda shape: torch.randn(shape, dtype=torch.float64) * 1e-200,
    "infinite": lambda shape: torch.where(torch.rand(shape) < 0.3, math.inf, 1.0),
    "nan": lambda shape: torch.where(torch.rand(shape) < 0.3, math.nan, -1.0),
    "transposed": lambda shape: torch.randn(shape[::-1]).permute(*range(len(shape))[::-1]),
}


@pytest.fixture(params=TENSORS)
def make(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return TENSORS[request.param]


def both_ways(monkeypatch: pytest.MonkeyPatch, function, *args):  # type: ignore[no-untyped-def]
    """What a function answers as it is, and where no tensor is small."""
    fast = function(*args)
    with monkeypatch.context() as patch:
        for module in (signals, statistics, weighing, backward):
            patch.setattr(module, "small_array", lambda x: None)
        return fast, function(*args)


def assert_alike(one: object, other: object) -> None:
    fields = getattr(one, "__dataclass_fields__", None)
    pairs = (
        [(getattr(one, name), getattr(other, name)) for name in fields]
        if fields
        else list(zip(one, other, strict=True))  # type: ignore[call-overload]
    )
    scale = max([abs(v) for p in pairs for v in p if isinstance(v, float)] + [0.0])
    for value, twin in pairs:
        if value is None or twin is None:
            assert value is twin
        elif math.isfinite(scale):
            assert value == pytest.approx(twin, rel=1e-9, abs=1e-14 * scale, nan_ok=True)
        else:
            assert value == pytest.approx(twin, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_signals(make, shape, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # GIVEN any tensor, WHEN its signal is measured, THEN it is what torch measures
    for channel_dim in {-1, 1 if len(shape) > 1 else -1}:
        assert_alike(*both_ways(monkeypatch, signals.measure, make(shape), channel_dim))


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(make, shape, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert_alike(*both_ways(monkeypatch, statistics.stats_of, make(shape)))


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1] + [(65, 3), (3, 65)])
def test_weights(make, shape, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    weight, bias = weighing.wide_of(make(shape)), make((shape[0],))
    assert_alike(*both_ways(monkeypatch, weighing.spreads, weight, 0, 1))
    assert_alike(*both_ways(monkeypatch, weighing.centring, weight, bias, shape[0]))
    # the second moment alone
    fast, slow = both_ways(monkeypatch, lambda w: [weighing.mean_square_of(w)], weight)
    assert_alike(fast, slow)


def test_samples_that_are_all_the_same_have_no_spread() -> None:
    # GIVEN 61 copies of one sample, whose sum is not 61 times it in floating point
    x = torch.full((61, 5), 0.1, dtype=torch.float64) * torch.arange(1, 6)
    # THEN nothing tells them apart, exactly
    found = signals.measure(x)
    assert found.spread_square == 0.0
    assert found.offset_square == pytest.approx(float(x[0].square().mean()))


def test_what_is_no_small_plain_tensor_is_left_to_torch() -> None:
    assert small.small_array(torch.zeros(0)) is None
    assert small.small_array(torch.zeros(small.SMALL + 1)) is None
    assert small.small_array(torch.zeros(3, dtype=torch.int64)) is None
    assert small.small_array(torch.zeros(3, dtype=torch.complex64)) is None
    assert small.small_array(torch.eye(3).to_sparse()) is None
    assert small.small_array(torch.zeros(3, device="meta")) is None
    one = torch.randn(3, requires_grad=True)
    array = small.small_array(one)
    assert array is not None
    assert np.shares_memory(array, one.detach().numpy())


def test_numbers_that_overflow_warn_nobody(recwarn: pytest.WarningsRecorder) -> None:
    # GIVEN a user who wants NumPy to raise
    with np.errstate(all="raise"):
        for x in (torch.full((4, 4), 1e300, dtype=torch.float64), torch.tensor([[math.nan, 1.0]])):
            weight: Tensor = x
            signals.measure(x)
            statistics.stats_of(x)
            weighing.spreads(weight, 0, 1)
            weighing.centring(weight, weight[:, 0], weight.shape[0])
    assert not recwarn.list
