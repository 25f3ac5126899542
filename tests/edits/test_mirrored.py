"""Mirrored pairs: the network is linear, an isometry, and the twins part as it learns."""

import pytest
import torch
from edit_subjects import Record
from torch import Tensor, nn
from torch.nn import functional as F

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

ACTIVATIONS = {
    "relu": (nn.ReLU, 1.0), "gelu": (nn.GELU, 1.0), "silu": (nn.SiLU, 1.0),
    "softplus": (nn.Softplus, 1.0), "hardswish": (nn.Hardswish, 1.0),
    "leaky": (lambda: nn.LeakyReLU(0.2), 1.2), "prelu": (nn.PReLU, 1.25),
}  # fmt: skip


def edit(names: list[str], **args: list[object]) -> Edit:
    """Layers in a row: the first makes pairs, the last reads them, all others do both."""
    count = len(names)
    usual: dict[str, list[object]] = {
        "biases": [f"{name}.bias" for name in names],
        "makes": [True] * (count - 1) + [False],
        "inner": [False] * count,
        "gains": [1.0] * count,
        "deltas": [False] * count,
    }
    weights = tuple(f"{name}.weight" for name in names)
    return Edit(kind="looks_linear", targets=weights, args={"seed": 1, **usual, **args})  # type: ignore[dict-item]


def chain(widths: list[int], act: object, outputs: int = 5) -> nn.Sequential:
    layers: list[nn.Module] = []
    for read, out in zip([6, *widths[:-1]], widths, strict=True):
        layers += [nn.Linear(read, out), act()]  # type: ignore[operator]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs)).double()


def of_chain(widths: list[int], slope: float) -> Edit:
    names = [str(2 * at) for at in range(len(widths) + 1)]
    return edit(names, reads=[0, *widths], slopes=[1.0] + [slope] * len(widths))


@pytest.mark.parametrize("widths", [[16] * 12, [15] * 12, [16, 9, 30, 7, 7, 2]])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_network_is_linear_whatever_its_widths(name: str, widths: list[int]) -> None:
    # GIVEN a plain network WHEN it is drawn in mirrored pairs
    act, slope = ACTIVATIONS[name]
    model = chain(widths, act)
    apply_edits(Bench(model=model), [of_chain(widths, slope)])
    # THEN it is linear, far out as well as near
    x, z = torch.randn(20, 6).double(), torch.randn(20, 6).double() * 30
    with torch.no_grad():
        torch.testing.assert_close(model(2 * x - z), 2 * model(x) - model(z), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["relu", "gelu", "leaky"])
def test_a_hundred_layers_keep_every_singular_value(name: str) -> None:
    # GIVEN a hundred layers of one width, no fewer pairs than inputs
    act, slope = ACTIVATIONS[name]
    model = chain([12] * 100, act, outputs=6)
    apply_edits(Bench(model=model), [of_chain([12] * 100, slope)])
    # THEN the Jacobian is orthogonal
    jacobian = torch.autograd.functional.jacobian(model, torch.randn(6).double())
    assert isinstance(jacobian, Tensor)
    torch.testing.assert_close(jacobian @ jacobian.T, torch.eye(6).double(), atol=1e-4, rtol=0)


def pictures(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, channels, 3, padding=1), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(channels, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 4, 8), nn.ReLU(), nn.Linear(8, 3),
    ).double()  # fmt: skip


