"""What the contract of remedies is tried on, beside the zoo's specimens: a whole training."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Subject:
    """A freshly built model with everything that trains it."""

    model: nn.Module
    batches: list[Any]
    loss_fn: Callable[..., Tensor]
    optimizer: Optimizer


def every() -> Iterable[tuple[str, Callable[[int], Subject]]]:
    """Name and builder (seed -> subject) of all, from the files ``cases_*.py`` beside this one."""
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        for name, build in importlib.import_module(path.stem).SUBJECTS.items():
            yield f"{path.stem.removeprefix('cases_')}: {name}", build
