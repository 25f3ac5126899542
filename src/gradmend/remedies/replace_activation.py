"""Put an activation that fits the network's depth in another's place."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.reference_gain import reference_gain

SHALLOW = 20
"""Layers up to which ReLU at He's gain keeps samples apart: its correlations collapse
sub-exponentially, and plain ReLU nets of 100 layers at He's gain reach 9-31 % where tanh reaches
87 % (reference measurements, section 4.1)."""


@remedy(
    treats=[
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
        "init-gain-too-small",
    ],
    changes=[Change.INITIALISATION, Change.ACTIVATION],  # keep="parameters" forbids it, too
)
def replace_activation(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Replace the guilty activations, together with the initialisation the new one needs.

    What it does:
        ReLU in networks of up to 20 layers in a row (LeakyReLU where ReLU units had died), tanh
        in deeper ones, in the place of the activations found guilty; and orthogonal weights at
        the critical gain of the new activation.

    Why it should work:
        Both pass slope 1 where they are on, so weights of ordinary size keep the gradient. Plain
        tanh nets can be made isometric at any depth, ReLU nets cannot.

    What it predicts:
        The whole model's gradient changes by less than two decades.

    When it refuses:
        The activations are functional (no module to replace), or already the best there is.

    What it costs:
        The function class changes; trained weights are lost.

    References:
        Glorot, Bordes, Bengio 2011; He et al. 2015; Pennington, Schoenholz, Ganguli 2017 (ReLU
        cannot be isometric).
    """
    names = {finding.name for finding in findings}
    deep = trace.chain_depth > SHALLOW
    new = "Tanh" if deep else ("LeakyReLU" if "dead-relu" in names else "ReLU")
    function = {"Tanh": "tanh", "LeakyReLU": "leaky_relu", "ReLU": "relu"}[new]
    blamed = {module for finding in findings for module in finding.modules}
    every = names & {"init-gain-too-small", "attenuating-activation", "uncentred-activation"}
    guilty = [
        (weights, act)
        for weights, act in trace.pairs()
        if act.activation
        and act.activation.function != function
        and (every or act.module in blamed)
    ]
    stuck = [act for _, act in guilty if act.activation and not act.activation.replaceable]
    critical = reference_gain(function, max(1, trace.chain_depth))
    assert critical is not None
    if not guilty or stuck:
        yield Refusal(
            remedy="replace-activation",
            finding=findings[0].name if findings else "",
            reason=(
                f"{stuck[0].name} is called as a function: change it in the source"
                if stuck
                else f"the activations are {function} already"
            ),
        )
        return
    # A frozen layer keeps its weights: somebody froze it to keep them.
    layers = [
        w.weights
        for w, _ in guilty
        if w.weights and w.weights.module_is_plain and w.weights.trainable
    ]
    yield Prescription(
        edits=(
            Edit(
                kind="replace_module",
                targets=tuple(dict.fromkeys(act.module for _, act in guilty)),
                args={"module": new},
            ),
            Edit.initialise(
                [(w.parameter, w.bias) for w in layers], [critical.sigma_w] * len(layers)
            ),
        ),
        predictions=(Prediction.gradient_kept(2),),
        changes=(Change.INITIALISATION, Change.ACTIVATION),
        reason=f"{len(guilty)} activations become {new}",
    )
