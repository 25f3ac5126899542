"""What a report says of a watched run, beside its findings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A finding's time: from the step it began to the step it cleared."""

    code: str
    name: str
    severity: str
    began: int
    cleared: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBadValue:
    """The first value of a run that was not finite."""

    step: int
    direction: str
    """``forward``, ``loss``, ``backward`` or ``weights``."""
    module: str
    operation: str
    source: str | None
    last_good: int
    """Last step in which everything was finite; -1 where there was none."""
    batch: tuple[int, ...] = ()
    """Shape of what the model was fed."""
    replayed: bool = False
    """Whether the step was run again to find it."""
    why: str = ""
    """Why it was not replayed, or what else is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A run, in figures."""

    name: str
    command: str
    models: tuple[str, ...]
    status: str
    """``running``, ``finished``, ``crashed``, ``stopped`` or ``killed``."""
    steps: int
    seconds: float
    overhead_seconds: float
    setup_seconds: float
    budget: float
    rank: int = 0
    ranks: int = 1
    """How many processes train it together; this is what one of them saw."""
    loss_first: float | None = None
    """Median of the first losses."""
    loss_last: float | None = None
    """Median of the last losses."""
    learns: bool | None = None
    """Whether the loss fell by more than its own noise; ``None`` where that cannot be told."""
    still_steps: float = 0.0
    """Share of the measured steps in which not one weight changed a bit."""
    still_seconds: float = 0.0
    """What those steps took."""
    still_parameters: float = 0.0
    """Share of the weights that did not change in any measured step."""
    clipped_steps: float | None = None
    """Share of the steps in which clipping made the gradient smaller."""
    skipped_steps: float = 0.0
    first_bad: FirstBadValue | None = None
    crash: str = ""
    stopped: str = ""
    """Why the run was ended early."""
    spells: tuple[Spell, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""

    @property
    def overhead(self) -> float:
        """Share of the training's time that watching took."""
        return self.overhead_seconds / self.seconds if self.seconds > 0 else 0.0
