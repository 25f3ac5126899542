"""Which layers make a run."""

from typing import Any

import pytest
import torch
from deep import deep
from torch import nn

from gradmend.engine.trial.blocks import Block
from gradmend.engine.trial.chains import Run
from gradmend.engine.trial.pool import Pool
from gradmend.engine.trial.sequences import DEEP, is_sequence, lay


def runs(model: nn.Module) -> list[int]:
    """Lengths of the runs of a container; everything is given back."""
    kept: list[Block] = []
    free = {id(p) for p in model.parameters()}
    line = lay(model, free, set(), Pool(), kept.append)
    for block in kept:
        block.give_back()
    return [] if line is None else [len(p.linears) for p in line.parts if isinstance(p, Run)]


def layers(count: int, act: Any = nn.Tanh, width: int = 4, **options: Any) -> list[nn.Module]:
    return [m for _ in range(count) for m in (nn.Linear(width, width, **options), act())]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (layers(DEEP), [DEEP]),
        (layers(DEEP - 1), []),
        (layers(DEEP, nn.Tanh) + layers(DEEP, nn.ReLU), [DEEP, DEEP]),
        (layers(DEEP, width=4) + layers(DEEP, width=5), [DEEP, DEEP]),
        (layers(DEEP) + layers(DEEP, bias=False), [DEEP, DEEP]),
        ([*layers(DEEP - 1), nn.Dropout(0.1), *layers(DEEP - 1)], []),
        ([*layers(DEEP), nn.LayerNorm(4), *layers(DEEP + 1)], [DEEP, DEEP + 1]),
        (layers(DEEP, nn.PReLU), []),
        (layers(DEEP, lambda: nn.Softmax(dim=-1)), []),
        (layers(DEEP - 1) + layers(1, dtype=torch.float64), []),
        ([m for _ in range(DEEP) for m in (nn.Linear(4, 5), nn.Linear(5, 4))], []),
        (layers(DEEP, lambda: nn.Sequential(nn.Identity(), nn.Sequential(nn.Tanh()))), [DEEP]),
        ([nn.Sequential(*layers(DEEP // 2)), nn.Sequential(*layers(DEEP // 2))], [DEEP]),
        ([nn.Linear(4, 4)] * DEEP, []),
        ([nn.ReLU()], []),
    ],
)
def test_equal_layers_in_a_row_make_a_run(parts: list[nn.Module], expected: list[int]) -> None:
    # GIVEN a container WHEN it is laid THEN it has these runs
    assert runs(nn.Sequential(*parts)) == expected


def test_a_module_that_somebody_hears_of_ends_a_run() -> None:
    # GIVEN a net with a hook in the middle
    model = deep(layers=2 * DEEP)
    model[1 + 2 * DEEP].register_forward_hook(lambda *_: None)
    # THEN the run ends before it
    assert sum(runs(model)) <= 2 * DEEP
    assert len(runs(model)) >= 1
    # and a hook of all modules at once, or on the container, leaves nothing
    model.register_forward_hook(lambda *_: None)
    assert not is_sequence(model)


def test_a_container_of_another_kind_is_left_alone() -> None:
    # GIVEN a container that calls its children in a way of its own
    class Reversed(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in reversed(self):
                x = part(x)
            return x

    # THEN it is none
    assert not is_sequence(Reversed(nn.Linear(2, 2)))
    assert is_sequence(nn.Sequential(nn.Linear(2, 2)))
