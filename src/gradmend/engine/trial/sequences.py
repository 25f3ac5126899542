"""Long runs of equal layers inside ``nn.Sequential``, and what it does instead of calling each."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradmend.engine.trial.blocks import Block
from gradmend.engine.trial.chains import Run, watched
from gradmend.engine.trial.pool import Pool
from gradmend.engine.trial.slopes import Activation, is_elementwise, options_of

DEEP = 100
"""Equal layers, or parameters of one shape, from which on a training is made faster. It pays from
ten on (1.5 times at 10, 2.0 at 30, 2.5 at 100, 3.2 at 1,000: ``benchmarks/deep_step.py``), but
nothing ordinary shall differ by a rounding: our choice.
"""


@dataclass(slots=True, eq=False)
class Line:
    """What a container does for the length of a training: runs, and modules as they are."""

    container: nn.Sequential
    parts: list[Any]
    contents: list[tuple[nn.Module, tuple[nn.Module, ...]]]
    """The container and those inside it that were looked through, with their children."""

    @property
    def blocks(self) -> list[Block]:
        """What the runs have lent."""
        return [block for part in self.parts if isinstance(part, Run) for block in part.blocks]

    def enter(self) -> None:
        """Take the place of the container's forward."""
        vars(self.container)["forward"] = self

    def leave(self) -> None:
        """Go away without a trace."""
        vars(self.container).pop("forward", None)

    def __call__(self, input: Any) -> Any:  # the name is nn.Sequential's
        """The output of the last module; as ever where somebody has changed the contents."""
        if self._changed():
            return nn.Sequential.forward(self.container, input)  # type: ignore[no-untyped-call]
        for part in self.parts:
            input = part(input)
        return input

    def _changed(self) -> bool:
        inner = self.contents[1:]
        return any(tuple(m._modules.values()) != children for m, children in self.contents) or any(
            watched(module) for module, _ in inner
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the container has its own parameters and does what every container does."""
        return types.MethodType(nn.Sequential.forward, memo[id(self.container)])


@dataclass(slots=True)
class _Stage:
    """A square linear layer and the activations that follow it."""

    linear: nn.Linear
    modules: list[nn.Module]

    @property
    def likeness(self) -> Any:
        """Equal for stages that one run may hold."""
        linear = self.linear
        after = tuple(options_of(m) for m in self.modules[1:] if type(m) is not nn.Identity)
        return linear.weight.shape, linear.weight.dtype, linear.bias is None, after

    @property
    def parameters(self) -> list[Any]:
        """The weight, and the bias if there is one."""
        found = (self.linear._parameters[name] for name in ("weight", "bias"))
        return [p for p in found if p is not None]


def is_sequence(module: nn.Module) -> bool:
    """Whether a module calls its children one after the other, and nobody hears of it."""
    return (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and not watched(module)
    )


def lay(
    container: nn.Module,
    free: set[int],
    done: set[int],
    pool: Pool,
    keep: Callable[[Block], None],
) -> Line | None:
    """Find the long runs in a container and lend their parameters.

    Args:
        container: Where to look; plain containers inside it are looked through.
        free: Ids of the parameters that may be lent; those lent are taken out.
        done: Takes the ids of the containers that were looked through.
        pool: Of tensors.
        keep: Told of every block as soon as it has been lent.

    Returns:
        What replaces the container's forward; ``None`` where no run is long enough.
    """
    assert isinstance(container, nn.Sequential)
    contents: list[tuple[nn.Module, tuple[nn.Module, ...]]] = []
    parts: list[Any] = []
    for run in _runs(list(_leaves(container, contents)), free):
        if len(run) >= DEEP and isinstance(run[0], _Stage):
            parts.append(_lent([stage for stage in run if isinstance(stage, _Stage)], pool, keep))
            free.difference_update(id(p) for block in parts[-1].blocks for p in block.members)
        else:
            for item in run:
                parts.extend(item.modules if isinstance(item, _Stage) else [item])
    done.update(id(module) for module, _ in contents)
    if not any(isinstance(part, Run) for part in parts):
        return None
    return Line(container=container, parts=parts, contents=contents)


def _leaves(
    container: nn.Module, contents: list[tuple[nn.Module, tuple[nn.Module, ...]]]
) -> Iterator[nn.Module]:
    """What a container calls, in order, with what is inside plain containers."""
    todo = [container]
    while todo:
        module = todo.pop()
        if not is_sequence(module):
            yield module
            continue
        children = tuple(module._modules.values())
        contents.append((module, children))  # type: ignore[arg-type]
        todo.extend(reversed(children))  # type: ignore[arg-type]


def _runs(leaves: list[nn.Module], free: set[int]) -> Iterator[list[_Stage | nn.Module]]:
    """Equal stages that follow one another, and what is between."""
    run: list[_Stage | nn.Module] = []
    likeness: Any = None
    seen: set[int] = set()
    at = 0
    while at < len(leaves):
        item: _Stage | nn.Module = leaves[at]
        at += 1
        kind: Any = None
        keys: set[int] = set()
        if _is_stage(item, free):
            assert isinstance(item, nn.Linear)
            item = _Stage(linear=item, modules=[item])
            while at < len(leaves) and is_elementwise(leaves[at]):
                if any(map(watched, leaves[at].modules())):
                    break
                item.modules.append(leaves[at])
                at += 1
            kind, keys = item.likeness, {id(p) for p in item.parameters}
        if run and (kind != likeness or not seen.isdisjoint(keys)):
            yield run
            run, seen = [], set()
        run.append(item)
        seen |= keys
        likeness = kind
    if run:
        yield run


def _is_stage(module: Any, free: set[int]) -> bool:
    """Whether a run may hold a module: a square linear layer with parameters of its own."""
    if type(module) is not nn.Linear or watched(module):
        return False
    found = {name: p for name, p in module._parameters.items() if p is not None}
    weight = found.get("weight")
    return (
        module._parameters.keys() == {"weight", "bias"}
        and weight is not None
        and weight.dim() == 2
        and weight.shape[0] == weight.shape[1]
        and all(id(p) in free and p.dtype == weight.dtype for p in found.values())
    )


def _lent(stages: list[_Stage], pool: Pool, keep: Callable[[Block], None]) -> Run:
    """A run, with the parameters of its stages lent to blocks."""
    linears = [stage.linear for stage in stages]
    weights = Block.lend([stage.parameters[0] for stage in stages])
    keep(weights)
    biases: Block | None = None
    if linears[0].bias is not None:
        biases = Block.lend([stage.parameters[1] for stage in stages])
        keep(biases)
    return Run(
        modules=[module for stage in stages for module in stage.modules],
        linears=linears,
        activation=Activation.of(tuple(stages[0].modules[1:])),
        pool=pool,
        weights=weights,
        biases=biases,
    )
