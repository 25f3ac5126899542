"""One thread, and the same random numbers for every test, alone or in company."""

import sys
from collections.abc import Iterator

import pytest
import torch

# Tiny models do not share work well, and threads that wait for each other on a busy machine
# cost a factor of ten.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers, and leaves the random state as it was."""
    compiler = sys.modules.get("torch._dynamo.utils")
    if compiler is not None:  # an earlier test compiled something, which a watch heeds
        compiler.counters.clear()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
