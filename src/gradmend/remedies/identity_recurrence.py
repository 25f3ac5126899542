"""Begin a ReLU recurrence as the identity."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.recurrent_layers import blamed, reaches_the_first_step

_NAME = "identity-recurrence"


@remedy(
    treats=["gradient-lost-through-time", "gradient-grown-through-time"],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def identity_recurrence(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Let a ReLU recurrence begin by handing its state on as it is, at a rate it can bear.

    What it does:
        In each nn.RNN or nn.RNNCell of ReLU to blame: the identity as recurrent weights, and no
        biases (an IRNN). Where the optimizer is adaptive, its learning rate goes down to
        1 / (H T), hidden units times time steps, if it is above.

    Why it should work:
        A ReLU hands a positive number on, so a state that the identity keeps is kept over any
        number of steps, and so is its gradient. But then every step of the optimizer counts T
        times: an adaptive step of size r may raise the spectral norm by r H, and (1 + r H)^T is
        below e only where r < 1 / (H T). In our trainings over 60 steps with 32 units (5e-4) such
        layers learned at 5e-4 with every seed, and at 3e-3 with none.

    What it predicts:
        On its way back to the first time step the gradient loses less than two decades, and
        gains less than three.

    When it refuses:
        The layer is not of ReLU; its weights are frozen or shared.

    What it costs:
        Nothing at run time, and a lower rate for the whole model. Trained recurrent weights are
        lost. It stays the least stable of recurrences: clipping helps it.

    References:
        Le, Jaitly, Hinton 2015 (A simple way to initialize recurrent networks of rectified
        linear units).
    """
    layers = blamed(findings, trace)
    fitting = [layer for layer in layers if layer.rectified and layer.trainable]
    if not fitting:
        some = next((layer for layer in layers if layer.rectified), None)
        reason = (
            f"the weights of '{some.path}' are frozen or shared"
            if some
            else "no nn.RNN of ReLU is to blame"
        )
        yield Refusal(remedy=_NAME, finding=findings[0].name, reason=reason)
        return
    paths = tuple(layer.path for layer in fitting)
    edits = [
        Edit(
            kind="draw_recurrence",
            targets=paths,
            args={
                "scheme": "identity",
                "gain": 1.0,
                "inputs": [1.0] * len(paths),
                "biases": [0.0] * len(paths),
                "seed": 0,
            },
        )
    ]
    changes = [Change.INITIALISATION]
    reason = f"the identity as recurrent weights in {', '.join(paths)}"
    rate = trace.optimizer.learning_rate if trace.optimizer else None
    bound = min(1.0 / (_width(layer.facts.settings) * layer.steps) for layer in fitting)
    if trace.optimizer and trace.optimizer.adaptive and rate and rate > bound:
        edits.append(Edit(kind="scale_learning_rate", args={"factor": bound / rate}))
        changes.append(Change.OPTIMIZER)
        reason += f", and a learning rate of {bound:.2g} that their many steps can bear"
    yield Prescription(
        edits=tuple(edits),
        predictions=(reaches_the_first_step(trace, paths),),
        changes=tuple(changes),
        reason=reason,
    )


def _width(settings: object) -> int:
    size = settings.get("hidden_size") if hasattr(settings, "get") else None
    return size if isinstance(size, int) and size > 0 else 1
