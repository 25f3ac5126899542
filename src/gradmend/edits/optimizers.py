"""Edits of the optimizer's options."""

from __future__ import annotations

from gradmend.edits.arguments import number
from gradmend.edits.bench import Bench
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def scale_learning_rate(bench: Bench, edit: Edit) -> None:
    """Multiply the learning rate of every parameter group by ``factor``."""
    if bench.optimizer is None:
        raise CannotApply(
            "the learning rate belongs to an optimizer, and there is none",
            "a plain network this deep diverges at the usual rate",
            "pass optimizer= to gradmend.apply",
        )
    factor = float(number(edit.args.get("factor", 1.0)))
    if factor <= 0:
        raise CannotApply(f"a factor of {factor:g} leaves no learning rate to train with")
    for at, group in enumerate(bench.optimizer.param_groups):
        bench.set_option("lr", group["lr"] * factor, at)
    if any("initial_lr" in group for group in bench.optimizer.param_groups):
        bench.notes.append(
            f"a scheduler is attached: one that computes the rate from its own base (LambdaLR,"
            f" OneCycleLR) will undo this; build it anew, or scale its base_lrs by {factor:.3g}"
        )
