"""A loss call that was heard, made again on another output of the same model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from gradmend.probe.loss_calls import LOSSES


@dataclass(frozen=True, slots=True)
class Again:
    """A loss call that can be made on another prediction; the one it had is not kept alive."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    place: int
    """Where the numbers of its prediction lay in memory."""

    def __call__(self, output: Tensor) -> Tensor | None:
        """The loss of a model's output; ``None`` where that cannot be brought into its shape."""
        prediction = _arranged(output, self.shape, self.stride)
        if prediction is None:
            return None

        def given(value: Any) -> Any:
            if value is _PREDICTION:
                return prediction
            fits = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(prediction.dtype) if fits else value

        args = tuple(map(given, self.args))
        kwargs = {key: given(value) for key, value in self.kwargs.items()}

        def made(*args: Any, **kwargs: Any) -> Tensor:
            holder, attribute, _ = LOSSES[self.name]
            loss: Tensor = getattr(holder, attribute)(*args, **kwargs)
            return loss

        # As torch's own functions do: a function mode hears of one call, and by its public name.
        made.__name__ = self.name
        if has_torch_function_unary(prediction):
            found: Tensor = handle_torch_function(made, (prediction,), *args, **kwargs)
            return found
        return made(*args, **kwargs)


_PREDICTION = object()


def again(name: str, args: Any, kwargs: Any, prediction: Tensor | None) -> Again | None:
    """What makes a call again, on another prediction; ``None`` where there was none."""
    if prediction is None or prediction.layout is not torch.strided or not prediction.numel():
        return None
    try:
        place = prediction.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return None
    return Again(
        name=name,
        args=tuple(_PREDICTION if value is prediction else value for value in args),
        kwargs={k: _PREDICTION if value is prediction else value for k, value in kwargs.items()},
        shape=tuple(prediction.shape),
        stride=prediction.stride(),
        place=place,
    )


def _arranged(output: Tensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor | None:
    """An output as the loss saw it: as it is, in another shape, or with two dimensions turned."""
    if tuple(output.shape) == shape and output.stride() == stride:
        return output
    if not output.is_contiguous() or output.numel() != math.prod(shape):
        return None
    turned = [(a, b) for b in range(output.dim()) for a in range(b)]
    for a, b in turned:
        other = output.transpose(a, b)
        if tuple(other.shape) == shape and other.stride() == stride:
            return other
    plain = output.reshape(shape)
    return plain if plain.stride() == stride else None
