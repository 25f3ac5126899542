"""Lets the probe's tests share their naive twins and hand-written models."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers, alone or in company."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
