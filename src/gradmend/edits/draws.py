"""Drawing weights: the same bits whatever the user has set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmend.errors import CannotApply

AT_ONCE = 2**20
"""Entries that a :class:`Pool` draws at once (our choice: 4 MB of float32)."""

SCHEMES = ("orthogonal", "normal", "uniform", "delta_orthogonal", "identity")

_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a stored weight is to be read as independent maps [out, in, *kernel]."""

    input_first: bool = False
    """Stored [in, out / groups, *kernel], as transposed convolutions and ``x @ W`` have it."""
    groups: int = 1
    """Of a convolution: each reads inputs of its own."""
    blocks: int = 1
    """Matrices stacked along the outputs: query, key and value; the gates of a recurrent layer."""
    overlap: float = 1.0
    """Taps of the kernel for one that meets an output: the strides of a transposed convolution."""
    lookup: bool = False
    """Rows are looked up, and not summed: fan-in one."""


def layout_of(module: nn.Module, leaf: str, *, input_first: bool = False) -> Layout:
    """The layout of a parameter, from the module that owns it.

    Args:
        module: The owner.
        leaf: The parameter's own name.
        input_first: What is known of a bare matrix that no standard module owns.
    """
    if isinstance(module, _TRANSPOSED):
        strides = zip(module.kernel_size, module.stride, strict=True)
        return Layout(True, module.groups, overlap=float(math.prod(min(k, s) for k, s in strides)))
    if isinstance(module, _CONVOLUTIONS):
        return Layout(groups=module.groups)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Layout(lookup=True)
    if isinstance(module, nn.MultiheadAttention) and leaf == "in_proj_weight":
        return Layout(blocks=3)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        kind = getattr(module, "mode", type(module).__name__)
        gates = _GATES.get(str(kind), 1) if leaf.startswith(("weight_ih", "weight_hh")) else 1
        return Layout(blocks=gates)
    return Layout(input_first=input_first)


