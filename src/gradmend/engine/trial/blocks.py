"""Many parameters of one shape as one tensor, for the length of a training.

An optimizer pays for each tensor, not for each number: Adam takes about 30 us for a matrix of
32 x 32 in its Python loop, of which one is arithmetic. So the numbers of a :class:`Block` are moved
into one tensor. Every parameter stays the object it is and looks into its part; the optimizer
trains the whole. Elementwise update rules do the same to it as to its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.engine.trial.pool import Pool, users_of

SMALL = 2**16
"""Numbers of a parameter up to which it is lent: a second copy of larger ones would need real
memory, and arithmetic outweighs calls there (our choice: 256 x 256)."""

ELEMENTWISE: frozenset[type[Optimizer]] = frozenset({
    torch.optim.Adadelta, torch.optim.Adagrad, torch.optim.Adam, torch.optim.Adamax,
    torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.SGD,
})  # fmt: skip
"""Optimizers whose update of a number looks at that number's own gradients alone."""


@dataclass(slots=True)
class Block:
    """Parameters of one shape, lent to one tensor."""

    members: list[nn.Parameter]
    whole: nn.Parameter
    homes: list[Tensor]
    """Where the members' numbers belong."""
    steps_whole: bool = False
    """Whether the optimizer trains the whole; else the members, and they get their gradients."""

    @classmethod
    def lend(cls, members: list[nn.Parameter]) -> Block:
        """Move the members' numbers into one tensor; they look into it from now on."""
        homes = [member.data for member in members]
        whole = nn.Parameter(torch.stack(homes))
        block = cls(members=members, whole=whole, homes=homes)
        try:
            for member, part in zip(members, whole.detach().unbind(0), strict=True):
                member.data = part
                member.grad = None
        except BaseException:
            block.give_back()
            raise
        return block

    def give_back(self) -> None:
        """Move the numbers back to where they belong; a second time does nothing."""
        if not self.homes:
            return
        torch._foreach_copy_(self.homes, [member.data for member in self.members])
        for member, home in zip(self.members, self.homes, strict=True):
            member.data = home
        self.homes.clear()  # who looks into a member's numbers twice would not be lent again
        self.scatter()

    def arrived(self, whole: Tensor) -> None:
        """The gradient of the whole is there: a hook for autograd."""
        del whole  # it is self.whole
        if not self.steps_whole:
            self.scatter()

    def scatter(self) -> None:
        """Hand the gradient of the whole to the members."""
        if self.whole.grad is None:
            return
        for member, part in zip(self.members, self.whole.grad.unbind(0), strict=True):
            member.grad = part if member.grad is None else member.grad + part
        self.whole.grad = None

    def gather(self, pool: Pool) -> bool:
        """Add the gradients that members have of their own to that of the whole.

        Returns:
            False if only some have one, so that the whole cannot be stepped for them.
        """
        found = [member.grad for member in self.members]
        own = [grad for grad in found if grad is not None]
        if own:
            if self.whole.grad is None:
                if len(own) < len(found) or any(grad.is_sparse for grad in own):
                    return False
                room = pool.take(self.whole.shape, self.whole)
                self.whole.grad = torch.stack(own, out=room).detach()
            else:
                for part, grad in zip(self.whole.grad.unbind(0), found, strict=True):
                    if grad is not None:
                        part.add_(grad)
            for member in self.members:
                member.grad = None
        return True


def lendable(parameter: Any) -> bool:
    """Whether a parameter's numbers may be elsewhere for a while and nobody notices.

    No other tensor may look into its storage, and no hook may wait for its gradient.
    """
    return (
        type(parameter) is nn.Parameter
        and parameter.requires_grad
        and parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and parameter.dim() > 0
        and 0 < parameter.numel() <= SMALL
        and parameter.is_contiguous()
        and not parameter._backward_hooks
        and not parameter._post_accumulate_grad_hooks
        and users_of(parameter) == 1
    )


@dataclass(slots=True)
class Packed:
    """An optimizer that trains whole blocks in place of their members."""

    optimizer: Optimizer
    blocks: list[Block] = field(default_factory=list)
    _lists: list[tuple[dict[str, Any], list[Tensor]]] = field(default_factory=list)
    _owner: dict[int, int] = field(default_factory=dict)
    """Number of the group by a parameter's id; -1 where several have it."""

    def take(self, block: Block) -> bool:
        """Let the optimizer train a block whole, if one group has all of it.

        Returns:
            Whether it will, from :meth:`enter` on.
        """
        if not self._owner:
            for at, group in enumerate(self.optimizer.param_groups):
                for parameter in group["params"]:
                    key = id(parameter)
                    self._owner[key] = -1 if key in self._owner else at
        groups = {self._owner.get(id(member), -1) for member in block.members}
        if len(groups) > 1 or -1 in groups or not self._pack_state(block):
            return False
        block.steps_whole = True
        self.blocks.append(block)
        return True

    def enter(self) -> None:
        """Put the blocks into the groups, each where its first member was."""
        replaced: dict[int, nn.Parameter | None] = {}
        for block in self.blocks:
            replaced.update({id(member): None for member in block.members})
            replaced[id(block.members[0])] = block.whole
        for group in self.optimizer.param_groups:
            old = group["params"]
            new = [replaced.get(id(p), p) for p in old]
            if any(a is not b for a, b in zip(old, new, strict=True)):
                self._lists.append((group, old))
                group["params"] = [p for p in new if p is not None]

    def release(self) -> None:
        """Let the optimizer train the members again, from where the whole has come to."""
        for group, members in self._lists:
            group["params"] = members
        for block in self.blocks:
            state = self.optimizer.state.pop(block.whole, None)
            block.steps_whole = False
            if state is None:
                continue
            parts = {
                key: list(value.clone().unbind(0)) if _is_whole(value, block) else None
                for key, value in state.items()
            }
            for at, member in enumerate(block.members):
                self.optimizer.state[member] = {
                    key: part[at] if (part := parts[key]) is not None else _twin(value)
                    for key, value in state.items()
                }
        self.blocks.clear()
        self._lists.clear()

    def _pack_state(self, block: Block) -> bool:
        """Move the members' state to the whole; False, and nothing done, where they differ."""
        state = self.optimizer.state
        each = [state[member] for member in block.members if state.get(member)]
        if not each:
            return True
        if len(each) < len(block.members) or any(e.keys() != each[0].keys() for e in each):
            return False
        packed: dict[str, Any] = {}
        for key, first in each[0].items():
            values = [e[key] for e in each]
            if isinstance(first, Tensor):
                if any(not isinstance(v, Tensor) or v.shape != first.shape for v in values):
                    return False
                stacked = torch.stack(values)
                if first.shape == block.members[0].shape:
                    packed[key] = stacked
                    continue
                if not bool((stacked == stacked[0]).all()):
                    return False
                packed[key] = first.clone()
            elif any(type(v) is not type(first) or v != first for v in values):
                return False
            else:
                packed[key] = first
        for member in block.members:
            del state[member]
        state[block.whole] = packed
        return True


def _is_whole(value: Any, block: Block) -> bool:
    return isinstance(value, Tensor) and value.shape == block.whole.shape


def _twin(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
