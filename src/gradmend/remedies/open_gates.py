"""Open the gates of LSTM and GRU for as long as the sequence is."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Argument, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gates import FEWEST_STEPS
from gradmend.theory.recurrent_layers import (
    GATED,
    RecurrentLayer,
    blamed,
    rate_for_memory,
    reaches_the_first_step,
)

_NAME = "open-gates"


@remedy(
    treats=["gradient-lost-through-time", "forget-gate-closed"],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def open_gates(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Give the gates of LSTM and GRU the biases that a memory over the whole sequence needs.

    What it does:
        In each LSTM or GRU to blame, with T the steps of its sequences. First, chrono
        initialisation: the forget gate's biases are log U[1, T - 1], the input gate's the same
        with the other sign; of a GRU the update gate's. Over 100 steps and more, where an
        adaptive optimizer's rate is below 0.32 / H for H units, before that the same at that rate.
        Last, with new recurrent weights, orthogonal in each gate's block: every forget gate at
        log(T - 1), the input gate at sqrt(1 - f^2), the output gate's bias at 1; a GRU's update
        gate as before. Torch adds two biases for each gate: one of them becomes zero.

    Why it should work:
        The gradient of the cell is multiplied by the forget gate at every step. At torch's
        default it is half open: 2^-T. A bias of 1 gives 0.73^T, which is not enough for a hundred
        steps either. sigma(log(T - 1)) = 1 - 1/T keeps 1/e over the whole sequence. A cell that
        forgets nothing adds up all that it reads; the input gate of sqrt(1 - f^2) keeps that sum
        at the variance of one step's, so that the tanh behind the cell does not saturate. The
        first suits sums over the sequence, the second single things to remember: in our trainings
        of 300 to 400 steps the adding problem over 60 steps was learned with the one alone, and
        the first of 100 symbols by the other (losses of 0.15 against 1.1). Over hundreds of steps
        the loss of the adding problem stays at a guess until the gates have learned what to
        admit: after 1,259 steps at a rate of 3e-3, 600 at 1e-2 (32 units, 500 time steps).

    What it predicts:
        On its way back to the first time step the gradient loses less than two decades, and
        gains less than three.

    When it refuses:
        The layer has no gates or no biases, its weights are frozen or shared, or its sequence has
        no more than three steps.

    What it costs:
        Nothing at run time. Of a trained layer, what its gates have learned is lost. A higher
        rate is one for the whole model.

    References:
        Gers, Schmidhuber, Cummins 2000; Jozefowicz, Zaremba, Sutskever 2015; Tallec and Ollivier
        2018 (chrono initialisation).
    """
    layers = blamed(findings, trace)
    fitting = [layer for layer in layers if _why_not(layer) is None]
    if not fitting:
        reasons = [_why_not(layer) for layer in layers]
        reason = next((r for r in reasons if r), "no LSTM or GRU is to blame")
        yield Refusal(remedy=_NAME, finding=findings[0].name, reason=reason)
        return
    paths = tuple(layer.path for layer in fitting)
    steps = [layer.steps for layer in fitting]
    longest = max(steps)
    promise = (reaches_the_first_step(trace, paths),)
    chrono: dict[str, Argument] = {"steps": steps, "spread": "uniform", "admit": "chrono"}
    faster = rate_for_memory(trace, fitting)
    if faster is not None:
        edit, rate = faster
        yield Prescription(
            edits=(Edit(kind="set_gates", targets=paths, args={**chrono, "seed": 0}), edit),
            predictions=promise,
            changes=(Change.INITIALISATION, Change.OPTIMIZER),
            reason=(
                f"gates of {', '.join(paths)} that remember for up to {longest} steps, and a"
                f" learning rate of {rate:.2g} at which they are learned"
            ),
        )
    yield Prescription(
        edits=(Edit(kind="set_gates", targets=paths, args={**chrono, "seed": 0}),),
        predictions=promise,
        changes=(Change.INITIALISATION,),
        reason=f"gates of {', '.join(paths)} that remember for up to {longest} steps",
    )
    kept: dict[str, Argument] = {"inputs": [1.0] * len(paths), "biases": [1.0] * len(paths)}
    redrawn = Edit(
        kind="draw_recurrence",
        targets=paths,
        args={"scheme": "orthogonal", "gain": 1.0, "seed": 0, **kept},
    )
    yield Prescription(
        edits=(redrawn, *_even_gates(fitting)),
        predictions=promise,
        changes=(Change.INITIALISATION,),
        reason=f"gates of {', '.join(paths)} for {longest} steps, and orthogonal recurrent weights",
    )


def _even_gates(layers: list[RecurrentLayer]) -> Iterator[Edit]:
    """LSTMs that all remember for the whole sequence; GRUs, which write as they forget, chrono."""
    cells: dict[str, Argument] = {"spread": "same", "admit": "balanced", "read": 1.0}
    grus: dict[str, Argument] = {"spread": "uniform"}
    for args, lstm in ((cells, True), (grus, False)):
        fitting = [layer for layer in layers if ("LSTM" in layer.facts.kind) is lstm]
        if fitting:
            yield Edit(
                kind="set_gates",
                targets=tuple(layer.path for layer in fitting),
                args={"steps": [layer.steps for layer in fitting], **args, "seed": 0},
            )


def _why_not(layer: RecurrentLayer) -> str | None:
    if layer.facts.kind not in GATED:
        return f"'{layer.path}' is a {layer.facts.kind}, which has no gates"
    if not layer.has_biases:
        return f"'{layer.path}' has no biases, which would open its gates"
    if not layer.trainable:
        return f"the weights of '{layer.path}' are frozen or shared"
    if layer.steps <= FEWEST_STEPS:
        return f"its sequences have {layer.steps} steps: no gate is needed for those"
    return None
