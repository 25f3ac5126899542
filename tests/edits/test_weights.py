"""Weights drawn, scaled and revived: closed forms, every kind of layer, and the way back."""

import math
from collections.abc import Callable

import pytest
import torch
from edit_subjects import Record
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.edits.draws import Layout, draw_units, from_units, gain_of, layout_of, to_units
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edit(names: list[str], scheme: str, gain: float = 1.5, **more: object) -> Edit:
    return Edit(
        kind="initialise",
        targets=tuple(names),
        args={
            "scheme": scheme, "seed": 4, "gains": [gain] * len(names),
            "biases": [None] * len(names), "centres": [0.0] * len(names),
            "bias_stds": [0.0] * len(names), **more,  # type: ignore[dict-item]
        },
    )  # fmt: skip


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Linear(40, 60), "weight"),
    "wide linear": (lambda: nn.Linear(90, 30), "weight"),
    "conv1d": (lambda: nn.Conv1d(12, 20, 5), "weight"),
    "conv2d": (lambda: nn.Conv2d(16, 32, 3), "weight"),
    "one by one": (lambda: nn.Conv2d(16, 32, 1), "weight"),
    "conv3d": (lambda: nn.Conv3d(6, 12, 3), "weight"),
    "grouped": (lambda: nn.Conv2d(16, 32, 3, groups=4), "weight"),
    "depthwise": (lambda: nn.Conv2d(48, 48, (3, 5), groups=48), "weight"),
    "transposed": (lambda: nn.ConvTranspose2d(16, 24, 4, stride=2), "weight"),
    "grouped transposed": (lambda: nn.ConvTranspose1d(16, 24, 3, groups=4), "weight"),
    "attention": (lambda: nn.MultiheadAttention(24, 4), "in_proj_weight"),
    "lstm": (lambda: nn.LSTM(10, 24), "weight_hh_l0"),
    "gru inputs": (lambda: nn.GRU(10, 24), "weight_ih_l0"),
    "rnn cell": (lambda: nn.RNNCell(10, 24), "weight_hh"),
}


