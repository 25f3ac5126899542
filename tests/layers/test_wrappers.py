"""Modules around a user's: its name, place and attributes stay within reach."""

import copy
import pickle

import pytest
import torch
from torch import nn

from gradmend.layers import Followed, Wrapped


def test_what_a_forward_pass_reads_of_the_inner_module_is_still_there() -> None:
    inner = nn.Linear(3, 2)
    wrapped = Followed(inner, nn.LayerNorm(2))
    assert wrapped.weight is inner.weight
    assert wrapped.in_features == 3
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = wrapped.nothing_of_the_kind


def test_wrappers_can_be_copied_and_pickled() -> None:
    wrapped = Wrapped(Followed(nn.Linear(3, 2), nn.Tanh()))
    x = torch.randn(4, 3)
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(twin(x), wrapped(x))
        assert twin.inner.inner.weight is not wrapped.inner.inner.weight
