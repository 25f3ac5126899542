"""Edits that give the gradient a way around modules."""

from __future__ import annotations

from torch import nn

from gradmend.edits.arguments import rows_of
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.layers import ReZero
from gradmend.records.prescription import Edit


@edit_kind
def wrap_residual(bench: Bench, edit: Edit) -> None:
    """Wrap runs of modules into h + alpha f(h): each target with its row of ``parts`` behind it.

    The first module of a run becomes the block, the others hand their input on.
    """
    alphas = []
    for path, rest in zip(edit.targets, rows_of(edit, "parts"), strict=True):
        paths = [path, *(str(part) for part in rest)]
        block = ReZero(*(inside(bench.module(part)) for part in paths))
        for part in paths[1:]:
            bench.put(part, nn.Identity())
        bench.put(path, block)
        block.f.training = block.training
        alphas.append(block.alpha)
    bench.register(alphas)
