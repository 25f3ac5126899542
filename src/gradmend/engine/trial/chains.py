"""Long runs of equal linear layers and elementwise activations, as one autograd function.

Layer by layer, autograd makes two graph nodes, several small tensors and two gradients for each.
Here a run keeps one number per unit in one tensor; going back, the slopes and the gradients of the
weights are computed for many layers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks

from gradmend.engine.trial.blocks import Block
from gradmend.engine.trial.pool import Pool
from gradmend.engine.trial.slopes import Activation

CHUNK = 2**17
"""Numbers of an array that are worked on at once going back: half a megabyte, which a core's cache
holds (our choice)."""


@dataclass(slots=True, eq=False)
class Run:
    """Equal square linear layers, each followed by the same activation."""

    modules: list[nn.Module]
    """All of them, in order, as their container has them."""
    _heard: list[nn.Module] = field(init=False)
    """The same with what is inside them."""
    linears: list[nn.Linear]
    activation: Activation
    pool: Pool
    weights: Block
    biases: Block | None
    _places: list[int] = field(init=False)
    """Addresses of the parameters' numbers."""

    def __post_init__(self) -> None:
        self._heard = [inner for module in self.modules for inner in module.modules()]
        self._places = [parameter.data_ptr() for parameter in self._parameters()]

    @property
    def blocks(self) -> list[Block]:
        """What the parameters were lent to."""
        return [self.weights] if self.biases is None else [self.weights, self.biases]

    def __call__(self, x: Any) -> Any:
        """The output of the last layer."""
        if not self._fits(x):
            for module in self.modules:
                x = module(x)
            return x
        bias = None if self.biases is None else self.biases.whole
        if torch.is_grad_enabled():
            return _Chain.apply(x, self.weights.whole, bias, self)  # type: ignore[no-untyped-call]
        return self.forward(x, self.weights.whole, bias, x.new_empty(2, *x.shape))

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor) -> Tensor:
        """Run the layers.

        Args:
            x: The input.
            weight: Of all layers.
            bias: Of all layers.
            kept: Takes what the activations keep, in turn: a slot for each layer, or two where
                nobody goes back.
        """
        scale, fire = self.activation.scale, self.activation.fire
        layers, slots = weight.detach().transpose(1, 2).unbind(0), kept.unbind(0)
        turn = len(slots)
        if bias is None:
            for at, layer in enumerate(layers):
                pre = torch.mm(x, layer, out=slots[at % turn])
                x = fire(pre if scale == 1.0 else pre.mul_(scale))
        else:
            add = torch.addmm
            for at, (layer, shift) in enumerate(zip(layers, bias.detach().unbind(0), strict=True)):
                x = fire(add(shift, x, layer, beta=scale, alpha=scale, out=slots[at % turn]))
        return x.clone()

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, kept: Tensor, further: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """The gradients of input, weights and biases.

        Args:
            grad: Of the output.
            x: The input.
            weight: Of all layers.
            kept: What the activations kept.
            further: Whether the input has a gradient.
        """
        count = len(kept)
        size = max(1, min(count, CHUNK // max(1, x.numel())))
        of_weight = self.pool.take(weight.shape, weight)
        of_bias = None
        if self.biases is not None:
            of_bias = self.pool.take(self.biases.whole.shape, weight)
        layers = weight.detach().unbind(0)
        deltas = x.new_empty(size + 1, *x.shape)
        rooms = deltas.unbind(0)
        grad, room = grad.contiguous(), torch.empty_like(x)
        back, mm = self.activation.back, torch.mm
        for begin in reversed(range(0, count, size)):
            end = min(begin + size, count)
            length = end - begin
            # One more: the layer behind this chunk reads its last output.
            rooms[length].copy_(rooms[0])
            outputs, slopes = self.activation.open(kept[begin:end])
            sights = outputs.unbind(0)
            steep = [None] * length if slopes is None else slopes.unbind(0)
            for at in range(length - 1, -1, -1):
                delta = rooms[at]
                back(grad, sights[at], steep[at], delta)
                if further or begin + at:
                    grad = mm(delta, layers[begin + at], out=room)
            if of_bias is not None:
                torch.sum(deltas[:length], 1, out=of_bias[begin:end])
            readers = length if end < count else length - 1
            torch.bmm(
                deltas[1 : readers + 1].transpose(1, 2),
                outputs[:readers],
                out=of_weight[begin + 1 : begin + 1 + readers],
            )
        torch.mm(rooms[0].t(), x, out=of_weight[0])
        # detach: autograd may then take the tensor itself for the gradient, without a copy.
        return (
            grad.clone() if further else None,
            of_weight.detach(),
            None if of_bias is None else of_bias.detach(),
        )

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same as any graph has it: for gradients of gradients."""
        for at, layer in enumerate(weight.unbind(0)):
            x = functional.linear(x, layer, None if bias is None else bias[at])
            x = self.activation.apply(x)
        return x

    def _fits(self, x: Any) -> bool:
        """Whether the layers are what they were, and the input is of the common kind."""
        whole = self.weights.whole
        return (
            type(x) in (Tensor, nn.Parameter)
            and x.dim() == 2
            and x.shape[0] > 0
            and x.shape[1] == whole.shape[1]
            and x.dtype == whole.dtype
            and x.device == whole.device
            and x.is_contiguous()
            and not torch.is_autocast_enabled("cpu")
            and not torch._C._are_functorch_transforms_active()
            and not torch._C._is_torch_function_mode_enabled()
            and not torch._C._len_torch_dispatch_stack()
            and torch._C._get_tracing_state() is None
            and torch.autograd.forward_ad._current_level < 0
            and not watched_everywhere()
            and not any(map(watched, self._heard))
            and self._in_place()
        )

    def _in_place(self) -> bool:
        """Whether the layers have the parameters that were lent, and these look into the blocks."""
        found = self._parameters()
        if any(a is not b for a, b in zip(found, self._members(), strict=True)):
            return False
        return [parameter.data_ptr() for parameter in found] == self._places

    def _parameters(self) -> list[Any]:
        found: list[Any] = [linear._parameters.get("weight") for linear in self.linears]
        if self.biases is not None:
            found += [linear._parameters.get("bias") for linear in self.linears]
        return found

    def _members(self) -> list[nn.Parameter]:
        return self.weights.members + ([] if self.biases is None else self.biases.members)


class _Chain(torch.autograd.Function):
    """A run in an autograd graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, run: Run) -> Tensor:
        """Run the layers and keep a number per unit."""
        ctx.save_for_backward(x, weight, bias)
        ctx.run = run
        ctx.kept = run.pool.take((len(weight), *x.shape), x)
        return run.forward(x.detach(), weight, bias, ctx.kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients of the input, the weights and the biases."""
        x, weight, bias = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return *ctx.run.backward(grad, x, weight, ctx.kept, ctx.needs_input_grad[0]), None
        asked = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
        found = iter(
            torch.autograd.grad(ctx.run.plain(x, weight, bias), asked, grad, create_graph=True)
        )
        each = (t is not None and t.requires_grad for t in (x, weight, bias))
        return *(next(found) if wanted else None for wanted in each), None


def watched(module: nn.Module) -> bool:
    """Whether somebody hears of a module's calls, or calls something else in its place."""
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or own.get("_compiled_call_impl")
    )


def watched_everywhere() -> bool:
    """Whether somebody hears of the calls of all modules."""
    return bool(
        hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or hooks._global_backward_hooks
        or hooks._global_backward_pre_hooks
    )
