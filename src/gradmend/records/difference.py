"""Where two watched runs part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A circumstance that is not the same in both runs."""

    name: str
    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first step at which a quantity of one thing is not the same in both runs."""

    step: int
    table: str
    quantity: str
    column: str
    """Optimizer, parameter or module; unique within its table."""
    unit: str
    a: float | None
    """In the first run at that step, or over the window that begins there; ``None`` for NaN."""
    b: float | None
    last_same: int = -1
    """The last step before at which it was compared and was the same; -1 where there is none."""
    source: str | None = None
    columns: int = 1
    """How many columns of the table part in this quantity at that step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two runs compared step by step and column by column."""

    names: tuple[str, str]
    steps: tuple[int, int]
    """Steps that each run took."""
    compared: int
    """Steps of which something was measured in both."""
    exact: bool
    """Whether they began with the same numbers, so that any difference counts."""
    bitwise: bool
    """Whether all that was compared before they part is equal to the last bit."""
    tolerance: float
    """Relative difference up to which two numbers count as the same where runs began alike."""
    partings: tuple[Parting, ...] = ()
    """The first of each quantity; earliest first, and within a step as one thing causes another."""
    settings: tuple[Setting, ...] = ()
    losses: tuple[float | None, float | None] = (None, None)
    """Median of the last losses."""
    findings: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Codes and names of the findings that only one of them had."""
    columns: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """``table: name`` of what was measured in one of them only."""

    @property
    def first(self) -> Parting | None:
        """Where they part; ``None`` where they do not."""
        return self.partings[0] if self.partings else None

    @property
    def same(self) -> bool:
        """Whether nothing recorded differs."""
        return (
            self.exact
            and not self.partings
            and not self.settings
            and not any(self.findings)
            and not any(self.columns)
            and self.steps[0] == self.steps[1]
        )
