"""Draw rectified layers in mirrored pairs, so that a deep plain network begins linear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.drawing import blame, causes, refusal, refused
from gradmend.theory.mirroring import Mirrored, mirrored

PLAIN = 10
"""Hidden layers in a row from which it is worth it. Plain ReLU nets of width 64 on digits, 600
steps, best of three rates: 0.93 against He's 0.91 in 5 layers, 0.93 against 0.90 in 10, 0.91
against 0.89 in 20; after 100 steps 0.89 against 0.87 in 5 and 0.86 against 0.73 in 20."""
DEEP = 30
"""Hidden layers from which all are drawn even where a few stand out: ReLU nets of width 32 and
this depth at He's scale reach 0.73 in 600 steps, drawn so 0.91 (the same runs)."""


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "depth-without-skip",
        "uncentred-activation",
        "attenuating-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def looks_linear_init(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Draw rectified layers in mirrored pairs: a plain network of any depth begins linear.

    What it does:
        Half of each layer's units are drawn as the mirror images of the other half, and the layer
        behind reads each pair with opposite signs: weights [[W, -W], [-W, W]] with an orthogonal
        W, biases of zero. Kernels are zero but for their centre, where a convolution neither
        strides nor changes its channels. Only numbers are set: architecture and activations stay.
        Where the learning rate is far too high for the depth, it is lowered with it.

    Why it should work:
        phi(u) - phi(-u) = c u for ReLU, leaky ReLU, GELU, SiLU, softplus and hardswish. So the
        network computes a product of orthogonal matrices: it keeps every difference between
        samples, and every gradient, at any depth. A rectifier at He's scale keeps the size of
        both, and makes all samples alike. Each unit has samples of its own to learn from, so that
        the twins part in the first step.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two; by less than three with convolutions.

    When it refuses:
        Fewer than ten hidden layers in a row; skips, norms or anything else between the layers that
        does not commute with a difference (a max pool does not, but one for three layers is borne);
        activations whose odd part is not linear (ELU, SELU, Mish, ReLU6), or that are odd (tanh),
        for which orthogonal weights do as much; grouped, shared or frozen layers; one layer alone
        to blame in fewer than thirty.

    What it costs:
        Nothing at run time. At the start a layer tells half as many directions apart as it has
        units. Trained weights are lost: for models before training.

    References:
        Balduzzi, Frean, Leary, Lewis, Ma, McWilliams 2017 (The shattered gradients problem),
        there for concatenated ReLUs; Burkholz and Dubatovka 2019 (Initialization of ReLUs for
        dynamical isometry), for plain ones; Xiao et al. 2018 for the kernels.
    """
    guilty = causes(findings)
    found = mirrored(trace) if trace.chain_depth > PLAIN else f"no {PLAIN} hidden layers in a row"
    hidden = 0 if isinstance(found, str) else sum(row.makes for row in found)
    reason = ""
    if isinstance(found, str):
        reason = found
    elif hidden < PLAIN:
        reason = f"{hidden} rectified layers in a row: fewer than {PLAIN} do without"
    elif hidden < DEEP or not guilty:
        reason = refused(findings, blame(guilty, trace), "looks-linear-init")
    if reason or isinstance(found, str):
        yield refusal("looks-linear-init", findings, reason)
        return
    kernels = any(row.layer.weights and row.layer.weights.kind == "convolution" for row in found)
    within = 3.0 if kernels else 2.0
    yield from with_rate(
        Prescription(
            edits=(_drawn(found),),
            predictions=(Prediction.gradient_kept(within), Prediction.signal_kept(within)),
            changes=(Change.INITIALISATION,),
            reason=f"{len(found)} layers drawn in mirrored pairs: the network begins linear",
        ),
        trace,
    )


def _drawn(rows: Sequence[Mirrored]) -> Edit:
    facts = [row.layer.weights for row in rows if row.layer.weights is not None]
    return Edit(
        kind="looks_linear",
        targets=tuple(f.parameter for f in facts),
        args={
            "seed": 0,
            "biases": [f.bias for f in facts],
            "makes": [row.makes for row in rows],
            "reads": [row.reads for row in rows],
            "inner": [row.inner for row in rows],
            "slopes": [row.slope for row in rows],
            "gains": [1.0] * len(facts),
            "deltas": [row.delta for row in rows],
        },
    )