def to_units(weight: Tensor, layout: Layout) -> Tensor:
    """A stored weight as [out, in / groups, *kernel]."""
    if not layout.input_first:
        return weight
    groups, (inputs, outputs, *kernel) = layout.groups, weight.shape
    split = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2)
    return split.reshape(groups * outputs, inputs // groups, *kernel)


def from_units(units: Tensor, layout: Layout) -> Tensor:
    """The inverse of :func:`to_units`."""
    if not layout.input_first:
        return units
    groups, (outputs, inputs, *kernel) = layout.groups, units.shape
    split = units.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
    return split.reshape(groups * inputs, outputs // groups, *kernel).contiguous()


def gain_of(units: Tensor, layout: Layout) -> float:
    """sigma_w = sqrt(fan_in E[w^2]), with the inputs that really meet in one output."""
    fan_in = 1.0 if layout.lookup else math.prod(units.shape[1:]) / layout.overlap
    return math.sqrt(fan_in * float(units.detach().double().square().mean()))


def draw_units(
    shape: tuple[int, ...], layout: Layout, scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """Weights [out, in / groups, *kernel], each group and each block by itself.

    Args:
        shape: As :func:`to_units` gives it.
        layout: What is stacked in it.
        scheme: One of :data:`SCHEMES`.
        gain: sigma_w of each block.
        generator: Source of randomness.
    """
    return draw_alike(1, shape, layout, scheme, generator)[0] * gain


def draw_alike(
    count: int, shape: tuple[int, ...], layout: Layout, scheme: str, generator: torch.Generator
) -> Tensor:
    """What :func:`draw_units` draws, many times at a gain of one: [count, out, in, *kernel]."""
    if layout.lookup:
        draws = draw_normal((count, *shape), generator)
        return draws if scheme != "uniform" else (2.0 * _phi(draws) - 1.0) * 3.0**0.5
    parts = layout.groups * layout.blocks
    if len(shape) < 2 or shape[0] % parts:
        raise CannotApply(f"a weight of shape {list(shape)} is not {parts} maps of equal size")
    one, scale = (shape[0] // parts, *shape[1:]), math.sqrt(layout.overlap)
    return draw_weights(count * parts, one, scheme, scale, generator).reshape(count, *shape)


Kind = tuple[tuple[int, ...], Layout, str]
"""(shape, layout, scheme) of weights that can be drawn together."""


class Pool:
    """Weights drawn many at a time, and handed out one by one.

    Many matrices of one shape are decomposed in one call: redrawing 10,000 layers of 32 x 32 took
    1.8 seconds, and 3.1 one by one. No more than a few megabytes are drawn ahead.

    Args:
        wanted: One entry for each weight that will be taken.
        generator: Source of randomness.
    """

    def __init__(self, wanted: Iterable[Kind], generator: torch.Generator) -> None:
        self._left = Counter(wanted)
        self._drawn: dict[Kind, list[Tensor]] = {}
        self._generator = generator

    def take(self, kind: Kind) -> Tensor:
        """The next weight of a kind, at a gain of one."""
        if not self._drawn.get(kind):
            shape, layout, scheme = kind
            most = max(1, AT_ONCE // max(1, math.prod(shape)))
            count = max(1, min(self._left[kind], most))
            self._left[kind] -= count
            together = draw_alike(count, shape, layout, scheme, self._generator)
            self._drawn[kind] = list(together.unbind())[::-1]
        return self._drawn[kind].pop()


def draw_weight(
    shape: tuple[int, ...], scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """One weight, as :func:`draw_weights` draws many.

    Args:
        shape: [out, in, *kernel].
        scheme: One of :data:`SCHEMES`.
        gain: sigma_w.
        generator: Source of randomness.
    """
    return draw_weights(1, shape, scheme, gain, generator)[0]


def draw_weights(
    count: int, shape: tuple[int, ...], scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """Weights of one shape, each with sqrt(fan_in E[w^2]) = gain, drawn all at once.

    Args:
        count: How many.
        shape: [out, in, *kernel] of each.
        scheme: ``orthogonal`` (all singular values equal, Saxe et al. 2014), ``normal``,
            ``uniform``, ``delta_orthogonal`` (a kernel that is zero but for an orthogonal centre
            tap, Xiao et al. 2018) or ``identity`` (that tap hands channels on as they are).
        gain: sigma_w.
        generator: Source of randomness.

    Returns:
        [count, out, in, *kernel].
    """
    out, fan_in, every = shape[0], math.prod(shape[1:]), (count, *shape)
    if scheme == "normal":
        return draw_normal(every, generator) * (gain / math.sqrt(fan_in))
    if scheme == "uniform":
        numbers = torch.rand(every, generator=generator, dtype=torch.float32, device="cpu")
        return (2.0 * numbers - 1.0) * (gain * math.sqrt(3.0 / fan_in))
    if scheme == "orthogonal":
        return draw_orthogonal(count, out, fan_in, gain, generator).reshape(every).contiguous()
    if scheme not in SCHEMES:
        raise CannotApply(
            f"there is no initialisation '{scheme}'", "", f"one of {', '.join(SCHEMES)}"
        )
    if scheme == "identity":
        # Rows beyond the smaller side repeat: no unit is left with nothing to read.
        tap = torch.eye(shape[1], dtype=torch.float32, device="cpu")
        tap = gain * tap[torch.arange(out, device="cpu") % shape[1]]
        return at_centre(tap.expand(count, -1, -1), shape[2:])
    if out < shape[1]:
        raise CannotApply(
            f"delta-orthogonal kernels need at least as many outputs as inputs, not {out} for"
            f" {shape[1]}",
            "a map onto fewer channels cannot keep every length",
            "use orthogonal",
        )
    return at_centre(draw_orthogonal(count, out, shape[1], gain, generator), shape[2:])


def at_centre(taps: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Kernels that are zero but for their centre.

    Args:
        taps: [count, out, in].
        kernel: Its size in each dimension.
    """
    kernels = torch.zeros((*taps.shape, *kernel), dtype=torch.float32, device="cpu")
    centre = kernels
    for size in kernel:
        centre = centre.select(3, size // 2)
    centre.copy_(taps)
    return kernels


def draw_orthogonal(
    count: int, out: int, fan_in: int, gain: float, generator: torch.Generator
) -> Tensor:
    """Orthogonal matrices [count, out, fan_in], uniform over all of them.

    Rows are unit where out <= fan_in; else columns are, scaled up so that every output keeps its
    variance.
    """
    tall = draw_normal((count, max(out, fan_in), min(out, fan_in)), generator)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2)).unsqueeze(1)  # Mezzadri 2007
    q = q if out >= fan_in else q.mT
    drawn: Tensor = q * (gain * math.sqrt(max(1.0, out / fan_in)))
    return drawn


def _phi(normal: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.erf(normal / math.sqrt(2.0)))


def usual(module: nn.Module, leaf: str, shape: tuple[int, ...]) -> tuple[str, float]:
    """(scheme, gain) that torch itself draws a parameter with.

    Args:
        module: The owner.
        leaf: The parameter's own name.
        shape: As :func:`to_units` gives it.
    """
    fan_in = math.prod(shape[1:])
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "normal", 1.0
    if isinstance(module, _TRANSPOSED):  # torch counts their outputs
        theirs = shape[0] // module.groups * math.prod(shape[2:])
        return "uniform", math.sqrt(fan_in / (3.0 * theirs))
    if isinstance(module, nn.Bilinear):  # and the first of two inputs here
        return "uniform", math.sqrt(shape[2] / 3.0)
    if isinstance(module, nn.MultiheadAttention):  # Xavier over the stacked matrix
        return "uniform", math.sqrt(2.0 * fan_in / (fan_in + shape[0]))
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):  # U(-1 / sqrt(hidden), 1 / sqrt(hidden))
        return "uniform", math.sqrt(fan_in / (3.0 * int(module.hidden_size)))
    return "uniform", 3.0**-0.5


def draw_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers; the same bits whatever default type or device the user has set."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
