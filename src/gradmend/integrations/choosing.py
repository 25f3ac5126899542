"""Which models get a prescription's edits, now and later."""

from __future__ import annotations

from pathlib import PurePath

from torch import nn
from torch.optim import Optimizer

from gradmend.errors import CannotApply
from gradmend.integrations.matching import (
    TREATED,
    Models,
    built_at,
    is_general,
    missing,
    shape_of,
)
from gradmend.integrations.treating import Treated
from gradmend.probe.source import construction_of
from gradmend.records.prescription import Prescription
from gradmend.records.script import Place


class Choice:
    """The models of a process that a prescription may be for, and those that have it.

    Args:
        prescription: What is to be applied.
        place: The line that built the model it was written for, where known.
    """

    def __init__(self, prescription: Prescription, place: Place | None) -> None:
        self.prescription, self.place = prescription, place
        self.models = Models()
        self.treated: list[Treated] = []

    def candidates(self, *, late: bool) -> list[nn.Module]:
        """Models that the edits may be for, and that have none yet.

        Args:
            late: Training begins, so that a model of another class is taken, too, if it has all
                that is named and none of the class has come.
        """
        name = self.prescription.model
        mine = self.models.called(name) if name else []
        strangers = not mine and not any(each.cls.__name__ == name for each in self.treated)
        if strangers and late:
            mine = [m for m in self.models.roots() if missing(m, self.prescription) is None]
        fresh = [model for model in mine if TREATED not in vars(model)]
        if any(map(is_general, fresh)):  # whoever lacks a target is another model
            fresh = [m for m in fresh if missing(m, self.prescription) is None]
        if not self.treated:
            return built_at(fresh, self.place)
        first = self.treated[0]
        alive = first.root() is not None
        return [
            model
            for model in fresh
            if type(model) is first.cls
            and not (is_general(model) and alive and shape_of(model) != first.shape)
        ]

    def rivals(self, model: nn.Module) -> str | None:
        """A note where another model could be meant as well as this one, and nothing tells them.

        Call it before the model is treated: afterwards the other is no candidate any more.
        """
        if self.treated or not is_general(model):
            return None
        own = shape_of(model)
        if all(shape_of(other) == own for other in self.candidates(late=True)):
            return None
        place = construction_of(model)
        where = f", built at {PurePath(place.file).name}:{place.line}," if place else ""
        name = type(model).__name__
        return f"another {name} has what is named, too: the first one{where} was taken"

    def give_up(self, stepping: Optimizer) -> None:
        """Refuse where a training begins that the prescription cannot be for.

        Raises:
            CannotApply: If no model has the edits, and none is there that could get them.
        """
        if self.treated or self.candidates(late=True):
            return
        held = {id(p) for group in stepping.param_groups for p in group["params"]}
        roots = self.models.roots()
        trained = [
            type(model).__name__
            for model in roots
            if any(id(p) in held for p in model.parameters())
        ]
        wanted = self.prescription.model or "any model"
        lacks = (missing(model, self.prescription) for model in roots)
        named = next((target for target in lacks if target), None)
        raise CannotApply(
            f"the script trains {' and '.join(trained) or 'no model that was found'}, and the"
            f" prescription is for {wanted}" + (f" with a '{named}'" if named else ""),
            "an edit must find what it names",
            "prescribe anew with gradmend fix",
        )