@pytest.mark.parametrize("scheme", ["orthogonal", "normal", "uniform"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_gets_the_gain_in_each_of_its_parts(kind: str, scheme: str) -> None:
    # GIVEN a layer of that kind WHEN its weight is drawn at a gain of 1.5
    build, leaf = LAYERS[kind]
    model = nn.Sequential(build())
    apply_edits(Bench(model=model), [edit([f"0.{leaf}"], scheme)])
    layout = layout_of(model[0], leaf)
    units = to_units(getattr(model[0], leaf).detach(), layout)
    parts = units.chunk(layout.groups * layout.blocks)
    # THEN the whole has it (an estimate's relative error is 1 / sqrt(2 n), here five times)
    exact = scheme == "orthogonal"
    assert gain_of(units, layout) == pytest.approx(
        1.5, rel=1e-4 if exact else 5 / math.sqrt(2 * units.numel())
    )
    # AND with orthogonal each block and group has equal singular values
    if exact:
        for part in parts:
            flat = part.reshape(part.shape[0], -1).double()
            sizes = torch.linalg.svdvals(flat)
            assert float(sizes.max() / sizes.min()) == pytest.approx(1.0, rel=1e-4)


@given(
    groups=st.integers(1, 3), inputs=st.integers(1, 4), outputs=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=2), first=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_layout_and_back_is_the_identity(
    groups: int, inputs: int, outputs: int, kernel: list[int], first: bool
) -> None:
    shape = (groups * inputs, outputs, *kernel) if first else (groups * outputs, inputs, *kernel)
    weight = torch.randn(shape)
    layout = Layout(input_first=first, groups=groups)
    units = to_units(weight, layout)
    assert units.shape == (groups * outputs, inputs, *kernel)
    assert torch.equal(from_units(units, layout), weight)


def test_a_transposed_convolution_keeps_the_variance_although_its_taps_are_spread() -> None:
    # GIVEN stride 2 and kernel 4: of 16 taps 4 meet in one output
    layer = nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1, bias=False)
    model = nn.Sequential(layer)
    apply_edits(Bench(model=model), [edit(["0.weight"], "normal", 1.0)])
    out = model(torch.randn(8, 32, 12, 12, generator=generator(1)))[:, :, 2:-2, 2:-2]
    # THEN inputs of variance one give outputs of variance one (32 x 128 weights: 3 %, four times)
    assert float(out.detach().square().mean()) == pytest.approx(1.0, rel=0.12)


def test_a_group_of_a_transposed_convolution_is_a_map_of_its_own() -> None:
    layer = nn.ConvTranspose1d(6, 8, 1, groups=2, bias=False)
    apply_edits(Bench(model=layer), [edit(["weight"], "orthogonal", 1.0)])
    x = torch.zeros(1, 6, 1)
    x[0, :3] = torch.randn(3, 1)
    # WHEN only the first group is fed THEN only its outputs answer, at sqrt(4 / 3) of the length
    out = layer(x).detach()
    assert float(out[0, 4:].abs().max()) == 0.0
    assert float(out.norm() / x.norm()) == pytest.approx(math.sqrt(4 / 3), rel=1e-5)


def test_a_delta_orthogonal_kernel_keeps_every_length() -> None:
    # GIVEN as many outputs as inputs WHEN drawn THEN |conv(x)| = |x| for any x
    for layer, shape in (
        (nn.Conv2d(6, 6, 3, padding=1, bias=False), (2, 6, 5, 5)),
        (nn.Conv1d(6, 6, 5, padding=2, bias=False), (2, 6, 9)),
        (nn.Conv3d(4, 4, 3, padding=1, bias=False), (1, 4, 3, 3, 3)),
        (nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False), (2, 6, 5, 5)),
    ):
        apply_edits(Bench(model=layer), [edit(["weight"], "delta_orthogonal", 1.0)])
        x = torch.randn(shape)
        assert float(layer(x).detach().norm() / x.norm()) == pytest.approx(1.0, rel=1e-5)
        assert int((layer.weight != 0).sum()) == layer.weight[..., :1].numel() // max(
            1, math.prod(layer.weight.shape[2:-1])
        )
    # AND channels cannot be lost
    layer = nn.Conv2d(6, 5, 3)
    with pytest.raises(CannotApply, match="at least as many outputs"):
        apply_edits(Bench(model=layer), [edit(["weight"], "delta_orthogonal")])


def test_the_identity_hands_channels_on() -> None:
    layer = nn.Conv2d(3, 7, 3, padding=1, bias=False)
    apply_edits(Bench(model=layer), [edit(["weight"], "identity", 2.0)])
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(layer(x), 2.0 * x[:, [0, 1, 2, 0, 1, 2, 0]])
    recurrent = nn.RNN(3, 4)
    apply_edits(Bench(model=recurrent), [edit(["weight_hh_l0"], "identity", 1.0)])
    assert torch.equal(recurrent.weight_hh_l0.detach(), torch.eye(4))


def test_rows_are_drawn_alone_with_their_biases() -> None:
    # GIVEN a layer of which two units are to be drawn
    for layer, axis in ((nn.Linear(5, 6), 0), (nn.ConvTranspose1d(5, 6, 3), 1)):
        before = layer.weight.detach().clone()
        bias = layer.bias.detach().clone()
        wanted = edit(["weight"], "normal", rows=[[1, 4]], biases=["bias"])
        # WHEN it is done THEN those differ, and no other
        apply_edits(Bench(model=layer), [wanted])
        others = [d for d in range(layer.weight.dim()) if d != axis]
        changed = (layer.weight.detach() != before).any(dim=others[-1])
        changed = changed.any(dim=0 if axis else -1) if changed.dim() > 1 else changed
        assert changed.nonzero().flatten().tolist() == [1, 4]
        assert (layer.bias.detach() != bias).nonzero().flatten().tolist() == [1, 4]


