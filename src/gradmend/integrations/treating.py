"""A prescription's edits on a model that a script holds, and on what trains it."""

from __future__ import annotations

import copy
import random
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.edits import Bench, apply_edits
from gradmend.edits.bench import ChangeLoss
from gradmend.errors import CannotApply
from gradmend.integrations.becoming import become, plain_class
from gradmend.integrations.matching import TREATED, Shape, reached_by, shape_of
from gradmend.integrations.rates import hide_rates, join_first_group
from gradmend.probe.batch import map_tensors
from gradmend.records.prescription import Edit

OF_OPTIMIZERS = frozenset(
    {
        "scale_learning_rate",
        "scale_layer_rates",
        "set_learning_rate",
        "set_epsilon",
        "scale_weight_decay",
        "warm_up",
    }
    | {"clip_gradients", "scale_loss", "maximise"}
)
"""Kinds of edit that change an optimizer and nothing of a model."""
_AGAIN = OF_OPTIMIZERS | {"add_parameters", "unfreeze_parameters"}
"""Those that an optimizer needs which comes when its model has been edited."""
BY_DATA = frozenset({"rescale_by_data", "revive_units"})
"""Those that look at a batch."""


@dataclass(frozen=True)
class Applied:
    """One model that got its edits."""

    model: str
    """Its class."""
    optimizer: str
    """The class of the optimizer that was edited along; empty where none was."""
    edits: int
    notes: tuple[str, ...] = ()


@dataclass
class Treated:
    """A model that has its edits; references to what the script may drop are weak."""

    root: weakref.ref[nn.Module]
    cls: type
    shape: Shape
    """As it was before."""
    optimizer: weakref.ref[Optimizer]
    loss_changes: list[ChangeLoss] = field(default_factory=list)


@dataclass
class Call:
    """A call of a model that is being made."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def again(self, model: nn.Module) -> Any:
        """On copies: a model may write into its input."""
        args, kwargs = map_tensors((self.args, self.kwargs), lambda tensor: tensor.detach().clone())
        return model(*args, **kwargs)


def treat(
    root: nn.Module,
    optimizer: Optimizer,
    edits: tuple[Edit, ...],
    *,
    seed: int,
    call: Call | None,
    scheduled: bool,
) -> tuple[Treated, Applied]:
    """Make the edits; whoever holds the model or the optimizer holds the edited ones.

    Args:
        root: The model.
        optimizer: What trains it.
        edits: What to do.
        seed: Added to the seeds of what the edits draw.
        call: For edits that look at data.
        scheduled: Whether a learning-rate scheduler holds the optimizer.

    Raises:
        CannotApply: If an edit does not fit; model and optimizer are then as they were.
    """
    cls, shape = plain_class(root), shape_of(root)
    bench = Bench(
        model=root,
        optimizer=optimizer,
        run_batch=None if call is None else call.again,
        seed=seed,
    )
    notes = _edit(bench, edits, scheduled=scheduled)
    if bench.model is not root:
        try:
            become(root, bench.model)
        except TypeError as error:
            bench.undo()
            raise CannotApply(
                f"{cls.__name__} cannot be wrapped in place: {error}",
                "the script holds the model itself",
                "wrap it in the script, with gradmend.apply",
            ) from error
    vars(root)[TREATED] = True
    treated = Treated(weakref.ref(root), cls, shape, weakref.ref(optimizer), bench.loss_changes)
    return treated, Applied(cls.__name__, type(optimizer).__name__, len(edits), notes)


def treat_again(
    treated: Treated, optimizer: Optimizer, edits: tuple[Edit, ...], *, seed: int, scheduled: bool
) -> None:
    """Edit an optimizer that was made for a model which has its edits already.

    Raises:
        CannotApply: If an edit does not fit it.
    """
    root = treated.root()
    assert root is not None
    bench = Bench(model=root, optimizer=optimizer, seed=seed)
    _edit(bench, tuple(edit for edit in edits if edit.kind in _AGAIN), scheduled=scheduled)
    treated.optimizer, treated.loss_changes = weakref.ref(optimizer), bench.loss_changes


def names_after(root: nn.Module, edits: tuple[Edit, ...]) -> set[str] | None:
    """The names in a checkpoint of the edited model, tried on a copy; ``None`` if it cannot be."""
    try:
        with _random_state_kept():
            bench = Bench(model=copy.deepcopy(root))
            apply_edits(bench, [edit for edit in edits if edit.kind not in _AGAIN | BY_DATA])
    except Exception:  # the real edits will say what is wrong, if anything is
        return None
    return set(bench.model.state_dict())


def _edit(bench: Bench, edits: tuple[Edit, ...], *, scheduled: bool) -> tuple[str, ...]:
    optimizer = bench.optimizer
    assert optimizer is not None
    rates = [group.get("lr") for group in optimizer.param_groups]
    with _random_state_kept():
        apply_edits(bench, edits)
    if bench.batch_changes:
        bench.undo()
        raise CannotApply(
            "an edit changes the batches, and a script feeds its model itself",
            "there is nothing to change them on their way",
            "change them in the script, as the advice says",
        )
    factors = [
        float(edit.args.get("factor", 1.0))  # type: ignore[arg-type]  # the edit has taken it
        for edit in edits
        if edit.kind == "scale_learning_rate"
    ]
    note = hide_rates(optimizer, rates, factors)
    if scheduled and len(optimizer.param_groups) > len(rates):
        join_first_group(optimizer, len(rates))
    notes = [text for text in bench.notes if not text.startswith("a scheduler is attached")]
    return (*notes, note) if note else tuple(notes)


def edited_loss(loss: Tensor, treated: list[Treated]) -> Tensor:
    """What to descend on, of a loss that leads to edited models; any other loss itself."""
    for each in treated:
        root = each.root()
        if root is None or not each.loss_changes or loss.numel() != 1:
            continue
        if reached_by(loss, {id(p) for p in root.parameters()}):
            for change in each.loss_changes:
                loss = change(loss)
    return loss


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """The next draws of the script are those that they would have been."""
    state, words = torch.get_rng_state(), random.getstate()
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = torch.cuda.get_rng_state_all() if used else None
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(words)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        if numpy is not None:
            numpy.random.set_state(legacy)
