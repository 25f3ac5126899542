"""Where a network can be drawn in mirrored pairs, behind which it is linear.

For every phi whose odd part is linear, phi(x) - phi(-x) = c x: c = 1 for ReLU, GELU, SiLU,
softplus, hardswish and logsigmoid, 1 + a for a leaky ReLU of slope a. What of phi is even cancels
in the difference, its offset too. A layer that puts out u and -u and one that reads phi(u) -
phi(-u) are together the linear map c u, at any size of u. Pooling by means and dropout commute with
the difference; a maximum does not, and bends the network once: some are borne.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradmend.records.trace import ActivationFacts, Operation, Trace
from gradmend.theory.activations import KNOWN, activation

_PASSED = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d", "mean"})
"""Operations between a layer and what reads it that are linear and the same for each unit."""

MAXIMA = 1 / 3
"""Max pools for one layer that are borne. Plain ReLU convolutions on digits with two of them, 200
steps: 0.92 against 0.47 at He's scale in 30 layers, 0.91 against 0.88 in 14 (one seed); VGG's nets
have five for 13 to 19 layers."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """How one layer takes part."""

    layer: Operation
    makes: bool
    """Whether its outputs are mirrored: an activation reads them."""
    reads: int
    """Units of the mirrored tensor that it reads; 0 where that is not mirrored."""
    inner: bool
    """Whether the entries of one unit lie side by side in what it reads."""
    slope: float
    delta: bool
    """Whether its kernel may begin as its centre alone."""


@cache
def mirror_slope(function: str, negative_slope: float | None = None) -> float | None:
    """c, where phi(x) - phi(-x) = c x for every x; ``None`` where there is no such number.

    Args:
        function: Name of the activation.
        negative_slope: Of a leaky rectifier, where it is known.

    Example:
        >>> mirror_slope("gelu"), mirror_slope("elu")
        (1.0, None)
    """
    if function not in KNOWN:
        return None
    leaky = function in ("leaky_relu", "prelu") and negative_slope is not None
    phi = activation(function, negative_slope=negative_slope) if leaky else activation(function)
    x = np.linspace(0.0, 40.0, 4001)
    odd = phi.value(x) - phi.value(-x)
    c = round(float(odd[-1] / x[-1]), 9)
    fits = bool(np.all(np.abs(odd - c * x) <= 1e-9 * (1.0 + x)))
    # An odd phi is its own mirror: twins that compute the same would be for nothing.
    return c if fits and c > 0.0 and not phi.odd else None


def mirrored(trace: Trace) -> tuple[Mirrored, ...] | str:
    """How each layer of a plain chain takes part, in forward order; or why it cannot be.

    Args:
        trace: The look.
    """
    layers = trace.weights
    if not trace.is_chain or len(layers) < 2:
        return "skips or joins: what reads the pairs must be one layer each"
    uses = Counter(op.weights.parameter for op in layers if op.weights is not None)
    if sum("max_pool" in op.name for op in trace.operations) > MAXIMA * len(layers):
        return "a max pool behind every other layer: each breaks the mirror"
    made: dict[int, tuple[int, float, bool]] = {}  # by the reader: units, slope, of pictures
    found: list[Mirrored] = []
    for layer, behind in zip(layers, (*layers[1:], None), strict=True):
        units, slope, picture = made.get(layer.id, (0, 1.0, False))
        problem = _problem(trace, layer, uses)
        between: list[Operation] = []
        if not problem and behind is not None:
            way = _way(trace, layer, behind)
            if isinstance(way, str):
                problem = way
            else:
                between = way
        if problem:
            return problem
        facts = layer.weights
        assert facts is not None
        acts = [op for op in between if op.activation is not None]
        if len(acts) > 1:
            return f"{acts[1].name} reads {acts[0].name}: only a layer can read the pairs"
        c = _slope(acts[0].activation) if acts and acts[0].activation is not None else None
        if acts and c is None:
            return f"{acts[0].name} has no mirror image that makes it linear"
        out, read = facts.shape[0], facts.shape[1]
        if acts and out < 2:
            return f"{layer.module} has one unit only, which has no twin"
        if units and read % units:
            return f"{layer.module} reads {read} entries of {units} units"
        if behind is not None and c is not None:
            made[behind.id] = (out, c, facts.kind == "convolution")
        pairs_in, pairs_out = (units // 2 or read), (out // 2 if acts else out)
        found.append(
            Mirrored(
                layer=layer,
                makes=bool(acts),
                reads=units,
                inner=picture and facts.kind == "linear",
                slope=slope,
                delta=facts.kind == "convolution" and bool(units) and pairs_out == pairs_in
                and steps_by_one(trace, layer),
            )
        )  # fmt: skip
    return tuple(found)


def _slope(facts: ActivationFacts) -> float | None:
    leaky = facts.function in ("leaky_relu", "prelu")
    return mirror_slope(facts.function, facts.negative_slope if leaky else None)


def _problem(trace: Trace, layer: Operation, uses: Counter[str]) -> str:
    facts, name = layer.weights, layer.module or "a layer"
    if facts is None or not facts.module_is_plain or not facts.trainable:
        return f"{name} is frozen or no plain layer"
    module = trace.module_at.get(layer.module)
    if uses[facts.parameter] != 1 or (module is not None and module.uses != 1):
        return f"{name} is used more than once"
    settings = module.settings if module is not None else {}
    if settings.get("groups", 1) != 1 or settings.get("transposed", False):
        return f"{name} is a grouped or transposed convolution"
    return ""


def steps_by_one(trace: Trace, layer: Operation) -> bool:
    """Whether a convolution looks at every pixel."""
    module = trace.module_at.get(layer.module)
    stride = module.settings.get("stride", 1) if module is not None else 1
    return set(stride if isinstance(stride, tuple | list) else (stride,)) == {1}


def _way(trace: Trace, layer: Operation, behind: Operation) -> list[Operation] | str:
    """The operations between two layers in a row, or what among them breaks the mirror."""
    found: list[Operation] = []
    op = behind
    while op.id != layer.id:
        if len(op.upstream) != 1:
            return f"{behind.module or 'a layer'} does not read {layer.module} alone"
        op = trace.operations[op.upstream[0]]
        if op.id < layer.id:
            return f"{behind.module or 'a layer'} does not read {layer.module} alone"
        name = op.name.removeprefix("adaptive_")
        passed = name in _PASSED or name.startswith("max_pool") or op.cause == "dropout"
        if op.id != layer.id and op.activation is None and not passed:
            return f"{op.name} stands between the layers: it breaks the mirror"
        if op.id != layer.id:
            found.append(op)
    return found[::-1]
