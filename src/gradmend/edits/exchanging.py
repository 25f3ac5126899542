"""New parameters in the place of old ones, in a live optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gradmend.edits.bench import Bench, refuse_fixed_parameters


def exchange(bench: Bench, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]]) -> None:
    """Let the optimizer train new parameters where it trained old ones: same group, same place.

    So a group's own learning rate or weight decay goes on, and a scheduler notices nothing. What
    the optimizer remembers of the old ones (momentum) speaks of other numbers: it is put aside,
    and comes back with them. A parameter that no group holds is replaced by one that none holds.

    Args:
        bench: What is edited.
        pairs: (old, new) of each.

    Raises:
        CannotApply: If the optimizer keeps its parameters where they cannot be exchanged.
    """
    optimizer = bench.optimizer
    if optimizer is None:
        return
    refuse_fixed_parameters(optimizer, "the new ones", "architecture")
    instead = {id(old): new for old, new in pairs}
    lists: list[tuple[dict[str, Any], list[Any]]] = []
    for group in optimizer.param_groups:
        held = group["params"]
        if any(id(parameter) in instead for parameter in held):
            lists.append((group, held))
            group["params"] = [instead.get(id(parameter), parameter) for parameter in held]
    state = optimizer.state
    order = list(state)
    gone: dict[Tensor, Any] = {old: state.pop(old) for old, _ in pairs if old in state}

    def back() -> None:
        for group, held in lists:
            group["params"] = held
        for _, new in pairs:
            state.pop(new, None)
        now: dict[Tensor, Any] = dict(state)
        state.clear()
        for key in order:
            if key in now or key in gone:
                state[key] = now.pop(key) if key in now else gone[key]
        state.update(now)

    bench.undo_steps.append(back)