@pytest.mark.parametrize("kind", [*LAYERS, "embedding", "bilinear"])
def test_the_usual_scheme_is_torchs_own(kind: str) -> None:
    # GIVEN what torch draws for a layer
    more: dict[str, tuple[Callable[[], nn.Module], str]] = {
        "embedding": (lambda: nn.Embedding(50, 20, padding_idx=3), "weight"),
        "bilinear": (lambda: nn.Bilinear(6, 7, 40), "weight"),
    }
    build, leaf = {**LAYERS, **more}[kind]
    torch.manual_seed(0)
    model = nn.Sequential(build())
    theirs = getattr(model[0], leaf).detach().clone()
    # WHEN ours is drawn THEN it has their size (480 entries at least: 3 %, six times)
    apply_edits(Bench(model=model), [edit([f"0.{leaf}"], "usual")])
    mine = getattr(model[0], leaf).detach()
    allowed = 1.0 + 6 / math.sqrt(2 * 480)
    ratio = float(mine.square().mean().sqrt() / theirs.square().mean().sqrt())
    assert 1 / allowed < ratio < allowed
    if kind == "embedding":
        assert torch.equal(mine[3], torch.zeros(20)), "the padding's row stays zero"


def test_a_bare_matrix_stored_inputs_first_is_drawn_for_its_units() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(30, 10))

    model = Bare()
    apply_edits(Bench(model=model), [edit(["w"], "orthogonal", 1.0, input_first=[True])])
    # THEN x @ w keeps the variance of each of its 10 units: rows of w^T have length one
    torch.testing.assert_close(
        model.w.detach().square().sum(dim=0), torch.ones(10), rtol=1e-5, atol=0
    )


HOSTILE: dict[str, tuple[Edit, str]] = {
    "rows out of range": (edit(["0.weight"], "normal", rows=[[9]]), "rows"),
    "rows as words": (edit(["0.weight"], "normal", rows=[["1"]]), "rows"),
    "rows as bools": (edit(["0.weight"], "normal", rows=[[True]]), "rows"),
    "rows as a number": (edit(["0.weight"], "normal", rows=[3]), "rows"),
    "rows too few": (edit(["0.weight", "2.weight"], "normal", rows=[None]), "failed"),
    "a vector": (edit(["0.bias"], "normal"), "equal size"),
    "schemes as a word": (edit(["0.weight"], "normal", schemes="normal"), "lacks its list"),
    "an unknown scheme": (edit(["0.weight"], "normal", schemes=["zeros"]), "no initialisation"),
    "factor NaN": (
        Edit(kind="scale_weights", targets=("0.weight",), args={"factors": [math.nan]}), "finite"
    ),
    "no factors": (Edit(kind="scale_weights", targets=("0.weight",)), "lacks its list"),
    "reference zero": (
        Edit(kind="balance_layers", targets=("0.weight",),
             args={"biases": [None], "references": [0.0]}), "balanced"
    ),
    "gain of a word": (
        Edit(kind="scale_to_gain", targets=("0.weight",), args={"biases": [None], "gains": ["a"]}),
        "finite number",
    ),
    "readers flat": (
        Edit(kind="revive_units", targets=("0",), args={"gains": [1.0], "readers": ["2.weight"]}),
        "lists",
    ),
    "readers of another layer": (
        Edit(kind="revive_units", targets=("0",),
             args={"gains": [1.0], "readers": [["4.weight"]], "threshold": 1e9}), "not 4 units"
    ),
    "a module without weights": (
        Edit(kind="revive_units", targets=("1",),
             args={"gains": [1.0], "readers": [[]], "threshold": 1e9}), "no weight"
    ),
}  # fmt: skip


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_arguments_are_refused_and_leave_no_trace(what: str) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Record(model, optimizer)
    wrong, said = HOSTILE[what]
    bench = Bench(model=model, optimizer=optimizer, run_batch=lambda m: m(torch.randn(8, 3)))
    with pytest.raises(CannotApply, match=said):
        apply_edits(bench, [edit(["2.weight"], "normal"), wrong])
    before.assert_same()


