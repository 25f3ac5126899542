"""Edits of recurrent layers: what they set, what they refuse, and the exact way back."""

import math
from typing import Any

import pytest
import torch
from edit_subjects import Record
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers import HiddenLSTM
from gradmend.records.prescription import Edit
from gradmend.theory.gates import balanced_bias, keep_bias, keep_opening

T = 30


class Reader(nn.Module):
    """A recurrent layer (or a cell in a loop) and a head."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.RNNBase):
            result: Tensor = self.head(self.layer(x)[0][:, -1])
            return result
        state: Any = None
        for step in x.unbind(1):
            if isinstance(self.layer, nn.Linear):
                state = torch.tanh(self.layer(step if state is None else state + step))
            else:
                state = self.layer(step, state)
        result = self.head(state[0] if isinstance(state, tuple) else state)
        return result


MODELS: dict[str, Any] = {
    "rnn": lambda: Reader(nn.RNN(4, 8, batch_first=True), 8),
    "relu": lambda: Reader(nn.RNN(4, 8, batch_first=True, nonlinearity="relu"), 8),
    "deep": lambda: Reader(nn.RNN(4, 8, 2, batch_first=True, bidirectional=True), 16),
    "gru": lambda: Reader(nn.GRU(4, 8, 2, batch_first=True), 8),
    "lstm": lambda: Reader(nn.LSTM(4, 8, batch_first=True, bidirectional=True), 16),
    "projected": lambda: Reader(nn.LSTM(4, 8, batch_first=True, proj_size=5), 5),
    "rnn cell": lambda: Reader(nn.RNNCell(4, 8), 8),
    "gru cell": lambda: Reader(nn.GRUCell(4, 8), 8),
    "lstm cell": lambda: Reader(nn.LSTMCell(4, 8), 8),
    "loop": lambda: Reader(nn.Linear(4, 4), 4),
}


def draw(**args: Any) -> Edit:
    given: dict[str, Any] = {"scheme": "orthogonal", "gain": 1.0, "inputs": [0.5], "biases": [0.0]}
    return Edit(kind="draw_recurrence", targets=("layer",), args={**given, "seed": 3, **args})


def gates(**args: Any) -> Edit:
    return Edit(kind="set_gates", targets=("layer",), args={"steps": [T], "seed": 1, **args})


def become(cell: str, **args: Any) -> Edit:
    given = {"cell": cell, "steps": [T], "seed": 2}
    return Edit(kind="replace_cell", targets=("layer",), args={**given, **args})


def bound(**args: Any) -> Edit:
    given: dict[str, Any] = {"radii": [0.1], "factors": [0.5]}
    return Edit(kind="bound_recurrence", targets=("layer",), args={**given, **args})


FITS: list[tuple[str, Edit]] = [
    *[(name, draw()) for name in MODELS],
    ("relu", draw(scheme="identity", inputs=[1.0])),
    *[(name, bound()) for name in MODELS],
    ("loop", bound(radii=[None])),
    *[
        (name, gates(spread=spread, admit=admit, read=1.0))
        for name in ("gru", "lstm", "projected", "gru cell", "lstm cell")
        for spread, admit in (("same", "balanced"), ("uniform", "chrono"), ("same", "kept"))
    ],
    *[(name, become("GRU", spread="uniform")) for name in ("rnn", "relu", "deep", "rnn cell")],
    *[(name, become("LSTM", admit="balanced")) for name in ("rnn", "deep", "gru")],
]


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(6, 9, 4, generator=generator), torch.randint(3, (6,), generator=generator)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x, y = data()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def trained(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with two groups of its own options and momentum from earlier steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = MODELS[name]()
    own = [*model.layer.parameters()]
    optimizer = torch.optim.Adam(
        [{"params": [own[0], *model.head.parameters()]}, {"params": own[1:], "lr": 0.02}], lr=0.01
    )
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("name", "edit"), FITS, ids=[f"{n}-{e.kind}-{i}" for i, (n, e) in enumerate(FITS)]
)
def test_undoing_restores_every_bit_also_after_training_with_it(name: str, edit: Edit) -> None:
    # GIVEN a model with an optimizer that has taken steps
    model, optimizer = trained(name)
    record, noise = Record(model, optimizer), torch.get_rng_state()
    x, _ = data()
    before = model(x).detach()
    bench = Bench(model=model, optimizer=optimizer, seed=4)
    # WHEN it is edited
    apply_edits(bench, [edit])
    # THEN it is another function of the same shape, drawn without the global generator
    after = bench.model(x)
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    assert torch.equal(torch.get_rng_state(), noise)
    assert len(optimizer.param_groups) == 2
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}, "and all of it is trained"
    # AND undoing it right away restores everything
    bench.undo()
    record.assert_same()
    assert torch.equal(model(x), before)
    # AND so it does after some training in between, for what the edit itself put aside
    again = Bench(model=model, optimizer=optimizer)
    old = {id(p): p.detach().clone() for p in model.layer.parameters()}
    apply_edits(again, [edit])
    step(model, optimizer)
    again.undo()
    if edit.kind == "replace_cell":
        assert all(torch.equal(p, old[id(p)]) for p in model.layer.parameters())
        assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    assert [id(p) for p in model.parameters()] == [i for _, i, _ in record.parameters]


def test_it_is_the_same_draw_for_the_same_seed_and_another_for_another() -> None:
    for name, edit in (("rnn", draw()), ("gru", gates(spread="uniform")), ("rnn", become("GRU"))):
        bits = []
        for seed in (0, 0, 1):
            model = trained(name)[0]
            apply_edits(Bench(model=model, seed=seed), [edit])
            bits.append(torch.cat([p.detach().flatten() for p in model.layer.parameters()]))
        assert torch.equal(bits[0], bits[1])
        assert not torch.equal(bits[0], bits[2])


def test_drawn_recurrences_keep_every_length_in_each_gate() -> None:
    for name in ("rnn", "deep", "gru", "lstm"):
        model, _ = trained(name)
        before = {n: p.detach().clone() for n, p in model.layer.named_parameters()}
        apply_edits(Bench(model=model), [draw()])
        for key, weight in model.layer.named_parameters():
            if key.startswith("weight_hh"):
                for block in weight.split(8):
                    assert torch.allclose(block @ block.T, torch.eye(8), atol=1e-5)
            elif key.startswith("weight_ih"):
                assert torch.equal(weight, before[key] * 0.5)
            else:
                assert not weight.any()


def test_gates_keep_for_as_many_steps_as_they_are_told() -> None:
    # GIVEN an LSTM with gates for T steps, and no input and no state
    model, _ = trained("lstm")
    apply_edits(Bench(model=model), [gates(admit="balanced", read=1.0)])
    for end in ("", "_reverse"):
        bias = sum(model.layer.get_parameter(f"bias_{k}_l0{end}").detach() for k in ("ih", "hh"))
        i, f, _, o = bias.sigmoid().split(8)
        # THEN the forget gate keeps 1 - 1/T, the input gate the variance of what it reads
        assert torch.allclose(f, torch.full((8,), 1 - 1 / T))
        assert torch.allclose(i, (1 - f.square()).sqrt())
        assert torch.allclose(o, torch.tensor(1.0).sigmoid())
    # AND a GRU's update gate, which keeps where it is open, the same
    model, _ = trained("gru")
    apply_edits(Bench(model=model), [gates(spread="uniform")])
    layer = model.layer
    b = layer.bias_ih_l0 + layer.bias_hh_l0
    assert bool((b[8:16] >= 0).all() and (b[8:16] <= math.log(T - 1)).all())
    assert len(set(b[8:16].tolist())) == 8
    h = torch.randn(1, 1, 8)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name.startswith("weight"):
                p.zero_()
    z = b[8:16].sigmoid()
    n = torch.tanh(layer.bias_ih_l0[16:] + b[:8].sigmoid() * layer.bias_hh_l0[16:])
    cell = nn.GRUCell(4, 8)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()
                          if k.endswith("_l0")})  # fmt: skip
    assert torch.allclose(cell(torch.randn(1, 4), h[0]), (1 - z) * n + z * h[0], atol=1e-6)


@given(st.integers(2, 100_000))
@settings(max_examples=50, deadline=None)
def test_the_input_gate_keeps_the_variance_of_a_long_memory(steps: int) -> None:
    f = 1 / (1 + math.exp(-keep_bias(steps)))
    assert f == pytest.approx(keep_opening(steps))
    i = 1 / (1 + math.exp(-balanced_bias(f)))
    assert i <= 0.5 + 1e-12
    if i < 0.5 - 1e-9:  # the fixed point of v = f^2 v + i^2
        assert f * f + i * i == pytest.approx(1.0)


def test_a_bound_recurrence_has_that_radius_and_smaller_ones_stay() -> None:
    model, _ = trained("rnn")
    weight = model.layer.weight_hh_l0
    with torch.no_grad():
        weight.mul_(10)
    apply_edits(Bench(model=model), [bound(radii=[1.3])])
    assert float(torch.linalg.eigvals(weight.detach()).abs().max()) == pytest.approx(1.3, rel=1e-5)
    kept = weight.detach().clone()
    apply_edits(Bench(model=model), [bound(radii=[2.0])])
    assert torch.equal(weight, kept)


def test_an_lstm_in_the_place_of_an_rnn_answers_as_it_did() -> None:
    from torch.nn.utils.rnn import pack_sequence

    for batch_first in (True, False):
        model = nn.Module()
        model.rnn = nn.RNN(4, 8, 2, batch_first=batch_first, bidirectional=True)
        calls: list[int] = []
        model.rnn.register_forward_hook(lambda *_, heard=calls: heard.append(1))
        old = model.rnn
        apply_edits(
            Bench(model=model),
            [Edit(kind="replace_cell", targets=("rnn",), args={"cell": "LSTM", "steps": [9]})],
        )
        new = model.rnn
        assert isinstance(new, HiddenLSTM)
        # THEN every way to call it gives the same shapes, and hooks still hear it
        for x in (torch.randn(5, 3, 4), torch.randn(5, 4)):
            h0 = torch.randn(4, *(x.shape[:1] if batch_first else x.shape[1:2]), 8)
            h0 = h0 if x.dim() == 3 else torch.randn(4, 8)
            for hx in (None, h0):
                assert [t.shape for t in new(x, hx)] == [t.shape for t in old(x, hx)]
        packed = pack_sequence([torch.randn(5, 4), torch.randn(3, 4)])
        assert new(packed)[0].data.shape == old(packed)[0].data.shape
        assert len(calls) == 10
        assert (new.hidden_size, new.num_layers, new.batch_first) == (8, 2, batch_first)
        assert new.training == old.training
        # AND the cell begins at zero where only h is given
        whole = nn.LSTM(4, 8, 2, batch_first=batch_first, bidirectional=True)
        whole.load_state_dict(new.state_dict())
        x, h = torch.randn(5, 5, 4), torch.randn(4, 5, 8)
        assert torch.equal(new(x, h)[0], whole(x, (h, torch.zeros_like(h)))[0])


def test_a_replaced_layer_is_saved_and_loaded_like_any_other() -> None:
    model, _ = trained("rnn")
    apply_edits(Bench(model=model), [become("LSTM")])
    twin, _ = trained("rnn")
    apply_edits(Bench(model=twin, seed=9), [become("LSTM")])
    twin.load_state_dict(model.state_dict())
    x, _ = data()
    assert torch.equal(twin(x), model(x))


REFUSED: list[tuple[str, Edit, str]] = [
    ("rnn", gates(), "no gates"),
    ("loop", gates(), "no gates"),
    ("lstm", become("LSTM"), "cannot take its place"),
    ("lstm", become("GRU"), "cannot take its place"),
    ("rnn", become("RNN"), "cannot take its place"),
    ("rnn cell", become("LSTM"), "cannot take its place"),
    ("rnn", become("GRU", steps=[0]), "no sequence"),
    ("rnn", become("GRU", steps=[float("nan")]), "finite number"),
    ("rnn", become("GRU", steps=["7"]), "finite number"),
    ("rnn", become("GRU", steps=None), "lacks its list"),
    ("rnn", become("GRU", steps=[]), "failed"),
    ("lstm", gates(steps=[1e12]), "no sequence"),
    ("lstm", gates(admit="all"), "no input gate"),
    ("lstm", gates(read=float("inf")), "finite number"),
    ("rnn", draw(scheme="chaos"), "no recurrence"),
    ("rnn", draw(inputs=["a"]), "finite number"),
    ("rnn", draw(gain=float("nan")), "finite number"),
    ("rnn", bound(factors=[-1.0]), "scaled to zero"),
    ("rnn", bound(radii=[0.0]), "scaled to zero"),
    ("rnn", bound(radii=["wide"]), "finite number"),
]


@pytest.mark.parametrize(("name", "edit", "why"), REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(name: str, edit: Edit, why: str) -> None:
    model, optimizer = trained(name)
    record = Record(model, optimizer)
    with pytest.raises(CannotApply, match=why):
        apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    record.assert_same()


def test_layers_that_are_not_alone_with_their_weights_are_refused() -> None:
    def refused(layer: nn.Module, edit: Edit, why: str, **more: nn.Module) -> None:
        model = Reader(layer, 8)
        for name, module in more.items():
            model.add_module(name, module)
        with pytest.raises(CannotApply, match=why):
            apply_edits(Bench(model=model), [edit])

    tied, rnn = nn.RNN(4, 8), nn.RNN(4, 8)
    tied.weight_hh_l0 = rnn.weight_hh_l0
    refused(rnn, become("GRU"), "shares", other=tied)
    refused(nn.RNN(4, 8, bias=False), become("GRU"), "no biases")
    refused(nn.LSTM(4, 8, bias=False), gates(), "no biases")
    refused(nn.Linear(4, 8), draw(), "no recurrent weights")
    refused(nn.RNN(4, 8).requires_grad_(False), become("GRU"), "frozen")
    broken = nn.RNN(4, 8)
    nn.init.constant_(broken.weight_hh_l0, float("nan"))
    refused(broken, bound(), "not finite")


def test_new_weights_join_the_optimizer_in_the_place_of_the_old() -> None:
    # GIVEN groups of their own options, a scheduler, names
    model, _ = trained("rnn")
    optimizer = torch.optim.AdamW(list(model.named_parameters()), lr=0.01)
    step(model, optimizer)
    names = list(optimizer.param_groups[0]["param_names"])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    apply_edits(Bench(model=model, optimizer=optimizer), [become("GRU")])
    # THEN they stand where the old ones stood, and train
    (group,) = optimizer.param_groups
    assert group["param_names"] == names
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    before = model.layer.weight_hh_l0.detach().clone()
    step(model, optimizer)
    scheduler.step()
    assert group["lr"] == 0.005
    assert not torch.equal(model.layer.weight_hh_l0, before)
    # AND an optimizer that holds its list elsewhere is refused
    model, _ = trained("rnn")
    with pytest.raises(CannotApply, match="LBFGS"):
        apply_edits(
            Bench(model=model, optimizer=torch.optim.LBFGS(model.parameters())), [become("GRU")]
        )
