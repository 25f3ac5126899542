"""Books through time against naive loops of cells, and against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gradmend.probe import sequences, through_time
from gradmend.probe.cells import CellWatch
from gradmend.probe.through_time import unroll
from gradmend.probe.unrolled import spectral_radius
from gradmend.records.recurrence import Recurrence, horizon, slope_back


def step(module: nn.RNNBase, end: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step as the documentation of torch writes it."""
    W = {n: getattr(module, n + end, None) for n in ("weight_ih", "weight_hh", "weight_hr")}
    zero = torch.zeros(len(W["weight_ih"]), dtype=x.dtype)  # type: ignore[arg-type]
    a = x @ W["weight_ih"].T + getattr(module, "bias_ih" + end, zero)  # type: ignore[union-attr]
    b = h @ W["weight_hh"].T + getattr(module, "bias_hh" + end, zero)  # type: ignore[union-attr]
    if module.mode == "LSTM":
        i, f, g, o = (a + b).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        m = o.sigmoid() * c.tanh()
        return (m if W["weight_hr"] is None else m @ W["weight_hr"].T), c
    if module.mode == "GRU":
        (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
        z = (az + bz).sigmoid()
        n = (an + (ar + br).sigmoid() * bn).tanh()
        return (1 - z) * n + z * h, c
    return ((a + b).relu() if module.mode == "RNN_RELU" else (a + b).tanh()), c


class Twin:
    """A recurrent layer as a loop, for one sequence [T, I]; every state is a tensor to ask."""

    def __init__(self, module: nn.RNNBase, x: Tensor, h0: Tensor, c0: Tensor) -> None:
        self.states: list[list[tuple[Tensor, Tensor]]] = []
        self.ends: list[tuple[Tensor, Tensor]] = []
        row = 0
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(1 + module.bidirectional):
                h, c = h0[row : row + 1], c0[row : row + 1]
                order = range(len(x)) if not direction else range(len(x) - 1, -1, -1)
                end = f"_l{layer}" + ("_reverse" if direction else "")
                states = []
                for t in order:
                    h, c = step(module, end, x[t : t + 1], h, c)
                    states.append((h, c))
                self.states.append(states)
                self.ends.append((h, c))
                hs = [h for h, _ in states]
                outputs.append(torch.cat(hs[::-1] if direction else hs))
                row += 1
            x = torch.cat(outputs, -1)
        self.output = x

    def norms(self, loss: Tensor, row: int, lstm: bool) -> list[float]:
        found = []
        for state in self.states[row]:
            asked = state[: 1 + lstm]
            grads = torch.autograd.grad(loss, asked, retain_graph=True, allow_unused=True)
            found.append(math.fsum(float(g.square().sum()) for g in grads if g is not None))
        return found


def close(found: tuple[float, ...], squares: list[float]) -> bool:
    want = [0.5 * math.log10(s) if s else -math.inf for s in squares]
    return found == pytest.approx(want, abs=1e-8)


KINDS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bias": False}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_agrees_with_a_loop_of_steps(
    kind: type[nn.RNNBase], options: dict[str, Any], packed: bool
) -> None:
    module: Any = kind(4, 5, **options).double()
    for p in module.parameters():
        p.requires_grad_(False)
    lengths = torch.tensor([6, 3, 7]) if packed else torch.tensor([7, 7, 7])
    rows = module.num_layers * (1 + module.bidirectional)
    h0 = torch.randn(rows, 3, module.proj_size or 5, dtype=torch.float64, requires_grad=True)
    c0 = torch.randn(rows, 3, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    lstm = module.mode == "LSTM"
    given = (h0, c0) if lstm else h0
    fed: Any = x.transpose(0, 1) if module.batch_first else x
    if packed:
        fed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, end = module(fed, given)
    end_h = end[0] if lstm else end
    dense = pad_packed_sequence(output)[0] if packed else output
    dense = dense if packed or not module.batch_first else dense.transpose(0, 1)
    cot = torch.randn_like(dense)
    for b, n in enumerate(lengths):
        cot[n:, b] = 0
    cot_h, cot_c = torch.randn_like(end_h), torch.randn_like(c0)
    twins = [Twin(module, x[:n, b], h0[:, b], c0[:, b]) for b, n in enumerate(lengths.tolist())]
    for b, (twin, n) in enumerate(zip(twins, lengths.tolist(), strict=True)):
        assert torch.allclose(twin.output, dense[:n, b])

    grad_output: Any = cot.transpose(0, 1) if module.batch_first else cot
    if packed:
        grad_output = pack_padded_sequence(cot, lengths, enforce_sorted=False)
    grad_state = (cot_h, cot_c) if lstm else cot_h
    records = unroll(module, fed, given, grad_output, grad_state, name="rnn")
    assert [(r.layer, r.direction) for r in records] == [
        (layer, d)
        for layer in range(module.num_layers)
        for d in ("forward", "backward")[: 1 + module.bidirectional]
    ]
    for row, record in enumerate(records):
        squares = [0.0] * 7
        for b, (twin, n) in enumerate(zip(twins, lengths.tolist(), strict=True)):
            loss = (twin.output * cot[:n, b]).sum()
            for r, (h, c) in enumerate(twin.ends):
                loss = loss + (h * cot_h[r, b]).sum() + lstm * (c * cot_c[r, b]).sum()
            for back, value in enumerate(reversed(twin.norms(loss, row, lstm))):
                squares[6 - back] += value
        assert close(record.log10_grads, squares)
        assert record.log10_span == pytest.approx(record.log10_grads[0] - record.log10_grads[-1])
        assert record.name == "rnn" and record.steps == 7 and record.kind == module.mode


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_jacobian_is_that_of_the_last_step_alone(kind: type[nn.RNNBase]) -> None:
    module: Any = kind(3, 4).double()
    x = torch.randn(9, 1, 3, dtype=torch.float64)
    cot = torch.randn(9, 1, 4, dtype=torch.float64)
    (record,) = unroll(module, x, None, cot)
    zero = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    twin = Twin(module, x[:, 0], zero, zero)
    lstm = module.mode == "LSTM"
    squares = twin.norms((twin.output[-1] * cot[-1, 0]).sum(), 0, lstm)
    assert close(record.log10_jacobian, [s / squares[-1] for s in squares])
    assert record.log10_grads != pytest.approx(record.log10_jacobian)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


def linear_rnn(gain: float, size: int = 6) -> nn.RNN:
    """A tanh layer that never leaves its linear regime: it is fed zeros."""
    module = nn.RNN(2, size, bias=False).double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain * rotation(size))
    return module


