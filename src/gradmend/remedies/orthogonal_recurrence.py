"""Draw the recurrent weights of a plain recurrence anew, so that time changes no gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import RECTIFIERS
from gradmend.theory.recurrent_layers import (
    PLAIN,
    RecurrentLayer,
    blamed,
    blamed_loops,
    reaches_the_first_step,
)

_NAME = "orthogonal-recurrence"


@remedy(
    treats=["gradient-lost-through-time", "gradient-grown-through-time"],
    changes=[Change.INITIALISATION],
)
def orthogonal_recurrence(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Draw the recurrent weights of a tanh layer orthogonal, and let it read softly.

    What it does:
        In each plain recurrent layer to blame (nn.RNN and nn.RNNCell of tanh): orthogonal
        recurrent weights, no biases, and input weights divided by sqrt(T). In a recurrence
        written by hand as a loop: orthogonal weights in the square linear layer that carries the
        state.

    Why it should work:
        Over T steps the gradient is multiplied T times by the recurrent weights and by tanh'.
        Torch draws the weights with a spectral radius of 0.58, which is lost after two steps.
        Orthogonal ones keep every length, and tanh' = 1 - h^2 stays at one as long as h is
        small: the sum of T inputs grows as sqrt(T), which is what the input weights are divided
        by, and a constant bias adds up over the steps that the weights turn slowly.

    What it predicts:
        On its way back to the first time step the gradient loses less than two decades, and
        gains less than three.

    When it refuses:
        The layer has gates, or its activation is ReLU, which half of the gradient does not pass
        at any step; its weights are frozen or shared.

    What it costs:
        Nothing at run time. Trained recurrent weights are lost: for models before training.

    References:
        Saxe, McClelland, Ganguli 2014; Le, Jaitly, Hinton 2015; Henaff, Szlam, LeCun 2016
        (orthogonal recurrence for long-term memory).
    """
    layers, every = blamed(findings, trace), blamed_loops(findings, trace)
    loops = [row for row in every if not _is_rectified(trace, row[0].path)]
    fitting = [layer for layer in layers if _fits(layer)]
    if not fitting and not loops:
        yield Refusal(remedy=_NAME, finding=findings[0].name, reason=_why_not(layers, bool(every)))
        return
    paths = (*(layer.path for layer in fitting), *(facts.path for facts, _ in loops))
    softly = [1.0 / math.sqrt(layer.steps) for layer in fitting]
    yield Prescription(
        edits=(
            Edit(
                kind="draw_recurrence",
                targets=paths,
                args={
                    "scheme": "orthogonal",
                    "gain": 1.0,
                    "inputs": [*softly, *[1.0] * len(loops)],
                    "biases": [0.0] * len(paths),
                    "seed": 0,
                },
            ),
        ),
        predictions=(reaches_the_first_step(trace, paths),),
        changes=(Change.INITIALISATION,),
        reason=f"orthogonal recurrent weights in {', '.join(paths)}",
    )


def _fits(layer: RecurrentLayer) -> bool:
    return layer.facts.kind in PLAIN and not layer.rectified and layer.trainable


def _is_rectified(trace: Trace, path: str) -> bool:
    """Whether what a loop's layer puts out is rectified, alone or with what is added to it."""
    for op in trace.weights:
        if op.module != path:
            continue
        readers = [trace.operations[at] for at in trace.readers.get(op.id, ())]
        beyond = [trace.operations[at] for o in readers for at in trace.readers.get(o.id, ())]
        for other in (*readers, *beyond):
            if other.activation is not None and other.activation.function in RECTIFIERS:
                return True
    return False


def _why_not(layers: tuple[RecurrentLayer, ...], loops: bool) -> str:
    if not layers and loops:
        return "the loop is of ReLU, which stops half of the gradient at each step"
    if not layers:
        return "no recurrent layer of torch's own, and no square layer of a loop, is to blame"
    worst = layers[0]
    if worst.facts.kind not in PLAIN:
        return f"'{worst.path}' has gates: what they let through decides, not its weights"
    if worst.rectified:
        return f"'{worst.path}' is of ReLU, which stops half of the gradient at each step"
    return f"the weights of '{worst.path}' are frozen or shared"
