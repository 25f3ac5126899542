"""What each booked operation is: its name, cause, weights, slope, and what it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradmend.probe import kinds
from gradmend.probe.capture import Call, Capture
from gradmend.probe.graph import Graph, Node
from gradmend.probe.small import mean_square, small_array
from gradmend.probe.source import module_line
from gradmend.probe.statistics import wide
from gradmend.probe.weighing import centring, mean_square_of, spreads, wide_of
from gradmend.records.trace import ActivationFacts, WeightFacts
from gradmend.theory.activations import KNOWN, activation

FLAT = 0.05
"""An entry is flat where |phi'| < 5 % of the activation's steepest slope (mean-field probe 1 of
the reference: saturation is a statement about slopes, not about values)."""


@dataclass(slots=True)
class Subject:
    """One booked node, described."""

    key: int
    kind: str
    name: str
    cause: str
    span: int
    module: str
    call: Call | None
    transparent: bool
    weights: WeightFacts | None = None
    activation: ActivationFacts | None = None


class Describer:
    """Describes booked nodes; knows the model's names and the shadow's leaves."""

    def __init__(self, model: nn.Module, capture: Capture, names: dict[int, str]) -> None:
        self.model = model
        self.capture = capture
        self.names = names
        """Parameter name by ``id`` of the shadow leaf."""
        self._lines: dict[str, str | None] = {}
        self._calls = Counter(id(span.module) for span in capture.spans)
        self._owners = Counter(
            id(p) for m in model.modules() for p in m._parameters.values() if p is not None
        )

    def describe(self, graph: Graph, key: int) -> Subject:
        """Name a node, book its cause, and measure what it holds."""
        node = graph.nodes[key]
        capture = self.capture
        kind = kinds.short(node.name())
        span_id = capture.span_of(key)
        span = capture.spans[span_id]
        call = capture.call_of(key)
        called = call.name if call else None
        weighted = bool(graph.parameters.get(key)) or _reads_a_constant(node, kind)
        subject = Subject(
            key=key,
            kind=kind,
            name=kinds.operation_name(kind, called if call and call.output == key else None),
            cause=kinds.cause_of(kind, called, has_parameter=weighted),
            span=span_id,
            module=span.path,
            call=call,
            transparent=kinds.is_transparent(kind),
        )
        if isinstance(span.module, nn.RNNBase | nn.RNNCellBase) and not subject.transparent:
            subject.cause = "recurrence"
        if subject.cause == "weights":
            subject.weights = self._weights(node, kind, span.module)
        elif kinds.is_activation(kind):
            subject.activation = self._activation(node, subject, span.module)
        return subject

    def source(self, subject: Subject) -> str | None:
        """Line of the module if it can be known, else of the call that ran the operation."""
        path = subject.module
        if path not in self._lines:
            self._lines[path] = module_line(self.model, path) if path else None
        return self._lines[path] or (subject.call.source if subject.call else None)

    def _weights(self, node: Node, kind: str, module: nn.Module | None) -> WeightFacts | None:
        direct = [_direct_leaf(child) for child, _ in node.next_functions]
        found = [leaf for leaf in direct if leaf is not None and id(leaf[0]) in self.names]
        matrices = [leaf for leaf in found if leaf[0].dim() >= 2]
        own = module.weight if isinstance(module, _PLAIN) else None
        if not matrices and own is not None and id(own) in self.names:
            # Frozen: the graph does not hold it, the module does.
            matrices = [(own, isinstance(module, nn.Linear))]
        if len(matrices) != 1:
            return None  # composed on the fly (weight norm, LoRA): no single tensor to speak of
        weight, transposed = matrices[0]
        vectors = [leaf[0] for leaf in found if leaf[0].dim() == 1]
        bias = vectors[0] if vectors else None
        convolution = bool(kinds.CONVOLUTIONS.match(kind))
        left = not convolution and _is_left(node, kind, weight)
        out_first = transposed != left
        fan_out, fan_in = _fans(weight, convolution, out_first, node)
        plain = type(module) in _PLAIN and getattr(module, "weight", None) is weight
        plain = plain and self._calls[id(module)] == 1 and self._owners[id(weight)] == 1
        values = wide_of(weight)
        centre, residual = centring(values, bias, fan_out)
        first = not getattr(node, "_saved_transposed", False) if convolution else out_first
        units, readers = spreads(values, 0 if first else 1, getattr(node, "_saved_groups", 1))
        return WeightFacts(
            parameter=self.names[id(weight)],
            kind="convolution" if convolution else "linear",
            shape=tuple(weight.shape),
            fan_in=fan_in,
            fan_out=fan_out,
            mean_square=mean_square_of(values),
            bias=self.names[id(bias)] if bias is not None else None,
            bias_mean_square=mean_square_of(wide_of(bias)) if bias is not None else 0.0,
            bias_centring=centre,
            bias_residual_square=residual,
            trainable=weight.requires_grad,
            module_is_plain=plain,
            unit_spread=units if convolution or weight.dim() == 2 else None,
            reader_spread=readers if convolution or weight.dim() == 2 else None,
        )

    def _activation(
        self, node: Node, subject: Subject, module: nn.Module | None
    ) -> ActivationFacts | None:
        metadata = node._input_metadata[0]
        with torch.no_grad():
            ones = torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device)
            slope = node(ones)  # elementwise: the gradient of ones is phi' itself
        slope = (slope[0] if isinstance(slope, tuple) else slope).abs()
        if not slope.dim():  # a scalar gate: one unit, one sample
            slope = slope.reshape(1)
        channel_dim = subject.call.channel_dim if subject.call else -1
        if channel_dim >= slope.dim():  # the call's output had more dimensions than this node's
            channel_dim = -1
        name, parameter = _function(node, subject.kind)
        steepest = activation(name, negative_slope=parameter).max_slope if name in KNOWN else None
        if not slope.numel():
            return None
        units = slope.shape[channel_dim]
        small = small_array(slope)
        largest, dead = float(slope.max() if small is None else small.max()), 0
        if not float(slope.min() if small is None else small.min()) > 0:
            rows = slope.movedim(channel_dim, -1).reshape(-1, units)
            dead = int((rows == 0).all(dim=0).sum())
        flat = FLAT * (steepest if steepest else largest)
        if small is None:
            rms = float(slope.to(wide(slope)).square().mean().sqrt())
            flats = int((slope < flat).sum())
        else:
            rms, flats = mean_square(small) ** 0.5, int(np.count_nonzero(small < flat))
        return ActivationFacts(
            function=name,
            slope_rms=rms,
            slope_max=largest,
            flat_share=flats / slope.numel(),
            dead_units=dead,
            units=units,
            samples=slope.numel() // units,
            steepest_slope=steepest,
            replaceable=type(module).__module__ == "torch.nn.modules.activation",
            negative_slope=parameter,
        )


def _function(node: Node, kind: str) -> tuple[str, float | None]:
    """(name, negative slope) of the function that a node computed, from what it saved.

    The node knows the parameters of functional calls, too. With others than those that theory
    has a closed form for, the name says so and is none that theory knows.
    """
    name = kinds.ACTIVATIONS[kind]

    def saved(what: str) -> Any:
        return getattr(node, f"_saved_{what}", None)

    if kind == "LeakyRelu":
        return name, float(saved("negative_slope"))
    if kind == "PreluKernel":
        leaf = _direct_leaf(node.next_functions[1][0])
        alone = leaf is not None and leaf[0].numel() == 1
        return name, float(leaf[0].detach()) if leaf and alone else None
    if kind == "Elu":
        alpha, scale, inner = saved("alpha"), saved("scale"), saved("input_scale")
        if (alpha, scale, inner) != (1, 1, 1):
            selu = abs(alpha - 1.6732632) < 1e-6 and abs(scale - 1.0507010) < 1e-6 and inner == 1
            name = "selu" if selu else f"elu(alpha={alpha:g})"
    elif kind == "Celu" and saved("alpha") != 1:
        name = f"celu(alpha={saved('alpha'):g})"
    elif kind == "Softplus" and saved("beta") != 1:
        name = f"softplus(beta={saved('beta'):g})"
    elif kind == "Gelu" and saved("approximate") == "tanh":
        name = "gelu_tanh"
    elif kind == "Hardtanh":
        low, high = saved("min_val"), saved("max_val")
        if (low, high) != (-1, 1):
            name = "relu6" if (low, high) == (0, 6) else f"hardtanh({low:g}, {high:g})"
    return name, None


_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _reads_a_constant(node: Node, kind: str) -> bool:
    """Whether one factor of a linear map is a tensor without gradient: a frozen weight."""
    if not (kinds.LINEAR_MAPS.match(kind) or kinds.CONVOLUTIONS.match(kind)):
        return False
    first = 1 if kind.lower().startswith(("add", "baddbmm")) else 0  # an added bias comes first
    factors = node.next_functions[first : first + 2]
    return len(factors) == 2 and any(child is None for child, _ in factors)


def _direct_leaf(node: Node | None) -> tuple[Tensor, bool] | None:
    """(leaf, whether transposed) if an edge leads to a leaf through at most one transpose."""
    if node is None:
        return None
    if hasattr(node, "variable"):
        return node.variable, False
    if kinds.short(node.name()) in ("T", "Transpose", "Permute"):
        child = node.next_functions[0][0]
        if child is not None and hasattr(child, "variable"):
            return child.variable, True
    return None


def _is_left(node: Node, kind: str, weight: Tensor) -> bool:
    """Whether the weight stands left of what it is multiplied with: W x instead of x W."""
    first = 1 if kind in ("Addmm", "Baddbmm", "Addbmm", "Addmv") else 0
    if kind == "Linear" or len(node.next_functions) <= first:
        return False
    found = _direct_leaf(node.next_functions[first][0])
    return found is not None and found[0] is weight


def _fans(weight: Tensor, convolution: bool, out_first: bool, node: Node) -> tuple[int, int]:
    """(fan_out, fan_in): outputs, and inputs summed into one output.

    Args:
        weight: The weight, as stored.
        convolution: Whether it is one; then the node knows groups and direction, also where
            the call was functional and no module does.
        out_first: Whether a matrix is stored [out, in], as F.linear does.
        node: The booked node.
    """
    if convolution:
        kernel = weight[0, 0].numel()
        if getattr(node, "_saved_transposed", False):
            groups = getattr(node, "_saved_groups", 1)
            return weight.shape[1] * groups, weight.shape[0] * kernel // groups
        return weight.shape[0], weight.shape[1] * kernel
    rows, columns = weight.shape[-2], weight.shape[-1]
    return (rows, columns) if out_first else (columns, rows)


def upstream_of(graph: Graph, is_transparent: Callable[[int], bool]) -> dict[int, list[int]]:
    """For each booked node: the nodes whose outputs it reads, looking through rearrangements."""
    found: dict[int, list[int]] = {}
    for key in reversed(graph.nodes):
        sources: list[int] = []
        for _, (child, _) in graph.edges[key]:
            if child not in graph.nodes:
                continue
            sources.extend(found[child] if is_transparent(child) else [child])
        found[key] = list(dict.fromkeys(sources))
    return found
