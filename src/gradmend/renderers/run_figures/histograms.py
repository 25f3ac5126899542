"""Histograms of gradients and outputs by powers of two: over depth, and of one layer over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradmend.errors import UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import Column, Floats
from gradmend.renderers import numbers
from gradmend.renderers.page.figure import Axis, Heat
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import forward, label, places
from gradmend.renderers.visible import shorten
from gradmend.store.reader import RunReader
from gradmend.theory.formats import number_format

MOST_BINS = 320
"""Rows of a histogram: float32 has 277 powers of two, and wider ones share rows."""
MOST_CHOICES = 24
MOST_LETTERS = 80
"""Of a layer's name in a caption."""
_SHARE = Axis(label="share of the layer's numbers", percent=True, lo=0.0)
_NOTED = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Histograms:
    """The histograms of one table, in two figures."""

    table: str
    what: str
    """Whose numbers are counted, as in ``Gradient histograms``."""
    column: str
    """What a column of the table is."""

    @property
    def depth(self) -> str:
        """Id of the figure over depth."""
        return f"hist-{self.table}-depth"

    @property
    def time(self) -> str:
        """Id of the figure over time."""
        return f"hist-{self.table}-time"

    @property
    def depth_title(self) -> str:
        """Its title."""
        return f"{self.what.capitalize()} histograms over depth"

    @property
    def time_title(self) -> str:
        """Its title."""
        return f"{self.what.capitalize()} histogram over time"

    @property
    def _exponents(self) -> Axis:
        return Axis(label=f"|{self.what}|, powers of two")

    def over_depth(self, reader: RunReader) -> Heat | None:
        """The newest histogram of every layer: exponents x layers."""
        columns = reader.table_columns(self.table)
        found = {
            at: each
            for at, each in reader.last_histograms(self.table).items()
            if each[1].counts and at < len(columns)
        }
        if not found:
            return None
        depth = places(columns, some=list(found))
        bins = _Bins([histogram for _, histogram in found.values()])
        shares = np.full((len(bins.rows), len(columns)), np.nan)
        for at, (_, histogram) in found.items():
            shares[:, at] = bins.shares(histogram)
        cells = depth.take(shares).T
        steps = sorted({step for step, _ in found.values()})
        newest = numbers.count(len(depth), "layer")
        return Heat(
            id=self.depth,
            title=self.depth_title,
            caption=f"Share of each layer's {self.what} entries in each power of two,"
            f" {_when(steps)}: all of them but exact zeros."
            + _limits_words(bins)
            + (" Each column stands for neighbouring layers (means)." if depth.pooled else ""),
            words=f"Histograms of the {self.what} of {newest}, {_when(steps)}."
            f" They reach from {bins.rows[-1]} to {bins.rows[0]}. "
            + wording.extremes(cells, bins.rows, depth.names, _SHARE, both=False),
            x=wording.DEPTH,
            at=np.arange(len(depth)),
            y=self._exponents,
            rows=bins.rows,
            values=cells,
            colour=_SHARE,
            layers=depth.layers,
            across=True,
            categories=depth.names,
        )

    def over_time(self, reader: RunReader, which: str = "") -> Heat | None:
        """The histograms of one column: exponents x steps.

        Args:
            reader: The run.
            which: The column's position or name; the one with the smallest numbers if empty.

        Raises:
            UnknownName: If there is no such column.
        """
        columns = reader.table_columns(self.table)
        told = reader.last_histograms(self.table)
        order = [at for at in forward(columns).tolist() if at in told and told[at][1].counts]
        at = self._named(columns, which) if which else self._smallest(reader, order)
        if at is None:
            return None
        found = [(step, each) for step, each in reader.histograms(self.table, at) if each.counts]
        if not found:
            return None
        merged: dict[int, Exponents] = {}
        for step, histogram in found:
            merged[step] = merged[step].merge(histogram) if step in merged else histogram
        steps = np.array(sorted(merged), dtype=np.int64)
        bins = _Bins(list(merged.values()))
        cells = np.stack([bins.shares(merged[int(step)]) for step in steps], axis=1)
        name = shorten(label(columns[at]), MOST_LETTERS)
        chosen = "" if which else f" (the smallest {self.what} of all)"
        return Heat(
            id=f"{self.time}:{which}" if which else self.time,
            title=self.time_title,
            caption=f"Share of the {self.what} entries of {name}{chosen} in each power of two, each"
            " time they were counted: all of them but exact zeros." + _limits_words(bins),
            words=f"Histograms of the {self.what} of {name} over {wording.span(steps)}."
            f" They reach from {bins.rows[-1]} to {bins.rows[0]}. "
            + wording.extremes(cells, bins.rows, wording.step_names(steps), _SHARE, both=False),
            x=wording.STEPS,
            at=steps,
            y=self._exponents,
            rows=bins.rows,
            values=cells,
            colour=_SHARE,
            choices=self._choices(columns, order, at, which),
        )

    def _named(self, columns: Sequence[Column], which: str) -> int:
        for at, column in enumerate(columns):
            if column.name == which:
                return at
        if which.isdecimal() and which.isascii() and len(which) < 10 and int(which) < len(columns):
            return int(which)
        raise UnknownName(f"the run has no such {self.column}", "", "choose one of its layers")

    def _smallest(self, reader: RunReader, order: Sequence[int]) -> int | None:
        """The first column with the smallest numbers among those with histograms."""
        if not order:
            return None
        _, newest = reader.newest(self.table, ["log10_rms"])
        sizes = newest["log10_rms"][list(order)]
        sizes = np.where(np.isfinite(sizes), sizes, np.inf)
        return order[int(sizes.argmin())]

    def _choices(
        self, columns: Sequence[Column], order: Sequence[int], at: int, which: str
    ) -> tuple[tuple[str, str], ...]:
        """Other columns that can be shown: evenly over depth, the one shown among them."""
        spread = np.linspace(0, len(order) - 1, min(len(order), MOST_CHOICES)).astype(int)
        kept = [order[place] for place in np.unique(spread)]
        smallest, shown = f"smallest {self.what}", label(columns[at])
        first = [(self.time, f"{shown}: {smallest}")]
        if which:
            first = [(self.time, f"the {smallest}"), (f"{self.time}:{which}", shown)]
        rest = [(f"{self.time}:{other}", label(columns[other])) for other in kept if other != at]
        return (*first, *rest)


