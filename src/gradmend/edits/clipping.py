"""Edits that bound, lift or scale gradients just before the optimizer uses them."""

from __future__ import annotations

import math
from collections.abc import Callable

from gradmend.controls import (
    ClipByNorm,
    ClipByPercentile,
    ClipByValue,
    ClipByZScore,
    ClipPerTensor,
    ClipPerUnit,
    Control,
    LiftSmallGradients,
    LossScale,
)
from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, no_optimizer
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def clip_gradients(bench: Bench, edit: Edit) -> None:
    """Hang a way of clipping onto the optimizer; ``method`` names it.

    ``norm`` (``limit``), ``value`` (``lower``, ``upper``), ``per_unit`` (``ratio``, ``eps``,
    ``spared``: names of parameters left alone), ``percentile`` (``percentile``), ``z_score``
    (``alpha``, ``z``, ``begin``, ``limit``), ``per_tensor`` (``relative``, ``beta``, ``limit``,
    ``begin``), ``lift`` (``floor``).
    """
    method = str(edit.args.get("method"))
    if method not in _METHODS:
        raise CannotApply(
            f"there is no way of clipping called '{method}'", "", f"one of {', '.join(_METHODS)}"
        )
    bench.control(_METHODS[method](bench, edit))


@edit_kind
def scale_loss(bench: Bench, edit: Edit) -> None:
    """Multiply the loss by ``factor``, and divide its gradient again unless ``divide`` is false."""
    optimizer = bench.optimizer
    if optimizer is None:
        raise no_optimizer("its gradients have to be divided again")
    divide = edit.args.get("divide", True)
    if not isinstance(divide, bool):
        raise CannotApply(f"{divide!r} stands where an edit needs true or false")
    control = LossScale(_positive(edit, "factor"), divide=divide)
    bench.control(control)
    bench.change_loss(lambda loss: control.change(loss, optimizer))


def _norm(bench: Bench, edit: Edit) -> Control:
    del bench  # unused: the whole gradient is meant
    return ClipByNorm(_positive(edit, "limit"))


def _value(bench: Bench, edit: Edit) -> Control:
    del bench  # unused
    lower, upper = (float(number(edit.args.get(key))) for key in ("lower", "upper"))
    if not lower <= 0.0 <= upper or lower == upper:
        raise CannotApply(
            f"limits of {lower:g} and {upper:g} do not enclose zero",
            "a weight that needs no change would get one",
            "a lower limit of 0 or less and an upper one of 0 or more",
        )
    return ClipByValue(lower, upper)


def _per_unit(bench: Bench, edit: Edit) -> Control:
    spared = list_of(edit, "spared") if "spared" in edit.args else []
    return ClipPerUnit(
        _positive(edit, "ratio", 0.01),
        _positive(edit, "eps", 1e-3),
        {id(bench.parameter(str(name))) for name in spared},
    )


def _percentile(bench: Bench, edit: Edit) -> Control:
    del bench  # unused
    share = _positive(edit, "percentile")
    if share > 100.0:
        raise CannotApply(f"there is no percentile {share:g}", "", "between 0 and 100")
    return ClipByPercentile(share)


def _z_score(bench: Bench, edit: Edit) -> Control:
    del bench  # unused
    return ClipByZScore(
        _share(edit, "alpha", 0.97),
        _positive(edit, "z", 2.5),
        _whole(edit, "begin", 25),
        _positive(edit, "limit") if "limit" in edit.args else math.inf,
    )


def _per_tensor(bench: Bench, edit: Edit) -> Control:
    del bench  # unused
    return ClipPerTensor(
        _positive(edit, "relative", 1.05),
        _share(edit, "beta", 0.98),
        _positive(edit, "limit", 1.0),
        _whole(edit, "begin", 100),
    )


def _lift(bench: Bench, edit: Edit) -> Control:
    del bench  # unused
    return LiftSmallGradients(_positive(edit, "floor"))


_METHODS: dict[str, Callable[[Bench, Edit], Control]] = {
    "norm": _norm,
    "value": _value,
    "per_unit": _per_unit,
    "percentile": _percentile,
    "z_score": _z_score,
    "per_tensor": _per_tensor,
    "lift": _lift,
}


def _positive(edit: Edit, key: str, usual: float | None = None) -> float:
    value = float(number(edit.args.get(key, usual)))
    if not value > 0.0:
        raise CannotApply(f"'{key}' of the edit '{edit.kind}' is {value:g}", "", "above 0")
    return value


def _share(edit: Edit, key: str, usual: float) -> float:
    value = _positive(edit, key, usual)
    if not value < 1.0:
        raise CannotApply(f"'{key}' of the edit '{edit.kind}' is {value:g}", "", "below 1")
    return value


def _whole(edit: Edit, key: str, usual: int) -> int:
    value = _positive(edit, key, usual)
    if value != int(value):
        raise CannotApply(f"'{key}' of the edit '{edit.kind}' is {value:g}", "", "a whole number")
    return int(value)
