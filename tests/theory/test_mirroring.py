"""Which activations have a mirror image, and which networks can be drawn in pairs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.mirroring import Mirrored, mirror_slope, mirrored

LINEAR = {
    "relu": 1.0, "gelu": 1.0, "gelu_tanh": 1.0, "silu": 1.0, "softplus": 1.0, "hardswish": 1.0,
    "logsigmoid": 1.0, "leaky_relu": 1.01, "prelu": 1.25,
}  # fmt: skip


@pytest.mark.parametrize("function", KNOWN)
def test_the_slope_is_that_of_the_difference_or_there_is_none(function: str) -> None:
    c = mirror_slope(function)
    assert c == (pytest.approx(LINEAR[function]) if function in LINEAR else None)
    if c is not None:
        x = np.random.default_rng(0).normal(size=1000) * 10
        phi = activation(function)
        np.testing.assert_allclose(phi.value(x) - phi.value(-x), c * x, atol=1e-9)


def test_a_leak_counts_and_one_that_leaves_nothing_has_no_slope() -> None:
    assert mirror_slope("leaky_relu", 0.2) == pytest.approx(1.2)
    assert mirror_slope("leaky_relu", 1.0) is None  # the identity
    assert mirror_slope("leaky_relu", -1.0) is None  # |x|
    assert mirror_slope("no such thing") is None


def rows(model: nn.Module, x: Tensor, outputs: int = 3) -> tuple[Mirrored, ...] | str:
    y = torch.randint(outputs, (x.shape[0],))
    return mirrored(look(model, (x, y), Feeder(loss_fn=F.cross_entropy)))


def test_an_mlp_makes_pairs_first_and_reads_them_last() -> None:
    model = nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.Dropout(0.1), nn.LeakyReLU(0.2),
        nn.Linear(4, 3),
    )  # fmt: skip
    found = rows(model, torch.randn(8, 6))
    assert isinstance(found, tuple)
    assert [(r.makes, r.reads, r.slope) for r in found] == [
        (True, 0, 1.0), (True, 9, 1.0), (False, 4, pytest.approx(1.2)),
    ]  # fmt: skip


def test_of_pictures_the_units_of_a_flattened_map_lie_side_by_side() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.GELU(), nn.Conv2d(8, 12, 3), nn.GELU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 3),
    )  # fmt: skip
    found = rows(model, torch.randn(4, 1, 8, 8))
    assert isinstance(found, tuple)
    # THEN only a convolution that keeps its pixels and channels begins at its centre
    assert [r.delta for r in found] == [False, True, False, False, False, False]
    assert [r.inner for r in found] == [False] * 4 + [True, False]
    assert [r.reads for r in found] == [0, 8, 8, 8, 12, 8]


class Functional(nn.Module):
    """Activations called as functions, and what stands between."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.between(F.relu(self.a(x))))
        out: Tensor = self.c(F.relu(h))
        return out


def test_functions_serve_as_well_as_modules() -> None:
    found = rows(Functional(lambda h: h), torch.randn(8, 6))
    assert isinstance(found, tuple)
    assert [r.reads for r in found] == [0, 8, 8]


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: Functional(lambda h: h * 2), "mul"),
        (lambda: Functional(torch.tanh), "only a layer"),
        (lambda: Functional(lambda h: F.layer_norm(h, (8,))), "layer_norm"),
        (lambda: Functional(lambda h: h + 1), "add"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), "tanh"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 3)), "elu"),
        (lambda: nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 3)), "twin"),
        (lambda: nn.Linear(6, 3), "joins"),
    ],
)
def test_what_breaks_the_mirror_is_named(build: Callable[[], nn.Module], word: str) -> None:
    found = rows(build(), torch.randn(8, 6))
    assert isinstance(found, str)
    assert word in found


def test_frozen_shared_and_grouped_layers_and_skips_are_refused() -> None:
    frozen = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    frozen[2].requires_grad_(False)
    shared = nn.Sequential(frozen[0], nn.ReLU(), frozen[0], nn.ReLU(), nn.Linear(6, 3))
    grouped = nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            out: Tensor = self.c(F.relu(h + self.b(h)))
            return out

    for model, x in (
        (frozen, torch.randn(8, 6)),
        (shared, torch.randn(8, 6)),
        (grouped, torch.randn(8, 2, 6)),
        (Skip(), torch.randn(8, 6)),
    ):
        assert isinstance(rows(model, x), str)


def test_a_maximum_now_and_then_is_borne() -> None:
    layers: list[nn.Module] = [nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)]
    head = [nn.Flatten(), nn.Linear(24, 3)]
    assert "max pool" in str(rows(nn.Sequential(*layers, *head), torch.randn(8, 2, 6)))
    layers += [nn.Conv1d(8, 8, 3, padding=1), nn.ReLU()]
    found = rows(nn.Sequential(*layers, *head), torch.randn(8, 2, 6))
    assert isinstance(found, tuple)
    assert [r.delta for r in found] == [False, True, False]