GRADIENTS = Histograms(table="gradient", what="gradient", column="parameter")
OUTPUTS = Histograms(table="output", what="output", column="output")
SHOWN = (GRADIENTS, OUTPUTS)


class _Bins:
    """Rows of powers of two, the largest numbers on top."""

    def __init__(self, histograms: Sequence[Exponents]) -> None:
        self.first = min(min(each.counts) for each in histograms)
        last = max(max(each.counts) for each in histograms)
        self.width = 1
        while (last - self.first) // self.width >= MOST_BINS:
            self.width *= 2
        self.count = (last - self.first) // self.width + 1
        self.rows = tuple(self._label(at) for at in reversed(range(self.count)))

    def shares(self, histogram: Exponents) -> Floats:
        """Share of a histogram's numbers in each row, from the top."""
        found = np.zeros(self.count)
        for exponent, count in histogram.counts.items():
            found[(exponent - self.first) // self.width] += count
        return found[::-1] / max(histogram.total, 1)

    def _label(self, at: int) -> str:
        low = self.first + at * self.width
        text = f"2^{low}" if self.width == 1 else f"2^{low} .. 2^{low + self.width - 1}"
        noted = [words for edge, words in _LIMITS.items() if low <= edge < low + self.width]
        return f"{text} ({', '.join(noted)})" if noted else text


def _limits() -> dict[int, str]:
    """The powers of two at which number formats begin, lose precision and end.

    Which of it stands in the caption: a row's label has no room.
    """
    edges: dict[int, list[str]] = {}
    for name in _NOTED:
        form = number_format(name)
        edges.setdefault(int(np.log2(form.min_subnormal)), []).append(name)
        edges.setdefault(int(np.log2(form.min_normal)), []).append(name)
        edges.setdefault(int(np.log2(form.max)), []).append(name)
    return {edge: ", ".join(words) for edge, words in edges.items()}


_LIMITS = _limits()


def _limits_words(bins: _Bins) -> str:
    form = number_format("float16")
    low, normal, top = (
        int(np.log2(edge)) for edge in (form.min_subnormal, form.min_normal, form.max)
    )
    said = ""
    if bins.first < low + 10:
        said = f" Below 2^{normal} float16 loses precision, below 2^{low} everything."
    if bins.first + bins.count * bins.width > top:
        said += f" From 2^{top + 1} on float16 is infinite."
    return said


def _when(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"at step {int(steps[0]):,}"
    return f"last counted at steps {int(steps[0]):,} to {int(steps[-1]):,}"
