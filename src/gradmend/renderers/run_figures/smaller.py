"""A heat map in fewer cells: a report holds all of them in one file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gradmend.renderers.page.figure import Heat
from gradmend.renderers.run_figures.places import mean

REPORT_CELLS = 120_000
"""Cells of each heat map of a report, which holds them all: 0.3 MB each as JSON."""
FEWEST_COLUMNS = 160
"""Columns that are kept before rows are put together: time is coarse already."""


def smaller(figure: Heat, most: int) -> Heat:
    """The figure with neighbours put together (means) until at most ``most`` cells are left.

    Args:
        figure: A heat map; one whose columns are layers stays as it is.
        most: Cells.
    """
    rows, columns = figure.values.shape
    if rows * columns <= most or figure.across:
        return figure
    width = max(min(columns, FEWEST_COLUMNS), most // max(rows, 1))
    height = max(1, min(rows, most // width))
    across = _starts(columns, min(columns, width))
    down = _starts(rows, height)
    values = mean(mean(figure.values.T, across).T, down)
    ends = np.append(down[1:], rows) - 1
    last = np.append(across[1:], columns) - 1
    at = figure.at[across] + (figure.at[last] - figure.at[across]) // 2
    at[0], at[-1] = figure.at[0], figure.at[-1]
    names = [
        figure.rows[begin] if begin == end else f"{figure.rows[begin]} .. {figure.rows[end]}"
        for begin, end in zip(down, ends, strict=True)
    ]
    return replace(
        figure,
        values=values,
        at=at,
        rows=tuple(names),
        layers=tuple(figure.layers[begin] for begin in down) if figure.layers else (),
        caption=f"{figure.caption} Shown here in {height:,} rows and {len(across):,} columns of"
        f" {rows:,} and {columns:,}.",
    )


def _starts(count: int, groups: int) -> np.ndarray:
    return np.linspace(0, count, groups + 1).round().astype(int)[:-1]
