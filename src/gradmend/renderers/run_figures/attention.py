"""Attention over steps: how widely each call looks, and how large its logits are."""

from __future__ import annotations

import numpy as np

from gradmend.renderers.page.figure import Axis, Level, Lines, Series
from gradmend.renderers.run_figures import wording
from gradmend.renderers.run_figures.heat import Map, share
from gradmend.renderers.run_figures.places import forward, label
from gradmend.store.reader import RunReader

LOGITS = "attention-logits"
FEW = 12
MOST_LINES = 120
MOST_STEPS = 400
_LEVELS = (
    (100.0, "100: tau of QK-clip (Kimi K2, 2025)"),
    (1e4, "1e4: runs above diverged (Wortsman et al. 2023)"),
)
NEAR = 10.0
"""Factor below a level from which it is drawn: farther away it would flatten the lines."""
_AXIS = Axis(label="largest |logit| before the softmax", log=True)

ENTROPY = Map(
    id="attention-entropy",
    label="attention entropy",
    title="Attention entropy",
    table="attention",
    quantity="entropy",
    colour=share("entropy over the log of the keys"),
    caption="How widely the rows of each attention call look: 100 % is evenly over all keys, 0 % is"
    " one key only, and a softmax that is one-hot passes no gradient on.",
    rows=Axis(label="attention call, in forward order"),
    silent=False,
)


def logits(reader: RunReader) -> Lines | None:
    """The largest logit of each attention call; ``None`` where there is none."""
    columns = reader.table_columns("attention")
    if not columns:
        return None
    seen = reader.overview("attention", ["largest_logit"], MOST_STEPS)
    values = seen.mean["largest_logit"]
    calls = [at for at in forward(columns).tolist() if not np.isnan(values[:, at]).all()]
    if not calls:
        return None
    kept = np.unique(np.linspace(0, len(calls) - 1, min(len(calls), MOST_LINES)).round())
    shown = [calls[int(place)] for place in kept]
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if len(finite) else 0.0
    drawn = f" {len(shown):,} of {len(calls):,} calls are drawn." if len(shown) < len(calls) else ""
    series = tuple(
        Series(
            name=label(columns[at]),
            layer=columns[at].module,
            values=values[:, at],
            role="background" if len(shown) > FEW else "",
        )
        for at in shown
    )
    return Lines(
        id=LOGITS,
        title="Attention logits",
        caption="The largest |logit| of each attention call, its scale included. Logits that grow"
        " without end make the softmax one-hot, and its gradient vanishes." + drawn,
        words=f"Largest logit of {len(calls):,} attention calls over {wording.span(seen.steps)}: "
        + "; ".join(wording.line(each.name, each.values, _AXIS) for each in series[: 2 * FEW])
        + ".",
        x=wording.STEPS,
        at=seen.steps,
        panels=(_AXIS,),
        series=series,
        levels=tuple(Level(y=y, text=text) for y, text in _LEVELS if top * NEAR >= y),
    )
