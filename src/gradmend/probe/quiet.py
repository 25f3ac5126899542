"""Our own arithmetic inside somebody's forward or backward pass, and hearing gradients there."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gradmend.probe.sample import norm_of


class Quiet(AbstractContextManager[None]):
    """Within it no gradient is recorded, and nobody's modes see what we compute."""

    __slots__ = ("_functions", "_modes", "recording")

    def __enter__(self) -> None:
        self._functions = torch._C.DisableTorchFunction()
        self._functions.__enter__()
        self.recording = torch.is_grad_enabled()
        """Whether the user's own operations are recorded."""
        torch._C._set_grad_enabled(False)
        # Selective checkpointing, for one, books every operation that it sees.
        self._modes = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else None
        if self._modes is not None:
            self._modes.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._modes is not None:
            self._modes.__exit__(None, None, None)
        torch._C._set_grad_enabled(self.recording)
        self._functions.__exit__(None, None, None)


def listen(x: Tensor, norms: list[float | Tensor]) -> None:
    """Book |gradient| of a tensor when backward computes it.

    The hook is on the autograd node that made the tensor, so an in-place operation that comes
    later does not change whose gradient is booked, and the tensor itself stays free of hooks.

    Args:
        x: The tensor; nothing is booked where it has no node.
        norms: Takes the norms, one for each backward pass.
    """
    node = x.grad_fn
    if node is None:
        return
    number = x.output_nr

    def hook(grads: tuple[Tensor | None, ...]) -> None:
        try:
            grad = grads[number]
            if grad is not None:
                with Quiet():
                    norms.append(norm_of(grad))
        except Exception:  # inside the user's backward pass: not known is better than broken
            return

    node.register_prehook(hook)