# -- scaling


def test_scaling_to_a_gain_keeps_directions_and_function_up_to_the_factor() -> None:
    layer = nn.Linear(6, 8)
    x = torch.randn(5, 6)
    was, weight = layer(x).detach(), layer.weight.detach().clone()
    wanted = Edit(
        kind="scale_to_gain", targets=("weight",), args={"biases": ["bias"], "gains": [2.0]}
    )
    apply_edits(Bench(model=layer), [wanted])
    factor = 2.0 / math.sqrt(6 * float(weight.square().mean()))
    torch.testing.assert_close(layer(x).detach(), was * factor, rtol=1e-5, atol=1e-6)
    nn.init.zeros_(layer.weight)
    with pytest.raises(CannotApply, match="no direction"):
        apply_edits(Bench(model=layer), [wanted])


def test_a_factor_of_zero_writes_zeros_also_over_nan() -> None:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, math.nan)
    wanted = Edit(kind="scale_weights", targets=("weight",), args={"factors": [0.0]})
    apply_edits(Bench(model=layer), [wanted])
    assert torch.equal(layer.weight.detach(), torch.zeros(2, 2))


@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_balancing_keeps_the_function_to_the_last_bit(powers: list[float], seed: int) -> None:
    # GIVEN a rectified network whose layers have any sizes
    torch.manual_seed(seed)
    model = small()
    with torch.no_grad():
        for at, power in zip((0, 2, 4), powers, strict=True):
            model[at].weight.mul_(10.0**power)
    x = torch.randn(7, 3)
    was = model(x).detach()
    balanced = Edit(
        kind="balance_layers",
        targets=("0.weight", "2.weight", "4.weight"),
        args={"biases": ["0.bias", "2.bias", "4.bias"], "references": [1.0, 1.0, 1.0]},
    )
    # WHEN it is balanced
    apply_edits(Bench(model=model), [balanced])
    # THEN every bit of the function is as it was, and gains are within a power of two
    assert torch.equal(model(x).detach(), was)
    gains = [gain_of(model[at].weight, Layout()) for at in (0, 2, 4)]
    assert max(gains) / min(gains) < 4.0  # each is rounded by half a power, twice


# -- by data


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def test_layers_without_bias_are_scaled_and_keep_their_directions() -> None:
    model = convnet()
    weight = model[2].weight.detach().clone()
    x = torch.randn(32, 2, 6, 6) * 4
    wanted = Edit(
        kind="rescale_by_data", targets=("0", "2"), args={"std": 0.7, "orthogonal": False}
    )
    apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [wanted])
    out = model[:3](x).detach()
    assert float(out.square().mean().sqrt()) == pytest.approx(0.7, rel=1e-5)
    ratio = model[2].weight.detach() / weight
    assert float(ratio.max() - ratio.min()) < 1e-5 * float(ratio.mean())


def test_centring_alone_moves_biases_and_no_weight() -> None:
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model[0].bias.sub_(30.0)
    x = torch.randn(64, 3)
    wanted = Edit(
        kind="rescale_by_data", targets=("0",), args={"orthogonal": False, "scale": False}
    )
    apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [wanted])
    assert torch.equal(model[0].weight, before["0.weight"])
    assert float(model[0](x).detach().mean(dim=0).abs().max()) < 1e-5
    with pytest.raises(CannotApply, match="no bias"):
        bare = convnet()
        apply_edits(Bench(model=bare, run_batch=lambda m: m(torch.randn(4, 2, 6, 6))), [
            Edit(kind="rescale_by_data", targets=("0",), args={"orthogonal": False, "scale": False})
        ])  # fmt: skip