@pytest.mark.parametrize("gain", [0.5, 0.9, 0.97])
def test_an_orthogonal_linear_layer_loses_its_gain_each_step(gain: float) -> None:
    cot = torch.zeros(50, 3, 6, dtype=torch.float64)
    cot[-1] = torch.randn(3, 6)
    (record,) = unroll(linear_rnn(gain), torch.zeros(50, 3, 2).double(), None, cot)
    assert record.log10_gain == pytest.approx(math.log10(gain))
    assert record.log10_loss_gain == pytest.approx(math.log10(gain))
    assert record.horizon == pytest.approx(-1 / math.log(gain))
    assert record.spectral_radius == pytest.approx(gain)
    assert record.log10_span == pytest.approx(49 * math.log10(gain))
    assert math.isnan(record.forget_gate)
    assert record.note == ""


def test_a_gain_of_one_or_more_has_no_horizon() -> None:
    (record,) = unroll(linear_rnn(1.1), torch.zeros(50, 1, 2).double())
    assert record.horizon == math.inf
    assert record.log10_gain == pytest.approx(math.log10(1.1))


def test_a_loss_that_reads_every_step_hides_the_gain_of_each() -> None:
    cot = torch.ones(60, 1, 6, dtype=torch.float64)
    (record,) = unroll(linear_rnn(0.5), torch.zeros(60, 1, 2).double(), None, cot)
    assert abs(record.log10_loss_gain) < 0.02
    assert record.log10_gain == pytest.approx(math.log10(0.5))


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_an_empty_lstm_keeps_what_its_forget_gate_lets_through(bias: float) -> None:
    module = nn.LSTM(2, 4)
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.bias_ih_l0[4:8] = bias
    cot = torch.zeros(30, 2, 4)
    cot[-1] = 1.0
    (record,) = unroll(module, torch.randn(30, 2, 2), None, cot)
    gate = 1 / (1 + math.exp(-bias))
    assert record.log10_gain == pytest.approx(math.log10(gate), rel=1e-6)
    assert record.forget_gate == pytest.approx(gate, rel=1e-6)
    assert record.spectral_radius == 0.0


def test_five_thousand_steps_do_not_underflow() -> None:
    (record,) = unroll(linear_rnn(0.5, 2), torch.zeros(5000, 1, 2).double())
    assert record.log10_jacobian[0] == pytest.approx(4999 * math.log10(0.5))  # 1e-1505
    assert record.log10_gain == pytest.approx(math.log10(0.5))


def test_gradients_below_the_floats_pass_through_lower_layers() -> None:
    module = nn.RNN(6, 6, num_layers=2, bias=False).double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(0.1 * rotation(6))
        module.weight_hh_l1.copy_(0.1 * rotation(6))
        module.weight_ih_l1.copy_(rotation(6))
    cot = torch.zeros(800, 1, 6, dtype=torch.float64)
    cot[-1] = 1.0
    lower, upper = unroll(module, torch.zeros(800, 1, 6).double(), None, cot)
    assert upper.log10_grads[0] == pytest.approx(math.log10(math.sqrt(6)) - 799)
    # Below, the gradient arrives on 800 ways, each as small as the upper layer's.
    assert -799.0 < lower.log10_grads[0] < -799 + math.log10(800 * math.sqrt(6))


