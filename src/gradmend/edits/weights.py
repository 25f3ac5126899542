"""Edits that set weights and biases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.draws import (
    Kind,
    Layout,
    Pool,
    draw_normal,
    from_units,
    gain_of,
    layout_of,
    to_units,
    usual,
)
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def initialise(bench: Bench, edit: Edit) -> None:
    """Draw weights anew: scheme, gain, seed; and set biases, centred where asked.

    ``targets`` are weights; the lists in ``args`` run parallel to them: ``biases`` (names or
    null), ``gains`` (sigma_w), ``centres`` (the mean of what the layer reads, removed by the
    bias b = -centre * W 1), ``bias_stds`` (random part of the bias). Where given, ``schemes``
    has one scheme for each, ``rows`` the units to draw (all where null), and ``input_first``
    says of bare matrices that they are stored [in, out]. The scheme ``usual`` is torch's own for
    the layer, at its own gain.
    """
    args = edit.args
    generator = _generator(bench, edit)
    schemes = _parallel(edit, "schemes", str(args.get("scheme", "orthogonal")))
    rows = zip(
        edit.targets, list_of(edit, "biases"), list_of(edit, "gains"), list_of(edit, "centres"),
        list_of(edit, "bias_stds"), schemes, _parallel(edit, "rows", None),
        _parallel(edit, "input_first", False), strict=True,
    )  # fmt: skip
    plan = [(_drawing(bench, row[0], row[2], str(row[5]), bool(row[7])), row) for row in rows]
    pool = Pool((drawing.kind for drawing, _ in plan), generator)
    for drawing, (_, bias_name, _, centre, bias_std, _, units, _) in plan:
        weight, layout, owner = drawing.weight, drawing.layout, drawing.owner
        old = to_units(weight.detach(), layout)
        chosen = _chosen(units, old.shape[0])
        drawn = (pool.take(drawing.kind) * drawing.gain).to(old.device, old.dtype)
        if chosen is not None:
            drawn = torch.where(_over(chosen.to(old.device), old), drawn, old)
        if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and owner.padding_idx is not None:
            drawn[owner.padding_idx] = 0.0
        bench.write(weight, from_units(drawn, layout))
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            values = torch.zeros(bias.shape, dtype=torch.float32, device="cpu")
            if float(number(bias_std)):
                values = draw_normal(tuple(bias.shape), generator) * float(number(bias_std))
            if float(number(centre)):
                sums = drawn.reshape(drawn.shape[0], -1).sum(dim=1).to(values.device, values.dtype)
                values = values - float(number(centre)) / layout.overlap * sums
            values = values.to(bias.device, bias.dtype)
            if chosen is not None:
                values = torch.where(chosen.to(bias.device), values, bias.detach())
            bench.write(bias, values)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """One weight that is to be drawn, and how."""

    weight: nn.Parameter
    owner: nn.Module
    layout: Layout
    kind: Kind
    gain: float


def _drawing(bench: Bench, name: str, gain: Any, scheme: str, input_first: bool) -> _Drawing:
    weight = bench.parameter(name)
    owner, layout = _owner(bench, name, input_first)
    shape, sigma = tuple(to_units(weight.detach(), layout).shape), float(number(gain))
    drawn = layout
    if scheme == "usual":
        scheme, sigma = usual(owner, name.rpartition(".")[2], shape)
        drawn = Layout(blocks=layout.blocks, groups=layout.groups, lookup=layout.lookup)
    return _Drawing(weight, owner, layout, (shape, drawn, scheme), sigma)


@edit_kind
def scale_to_gain(bench: Bench, edit: Edit) -> None:
    """Bring each target weight to its gain in ``gains`` and keep its directions.

    ``biases`` (names or null) are multiplied by the same factor.
    """
    pairs = zip(
        edit.targets, list_of(edit, "biases"), list_of(edit, "gains"),
        _parallel(edit, "input_first", False), strict=True,
    )  # fmt: skip
    for name, bias_name, gain, input_first in pairs:
        weight = bench.parameter(name)
        _, layout = _owner(bench, name, bool(input_first))
        own = gain_of(to_units(weight, layout), layout)
        if not 0.0 < own < math.inf:
            raise CannotApply(
                f"'{name}' has a weight gain of {own:g}",
                "there is no direction to keep",
                "draw it anew",
            )
        factor = float(number(gain)) / own
        bench.write(weight, weight.detach() * factor)
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            bench.write(bias, bias.detach() * factor)


@edit_kind
def scale_weights(bench: Bench, edit: Edit) -> None:
    """Multiply each target parameter by its factor in ``factors``; zero writes zeros."""
    for name, value in zip(edit.targets, list_of(edit, "factors"), strict=True):
        parameter, factor = bench.parameter(name), float(number(value))
        values = parameter.detach()
        bench.write(parameter, values * factor if factor else torch.zeros_like(values))


@edit_kind
def balance_layers(bench: Bench, edit: Edit) -> None:
    """Even out the gains of layers in a row that only homogeneous functions part.

    ``targets`` are the weights of one row in forward order, ``biases`` their biases (names or
    null), ``references`` the gain that each should have. Every layer is multiplied by a power of
    two, all of them together by one, and each bias by what its own layer and those before it were:
    phi(s z) = s phi(z), so that the function stays the same to the last bit.
    """
    biases = list_of(edit, "biases")
    ratios = []
    for name, reference in zip(edit.targets, list_of(edit, "references"), strict=True):
        _, layout = _owner(bench, name, False)
        gain = gain_of(to_units(bench.parameter(name), layout), layout)
        if not 0.0 < gain < math.inf or not float(number(reference)) > 0.0:
            raise CannotApply(f"'{name}' has a weight gain of {gain:g}", "it cannot be balanced")
        ratios.append(math.log2(gain / float(number(reference))))
    behind = 0  # log2 of what the signal in front of the next layer was multiplied by
    wanted = 0.0
    mean = sum(ratios) / len(ratios) if ratios else 0.0
    for name, bias_name, ratio in zip(edit.targets, biases, ratios, strict=True):
        wanted += mean - ratio
        power = round(wanted) - behind  # rounded as a sum: the last one comes out at zero
        behind += power
        weight = bench.parameter(name)
        bench.write(weight, torch.ldexp(weight.detach(), torch.tensor(power)).to(weight.dtype))
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            bench.write(bias, torch.ldexp(bias.detach(), torch.tensor(behind)).to(bias.dtype))


def _generator(bench: Bench, edit: Edit) -> torch.Generator:
    return torch.Generator().manual_seed(int(number(edit.args.get("seed", 0))) + bench.seed)


def _parallel(edit: Edit, key: str, default: Any) -> Sequence[Any]:
    """A list that runs parallel to the targets, or the default for each."""
    return list_of(edit, key) if key in edit.args else [default] * len(edit.targets)


def _owner(bench: Bench, name: str, input_first: bool) -> tuple[nn.Module, Layout]:
    path, _, leaf = name.rpartition(".")
    module = inside(bench.module(path))
    return module, layout_of(module, leaf, input_first=input_first)


def _chosen(units: Any, count: int) -> Tensor | None:
    """A mask of the units to draw; ``None`` for all."""
    if units is None:
        return None
    if not isinstance(units, list) or not all(
        type(unit) is int and 0 <= unit < count for unit in units
    ):
        raise CannotApply(f"rows {units!r} are not among {count} units")
    mask = torch.zeros(count, dtype=torch.bool, device="cpu")
    mask[units] = True
    return mask


def _over(mask: Tensor, units: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (units.dim() - 1))
