"""Where in a script's source the things stand that a repair is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of somebody's code."""

    file: str
    """As the interpreter knows it: the path of the file that ran."""
    line: int
    text: str = ""
    """The line itself, without its indentation."""

    def __str__(self) -> str:
        """``train.py:12  nn.Sigmoid()``."""
        return f"{PurePath(self.file).name}:{self.line}  {self.text}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFacts:
    """What was learned of a script while its first steps were watched, beside the trace."""

    model: str = ""
    """Class of the model that the trace is of; empty where none was found."""
    model_place: Place | None = None
    """Where it was built."""
    optimizer: str = ""
    """Class of the optimizer that trains it."""
    optimizer_place: Place | None = None
    modules: Mapping[str, Place] = field(default_factory=dict)
    """Where each of its modules was built, by path; those that copies were made of are missing."""
    steps: int = 0
    """Steps that were watched."""
    losses: tuple[float, ...] = ()
    """Of its optimizer, by step."""
    others: tuple[str, ...] = ()
    """Classes of the other models that the script trains."""
    unseen: str = ""
    """Why its first step could not be looked at; then the trace has no operations."""