def test_the_backward_direction_is_counted_as_it_reads() -> None:
    module = nn.RNN(2, 4, bidirectional=True, bias=False).double()
    with torch.no_grad():
        module.weight_hh_l0_reverse.copy_(0.5 * rotation(4))
    cot = torch.zeros(20, 1, 8, dtype=torch.float64)
    cot[0, :, 4:] = 1.0  # time 0 is the last that the backward direction reads
    forward, backward = unroll(module, torch.zeros(20, 1, 2).double(), None, cot)
    assert backward.log10_gain == pytest.approx(math.log10(0.5))
    assert backward.log10_grads[-1] == pytest.approx(math.log10(2))
    assert set(forward.log10_grads) == {-math.inf}
    assert "reads nothing" in forward.note and backward.note == ""
    assert math.isfinite(forward.log10_gain)


def test_a_dead_layer_passes_nothing_on() -> None:
    module = nn.RNN(2, 4, nonlinearity="relu")
    with torch.no_grad():
        module.bias_ih_l0.fill_(-100.0)
    (record,) = unroll(module, torch.randn(5, 1, 2), None, torch.ones(5, 1, 4))
    assert record.log10_gain == -math.inf
    assert record.horizon == 1.0


def test_without_a_batch_dimension() -> None:
    module = nn.GRU(3, 4, batch_first=True)
    x, cot = torch.randn(6, 3), torch.randn(6, 4)
    (plain,) = unroll(module, x, torch.zeros(1, 4), cot)
    (batched,) = unroll(module, x[None], None, cot[None])
    assert plain == batched


def test_nan_is_data() -> None:
    x = torch.randn(5, 2, 2)
    x[2] = math.nan
    (record,) = unroll(nn.LSTM(2, 3), x, None, torch.ones(5, 2, 3))
    assert math.isnan(record.log10_grads[0]) and math.isnan(record.log10_jacobian[0])


def test_long_sequences_and_big_batches_are_cut_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = nn.RNN(2, 3)
    (record,) = unroll(module, torch.randn(30, 2, 2), most_steps=10)
    assert record.steps == 10 and "last 10 of 30" in record.note
    monkeypatch.setattr(sequences, "MOST", 300)
    (record,) = unroll(module, torch.randn(10, 8, 2))
    assert "first 2 of 8" in record.note


def test_dropout_between_layers_is_named() -> None:
    module = nn.LSTM(2, 3, num_layers=2, dropout=0.5)
    assert all("dropout" in r.note for r in unroll(module, torch.randn(4, 2, 2)))
    module.eval()
    assert not any("dropout" in r.note for r in unroll(module, torch.randn(4, 2, 2)))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_changes_nothing(kind: type[nn.RNNBase]) -> None:
    module: Any = kind(2, 3, num_layers=2, dropout=0.5)
    x, cot = torch.randn(4, 2, 2), torch.randn(4, 2, 3)
    before = {k: (id(v), v.clone(), v._version) for k, v in module.named_parameters()}
    attributes = {k: id(v) for k, v in vars(module).items()}
    random, kept = torch.get_rng_state(), (x.clone(), cot.clone())
    first = unroll(module, x, None, cot)
    assert unroll(module, x, None, cot) == first
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept[0]) and torch.equal(cot, kept[1])
    for k, v in module.named_parameters():
        assert (id(v), v._version) == (before[k][0], before[k][2])
        assert torch.equal(v, before[k][1]) and v.grad is None
    assert {k: id(v) for k, v in vars(module).items()} == attributes


@pytest.mark.parametrize("size", [1, 3, 20])
def test_spectral_radius_is_the_largest_eigenvalue(size: int) -> None:
    matrix = torch.randn(size, size, dtype=torch.float64)
    want = float(torch.linalg.eigvals(matrix).abs().max())
    assert spectral_radius(matrix) == pytest.approx(want, rel=1e-6)
    assert spectral_radius(1e-200 * matrix) == pytest.approx(1e-200 * want, rel=1e-6)


def test_spectral_radius_of_hostile_matrices() -> None:
    assert spectral_radius(torch.triu(torch.ones(5, 5), 1)) == 0.0  # nilpotent
    assert spectral_radius(torch.tensor([[1.0, 1e3], [0.0, 1.0]])) == pytest.approx(1, rel=1e-4)
    assert math.isnan(spectral_radius(torch.full((2, 2), math.nan)))


