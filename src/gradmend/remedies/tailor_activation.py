"""Bend the activations so that a plain network of this depth keeps what tells samples apart."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.bending import bend
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.tailoring import SMOOTH, leaky_tat, solved

_RECTIFIERS = ("relu", "leaky_relu", "prelu")


@remedy(
    treats=[
        "attenuating-activation",
        "uncentred-activation",
        "depth-without-skip",
        "init-gain-too-small",
    ],
    changes=[Change.INITIALISATION, Change.OPTIMIZER, Change.ACTIVATION],
)
def tailor_activation(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Tailored activation transformation (TAT): the same activation, bent to fit the depth.

    What it does:
        Rectifiers become sqrt(2 / (1 + a^2)) LeakyReLU_a, with a such that two unlike samples end
        at a correlation of 0.9; smooth activations become gamma (phi(alpha x + beta) + delta) with
        Q(1) = Q'(1) = C'(1) = 1 at every layer and C''(1) = 0.3 over the network. The layers in
        front start orthogonal at gain one, with biases of zero.

    Why it should work:
        A plain ReLU net at He's gain keeps the gradient's size, but every layer makes samples
        more alike: at 100 layers nothing tells them apart. A bent activation is as nonlinear as
        the depth allows and no more.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two; by less than three with convolutions, which lose at the rim.

    When it refuses:
        Fewer layers in a row than make a ReLU's samples alike (13), or ten of smooth ones; skips
        or norms between the layers, for which the constants are not made; functional or shared
        activations; those with kinks of another kind (ELU, SELU).

    What it costs:
        Two or four constants a layer, kept as buffers. In very deep nets the activation is nearly
        linear. Trained weights are lost.

    References:
        Zhang, Botev, Martens 2022 (Deep learning without shortcuts); their package is dks. 100
        plain layers: ReLU at He's gain 31 %, so 87 % (reference measurements).
    """

    def constants(function: str, depth: int) -> object:
        if function in _RECTIFIERS:
            return leaky_tat(depth) or (
                f"{depth} layers in a row do not make a ReLU's samples alike: nothing to bend"
            )
        if function not in SMOOTH:
            return f"{function} has no second derivative to bend by"
        if depth < 10:
            return f"{depth} layers in a row need no bending"
        return solved(function, "TAT", depth) or f"no such transformation of {function} exists"

    yield from with_rate(bend("tailor-activation", "TAT", findings, trace, constants), trace)
