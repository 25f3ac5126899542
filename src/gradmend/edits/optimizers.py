"""Edits of the optimizer's options, and of what it trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradmend.controls import LayerRates, WarmUp
from gradmend.edits.arguments import number
from gradmend.edits.bench import Bench, no_optimizer
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def scale_learning_rate(bench: Bench, edit: Edit) -> None:
    """Multiply the learning rate of every parameter group by ``factor``."""
    optimizer = _optimizer(bench, "the learning rate belongs to an optimizer")
    factor = float(number(edit.args.get("factor", 1.0)))
    if factor <= 0:
        raise CannotApply(f"a factor of {factor:g} leaves no learning rate to train with")
    for at, group in enumerate(optimizer.param_groups):
        bench.set_option("lr", _option(optimizer, group, "lr") * factor, at)
    _tell_of_schedulers(bench, f"scale its base_lrs by {factor:.3g}")


@edit_kind
def scale_layer_rates(bench: Bench, edit: Edit) -> None:
    """Let the target parameters learn at ``factor`` times the rate of their group."""
    optimizer = _optimizer(bench, "the learning rate belongs to an optimizer")
    factor = float(number(edit.args.get("factor", 1.0)))
    if factor <= 0:
        raise CannotApply(f"a factor of {factor:g} leaves no learning rate to train with")
    for group in optimizer.param_groups:
        _option(optimizer, group, "lr")
    bench.control(LayerRates((bench.parameter(name) for name in edit.targets), factor))


@edit_kind
def set_learning_rate(bench: Bench, edit: Edit) -> None:
    """Give every parameter group whose learning rate is zero the rate ``rate``."""
    optimizer = _optimizer(bench, "the learning rate belongs to an optimizer")
    rate = float(number(edit.args.get("rate")))
    if rate <= 0:
        raise CannotApply(f"a rate of {rate:g} leaves no learning rate to train with")
    for at, group in enumerate(optimizer.param_groups):
        found = _option(optimizer, group, "lr")
        if not found:
            bench.set_option("lr", found + rate, at)  # a tensor stays one
    _tell_of_schedulers(bench, "see why it gives zero")


@edit_kind
def set_epsilon(bench: Bench, edit: Edit) -> None:
    """Set ``eps`` of every parameter group: what Adam and its kin add to the divisor."""
    optimizer = _optimizer(bench, "eps belongs to an optimizer")
    eps = float(number(edit.args.get("eps")))
    if eps <= 0:
        raise CannotApply(f"an eps of {eps:g} lets a step divide by zero")
    for at, group in enumerate(optimizer.param_groups):
        if isinstance(_option(optimizer, group, "eps"), tuple | list):
            raise CannotApply(
                f"{type(optimizer).__name__} has several eps",
                "it is not known which of them is meant",
                "prescribe anew with gradmend.fix",
            )
        bench.set_option("eps", eps, at)


@edit_kind
def scale_weight_decay(bench: Bench, edit: Edit) -> None:
    """Multiply the weight decay of every parameter group by ``factor``; zero takes it away."""
    optimizer = _optimizer(bench, "weight decay belongs to an optimizer")
    factor = float(number(edit.args.get("factor")))
    if factor < 0:
        raise CannotApply(f"a factor of {factor:g} would let the weights grow without end")
    for at, group in enumerate(optimizer.param_groups):
        bench.set_option("weight_decay", _option(optimizer, group, "weight_decay") * factor, at)


@edit_kind
def warm_up(bench: Bench, edit: Edit) -> None:
    """Let the learning rate grow linearly to what it is over the first ``steps`` steps."""
    optimizer = _optimizer(bench, "the learning rate belongs to an optimizer")
    steps = number(edit.args.get("steps"))
    if steps != int(steps) or not 1 <= steps <= 10**9:
        raise CannotApply(f"a warm-up of {steps:g} steps is none", "", "a whole number from 1 on")
    for group in optimizer.param_groups:
        _option(optimizer, group, "lr")
    bench.control(WarmUp(int(steps)))


@edit_kind
def add_parameters(bench: Bench, edit: Edit) -> None:
    """Let the optimizer train the target parameters too, each in the group of its siblings."""
    optimizer = _optimizer(bench, "parameters are trained by one")
    for name in edit.targets:
        bench.join(name, _group_of_siblings(bench, optimizer, name))


@edit_kind
def unfreeze_parameters(bench: Bench, edit: Edit) -> None:
    """Let the target parameters have a gradient, and the optimizer train them."""
    optimizer = _optimizer(bench, "parameters are trained by one")
    for name in edit.targets:
        bench.unfreeze(name)
        bench.join(name, _group_of_siblings(bench, optimizer, name))


def _group_of_siblings(bench: Bench, optimizer: Optimizer, name: str) -> int:
    """The group that holds what is most alike: of as many dimensions, then of the nearest module.

    Groups part weights from biases (decay or none) or one part of a model from another; dimensions
    come first because every part has both kinds.
    """
    names = {id(p): other for other, p in bench.model.named_parameters()}
    parameter = bench.parameter(name)

    def likeness(held: Tensor) -> tuple[bool, int, bool]:
        other = names.get(id(held), "")
        alike = (held.dim() > 1) == (parameter.dim() > 1)
        same_leaf = other.rpartition(".")[2] == name.rpartition(".")[2]
        return alike, _shared_path(name, other), same_leaf

    best = max(
        (
            (likeness(held), -at)
            for at, group in enumerate(optimizer.param_groups)
            for held in group["params"]
        ),
        default=((False, 0, False), 0),
    )
    return -best[1]


def _shared_path(one: str, other: str) -> int:
    """Names that two paths begin with in common."""
    count = 0
    for a, b in zip(one.split(".")[:-1], other.split(".")[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def _optimizer(bench: Bench, why: str) -> Optimizer:
    if bench.optimizer is None:
        raise no_optimizer(why)
    return bench.optimizer


def _option(optimizer: Optimizer, group: dict[str, Any], key: str) -> Any:
    if group.get(key) is None:
        raise CannotApply(
            f"{type(optimizer).__name__} has no option '{key}'",
            "it would be ignored",
            "prescribe anew with gradmend.fix",
        )
    return group[key]


def _tell_of_schedulers(bench: Bench, instead: str) -> None:
    assert bench.optimizer is not None
    if any("initial_lr" in group for group in bench.optimizer.param_groups):
        bench.notes.append(
            "a scheduler is attached: one that computes the rate from its own base (LambdaLR,"
            f" OneCycleLR) will undo this; build it anew, or {instead}"
        )
