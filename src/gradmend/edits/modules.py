"""Edits that put a module into the place of another, around it, or into another mode."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import REPLACEMENTS, CentredSigmoid, ScaledSigmoid, Shifted, Tailored
from gradmend.records.prescription import Edit

_OPTIONS = ("dim", "negative_slope", "init", "alpha")
_CONSTANTS = ("input_scale", "input_shift", "output_scale", "output_shift", "negative_slope")


@edit_kind
def replace_module(bench: Bench, edit: Edit) -> None:
    """Put another activation in the place of each target; ``module`` names its class.

    ``dim``, ``negative_slope``, ``alpha`` and ``init`` are handed to the class where given.
    ``everywhere`` puts it also where the same object is registered under other names.
    """
    name = str(edit.args.get("module"))
    if name not in REPLACEMENTS:
        raise CannotApply(f"'{name}' cannot be put in", "", f"one of {', '.join(REPLACEMENTS)}")
    options: dict[str, Any] = {key: number(edit.args[key]) for key in _OPTIONS if key in edit.args}
    _put_anew(bench, edit, lambda: REPLACEMENTS[name](**options))


@edit_kind
def tailor_activation(bench: Bench, edit: Edit) -> None:
    """Put gamma (phi(alpha x + beta) + delta) in the place of each target; see :class:`Tailored`.

    ``function`` names phi; ``input_scale``, ``input_shift``, ``output_scale``, ``output_shift``
    and ``negative_slope`` are the constants.
    """
    function = str(edit.args.get("function"))
    constants = {key: float(number(edit.args[key])) for key in _CONSTANTS if key in edit.args}
    _put_anew(bench, edit, lambda: Tailored(function, **constants))


def _put_anew(bench: Bench, edit: Edit, build: Any) -> None:
    """A module of its own for each target; new parameters join the optimizer."""
    new: list[nn.Parameter] = []
    everywhere = edit.args.get("everywhere") is True
    names = _names_of_each(bench.model) if everywhere else {}
    for path in edit.targets:
        old = bench.module(path)
        like = next(old.parameters(), next(bench.model.parameters(), None))
        module = build()
        if like is not None and like.is_floating_point():
            module = module.to(like.device, like.dtype)
        found = names.get(id(old), [])
        places = found if path in found else [path]  # a wrapper on the way: its own place only
        for place in places:
            bench.put(place, module)
        if everywhere:
            names[id(module)] = places
        new += module.parameters()
    bench.register(new)


def _names_of_each(model: nn.Module) -> dict[int, list[str]]:
    """All names of each module, by its ``id``: one walk, however many targets there are."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(id(module), []).append(name)
    return found


@edit_kind
def centre_sigmoids(bench: Bench, edit: Edit) -> None:
    """Put the sigmoid into centred coordinates: targets become :class:`CentredSigmoid`.

    ``feeds`` names the layer in front of each and ``readers`` those behind it; export folds them.
    """
    for path in edit.targets:
        _check_sigmoid(bench, path)
        bench.put(path, CentredSigmoid())


@edit_kind
def shift_activations(bench: Bench, edit: Edit) -> None:
    """Put activations into coordinates around another point: targets become :class:`Shifted`.

    ``shifts`` says which point of each; ``feeds`` names the layer in front of each and ``readers``
    those behind it, into which export folds the map.
    """
    for path, shift in zip(edit.targets, list_of(edit, "shifts"), strict=True):
        function = inside(bench.module(path))
        found = Shifted.around(function, float(number(shift)))
        if not (math.isfinite(found.offset) and math.isfinite(found.slope) and found.slope):
            raise CannotApply(
                f"'{path}' has no slope at {found.shift:g}",
                "coordinates around that point would stretch it without end",
            )
        bench.put(path, found)


@edit_kind
def scale_sigmoids(bench: Bench, edit: Edit) -> None:
    """Let the targets compute 4 (sigma(x) - 1/2).

    ``readers`` names the linear layers behind each, into which export folds the factor; a target
    with an empty row keeps its :class:`ScaledSigmoid`.
    """
    for path in edit.targets:
        _check_sigmoid(bench, path)
        bench.put(path, ScaledSigmoid())


def _check_sigmoid(bench: Bench, path: str) -> None:
    if type(inside(bench.module(path))) is not nn.Sigmoid:
        raise CannotApply(
            f"'{path}' is a {type(bench.module(path)).__name__}, not an nn.Sigmoid",
            "only the sigmoid has these coordinates",
        )


@edit_kind
def train_mode(bench: Bench, edit: Edit) -> None:
    """Put each target, itself and not what it holds, back into training mode."""
    for path in edit.targets:
        bench.set_attribute(inside(bench.module(path)), "training", True)


@edit_kind
def set_dropout(bench: Bench, edit: Edit) -> None:
    """Set the probability ``p`` of every target, a dropout module."""
    p = float(number(edit.args.get("p")))
    if not 0.0 <= p < 1.0:
        raise CannotApply(f"{p:g} is no probability of dropping that leaves anything")
    for path in edit.targets:
        module = inside(bench.module(path))
        if not isinstance(module, nn.modules.dropout._DropoutNd):
            raise CannotApply(
                f"'{path}' is a {type(module).__name__}, not a dropout",
                "it has no probability of dropping",
                "prescribe anew with gradmend.fix",
            )
        bench.set_attribute(module, "p", p)
