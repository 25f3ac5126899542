"""Bend smooth activations so that the whole network's kernel stays well shaped."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.bending import bend
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.tailoring import SMOOTH, solved


@remedy(
    treats=["attenuating-activation", "uncentred-activation", "init-gain-too-small"],
    changes=[Change.INITIALISATION, Change.OPTIMIZER, Change.ACTIVATION],
)
def shape_kernel(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Deep kernel shaping (DKS): smooth activations made centred, of slope just above one.

    What it does:
        Every smooth activation of a plain chain becomes gamma (phi(alpha x + beta) + delta) with
        C(0) = 0 and C'(1) = 1.5 over the whole network, Q(1) = 1 and Q'(1) = 1 at each layer;
        the layers in front start orthogonal at gain one, with biases of zero.

    Why it should work:
        The kernel between two samples then changes as little over the depth as it does in one
        layer of an ordinary network: neither signal nor gradient depends on the depth.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two; by less than three with convolutions, which lose at the rim.

    When it refuses:
        Rectifiers (its authors discourage it: see TAT); fewer than ten layers in a row; skips or
        norms between them; functional or shared activations.

    What it costs:
        Four constants a layer, kept as buffers. Trained weights are lost.

    References:
        Martens et al. 2021 (Rapid training of deep neural networks without skip connections or
        normalization layers using deep kernel shaping); their package is dks.
    """

    def constants(function: str, depth: int) -> object:
        if function not in SMOOTH:
            return f"kernels are shaped with smooth activations, and {function} is none: see TAT"
        if depth < 10:
            return f"{depth} layers in a row need no shaping"
        return solved(function, "DKS", depth) or f"no such transformation of {function} exists"

    yield from with_rate(bend("shape-kernel", "DKS", findings, trace, constants), trace)