@pytest.mark.parametrize("channels", [8, 7])
def test_convolutions_pools_and_flattening_keep_the_pairs(channels: int) -> None:
    model = pictures(channels)
    names = ["0", "2", "5", "8", "10"]
    drawn = edit(
        names, reads=[0, channels, channels, 12, 8], slopes=[1.0] * 5,
        inner=[False, False, False, True, False], deltas=[False, True, False, False, False],
    )  # fmt: skip
    apply_edits(Bench(model=model), [drawn])
    # THEN it is linear
    x, z = torch.randn(4, 2, 8, 8).double(), torch.randn(4, 2, 8, 8).double()
    with torch.no_grad():
        torch.testing.assert_close(model(2 * x - z), 2 * model(x) - model(z), atol=1e-6, rtol=1e-6)
        # AND what begins at its centre reads nothing else
        kernel = model[2].weight.clone()  # type: ignore[operator]
        kernel[:, :, 1, 1] = 0
        assert not kernel.any()
        torch.testing.assert_close(model[2](model[1](model[0](x))).norm() ** 2 / 2,
                                   model[0](x)[:, : channels // 2].norm() ** 2,
                                   rtol=0.5, atol=0)  # fmt: skip


@pytest.mark.parametrize("inner", [False, True])
def test_the_entries_of_a_unit_may_lie_apart_or_side_by_side(inner: bool) -> None:
    # GIVEN a layer that reads three entries of each of four units
    model = nn.Sequential(nn.Linear(12, 5)).double()
    drawn = edit(["0"], makes=[False], reads=[4], slopes=[1.0], inner=[inner])
    apply_edits(Bench(model=model), [drawn])
    split = model[0].weight.view(5, 4, 3) if inner else model[0].weight.view(5, 3, 4).mT  # type: ignore[operator]
    # THEN units two apart are read with opposite signs
    assert torch.equal(split[:, :2], -split[:, 2:])
    assert split.any()


def test_twins_part_in_the_first_step() -> None:
    # GIVEN units that are exact mirror images
    torch.manual_seed(0)
    model = chain([16] * 8, nn.ReLU)
    apply_edits(Bench(model=model), [of_chain([16] * 8, 1.0)])
    layer = model[6]
    assert torch.equal(layer.weight[:8], -layer.weight[8:])  # type: ignore[index, operator]
    # WHEN the network takes three steps
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(64, 6).double(), torch.randint(5, (64,))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    # THEN no unit is the mirror image of its twin, by far more than rounding
    parted = (layer.weight[:8] + layer.weight[8:]).detach().norm(dim=1)  # type: ignore[index, operator]
    assert float(parted.min()) > 1e-4


def test_the_unit_without_a_twin_can_learn() -> None:
    # GIVEN an odd width: its last unit is drawn and not yet read
    torch.manual_seed(0)
    model = chain([7, 7], nn.ReLU)
    apply_edits(Bench(model=model), [of_chain([7, 7], 1.0)])
    assert float(model[2].weight[6].detach().norm()) == pytest.approx(
        float(model[2].weight[0].detach().norm())
    )  # type: ignore[index, operator, union-attr]
    assert not model[2].weight[:, 6].any()  # type: ignore[index, operator, union-attr]
    F.cross_entropy(model(torch.randn(64, 6).double()), torch.randint(5, (64,))).backward()
    assert model[2].weight.grad[:, 6].any()  # type: ignore[index, operator, union-attr]


def test_the_same_seed_draws_the_same_and_undoing_restores_every_bit() -> None:
    model = chain([15] * 4, nn.ReLU)
    before = Record(model, torch.optim.SGD(model.parameters(), lr=0.1))
    first, again, other = Bench(model=model), Bench(model=model), Bench(model=model, seed=1)
    drawn = []
    for bench in (first, again, other):
        apply_edits(bench, [of_chain([15] * 4, 1.0)])
        drawn.append(model[2].weight.detach().clone())  # type: ignore[operator, union-attr]
        bench.undo()
        before.assert_same()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reads": [0, 5, 16]}, "no room"),
        ({"reads": [0, 1, 16]}, "no room"),
        ({"slopes": [1.0, 0.0, 1.0]}, "cancel"),
        ({"slopes": [1.0, float("nan"), 1.0]}, "finite"),
        ({"gains": [1.0, 1.0]}, "failed"),
        ({"makes": None}, "lacks"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_and_nothing_is_changed(
    change: dict[str, list[object]], words: str
) -> None:
    model = chain([16, 16], nn.ReLU)
    before = Record(model, torch.optim.SGD(model.parameters(), lr=0.1))
    whole = of_chain([16, 16], 1.0)
    with pytest.raises(CannotApply, match=words):
        apply_edits(
            Bench(model=model),
            [Edit(kind=whole.kind, targets=whole.targets, args={**whole.args, **change})],
        )
    before.assert_same()


def test_grouped_and_transposed_kernels_are_refused() -> None:
    for layer in (nn.Conv2d(8, 8, 3, groups=2), nn.ConvTranspose2d(8, 8, 3), nn.Bilinear(8, 8, 8)):
        with pytest.raises(CannotApply):
            apply_edits(Bench(model=nn.Sequential(layer)), [edit(["0"], reads=[8], slopes=[1.0])])
