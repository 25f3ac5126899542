"""What a figure shows, as data: two kinds draw all there is over steps, layers, time and exponents.

A figure is made here, without a browser, and drawn by ``assets/js``; nothing is computed there but
pixels. Every number has a unit, every figure has words for those who cannot see it, and the same
numbers stand in its table and in what can be downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from gradmend.records.history import Floats
from gradmend.renderers.page.encoding import exact, quantised
from gradmend.renderers.visible import visible


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis measures."""

    label: str
    """``optimizer step``, ``loss``, ``log10 rms of the gradient``."""
    unit: str = ""
    """As shown after numbers: ``nats``, ``decades``, ``%``, ``s``; empty for pure numbers."""
    log: bool = False
    """Drawn on a logarithmic scale; the numbers are the quantity itself."""
    percent: bool = False
    """Shares in [0, 1], shown times 100 with a %."""
    lo: float | None = None
    """Where the axis begins, if not where the numbers do."""
    hi: float | None = None

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "label": self.label,
            "unit": self.unit,
            "log": self.log,
            "percent": self.percent,
            "lo": self.lo,
            "hi": self.hi,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, with its spread where several steps share a point."""

    name: str
    values: Floats
    """[points], one for each value of the figure's x; NaN where not measured."""
    layer: str | None = None
    """Path of the module it belongs to: selecting the one selects the other."""
    low: Floats | None = None
    high: Floats | None = None
    role: str = ""
    """``loss``, ``limit``, ``predicted``, ``before``, ``after``, ``background``...: what it is
    drawn as; empty for the next colour."""
    panel: int = 0
    """Which of the figure's panels, from the top."""

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": visible(self.name),
            "layer": _shown(self.layer),
            "role": self.role,
            "panel": self.panel,
            "values": exact(self.values),
            "low": None if self.low is None else exact(self.low),
            "high": None if self.high is None else exact(self.high),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at a value of x, drawn in every panel."""

    x: float
    kind: str
    """``finding``, ``cleared``, ``spike``, ``skipped``, ``non-finite``, ``intervention``,
    ``stopped``, ``crash``, ``look``: each has a sign and a colour of its own."""
    text: str
    layer: str | None = None

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        text, layer = visible(self.text), _shown(self.layer)
        return {"x": self.x, "kind": self.kind, "text": text, "layer": layer}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A horizontal line with a meaning, such as the update ratio of 1e-3."""

    y: float
    text: str
    panel: int = 0

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {"y": self.y, "text": self.text, "panel": self.panel}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines over one x axis, in one panel or several under each other."""

    id: str
    title: str
    caption: str
    """What to look for, in a sentence."""
    words: str
    """What the figure shows, for a screen reader."""
    x: Axis
    at: NDArray[Any]
    """[points], ascending."""
    panels: Sequence[Axis]
    """The y axes, from the top."""
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    levels: Sequence[Level] = ()
    categories: Sequence[str] = ()
    """Names for the values of x where these are places and no numbers: layers over depth."""
    layers: Sequence[str] = ()
    """Module paths for the values of x, where x is layers."""
    kind: Literal["lines"] = "lines"

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **_common(self),
            "x": self.x.plain(),
            "at": exact(self.at),
            "panels": [panel.plain() for panel in self.panels],
            "series": [series.plain() for series in self.series],
            "marks": [mark.plain() for mark in self.marks],
            "levels": [level.plain() for level in self.levels],
            "categories": [visible(name) for name in self.categories],
            "layers": [visible(layer) for layer in self.layers],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """A matrix of colours: layers over steps, exponents over layers, exponents over steps."""

    id: str
    title: str
    caption: str
    words: str
    x: Axis
    at: NDArray[Any]
    """[columns], ascending; each column stretches to the middle between its neighbours."""
    y: Axis
    rows: Sequence[str]
    """[rows], from the top: names of layers, or texts such as ``2^-12``."""
    values: Floats
    """[rows, columns]; NaN where not measured (drawn as empty), infinities as such."""
    colour: Axis
    """What the colours measure."""
    layers: Sequence[str] = ()
    """Module path of each row (or of each column where ``across`` is set); empty where rows are
    no layers."""
    across: bool = False
    """Whether ``layers`` and ``categories`` name columns."""
    categories: Sequence[str] = ()
    """Names of the columns where these are no numbers."""
    centre: float | None = None
    """The value of neither good nor bad, where colours go two ways from it."""
    levels: Sequence[Level] = ()
    """Lines on the colour bar, such as -3 for update ratios."""
    marks: Sequence[Mark] = ()
    choices: Sequence[tuple[str, str]] = ()
    """(id, label) of figures that this place can show instead: other quantities."""
    kind: Literal["heat"] = "heat"

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **_common(self),
            "x": self.x.plain(),
            "at": exact(self.at),
            "y": self.y.plain(),
            "rows": [visible(row) for row in self.rows],
            "values": quantised(self.values),
            "colour": self.colour.plain(),
            "layers": [visible(layer) for layer in self.layers],
            "across": self.across,
            "categories": [visible(name) for name in self.categories],
            "centre": self.centre,
            "levels": [level.plain() for level in self.levels],
            "marks": [mark.plain() for mark in self.marks],
            "choices": [list(choice) for choice in self.choices],
        }


class Figure(Protocol):
    """Whatever a page can draw: lines, heat, and the ledger with a kind of its own."""

    @property
    def kind(self) -> str:
        """Which drawing takes it: a key of ``gm.kinds``."""
        ...

    @property
    def id(self) -> str:
        """Its place on the page."""
        ...

    @property
    def title(self) -> str:
        """Its heading."""
        ...

    @property
    def caption(self) -> str:
        """What to look for."""
        ...

    @property
    def words(self) -> str:
        """What it shows, for a screen reader."""
        ...

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        ...


def _shown(layer: str | None) -> str | None:
    """A path as everything else on the page calls it, so that one selection finds all of it."""
    return None if layer is None else visible(layer)


def _common(figure: Figure) -> dict[str, Any]:
    return {
        "kind": figure.kind,
        "id": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "words": figure.words,
    }
