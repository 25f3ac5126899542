"""Number formats against torch's own tables and arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from gradmend.theory.formats import FORMATS, UnknownNumberFormat, number_format


@pytest.mark.parametrize("name", FORMATS)
def test_range_and_resolution_are_those_of_torch(name: str) -> None:
    ours, info = number_format(name), torch.finfo(getattr(torch, name))
    assert (ours.bits, ours.max, ours.epsilon) == (info.bits, info.max, info.eps)
    assert ours.min_normal == info.smallest_normal


@pytest.mark.parametrize("name", FORMATS)
def test_smallest_subnormal_is_the_lowest_bit_pattern(name: str) -> None:
    ours, dtype = number_format(name), getattr(torch, name)
    integer = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[ours.bits]
    smallest = torch.ones(1, dtype=integer).view(dtype)
    assert smallest.to(torch.float64).item() == ours.min_subnormal


def test_decades_span_the_range() -> None:
    assert number_format("float16").decades == pytest.approx(math.log10(65504 * 2**24))
    assert number_format("float64").decades == pytest.approx(631.6, abs=0.05)
    assert number_format("bfloat16").decades < number_format("float32").decades


@pytest.mark.parametrize("spelling", ["torch.float32", "float", str(torch.float32)])
def test_dtype_spellings_are_understood(spelling: str) -> None:
    assert number_format(spelling).name == "float32"


def test_unknown_format_is_refused_with_the_closest_name() -> None:
    with pytest.raises(UnknownNumberFormat, match=r"did you mean 'float16'\?.*float8_e5m2"):
        number_format("float17")
