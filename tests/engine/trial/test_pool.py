"""Memory that is used again."""

import torch

from gradmend.engine.trial.pool import Pool, users_of


def test_a_tensor_is_lent_again_only_when_nobody_looks_into_it() -> None:
    # GIVEN a pool that has lent a tensor
    pool, like = Pool(), torch.zeros(1)
    first = pool.take((3, 4), like)
    place, part = first.data_ptr(), first[1]
    # WHEN a part of it is still in use THEN another one is lent
    del first
    second = pool.take((3, 4), like)
    assert second.data_ptr() != place
    # WHEN it is not THEN it is lent again, for the same shape and type only
    del part
    assert pool.take((3, 4), like.double()).dtype is torch.float64
    assert pool.take((4, 3), like).shape == (4, 3)
    assert pool.take((3, 4), like).data_ptr() == place


def test_who_looks_into_a_tensor_is_counted() -> None:
    # GIVEN a tensor
    tensor = torch.zeros(3)
    assert users_of(tensor) == 1
    # THEN views and arrays count, copies do not
    view, array = tensor[1:], tensor.numpy()
    assert users_of(tensor) >= 3
    del view, array
    copied = tensor.clone()
    assert users_of(tensor) == users_of(copied) == 1
