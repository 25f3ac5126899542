"""Recurrent layers that an edit may put in another's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class HiddenLSTM(nn.LSTM):
    """An LSTM that answers as ``nn.RNN`` and ``nn.GRU`` do: ``(output, h)``, without its cell.

    The initial state, where one is given, is h alone; the cell then begins at zero.
    """

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run over sequences.

        Args:
            input: [T, B, I], [B, T, I] with ``batch_first``, [T, I] or packed.
            hx: Initial h [layers * directions, B, H], or None for zeros.

        Returns:
            (output, final h), shaped as those of ``nn.RNN``.
        """
        state: tuple[Tensor, Tensor] | None = None
        if hx is not None:
            state = hx if isinstance(hx, tuple) else (hx, torch.zeros_like(hx))
        output, (h, _) = super().forward(input, state)
        return output, h


LAYERS: dict[str, Callable[..., nn.RNNBase]] = {"GRU": nn.GRU, "LSTM": HiddenLSTM}
"""What can take the place of a layer that answers (output, h), by name."""
CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {"GRU": nn.GRUCell}
"""What can take the place of a cell that answers h."""
