"""Layers over steps: where gradients vanish, updates stall and units die, and since when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradmend.records.history import Floats, Steps
from gradmend.renderers.page.figure import Axis, Heat, Level
from gradmend.renderers.run_figures import marks, wording
from gradmend.renderers.run_figures.places import MOST, Pool, largest, mean, places
from gradmend.store.reader import RunReader

MOST_STEPS = 2000
"""Columns of a heat map: about as many as a screen has pixels."""
MOST_CELLS = 600_000
"""Cells of a heat map (1,000 layers over 600 points): 1.6 MB as JSON."""
FEWEST_STEPS = 200
FEWEST_KNOWN, FEWEST_GROUPS = 4, 12
"""Measurements of a row below which nothing is put together for it, and columns left at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """What a heat map shows."""

    id: str
    label: str
    """As chosen from: ``gradient``."""
    title: str
    table: str
    quantity: str
    colour: Axis
    caption: str
    pool: Pool = mean
    silent: bool = True
    """Whether rows of layers that were never measured are shown: parameters without a gradient
    are news, modules without an activation are none."""
    centre: float | None = None
    levels: tuple[Level, ...] = ()
    rows: Axis = wording.DEPTH
    broken: tuple[str, ...] = ()
    """Counts of entries that are not finite: where they leave no size, the cell is infinite."""

    def __call__(self, reader: RunReader) -> Heat | None:
        """The figure; ``None`` where the run holds nothing of it."""
        columns = reader.table_columns(self.table)
        if not columns:
            return None
        rows = min(len(columns), MOST)
        most = min(MOST_STEPS, max(FEWEST_STEPS, MOST_CELLS // rows))
        seen = reader.overview(self.table, [self.quantity, *self.broken], most)
        values = seen.mean[self.quantity]
        for name in self.broken:
            values = np.where(np.isnan(values) & (seen.mean[name] > 0), np.inf, values)
        values = values[:, : len(columns)]  # one may have been declared meanwhile
        known = ~np.isnan(values).all(axis=0)
        if not known.any():
            return None
        measured = ~np.isnan(values).all(axis=1)
        steps, values, gathered = gapless(seen.steps[measured], values[measured])
        some = None if self.silent else np.flatnonzero(known).tolist()
        depth = places(columns, some=some)
        cells = depth.take(values, self.pool)
        how = "means" if self.pool is mean else "the largest"
        return Heat(
            id=self.id,
            title=self.title,
            caption=self.caption
            + (" Cells of +inf held NaN or infinity." if (cells == np.inf).any() else "")
            + wording.pooled_words(steps=seen.pooled or gathered, layers=depth.pooled, how=how),
            words=f"Heat map of {self.colour.label}: {len(depth):,} rows over"
            f" {wording.span(steps)}. "
            + wording.extremes(cells, depth.names, wording.step_names(steps), self.colour),
            x=wording.STEPS,
            at=steps,
            y=self.rows,
            rows=depth.names,
            values=cells,
            colour=self.colour,
            layers=depth.layers,
            centre=self.centre,
            levels=self.levels,
            marks=marks.of_events(reader.events(marks.KINDS_OF_HEAT), looks=False),
        )


def gapless(steps: Steps, values: Floats) -> tuple[Steps, Floats, bool]:
    """Neighbouring points put together where rows are measured in turns.

    Two optimizers that step in turns would make a map of stripes. Points are put together by
    as many as a row leaves out on average.

    Args:
        steps: Shape [points].
        values: Shape [points, columns].

    Returns:
        Steps, values, and whether any were put together.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    often = count >= FEWEST_KNOWN
    if not often.any() or count[often].min() == len(steps):
        return steps, values, False
    first, last = known.argmax(axis=0), len(steps) - 1 - known[::-1].argmax(axis=0)
    gaps = ((last - first) / np.maximum(count - 1, 1))[often]
    gap = int(np.ceil(np.quantile(gaps, 0.9) - 0.05))  # a gap or two may stay
    if gap < 2:
        return steps, values, False
    groups = max(min(len(steps), FEWEST_GROUPS), len(steps) // gap)
    starts = np.linspace(0, len(steps), groups + 1).round().astype(int)[:-1]
    ends = np.append(starts[1:], len(steps)) - 1
    middle = steps[starts] + (steps[ends] - steps[starts]) // 2
    middle[0], middle[-1] = steps[0], steps[-1]
    return middle, mean(values, starts), groups < len(steps)


def share(label: str) -> Axis:
    """A share of a whole, all of which is shown."""
    return Axis(label=label, percent=True, lo=0.0, hi=1.0)


MAPS = (
    Map(
        id="heat-gradient",
        label="gradient",
        title="Gradient over depth and time",
        table="gradient",
        quantity="log10_rms",
        broken=("non_finite",),
        colour=Axis(label="log10 rms of the gradient", unit="decades"),
        caption="Rms of each parameter's gradient, as the optimizer got it. Dark rows towards the"
        " input are a gradient that vanishes on its way back; an empty row never had one.",
    ),
    Map(
        id="heat-ratio",
        label="update / weight",
        title="Update over weight",
        table="update",
        quantity="log10_ratio",
        colour=Axis(label="log10 of update over weight, rms", unit="decades"),
        caption="How much of its own size a weight moves in a step. About 1e-3 is usual; far"
        " below it a layer hardly learns, far above it is thrown about.",
        centre=wording.RULE_OF_THUMB,
        levels=(wording.rule_of_thumb(),),
    ),
    Map(
        id="heat-flat",
        label="saturation",
        title="Saturated activations",
        table="output",
        quantity="flat_share",
        colour=share("saturated entries"),
        caption="Entries at which the activation's slope is below 5 % of its steepest: no gradient"
        " passes there.",
        pool=largest,
        silent=False,
    ),
    Map(
        id="heat-dead",
        label="dead units",
        title="Dead units",
        table="output",
        quantity="dead_share",
        colour=share("dead units"),
        caption="Units whose activation had a slope of zero on every sample so far: they cannot"
        " learn any more.",
        pool=largest,
        silent=False,
    ),
    Map(
        id="heat-output",
        label="output size",
        title="Output of each module",
        table="output",
        quantity="log10_rms",
        broken=("non_finite",),
        colour=Axis(label="log10 rms of the output", unit="decades"),
        caption="Rms of what each module puts out. It should change little over depth.",
        silent=False,
    ),
    Map(
        id="heat-unchanged",
        label="unchanged weights",
        title="Weights that a step leaves as they are",
        table="update",
        quantity="unchanged_share",
        colour=share("weights bitwise the same after the step"),
        caption="Weights that are bitwise the same after the step: without a gradient, without a"
        " rate, or with updates too small for the number format.",
    ),
)
