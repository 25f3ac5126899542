"""Scale the output layer down, where the first guess is far worse than none."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory import targets
from gradmend.theory.drawing import causes
from gradmend.theory.outlets import classes_of, trained
from gradmend.theory.wiring import REARRANGES

SURE = 2.0
"""First loss over that of guessing from which the output layer is taken for too loud: our choice;
logits of deviation s cost about s^2 / 2 nats."""
LOUDNESS = 0.3
"""Standard deviation of the logits to begin with: 0.05 nats above guessing."""


@remedy(
    treats=[
        "init-gain-too-large",
        "learning-rate-too-high",
        "loss-spike",
        "diverging-loss",
        "exploding-gradient",
        "saturated-attention",
    ],
    changes=[Change.INITIALISATION],
)
def quiet_output_layer(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Multiply the last layer, weights and bias, so that its logits begin near zero.

    What it does:
        Scales the output layer of a classifier by 0.3 over the deviation of its logits, measured
        on the batch.

    Why it should work:
        A loss far above ln K says that the network is sure and wrong by its initialisation; the
        first steps go into taking that back, with gradients to match.

    What it predicts:
        The first loss is that of guessing, ln K, within a tenth.

    When it refuses:
        The first loss is near that of guessing; the model has been trained; no single layer puts
        the logits out; the finding follows from another cause, which makes the signal large before
        it comes to the last layer.

    What it costs:
        Nothing.

    References:
        Karpathy, A recipe for training neural networks (verify loss at init); Zhang, Dauphin, Ma
        2019 (Fixup sets the last layer to zero).
    """
    classes, loss = classes_of(trace), trace.run.loss
    last = trace.weights[-1] if trace.weights else None
    call = next((c for c in trace.losses if c.function == "cross_entropy"), None)
    spread = call.prediction.std if call is not None and call.prediction is not None else 0.0
    between = [o for o in targets.before_the_loss(trace) if o.name not in REARRANGES]
    guess = math.log(classes) if classes and classes > 1 else None
    facts = last.weights if last else None
    why = None
    if guess is None or loss is None or not loss >= SURE * guess or not spread > LOUDNESS:
        why = "the first loss is not far above that of guessing"
    elif not causes(findings):
        why = f"{findings[0].name} follows from {findings[0].explained_by}: treat that"
    elif trained(trace):
        why = "the model has been trained"
    elif facts is None or not facts.module_is_plain or not facts.trainable or between:
        why = "no single layer puts the logits out"
    if why is not None or facts is None or guess is None:
        yield Refusal(remedy="quiet-output-layer", finding=findings[0].name, reason=why or "")
        return
    factor = LOUDNESS / spread
    yield Prescription(
        edits=(
            Edit(
                kind="scale_output",
                targets=(facts.parameter, *((facts.bias,) if facts.bias else ())),
                args={"factor": factor},
            ),
        ),
        predictions=(
            Prediction(
                quantity="loss", low=0.8 * guess, high=1.1 * guess + 0.1, unit="nats",
                sentence="the first loss is that of guessing",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"logits of deviation {spread:.3g} begin at {LOUDNESS:g}: the first loss was"
        f" {loss:.3g}, guessing has {guess:.3g}",
    )  # fmt: skip
