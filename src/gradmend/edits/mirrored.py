"""Weights drawn in mirrored pairs, behind which a rectifier looks linear."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.draws import Kind, Layout, Pool, at_centre, draw_normal, layout_of
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@edit_kind
def looks_linear(bench: Bench, edit: Edit) -> None:
    """Draw weights in mirrored pairs, so that phi(u) and phi(-u) are read as their difference.

    ``targets`` are weights; the lists in ``args`` run parallel to them: ``biases`` (names or
    null, set to zero), ``makes`` (whether its outputs are pairs), ``reads`` (units of the paired
    tensor that it reads; 0 where that is not paired), ``inner`` (whether the entries of a unit lie
    side by side where a layer reads several of each, as behind the flattening of pictures),
    ``slopes`` (c in phi(x) - phi(-x) = c x of what it reads), ``gains`` (of the map between what
    the pairs stand for) and ``deltas`` (whether a kernel is zero but for its centre).

    Unit i of n pairs is mirrored by unit n + i. The last of an odd number of units has no twin:
    it is drawn, and nothing reads it yet.
    """
    rows = zip(
        edit.targets, list_of(edit, "biases"), list_of(edit, "makes"), list_of(edit, "reads"),
        list_of(edit, "inner"), list_of(edit, "slopes"), list_of(edit, "gains"),
        list_of(edit, "deltas"), strict=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(int(number(edit.args.get("seed", 0))) + bench.seed)
    plan = [(_map_of(bench, name, *given), bias) for name, bias, *given in rows]
    pool = Pool((drawn.kind for drawn, _ in plan), generator)
    for drawn, bias_name in plan:
        weight = drawn.weight
        values = drawn.mirrored(pool.take(drawn.kind) * drawn.scale, generator)
        bench.write(weight, values.to(weight.device, weight.dtype))
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            bench.write(bias, torch.zeros_like(bias))


@dataclass(frozen=True, slots=True)
class _Map:
    """One weight [out, in, *kernel] and the smaller map that its pairs stand for."""

    weight: nn.Parameter
    makes: bool
    reads: int
    inner: bool
    scale: float
    delta: bool

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    @property
    def kind(self) -> Kind:
        """What is to be drawn: the map between pairs."""
        out, read = self.weight.shape[:2]
        rows = out // 2 if self.makes else out
        columns = self.reads // 2 * (read // self.reads) if self.reads else read
        return (rows, columns, *(() if self.delta else self.kernel)), Layout(), "orthogonal"

    def mirrored(self, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """The weight, from the map between pairs."""
        out = self.weight.shape[0]
        if self.makes:
            rows = [drawn, -drawn]
            if out % 2:
                alone = draw_normal((1, *drawn.shape[1:]), generator)
                usual = drawn.norm() / math.sqrt(drawn.shape[0])
                rows.append(alone * (usual / alone.norm().clamp_min(1e-30)))
            drawn = torch.cat(rows)
        if self.reads:
            entries = self.weight.shape[1] // self.reads
            pairs, dim = self.reads // 2, 1 if self.inner else 2
            lead = (out, pairs, entries) if self.inner else (out, entries, pairs)
            split = drawn.reshape(*lead, *drawn.shape[2:])
            unread = split.narrow(dim, 0, 1) * 0.0
            parts = [split, -split, *([unread] if self.reads % 2 else [])]
            drawn = torch.cat(parts, dim).reshape(out, -1, *drawn.shape[2:])
        return at_centre(drawn.unsqueeze(0), self.kernel)[0] if self.delta else drawn


def _map_of(
    bench: Bench, name: str, makes: Any, reads: Any, inner: Any, slope: Any, gain: Any, delta: Any
) -> _Map:
    weight = bench.parameter(name)
    path, _, leaf = name.rpartition(".")
    owner = inside(bench.module(path))
    if not isinstance(owner, _MAPS) or weight.dim() < 2 or layout_of(owner, leaf) != Layout():
        raise CannotApply(f"'{name}' is no single map from all inputs to all outputs")
    units, c = int(number(reads)), float(number(slope))
    if (makes and weight.shape[0] < 2) or units == 1 or (units and weight.shape[1] % units):
        raise CannotApply(f"'{name}' of shape {list(weight.shape)} has no room for {units} twins")
    if c == 0.0:
        raise CannotApply(f"what '{name}' reads has no slope: its pairs would cancel")
    return _Map(weight, bool(makes), units, bool(inner), float(number(gain)) / c, bool(delta))
