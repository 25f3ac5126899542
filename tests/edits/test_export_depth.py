"""Folding at any depth, and where edits stand inside one another."""

import sys

import pytest
import torch
from edit_subjects import plain
from torch import nn

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.edits.export import FOLDING, fold_away
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

PLAIN = {nn.Sequential, nn.Linear, nn.Sigmoid, nn.SELU}
SAME = 1e-10  # float64 rounding; a wrong fold is off by far more


def deep(layers: int) -> tuple[nn.Sequential, list[Edit]]:
    """A net of sigmoids and a SELU, and every kind of edit that folds, as often as it fits."""
    net = nn.Sequential()
    for i in range(layers):
        net.add_module(f"lin{i}", nn.Linear(2, 2))
        net.add_module(f"act{i}", nn.Sigmoid() if i else nn.SELU())
    net.add_module("out", nn.Linear(2, 1))
    half = layers // 2
    behind = [f"lin{i + 1}" if i + 1 < layers else "out" for i in range(layers)]
    edits = [
        Edit(
            kind="centre_sigmoids",
            targets=tuple(f"act{i}" for i in range(1, half)),
            args={
                "feeds": [f"lin{i}" for i in range(1, half)],
                "readers": [[behind[i]] for i in range(1, half)],
            },
        ),
        Edit(
            kind="shift_activations",
            targets=("act0",),
            args={"feeds": ["lin0"], "readers": [[behind[0]]], "shifts": [1.5]},
        ),
        Edit(
            kind="scale_sigmoids",
            targets=tuple(f"act{i}" for i in range(half, layers)),
            args={"readers": [[behind[i]] for i in range(half, layers)]},
        ),
        Edit(kind="multiply_output", targets=("out",), args={"factors": [0.5]}),
        Edit(kind="standardise_input", targets=("lin0",), args={"mean": [0.5], "std": [2.0]}),
        Edit(kind="standardise_target", targets=("out",), args={"mean": [3.0], "std": [2.0]}),
        Edit(
            kind="standardise_weights",
            targets=tuple(f"lin{i}" for i in range(layers)),
            args={"gains": [1.0] * layers},
        ),
    ]
    return net.double(), edits


@pytest.mark.parametrize("layers", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_kind_folds_in_ten_thousand_layers(layers: int) -> None:
    net, edits = deep(layers)
    assert {edit.kind for edit in edits} == FOLDING
    bench = apply_edits(Bench(model=net), edits)
    # WHEN it is exported, with hardly any stack to recurse on
    limit = sys.getrecursionlimit()
    done = None
    try:
        sys.setrecursionlimit(300)
        done = fold_away(bench.model, edits)
    finally:
        sys.setrecursionlimit(limit)
    # THEN every place is plain
    assert done is not None
    assert not done.refused
    assert len(done.folded) == 2 * layers + 3
    assert {type(m) for m in done.model.modules()} == PLAIN


def test_and_computes_the_same() -> None:
    net, edits = deep(6)
    bench = apply_edits(Bench(model=net), edits)
    x = torch.randn(7, 2, dtype=torch.float64)
    exported = export_plain(bench.model, edits)
    assert {type(m) for m in exported.modules()} == PLAIN
    assert float((exported(x) - bench.model(x)).detach().abs().max()) < SAME


def test_modules_nested_deeper_than_copying_them_could_recurse() -> None:
    # 60 levels within 300 frames: deepcopy takes five or more a level, torch's own walks one
    net: nn.Module = nn.Linear(2, 2)
    for _ in range(60):
        net = nn.Sequential(net)
    path = ".".join("0" for _ in range(60))
    edit = Edit(kind="multiply_output", targets=(path,), args={"factors": [0.5]})
    bench = apply_edits(Bench(model=net), [edit])
    limit = sys.getrecursionlimit()
    frames = 0
    frame = sys._getframe()
    while frame is not None:
        frames, frame = frames + 1, frame.f_back  # type: ignore[assignment]
    exported = None
    try:
        sys.setrecursionlimit(frames + 200)
        exported = export_plain(bench.model, [edit])
    finally:
        sys.setrecursionlimit(limit)
    assert exported is not None
    x = torch.randn(3, 2)
    torch.testing.assert_close(exported(x), bench.model(x))
    assert type(exported.get_submodule(path)) is nn.Linear


def factor(value: float, target: str = "4") -> Edit:
    return Edit(kind="multiply_output", targets=(target,), args={"factors": [value]})


def test_edits_that_stand_inside_one_another_fold_from_within() -> None:
    # one place, three edits: the last stands next to the layer
    edits = [
        factor(0.5),
        Edit(kind="standardise_target", targets=("4",), args={"mean": [1.0], "std": [3.0]}),
        Edit(kind="standardise_input", targets=("4",), args={"mean": [0.5], "std": [2.0]}),
        factor(2.0),
    ]
    bench = apply_edits(Bench(model=plain().double()), edits)
    x = torch.randn(5, 6, dtype=torch.float64)
    exported = export_plain(bench.model, edits)
    assert type(exported.get_submodule("4")) is nn.Linear
    assert float((exported(x) - bench.model(x)).detach().abs().max()) < SAME


def test_a_norm_between_a_layer_and_its_sigmoid_stands_in_the_way() -> None:
    # 2 x in front of a norm is x behind it: folded there, the factor would be lost
    edits = [
        Edit(kind="centre_sigmoids", targets=("1",), args={"feeds": ["0"], "readers": [["2"]]}),
        Edit(
            kind="insert_norm",
            targets=("0",),
            args={"norm": "LayerNorm", "features": [6], "dims": [0], "groups": [1]},
        ),
    ]
    bench = apply_edits(Bench(model=plain().double()), edits)
    with pytest.raises(CannotApply, match="'0' was wrapped by another edit"):
        export_plain(bench.model, edits)
    done = fold_away(bench.model, edits)
    assert done.folded == ()
    assert len(done.refused) == 1
    x = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(done.model(x), bench.model(x))


def test_a_norm_behind_the_layer_that_reads_does_not() -> None:
    edits = [
        Edit(kind="centre_sigmoids", targets=("1",), args={"feeds": ["0"], "readers": [["2"]]}),
        Edit(
            kind="insert_norm",
            targets=("2",),
            args={"norm": "LayerNorm", "features": [6], "dims": [0], "groups": [1]},
        ),
    ]
    bench = apply_edits(Bench(model=plain().double()), edits)
    done = fold_away(bench.model, edits)
    assert done.folded == (("centre_sigmoids", "1"),)
    x = torch.randn(5, 6, dtype=torch.float64)
    assert float((done.model(x) - bench.model(x)).detach().abs().max()) < SAME


def test_weights_that_two_layers_share_are_not_folded_into() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4)).double()
    net[2].weight = net[0].weight
    edits = [factor(0.5, "2")]
    bench = apply_edits(Bench(model=net), edits)
    done = fold_away(bench.model, edits)
    assert done.folded == ()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(done.model(x), bench.model(x))
