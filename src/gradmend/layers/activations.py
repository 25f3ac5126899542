"""Activations that an edit may put in another's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CentredSigmoid(nn.Module):
    """s(x) = 2 sigma(2 x) - 1: the sigmoid in coordinates centred on its point of symmetry.

    The same layer as ``nn.Sigmoid`` up to a fixed affine map before and after it, which the
    neighbouring linear layers can absorb exactly (:func:`gradmend.edits.export_plain`): a net
    trained in these coordinates *is* a plain sigmoid net. Its slope at zero is one and its mean
    output zero, so weight updates do not add up to a common bias over depth.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Centred sigmoid, elementwise; any shape."""
        return 2.0 * torch.sigmoid(2.0 * x) - 1.0


class ScaledSigmoid(nn.Module):
    """s(x) = 4 (sigma(x) - 1/2): slope one at zero, mean zero, and the same flats as the sigmoid.

    Only what reads it must absorb the map, ``W -> 4 W, b -> b - 2 W 1``; what stands in front may
    be anything: a convolution, a norm, a sum.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Scaled and centred sigmoid, elementwise; any shape."""
        return 4.0 * torch.sigmoid(x) - 2.0


class Shifted(nn.Module):
    """s(x) = (phi(x + shift) - phi(shift)) / phi'(shift): an activation in other coordinates.

    The same layer as ``phi`` up to a fixed affine map before and after it, which the neighbouring
    linear layers can absorb exactly. It has no output at zero, and a slope of one there.

    Args:
        function: phi, an elementwise module; kept as it is.
        shift: Where phi is worked with.
        offset: phi(shift).
        slope: phi'(shift), not zero.
    """

    def __init__(self, function: nn.Module, *, shift: float, offset: float, slope: float) -> None:
        super().__init__()
        self.function = function
        self.shift, self.offset, self.slope = shift, offset, slope

    @property
    def floor(self) -> float | None:
        """Of a shifted ReLU: max(x + c, 0) - c = max(x, -c), in one operation; else ``None``."""
        return -self.shift if type(self.function) is nn.ReLU and self.shift > 0.0 else None

    @classmethod
    def around(cls, function: nn.Module, shift: float) -> Shifted:
        """An activation in coordinates around a point, at which it has a slope."""
        like = next(function.parameters(), torch.empty(0, dtype=torch.float64))
        with torch.enable_grad():
            point = torch.full((), shift, dtype=like.dtype, device=like.device, requires_grad=True)
            value = function(point.clone())  # a clone: it may work in place
            (slope,) = torch.autograd.grad(value, point)
        return cls(function, shift=shift, offset=float(value.detach()), slope=float(slope))

    def forward(self, x: Tensor) -> Tensor:
        """The shifted activation, elementwise; any shape."""
        if self.floor is not None:
            return functional.threshold(x, self.floor, self.floor)
        x = self.function(x + self.shift) - self.offset
        return x if self.slope == 1.0 else x / self.slope

    def extra_repr(self) -> str:
        """The constants."""
        return f"shift={self.shift:.4g}, offset={self.offset:.4g}, slope={self.slope:.4g}"


TAILORED: tuple[str, ...] = (
    "elu", "erf", "gelu", "gelu_tanh", "leaky_relu", "selu", "sigmoid", "silu", "softplus",
    "softsign", "tanh",
)  # fmt: skip
"""Functions that :class:`Tailored` can transform."""


class Tailored(nn.Module):
    """gamma (phi(alpha x + beta) + delta): an activation bent to fit a network's depth.

    Deep kernel shaping and tailored activation transformation both are this form; they differ in
    how the four constants are chosen. The constants are buffers, so they are saved with the model.

    Args:
        function: phi, one of ``TAILORED``.
        input_scale: alpha.
        input_shift: beta.
        output_scale: gamma.
        output_shift: delta.
        negative_slope: Of ``leaky_relu``.
    """

    function: str
    input_scale: Tensor
    input_shift: Tensor
    output_scale: Tensor
    output_shift: Tensor
    negative_slope: float

    def __init__(
        self,
        function: str,
        *,
        input_scale: float = 1.0,
        input_shift: float = 0.0,
        output_scale: float = 1.0,
        output_shift: float = 0.0,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__()
        if function not in TAILORED:
            raise ValueError(f"'{function}' cannot be tailored; one of {', '.join(TAILORED)}")
        self.function = function
        self.negative_slope = float(negative_slope)
        self.register_buffer("input_scale", torch.tensor(float(input_scale)))
        self.register_buffer("input_shift", torch.tensor(float(input_shift)))
        self.register_buffer("output_scale", torch.tensor(float(output_scale)))
        self.register_buffer("output_shift", torch.tensor(float(output_shift)))

    def forward(self, x: Tensor) -> Tensor:
        """The transformed activation, elementwise; any shape."""
        x = self.input_scale * x + self.input_shift
        if self.function == "leaky_relu":
            x = functional.leaky_relu(x, self.negative_slope)
        elif self.function == "tanh":
            x = torch.tanh(x)
        elif self.function == "sigmoid":
            x = torch.sigmoid(x)
        elif self.function == "softplus":
            x = functional.softplus(x)
        elif self.function == "gelu":
            x = functional.gelu(x)
        elif self.function == "gelu_tanh":
            x = functional.gelu(x, approximate="tanh")
        elif self.function == "silu":
            x = functional.silu(x)
        elif self.function == "elu":
            x = functional.elu(x)
        elif self.function == "selu":
            x = functional.selu(x)
        elif self.function == "erf":
            x = torch.erf(x)
        else:
            x = functional.softsign(x)
        return self.output_scale * (x + self.output_shift)

    def extra_repr(self) -> str:
        """The function and its constants."""
        slope = f", negative_slope={self.negative_slope:.4g}" if self.negative_slope else ""
        return (
            f"{self.function}, input_scale={float(self.input_scale):.4g},"
            f" input_shift={float(self.input_shift):.4g},"
            f" output_scale={float(self.output_scale):.4g},"
            f" output_shift={float(self.output_shift):.4g}{slope}"
        )


REPLACEMENTS: dict[str, type[nn.Module]] = {
    "CentredSigmoid": CentredSigmoid,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Identity": nn.Identity,
    "LeakyReLU": nn.LeakyReLU,
    "LogSoftmax": nn.LogSoftmax,
    "PReLU": nn.PReLU,
    "ReLU": nn.ReLU,
    "ScaledSigmoid": ScaledSigmoid,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softmax": nn.Softmax,
    "Softplus": nn.Softplus,
    "Tanh": nn.Tanh,
}
"""The activations an edit may put in another's place, by name."""
