"""Put an LSTM or a GRU in the place of a recurrence that forgets."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Argument, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gates import FEWEST_STEPS, MANY_STEPS
from gradmend.theory.recurrent_layers import (
    RecurrentLayer,
    blamed,
    rate_for_memory,
    reaches_the_first_step,
)

_FITS = {"LSTM": ("RNN", "GRU"), "GRU": ("RNN", "RNNCell")}
"""What each may take the place of. An LSTMCell answers two states, so that a loop around another
cell would have to be written anew."""
_EVEN: dict[str, Argument] = {"spread": "same", "admit": "balanced", "read": 1.0}
_CHRONO: dict[str, Argument] = {"spread": "uniform", "admit": "chrono"}
_SPREAD: dict[str, Argument] = {"spread": "uniform"}
_SHORT = (("LSTM", _EVEN), ("GRU", _SPREAD))
_LONG = (("LSTM", _CHRONO), ("LSTM", _EVEN), ("GRU", _SPREAD))
"""Best first; over few steps the even gates learn what the spread ones do."""


@remedy(treats=["gradient-lost-through-time"], changes=[Change.CELL, Change.OPTIMIZER])
def replace_cell(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Put an LSTM or a GRU in the place of each layer to blame, with gates for its sequence.

    What it does:
        First an LSTM for every nn.RNN and nn.GRU, then a GRU for every nn.RNN and a GRUCell for
        every nn.RNNCell; of the same sizes, layers and directions. The LSTM answers (output, h)
        as they do and keeps its cell to itself, so the code around it stays. Recurrent weights
        are orthogonal in each gate's block (times 0.7 in an LSTM). For sequences of T steps the
        LSTM's forget gates have a bias of log(T - 1), its input gates one that keeps the cell's
        variance, its output gates 1; the GRU's update gates have log U[1, T - 1]. Over 100 steps
        and more the LSTM comes first with chrono gates (forget log U[1, T - 1], input the same
        with the other sign), and an adaptive optimizer's rate is raised to 0.32 / H for H units
        where it is below; last at the rate as it is. The optimizer trains the new weights where it
        trained the old ones.

    Why it should work:
        An LSTM's cell adds, and is multiplied by the forget gate alone: 1 - 1/T at each of T
        steps keeps 1/e of state and gradient. A GRU's state does the same by its update gate, but
        writes only as much as it forgets. It is the biases that decide: with torch's half-open
        gates both lose a fifth of a decade at every step, like a plain layer, and the cell alone
        repairs nothing.

    What it predicts:
        On its way back to the first time step the gradient loses less than two decades, and
        gains less than three.

    When it refuses:
        The layer is an LSTM, or a GRUCell of the user's own loop; it has no biases, or weights
        that are frozen or shared; the model is itself the layer. No LSTM where the layer is
        called several times, so that its state goes through the user's code, which has no place
        for a cell.

    What it costs:
        Three (GRU) or four (LSTM) times the weights of an RNN; in time one to seven times as much,
        a GRU the most on a CPU. What the layer has learned is lost. A higher rate is one for the
        whole model.

    References:
        Hochreiter and Schmidhuber 1997; Cho et al. 2014; Tallec and Ollivier 2018; Orvieto et
        al. 2023 (the normalisation of what a long memory reads).
    """
    layers = blamed(findings, trace)
    fitting = {cell: [layer for layer in layers if _why_not(layer, cell) is None] for cell in _FITS}
    if not any(fitting.values()):
        reason = next(
            (why for layer in layers if (why := _why_not(layer, _wanted(layer)))),
            "no recurrent layer of torch's own is to blame",
        )
        yield Refusal(remedy="replace-cell", finding=findings[0].name, reason=reason)
        return
    longest = max(layer.steps for found in fitting.values() for layer in found)
    for cell, gates in _LONG if longest >= MANY_STEPS else _SHORT:
        if fitting[cell]:
            # Even gates hold one thing to remember, which is learned at the usual rate.
            yield _prescription(trace, cell, fitting[cell], gates, fast=gates is not _EVEN)
    if fitting["LSTM"] and rate_for_memory(trace, fitting["LSTM"]) is not None:
        yield _prescription(trace, "LSTM", fitting["LSTM"], _CHRONO, fast=False)


def _prescription(
    trace: Trace,
    cell: str,
    layers: list[RecurrentLayer],
    gates: dict[str, Argument],
    *,
    fast: bool,
) -> Prescription:
    """One cell for all layers to blame, with a rate for its gates where that is wanted."""
    paths = tuple(layer.path for layer in layers)
    edits = [
        Edit(
            kind="replace_cell",
            targets=paths,
            args={"cell": cell, "steps": [layer.steps for layer in layers], "seed": 0, **gates},
        )
    ]
    changes = [Change.CELL]
    reason = (
        f"{cell} in the place of {', '.join(f'{x.facts.kind} {x.path}' for x in layers)},"
        f" with gates for {max(layer.steps for layer in layers)} steps"
    )
    faster = rate_for_memory(trace, layers) if fast else None
    if faster is not None:
        edit, rate = faster
        edits.append(edit)
        changes.append(Change.OPTIMIZER)
        reason += f" and a learning rate of {rate:.2g} at which they are learned"
    return Prescription(
        edits=tuple(edits),
        predictions=(reaches_the_first_step(trace, paths),),
        changes=tuple(changes),
        reason=reason,
    )


def _wanted(layer: RecurrentLayer) -> str:
    return "GRU" if layer.facts.kind in _FITS["GRU"] else "LSTM"


def _why_not(layer: RecurrentLayer, cell: str) -> str | None:
    kind, path = layer.facts.kind, layer.path
    if kind not in _FITS[cell]:
        return f"'{path}' is of class {kind}, whose interface no better cell has"
    if not path:
        return "the model is itself the layer: there is nothing to put another into"
    if not layer.has_biases:
        return f"'{path}' has no biases, and gates are opened by them"
    if not layer.trainable:
        return f"the weights of '{path}' are frozen or shared"
    if layer.facts.calls > 1 and cell == "LSTM":
        return (
            f"'{path}' is called {layer.facts.calls} times, with a state handed on that has no"
            " place for an LSTM's cell"
        )
    if layer.steps <= FEWEST_STEPS:
        return f"its sequences have {layer.steps} steps: those need no gates"
    return None
