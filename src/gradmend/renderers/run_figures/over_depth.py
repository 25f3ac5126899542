"""Lines over the layers of a run, in forward order: what such figures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradmend.renderers.page.figure import Axis, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.places import Places


def lines_over_depth(
    depth: Places,
    series: Sequence[Series],
    axis: Axis,
    *,
    id: str,
    title: str,
    caption: str,
    words: str,
) -> Lines:
    """A figure of one panel whose x is layers.

    Args:
        depth: The layers' places.
        series: One value for each place.
        axis: What they measure.
        id: Of the figure.
        title: Its heading.
        caption: What to look for; where neighbours share a point, that is said behind it.
        words: What is shown, before each line's own.
    """
    pooled = " Each point stands for neighbouring layers (means)." if depth.pooled else ""
    told = "; ".join(wording.line(each.name, each.values, axis) for each in series)
    return Lines(
        id=id,
        title=title,
        caption=f"{caption}{pooled}",
        words=f"{words}: {told}.",
        x=wording.DEPTH,
        at=np.arange(len(depth)),
        panels=(axis,),
        series=series,
        categories=depth.names,
        layers=depth.layers,
    )