def test_curves_are_read_from_their_end() -> None:
    curve = [-0.1 * k for k in range(20)][::-1]
    assert slope_back(curve) == pytest.approx(-0.1)
    curve[4], curve[11] = 50.0, -50.0  # some points may lie anywhere
    assert slope_back(curve) == pytest.approx(-0.1)
    assert slope_back([-math.inf, -1.0, 0.0]) == -1.0
    assert slope_back([-math.inf, 0.0]) == -math.inf
    assert math.isnan(slope_back([0.0])) and math.isnan(slope_back([]))
    assert math.isnan(slope_back([math.nan, 0.0]))
    assert horizon([0.0, 0.0]) == math.inf
    assert horizon([-math.inf, 0.0, 0.0]) == 2.0
    assert horizon([-1.0, 0.0]) == pytest.approx(math.log10(math.e))
    assert math.isnan(horizon([])) and math.isnan(horizon([math.nan, 0.0]))
    assert math.isnan(horizon([0.0, -math.inf]))


CELLS: list[type[nn.RNNCellBase]] = [nn.RNNCell, nn.LSTMCell, nn.GRUCell]


@pytest.mark.parametrize("kind", CELLS)
def test_cells_in_a_loop_are_heard_in_the_real_backward_pass(kind: type[nn.RNNCellBase]) -> None:
    cell: Any = kind(3, 4).double()
    x, cot = torch.randn(6, 2, 3).double(), torch.randn(6, 2, 4).double()
    watch, state, states = CellWatch("cell", cell), None, []
    for t in range(6):
        new = cell(x[t], state)
        watch.saw(x[t], state, new)
        state = new
        states.append(new if isinstance(new, tuple) else (new,))
    loss = sum((s[0] * cot[t]).sum() for t, s in enumerate(states))
    want = []
    for s in states:
        grads = torch.autograd.grad(loss, s, retain_graph=True, allow_unused=True)
        want.append(math.fsum(float(g.square().sum()) for g in grads if g is not None))
    watch = _again(cell, x, cot)
    record = watch.record()
    assert close(record.log10_grads, want)
    assert record.kind == kind.__name__ and record.steps == 6
    assert record.log10_jacobian == () and record.note

    fused: Any = {"RNNCell": nn.RNN, "LSTMCell": nn.LSTM, "GRUCell": nn.GRU}[kind.__name__](3, 4)
    fused.double()
    fused.load_state_dict({k + "_l0": v for k, v in cell.state_dict().items()})
    (unrolled,) = unroll(fused, x, None, cot)
    assert record.log10_grads == pytest.approx(unrolled.log10_grads)
    assert record.spectral_radius == pytest.approx(unrolled.spectral_radius)
    assert record.forget_gate == pytest.approx(unrolled.forget_gate, nan_ok=True)


def _again(cell: Any, x: Tensor, cot: Tensor) -> CellWatch:
    watch, state, loss = CellWatch("cell", cell), None, torch.zeros(()).double()
    for t in range(len(x)):
        new = cell(x[t], state)
        watch.saw(x[t], state, new)
        state = new
        loss = loss + ((new[0] if isinstance(new, tuple) else new) * cot[t]).sum()
    loss.backward()
    return watch


def test_a_new_sequence_begins_without_a_state() -> None:
    cell = nn.GRUCell(2, 3)
    watch = CellWatch("cell", cell)
    for steps in (2, 4, 3):
        state = None
        for _ in range(steps):
            new = cell(torch.randn(1, 2), state)
            watch.saw(torch.randn(1, 2), state, new)
            state = new
        new.sum().backward()
    record = watch.record()
    assert record.steps == 4 and len(record.log10_grads) == 4


def test_cells_never_called_or_without_backward_are_not_known() -> None:
    cell = nn.RNNCell(2, 3)
    watch = CellWatch("cell", cell)
    assert watch.record().steps == 0
    watch.saw(torch.randn(1, 2), None, cell(torch.randn(1, 2)))
    record = watch.record()
    assert record.log10_grads == () and math.isnan(record.log10_gain)


def test_records_are_plain_numbers() -> None:
    (record,) = unroll(nn.GRU(2, 3), torch.randn(4, 2, 2))
    assert isinstance(record, Recurrence)
    assert all(type(v) is float for v in (*record.log10_grads, *record.log10_jacobian))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's own
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_shadow_computes_what_the_layer_does(
    kind: type[nn.RNNBase], options: dict[str, Any]
) -> None:
    module: Any = kind(4, 5, **options)
    x = torch.randn(7, 3, 4)
    shadow = through_time._Unrolling(module, x, None, None, None, 100, "")
    shadow.run()
    output = module(x)[0]
    output = output.transpose(0, 1) if module.batch_first else output
    assert torch.allclose(shadow.output, output.double(), atol=1e-6, rtol=0)
