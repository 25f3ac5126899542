"""Histograms of gradients by powers of two: over depth at the end, and of one layer over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradmend.errors import UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import Column, Floats
from gradmend.renderers import numbers
from gradmend.renderers.page.figure import Axis, Heat
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import forward, label, places
from gradmend.store.reader import RunReader
from gradmend.theory.formats import number_format

DEPTH = "hist-gradient-depth"
TIME = "hist-gradient-time"
MOST_BINS = 320
"""Rows of a histogram: float32 has 277 powers of two, and wider ones share rows."""
MOST_CHOICES = 24
_EXPONENTS = Axis(label="|gradient|, powers of two")
_SHARE = Axis(label="share of the layer's numbers", percent=True, lo=0.0)
_NOTED = ("float16", "bfloat16")


def over_depth(reader: RunReader) -> Heat | None:
    """The newest histogram of every layer: exponents x layers."""
    columns = reader.table_columns("gradient")
    found = {at: each for at, each in reader.last_histograms("gradient").items() if each[1].counts}
    found = {at: each for at, each in found.items() if at < len(columns)}
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
        id=DEPTH,
        title="Gradient histograms over depth",
        caption=f"Share of each layer's gradient entries in each power of two, {_when(steps)}."
        " No range is chosen, so nothing falls outside; exact zeros are not counted."
        + _limits_words(bins)
        + (" Each column stands for neighbouring layers (means)." if depth.pooled else ""),
        words=f"Histograms of the gradient of {newest}, {_when(steps)}."
        f" They reach from {bins.rows[-1]} to {bins.rows[0]}. "
        + wording.extremes(cells, bins.rows, depth.names, _SHARE, both=False),
        x=wording.DEPTH,
        at=np.arange(len(depth)),
        y=_EXPONENTS,
        rows=bins.rows,
        values=cells,
        colour=_SHARE,
        layers=depth.layers,
        across=True,
        categories=depth.names,
    )


def over_time(reader: RunReader, which: str = "") -> Heat | None:
    """The histograms of one parameter: exponents x steps.

    Args:
        reader: The run.
        which: The parameter's position or name; the one with the smallest gradient if empty.

    Raises:
        UnknownName: If there is no such parameter.
    """
    columns = reader.table_columns("gradient")
    at = _smallest(reader, columns) if not which else _named(columns, which)
    if at is None:
        return None
    found = [(step, each) for step, each in reader.histograms("gradient", at) if each.counts]
    if not found:
        return None
    merged: dict[int, Exponents] = {}
    for step, histogram in found:
        merged[step] = merged[step].merge(histogram) if step in merged else histogram
    steps = np.array(sorted(merged), dtype=np.int64)
    bins = _Bins(list(merged.values()))
    cells = np.stack([bins.shares(merged[int(step)]) for step in steps], axis=1)
    name = label(columns[at])
    chosen = "" if which else " (the smallest gradient of all)"
    return Heat(
        id=f"{TIME}:{which}" if which else TIME,
        title="Gradient histogram over time",
        caption=f"Share of the gradient entries of {name}{chosen} in each power of two, each time"
        " they were counted. Exact zeros are not counted." + _limits_words(bins),
        words=f"Histograms of the gradient of {name} over {wording.span(steps)}."
        f" They reach from {bins.rows[-1]} to {bins.rows[0]}. "
        + wording.extremes(cells, bins.rows, wording.step_names(steps), _SHARE, both=False),
        x=wording.STEPS,
        at=steps,
        y=_EXPONENTS,
        rows=bins.rows,
        values=cells,
        colour=_SHARE,
        choices=_choices(columns, at, which),
    )


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
    """The powers of two at which number formats end."""
    edges: dict[int, list[str]] = {}
    for name in _NOTED:
        form = number_format(name)
        edges.setdefault(int(np.log2(form.min_subnormal)), []).append(f"smallest {name}")
        edges.setdefault(int(np.log2(form.min_normal)), []).append(f"smallest normal {name}")
    return {edge: ", ".join(words) for edge, words in edges.items()}


_LIMITS = _limits()


def _limits_words(bins: _Bins) -> str:
    low = int(np.log2(number_format("float16").min_subnormal))
    if bins.first >= low + 10:
        return ""
    normal = int(np.log2(number_format("float16").min_normal))
    return f" Below 2^{normal} float16 loses precision, below 2^{low} everything."


def _when(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"at step {int(steps[0]):,}"
    return f"last counted at steps {int(steps[0]):,} to {int(steps[-1]):,}"


def _named(columns: Sequence[Column], which: str) -> int:
    for at, column in enumerate(columns):
        if column.name == which:
            return at
    if which.isdecimal() and which.isascii() and len(which) < 10 and int(which) < len(columns):
        return int(which)
    raise UnknownName("the run has no such parameter", "", "choose one of its layers")


def _smallest(reader: RunReader, columns: Sequence[Column]) -> int | None:
    """The first parameter with the smallest gradient among those with histograms."""
    found = reader.last_histograms("gradient")
    known = [at for at in forward(columns).tolist() if at in found and found[at][1].counts]
    if not known:
        return None
    _, newest = reader.newest("gradient", ["log10_rms"])
    sizes = newest["log10_rms"][known]
    sizes = np.where(np.isfinite(sizes), sizes, np.inf)
    return int(known[int(sizes.argmin())])


def _choices(columns: Sequence[Column], at: int, which: str) -> tuple[tuple[str, str], ...]:
    """Other parameters that can be shown: evenly over depth, the one shown among them."""
    order = forward(columns).tolist()
    places = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_CHOICES)).astype(int))
    kept = [order[place] for place in places]
    first = [(TIME, f"{label(columns[at])}: smallest gradient")] if not which else [
        (TIME, "the smallest gradient"), (f"{TIME}:{which}", label(columns[at]))
    ]  # fmt: skip
    rest = [(f"{TIME}:{other}", label(columns[other])) for other in kept if other != at]
    return (*first, *rest)
