"""Update over weight, over steps: one line per weight matrix."""

from __future__ import annotations

import numpy as np

from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import forward, label
from gradmend.store.reader import RunReader

ID = "ratio"
FEW = 12
"""Lines that colours can tell apart; more stand in the background of their median."""
MOST_LINES = 120
"""Lines drawn; more only darken the band."""
MOST_NUMBERS = 48_000
"""Points of all lines together: 260 kB as JSON."""
_AXIS = Axis(label="log10 of update over weight, rms", unit="decades")


def over_steps(reader: RunReader) -> Lines | None:
    """The figure; ``None`` where no update was measured."""
    columns = reader.table_columns("update")
    if not columns:
        return None
    order = forward(columns)
    # Biases and gains begin at zero or one, where the ratio means something else.
    matrices = [at for at in order.tolist() if len(columns[at].shape) >= 2] or order.tolist()
    shown = min(len(matrices), MOST_LINES)
    seen = reader.overview("update", ["log10_ratio"], max(100, min(1000, MOST_NUMBERS // shown)))
    values = seen.mean["log10_ratio"]
    matrices = [at for at in matrices if not np.isnan(values[:, at]).all()]
    if not matrices:
        return None
    kept = np.unique(np.linspace(0, len(matrices) - 1, min(len(matrices), MOST_LINES)).round())
    lines = [matrices[int(place)] for place in kept]
    many = len(matrices) > FEW
    series = [
        Series(
            name=label(columns[at]),
            layer=columns[at].module,
            values=values[:, at],
            role="background" if many else "",
        )
        for at in lines
    ]
    if many:
        low, middle, high = quantiles(values[:, matrices])
        name = f"median of {len(matrices):,}, with 10 % to 90 %"
        series.append(Series(name=name, values=middle, low=low, high=high))
    drawn = f" {len(lines):,} of {len(matrices):,} are drawn." if len(lines) < len(matrices) else ""
    told = series[-1:] if many else series
    return Lines(
        id=ID,
        title="Update over weight, over time",
        caption="How much of its own size each weight matrix moves in a step. Lines around 1e-3"
        " learn at a usual pace; lines that lie decades below the others hardly learn." + drawn,
        words=f"Update over weight of {len(matrices):,} weight matrices over"
        f" {wording.span(seen.steps)}: "
        + "; ".join(wording.line(each.name, each.values, _AXIS) for each in told)
        + ".",
        x=wording.STEPS,
        at=seen.steps,
        panels=(_AXIS,),
        series=tuple(series),
        levels=(wording.rule_of_thumb(),),
    )


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """10 %, median and 90 % of each row's measured numbers, by rank; NaN where there are none."""
    ordered = np.sort(values, axis=1)  # NaN comes last
    count = np.count_nonzero(~np.isnan(values), axis=1)
    low, middle, high = (
        ordered[np.arange(len(values)), np.maximum((share * (count - 1)).astype(int), 0)]
        for share in (0.1, 0.5, 0.9)
    )
    return low, middle, high
