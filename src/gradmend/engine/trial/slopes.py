"""Elementwise activations of a deep chain: forward in place, slopes of many layers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.layers.activations import CentredSigmoid, ScaledSigmoid, Shifted, Tailored

ELEMENTWISE: frozenset[type[nn.Module]] = frozenset({
    CentredSigmoid, ScaledSigmoid, Tailored, nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink,
    nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Tanhshrink, nn.Threshold,
})  # fmt: skip
"""Modules without parameters, randomness or state that treat every number by itself."""


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module is one of those, or one of those in shifted coordinates."""
    return type(module) in ELEMENTWISE or (
        type(module) is Shifted and type(module.function) in ELEMENTWISE
    )


@dataclass(slots=True)
class Activation:
    """What follows each linear layer of a chain, as three steps that need no autograd graph.

    One number per unit is kept from the forward pass, whatever its slope and its output are
    computed from: the output itself (tanh, sigmoid, relu, shifted or not, none), the inner sigmoid
    (centred and scaled ones), or the pre-activation (all others).
    """

    kind: str
    modules: tuple[nn.Module, ...]
    scale: float = 1.0
    """Of the pre-activation, handed to the matrix product; a power of two, so it is exact."""
    floor: float = 0.0
    """Of a ReLU: what it puts out at least."""

    @classmethod
    def of(cls, modules: tuple[nn.Module, ...]) -> Activation:
        """The activation that these modules are together, one applied to the other's output."""
        modules = tuple(m for m in modules if type(m) is not nn.Identity)
        kind, scale, floor = "other", 1.0, 0.0
        if not modules:
            kind = "none"
        elif len(modules) == 1:
            kind = _KINDS.get(type(modules[0]), "other")
            scale = 2.0 if kind == "centred" else 1.0
            only = modules[0]
            if type(only) is Shifted and only.floor is not None:
                kind, floor = "relu", only.floor
        return cls(kind=kind, modules=modules, scale=scale, floor=floor)

    def fire(self, pre: Tensor) -> Tensor:
        """Turn scaled pre-activations, in place, into what is kept; return the output.

        The output may be the same tensor.
        """
        if self.kind == "tanh":
            return torch.tanh_(pre)
        if self.kind == "relu":
            return torch.threshold_(pre, self.floor, self.floor) if self.floor else torch.relu_(pre)
        if self.kind == "none":
            return pre
        if self.kind == "other":
            return self.apply(pre)
        kept = torch.sigmoid_(pre)
        return kept if self.kind == "sigmoid" else self._outside(kept)

    def open(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """The outputs of many layers and their slopes, from what was kept of them.

        The slopes are ``None`` where :meth:`back` needs none.
        """
        if self.kind in ("relu", "none"):
            return kept, None
        if self.kind == "other":
            with torch.enable_grad():
                pre = kept.detach().requires_grad_()
                output = self.apply(pre)
                (slopes,) = torch.autograd.grad(output, pre, torch.ones_like(output))
            return output.detach(), slopes
        ones = torch.ones_like(kept)
        if self.kind == "tanh":
            return kept, torch.ops.aten.tanh_backward(ones, kept)
        slopes = torch.ops.aten.sigmoid_backward(ones, kept)
        if self.kind == "sigmoid":
            return kept, slopes
        return self._outside(kept), slopes.mul_(4.0)

    def back(self, grad: Tensor, output: Tensor, slope: Tensor | None, out: Tensor) -> None:
        """The gradient before one activation, from that behind it, into ``out``."""
        if slope is not None:
            torch.mul(grad, slope, out=out)
        elif self.kind == "relu":  # no product: an infinite gradient stops at a dead unit
            _relu_back(grad, output, self.floor, grad_input=out)
        else:
            out.copy_(grad)

    def apply(self, value: Tensor) -> Tensor:
        """The modules themselves, in any autograd graph; the argument is left as it is."""
        for module in self.modules:
            # forward, not call: that the modules bear no hooks is known
            value = module.forward(value.clone() if getattr(module, "inplace", False) else value)
        return value

    def _outside(self, kept: Tensor) -> Tensor:
        """The affine map of a centred or scaled sigmoid."""
        if self.kind == "centred":
            return torch.mul(kept, 2.0).sub_(1.0)
        return torch.mul(kept, 4.0).sub_(2.0)


_KINDS: dict[type[nn.Module], str] = {
    CentredSigmoid: "centred",
    ScaledSigmoid: "scaled",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_relu_back: Any = torch.ops.aten.threshold_backward.grad_input


def options_of(module: nn.Module) -> tuple[Any, ...]:
    """What tells two activations of one type apart."""
    own = tuple((k, v) for k, v in vars(module).items() if k[0] != "_" and k != "training")
    own += tuple(options_of(inner) for inner in module.children())
    if not module._buffers:
        return (type(module), own)
    return (type(module), own, *(None if b is None else b.item() for b in module._buffers.values()))