def dead(model: nn.Sequential, at: int, units: list[int]) -> None:
    with torch.no_grad():
        model[at].bias[units] = -100.0


def test_dead_units_live_again_and_living_ones_stay() -> None:
    # GIVEN two units of four that nothing switches on
    model = small()
    dead(model, 0, [1, 3])
    x = torch.randn(64, 3)
    before = model[0].weight.detach().clone()
    was = model(x).detach()
    revive = Edit(
        kind="revive_units", targets=("0",), args={"gains": [1.4], "readers": [["2.weight"]]}
    )
    # WHEN they are revived, and what reads them is silenced
    bench = apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [revive])
    # THEN all units live, the others' weights are the same bits, and so is the function
    assert bool((model[0](x) > 0).any(dim=0).all())
    assert torch.equal(model[0].weight[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(model(x).detach(), was, rtol=1e-6, atol=1e-7)
    assert any("2 dead" in note for note in bench.notes)
    # AND the first step opens them again
    model(x).square().sum().backward()
    assert bool((model[2].weight.grad[:, [1, 3]] != 0).any())


def test_channels_behind_a_norm_and_in_front_of_a_flatten_are_revived() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        model[1].bias[2] = -50.0
    x = torch.randn(16, 2, 6, 6)
    buffers = [b.clone() for b in model.buffers()]
    revive = Edit(
        kind="revive_units", targets=("1",), args={"gains": [1.0], "readers": [["4.weight"]]}
    )
    apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [revive])
    assert model[1].bias.tolist() == [0.0, 0.0, 0.0, 0.0]
    columns = model[4].weight.detach().reshape(3, 4, 16)
    assert float(columns[:, 2].abs().max()) == 0.0
    assert float(columns[:, 1].abs().min()) > 0.0
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))


UNDONE: dict[str, Edit] = {
    "delta": edit(["0.weight", "2.weight"], "identity"),
    "by data": Edit(kind="rescale_by_data", targets=("0", "2", "5"), args={"orthogonal": False}),
    "revive": Edit(
        kind="revive_units", targets=("0", "2"),
        args={"gains": [1.0] * 2, "readers": [["2.weight"], ["5.weight"]], "threshold": 1e9},
    ),
    "balance": Edit(
        kind="balance_layers", targets=("0.weight", "2.weight", "5.weight"),
        args={"biases": [None, None, "5.bias"], "references": [1.0, 9.0, 0.3]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDONE)
def test_undo_is_exact_on_convolutions_also_after_training(what: str) -> None:
    torch.manual_seed(3)
    model = convnet()
    x, y = torch.randn(8, 2, 6, 6), torch.randint(3, (8,))

    def loss(m: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(m(x), y)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss(model).backward()
    before = Record(model, optimizer)
    bench = apply_edits(
        Bench(model=model, optimizer=optimizer, run_batch=loss, seed=5), [UNDONE[what]]
    )
    saved = [p.detach().clone() for p in model.parameters()]
    bench.undo()
    before.assert_same()
    # AND a fresh model of another seed takes the same edit
    torch.manual_seed(11)
    fresh = convnet()
    bench = apply_edits(Bench(model=fresh, run_batch=loss, seed=5), [UNDONE[what]])
    steps = torch.optim.SGD(fresh.parameters(), lr=0.01)
    loss(fresh).backward()
    steps.step()
    assert all(bool(torch.isfinite(p).all()) for p in fresh.parameters())
    assert len(saved) == len(list(fresh.parameters()))


def test_the_same_seed_gives_the_same_bits() -> None:
    for scheme in ("orthogonal", "normal", "uniform", "delta_orthogonal", "identity"):
        a, b = (
            draw_units((8, 4, 3), Layout(groups=2), scheme, 1.0, generator(2)) for _ in range(2)
        )
        assert torch.equal(a, b)
