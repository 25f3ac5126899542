"""Every way of clipping against its naive twin, and against gradients that are no numbers."""

import copy
import math
from typing import Any

import pytest
import torch
from control_subjects import CLIPS, SHAPES, give, gradients, norm, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.controls import (
    ClipByNorm,
    ClipByPercentile,
    ClipByValue,
    ClipByZScore,
    ClipPerTensor,
    ClipPerUnit,
    LiftSmallGradients,
    hang,
)
from gradmend.controls.clip_by_percentile import percentile
from gradmend.controls.control import KEY
from gradmend.controls.gradients import norms_of, total_of
from gradmend.errors import CannotApply

SIZES = (1.0, 0.1, 30.0, 1.0, 2.0, 100.0, 0.5, 1.0)


class Recorder(torch.optim.SGD):
    """Notes the gradients that a step is made with."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, **{"lr": 0.0, **options})
        self.used: list[list[Tensor | None]] = []

    def step(self, closure: Any = None) -> None:
        if closure is not None:
            closure()
        self.used = [
            *vars(self).get("used", []),  # torch copies no attribute of an optimizer's own
            [
                None if p.grad is None else p.grad.detach().clone()
                for group in self.param_groups
                for p in group["params"]
            ],
        ]
        super().step()


def close(found: list[Tensor | None], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other.to(one.dtype), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", CLIPS)
def test_each_way_of_clipping_does_what_its_naive_twin_does(name: str) -> None:
    # GIVEN gradients of very different sizes, step after step
    parameters = weights()
    optimizer = Recorder(parameters)
    build, twin = CLIPS[name]
    hang(build(parameters), optimizer)
    history = []
    for seed, size in enumerate(SIZES):
        grads = gradients(seed, size)
        history.append(grads)
        give(parameters, list(grads))
        # WHEN a step is made THEN it uses the gradients that the formula gives
        optimizer.step()
        close(optimizer.used[-1], twin(history, [p.detach() for p in parameters]))


@pytest.mark.parametrize("name", CLIPS)
def test_taken_off_it_leaves_the_optimizer_as_it_was(name: str) -> None:
    parameters = weights()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    before = (dict(optimizer.param_groups[0]), dict(optimizer._optimizer_step_pre_hooks))
    take_off = hang(CLIPS[name][0](parameters), optimizer)
    give(parameters, list(gradients(0)))
    optimizer.step()
    take_off()
    assert dict(optimizer.param_groups[0]) == before[0]
    assert dict(optimizer._optimizer_step_pre_hooks) == before[1]
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("way", ["state_dict", "copy"])
def test_its_memory_survives_a_checkpoint_and_a_copy(name: str, way: str) -> None:
    # GIVEN two runs, one interrupted in the middle
    build, _ = CLIPS[name]
    whole, halves = weights(), weights()
    straight, first = Recorder(whole), Recorder(halves)
    hang(build(whole), straight)
    hang(build(halves), first)
    for seed, size in enumerate(SIZES[:5]):
        for parameters, optimizer in ((whole, straight), (halves, first)):
            give(parameters, list(gradients(seed, size)))
            optimizer.step()
    # WHEN it goes on with a new optimizer that has only the saved state, and the control anew
    if way == "copy":
        held = copy.deepcopy({"optimizer": first, "parameters": halves})
        second, halves = held["optimizer"], held["parameters"]
    else:
        second = Recorder(halves)
        second.load_state_dict(first.state_dict())
    hang(build(halves), second)
    # THEN it clips as the run that went straight on
    for seed, size in enumerate(SIZES[5:], 5):
        for parameters, optimizer in ((whole, straight), (halves, second)):
            give(parameters, list(gradients(seed, size)))
            optimizer.step()
        close(second.used[-1], straight.used[-1])


def test_two_copies_do_not_share_what_they_remember() -> None:
    parameters = weights()
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    hang(ClipByPercentile(50.0), optimizer)
    give(parameters, list(gradients(0)))
    optimizer.step()
    held = copy.deepcopy({"parameters": parameters, "optimizer": optimizer})
    kept = copy.deepcopy(held["optimizer"].param_groups[0][KEY])
    give(parameters, list(gradients(1)))
    optimizer.step()
    assert held["optimizer"].param_groups[0][KEY] == kept


SKIPPING = [name for name in CLIPS if name not in ("value", "lift")]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", SKIPPING)
def test_a_step_whose_gradient_is_not_finite_is_left_out_and_counted(name: str, bad: float) -> None:
    # GIVEN momentum and weight decay, which a gradient of zero would let move the weights
    parameters = weights()
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    hang(CLIPS[name][0](parameters), optimizer)
    give(parameters, list(gradients(0)))
    optimizer.step()
    before = [p.detach().clone() for p in parameters]
    state = copy.deepcopy([dict(optimizer.state[p]) for p in parameters])
    grads = gradients(1)
    grads[1][0] = bad
    give(parameters, list(grads))
    # WHEN one entry is not finite
    optimizer.step()
    # THEN no weight moves, no momentum either, the gradient is there for whoever logs it
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    for parameter, old in zip(parameters, state, strict=True):
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], old["momentum_buffer"])
    assert not bool(torch.isfinite(parameters[1].grad).all())
    (memory,) = optimizer.param_groups[0][KEY].values()
    assert memory["skipped"] == 1
    # AND the next step is made as if nothing had been
    give(parameters, list(gradients(2)))
    optimizer.step()
    assert all(bool(torch.isfinite(p).all()) for p in parameters)
    assert not torch.equal(parameters[0], before[0])


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop,
                                  torch.optim.Adagrad, torch.optim.NAdam])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}])
def test_every_optimizer_leaves_a_step_out(kind: Any, options: dict[str, bool]) -> None:
    parameters = weights()
    optimizer = kind(parameters, lr=0.1, weight_decay=0.1, **options)
    hang(ClipByNorm(1.0), optimizer)
    give(parameters, list(gradients(0)))
    optimizer.step()
    before = [p.detach().clone() for p in parameters]
    give(parameters, [torch.full(shape, math.inf) for shape in SHAPES])
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))


def test_by_value_infinity_becomes_the_limit_and_nan_stays() -> None:
    parameters = weights()
    optimizer = Recorder(parameters)
    hang(ClipByValue(-1.0, 2.0), optimizer)
    grads = gradients(0)
    grads[1] = torch.tensor([math.inf, -math.inf, math.nan])
    give(parameters, list(grads))
    optimizer.step()
    found = optimizer.used[-1][1]
    assert found is not None
    assert found[:2].tolist() == [2.0, -1.0]
    assert math.isnan(float(found[2]))


def test_lifting_leaves_zero_and_what_is_not_finite_alone() -> None:
    parameters = weights()
    optimizer = Recorder(parameters)
    hang(LiftSmallGradients(1.0), optimizer)
    grads = [torch.zeros(SHAPES[0]), torch.tensor([math.nan, 1e-3, 0.0]),
             torch.full(SHAPES[2], 1e-44)]  # fmt: skip
    give(parameters, list(grads))
    optimizer.step()
    zero, bad, tiny = optimizer.used[-1]
    assert zero is not None
    assert not bool(zero.any())
    assert bad is not None
    assert math.isnan(float(bad[0]))
    assert float(bad[1]) == pytest.approx(1e-3)
    assert tiny is not None
    assert bool(torch.isfinite(tiny).all())


def test_a_gradient_of_none_is_no_part_of_the_step() -> None:
    for name, (build, _) in CLIPS.items():
        parameters = weights()
        optimizer = Recorder(parameters)
        hang(build(parameters), optimizer)
        give(parameters, [None, None, None])
        optimizer.step()
        grads = gradients(0, 50.0)
        give(parameters, [grads[0], None, grads[2]])
        optimizer.step()
        assert optimizer.used[-1][1] is None, name
        assert optimizer.used[-1][0] is not None


def test_sparse_gradients_are_summed_before_they_are_measured() -> None:
    # GIVEN a row that is in the gradient twice
    table = nn.Embedding(5, 3, sparse=True)
    index = torch.tensor([1, 1, 4])
    for control, expected in (
        (ClipByNorm(1.0), 1.0),
        (LiftSmallGradients(9.0), 9.0),
        (ClipPerUnit(0.1, 1e-3), None),
        (ClipByValue(-0.01, 0.02), None),
    ):
        optimizer = torch.optim.SGD(table.parameters(), lr=0.0)
        optimizer.zero_grad()
        take_off = hang(control, optimizer)
        table(index).sum().backward()
        dense = table.weight.grad.to_dense()
        optimizer.step()
        found = table.weight.grad.to_dense()
        assert not bool(found[[0, 2, 3]].any())
        if expected is not None:
            torch.testing.assert_close(found, dense * (expected / norm([dense])))
        elif isinstance(control, ClipByValue):
            torch.testing.assert_close(found, dense.clamp(-0.01, 0.02))
        else:
            limits = 0.1 * table.weight.detach().norm(dim=1)
            torch.testing.assert_close(found[1].norm(), limits[1])
        take_off()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_measured_in_a_wider_one(dtype: torch.dtype) -> None:
    # GIVEN entries whose squares overflow float16 and float32
    big = 6e4 if dtype is torch.float16 else 1e25
    parameters = weights(dtype=dtype)
    optimizer = Recorder(parameters)
    hang(ClipByNorm(1.0), optimizer)
    give(parameters, [torch.full(shape, big, dtype=dtype) for shape in SHAPES])
    optimizer.step()
    # THEN they are clipped, not left out
    used = [g for g in optimizer.used[-1] if g is not None]
    assert len(used) == 3
    assert norm(used) == pytest.approx(1.0, rel=2e-2)


def test_norms_whose_squares_overflow_are_exact() -> None:
    tensors = [torch.full((4,), 1e30), torch.full((9,), 1e30)]
    assert norms_of(tensors) == pytest.approx([2e30, 3e30])
    assert total_of([3e200, 4e200]) == pytest.approx(5e200)
    assert math.isnan(total_of([math.inf, math.nan]))
    assert norms_of([]) == []
    assert norms_of([torch.zeros(0), torch.ones(4)]) == [0.0, 2.0]
    assert norms_of([torch.full((2,), 3 + 4j)]) == pytest.approx([50**0.5])


def test_a_closure_is_acted_upon_behind_it() -> None:
    # GIVEN an optimizer whose gradients are made inside its step
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    hang(ClipByNorm(0.25), optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (100.0 * weight).sum()
        loss.backward()
        return loss

    for call in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        before = float(weight.detach())
        assert float(call().detach()) == pytest.approx(100.0 * before)
        assert float(weight.detach()) == pytest.approx(before - 0.25)


def test_with_a_gradient_scaler_the_limit_is_of_the_unscaled_gradient() -> None:
    for options in ({}, {"fused": True}):
        weight = nn.Parameter(torch.ones(4))
        optimizer = torch.optim.SGD([weight], lr=1.0, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        hang(ClipByNorm(0.5), optimizer)
        scaler.scale((3.0 * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        # THEN a step of half a unit was made: neither 0.5 / 1024 nor the whole 6
        moved = float((torch.ones(4) - weight.detach()).norm())
        assert moved == pytest.approx(0.5, rel=1e-5), options


def test_two_of_a_kind_are_refused() -> None:
    parameters = weights()
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    hang(ClipByNorm(1.0), optimizer)
    hang(ClipByValue(-1.0, 1.0), optimizer)
    with pytest.raises(CannotApply, match="clip-by-norm"):
        hang(ClipByNorm(2.0), optimizer)


def test_a_tensor_whose_gradient_began_at_zero_is_let_through_once() -> None:
    parameters = weights()
    optimizer = Recorder(parameters)
    hang(ClipPerTensor(1.05, 0.9, 10.0, 1), optimizer)
    give(parameters, [torch.zeros(s) for s in SHAPES])
    optimizer.step()
    for size in (1.0, 100.0):
        give(parameters, list(gradients(0, size)))
        optimizer.step()
    first = norm([gradients(0)[0]])
    used = optimizer.used[-1][0]
    assert used is not None
    assert norm([used]) == pytest.approx(1.05 * first, rel=1e-5)


def test_a_spike_among_the_first_norms_is_cut_and_not_taken_for_what_is_usual() -> None:
    parameters = weights()
    optimizer = Recorder(parameters)
    hang(ClipByZScore(0.9, 1.5, 4, 6.0), optimizer)
    for seed in range(4):
        give(parameters, list(gradients(seed, 1000.0 if seed == 2 else 1.0)))
        optimizer.step()
        used = [g for g in optimizer.used[-1] if g is not None]
        assert norm(used) <= 6.0 * (1 + 1e-5)
    assert optimizer.param_groups[0][KEY]["clip-by-z-score"]["mean"] <= 6.0


# -- the algebra

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@given(st.lists(finite, min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_clipping_by_norm_keeps_the_direction_and_the_limit(
    entries: list[float], limit: float
) -> None:
    weight = nn.Parameter(torch.zeros(len(entries)))
    optimizer = Recorder([weight])
    hang(ClipByNorm(limit), optimizer)
    raw = torch.tensor(entries)
    weight.grad = raw.clone()
    optimizer.step()
    found = optimizer.used[-1][0]
    assert found is not None
    assert norm([found]) <= limit * (1 + 1e-5) or torch.equal(found, raw)
    assert norm([raw]) > limit * (1 - 1e-5) or torch.equal(found, raw)
    dot = float((found.double() * raw.double()).sum())
    assert dot == pytest.approx(norm([found]) * norm([raw]), rel=1e-4, abs=1e-12)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=30), st.floats(0.1, 100.0))
def test_the_percentile_is_numpys(values: list[float], share: float) -> None:
    expected = float(torch.quantile(torch.tensor(values, dtype=torch.float64), share / 100.0))
    assert percentile(values, share) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_step_inside_a_step_is_one_step() -> None:
    # GIVEN that torch has wrapped SGD's own step, too, as it does when one is built
    torch.optim.SGD(weights(), lr=0.1)
    # WHEN a subclass whose step calls it makes a step
    parameters = weights()
    optimizer = Recorder(parameters)
    build, _ = CLIPS["percentile"]
    hang(build(parameters), optimizer)
    give(parameters, list(gradients(0)))
    optimizer.step()
    # THEN one norm has been seen
    (memory,) = optimizer.param_groups[0][KEY].values()
    assert len(memory["norms"]) == 1, memory
