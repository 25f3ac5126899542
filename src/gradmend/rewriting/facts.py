"""What must be known of a script to change its source, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gradmend.records.layout import ModuleFacts, OptimizerFacts
from gradmend.records.script import Place, ScriptFacts


class Unclear(Exception):  # never leaves this room
    """The source does not show how to say an edit in it; the reason is a clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Where a script built what a prescription is about."""

    script: str
    """Path of the script, as in the places and among the sources."""
    model: str = ""
    """Class of the root model."""
    model_place: Place | None = None
    """Where it was built: the innermost line among the user's own files."""
    optimizer_place: Place | None = None
    modules: Mapping[str, Place] = field(default_factory=dict)
    """Where each module was built, by path; copies have no place."""
    layout: tuple[ModuleFacts, ...] = ()
    """Every module of the model, root included."""
    optimizer: OptimizerFacts | None = None
    shared: frozenset[tuple[str, int]] = frozenset()
    """(file, line) that also built modules which are no part of this model: never changed."""

    @classmethod
    def of(
        cls,
        script: str,
        found: ScriptFacts,
        layout: Iterable[ModuleFacts],
        optimizer: OptimizerFacts | None = None,
        shared: Iterable[tuple[str, int]] = (),
    ) -> SourceFacts:
        """From what watching a script's first steps gives.

        Args:
            script: Path of the script.
            found: What was learned of it.
            layout: ``trace.modules``.
            optimizer: ``trace.optimizer``.
            shared: Lines that also built modules of other models.
        """
        return cls(
            script=script,
            model=found.model,
            model_place=found.model_place,
            optimizer_place=found.optimizer_place,
            modules=found.modules,
            layout=tuple(layout),
            optimizer=optimizer,
            shared=frozenset(shared),
        )

    def module(self, path: str) -> ModuleFacts:
        """The facts of one module."""
        for facts in self.layout:
            if facts.path == path:
                return facts
        raise Unclear(f"nothing is known of the module '{path}'")

    def option(self, key: str) -> float:
        """A number that all groups of the optimizer have in common."""
        if self.optimizer is None or not self.optimizer.groups:
            raise Unclear("the optimizer's options are not known")
        values = {group.options.get(key) for group in self.optimizer.groups}
        value = values.pop()
        if values or isinstance(value, bool) or not isinstance(value, int | float):
            raise Unclear(f"the optimizer's groups differ in '{key}'")
        if not math.isfinite(value):
            raise Unclear(f"the optimizer's '{key}' is {value}")
        return float(value)

    @property
    def trains_everything(self) -> bool:
        """Whether the optimizer holds all parameters of the model and no others."""
        if self.optimizer is None or self.optimizer.foreign or self.optimizer.missing:
            return False
        held = {name for group in self.optimizer.groups for name in group.parameters}
        every = {name for facts in self.layout for name in facts.parameters}
        return bool(held) and held <= every  # a tied parameter has one name here and two there


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change of source that does what a prescription does, to be reviewed like any other."""

    diff: str = ""
    """Unified; empty where nothing could be located."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The changed files, whole, by the names they were given under."""
    plain: bool = False
    """Whether it needs no gradmend: the lines are PyTorch's alone."""
    why: str = ""
    """Why there is no change of source; or, where gradmend is called, why it is no plain one."""
    notes: tuple[str, ...] = ()
    """What a reviewer should know."""

    def __bool__(self) -> bool:
        """False where there is no change to show."""
        return bool(self.diff)
