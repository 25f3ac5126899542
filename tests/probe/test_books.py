"""The books balance, against plain autograd and against closed forms; and they can fail to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from probe_models import MODELS, Residual, Written, mlp_part, xy
from probe_twins import assert_balanced, look_at, modules, plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradmend.probe import backward
from gradmend.zoo import build, names

SPECIMENS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in names()),
    ("mlp", {"depth": 30, "activation": "sigmoid"}),
    ("mlp", {"depth": 12, "activation": "relu_inplace", "norm": "batch"}),
    ("mlp", {"depth": 12, "activation": "tanh", "norm": "layer", "init": "orthogonal"}),
    ("functional_mlp", {"in_place": True, "depth": 9}),
    ("cnn", {"norm": False, "activation": "elu"}),
    ("residual_mlp", {"norm": False, "depth": 20}),
    ("transformer", {"norm_first": False}),
    ("recurrent", {"cell": "gru"}),
    ("recurrent", {"cell": "rnn"}),
    ("dense", {"depth": 9}),
    ("shared", {"repeats": 40}),
]


@pytest.mark.parametrize(("name", "args"), SPECIMENS, ids=str)
def test_a_specimens_books_say_what_plain_autograd_says(name: str, args: dict[str, Any]) -> None:
    specimen = build(name, **args)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    twin = plain(specimen.model, specimen.batch, specimen.loss_fn)
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert trace.run.loss == pytest.approx(twin.loss, rel=1e-12)
    assert_balanced(trace)


@pytest.mark.parametrize("name", MODELS)
def test_a_handwritten_models_books_say_what_plain_autograd_says(name: str) -> None:
    model, batch, loss_fn, forward = MODELS[name]()
    trace = look_at(model, batch, loss_fn, forward=forward)
    twin = plain(model, batch, loss_fn, forward=forward)
    assert not any("float64 books were not possible" in note for note in trace.notes)
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert trace.run.loss == pytest.approx(twin.loss, rel=1e-12)
    assert_balanced(trace)


OPAQUE_BORDERS = {
    "skips_a_module_by_attribute",  # a hook sees handed-over tensors only
    "module_without_arguments",
    "checkpointed",  # the twin's hooks would run again in the recomputation
    "parametrized",
}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in OPAQUE_BORDERS])
def test_every_module_calls_own_gain_is_the_one_at_its_border(name: str) -> None:
    model, batch, loss_fn, forward = MODELS[name]()
    trace = look_at(model, batch, loss_fn, forward=forward)
    twin = plain(model, batch, loss_fn, forward=forward, borders=True)
    compared = 0
    for (path, call), entry in modules(trace).items():
        expected = twin.gains[path][call] if path in twin.gains else None
        if path == "" or expected is None or entry.own_decades is None:
            continue  # the root is compared above, with embeddings' outputs among its inputs
        assert entry.own_decades == pytest.approx(expected, abs=1e-9), (path, call)
        compared += 1
    assert compared or name in {"functional"}  # the only one without modules inside


@pytest.mark.parametrize("name", MODELS)
def test_parameter_gradients_are_those_of_a_plain_backward(name: str) -> None:
    model, batch, loss_fn, forward = MODELS[name]()
    trace = look_at(model, batch, loss_fn, forward=forward)
    twin = plain(model, batch, loss_fn, forward=forward)
    assert {p.name for p in trace.parameters} == set(twin.grads)
    for parameter in trace.parameters:
        grad = twin.grads[parameter.name]
        assert parameter.reached == (grad is not None), parameter.name
        if grad is None:
            assert parameter.log10_grad is None
            continue
        expected = float(grad.norm())
        if expected < 1e-14 * max(float(g.norm()) for g in twin.grads.values() if g is not None):
            continue  # zero but for rounding, as the bias before a batch norm
        assert parameter.log10_grad == pytest.approx(math.log10(expected), abs=1e-7)
        assert not parameter.exact_zero


def test_a_parameter_used_in_many_pieces_is_counted_once() -> None:
    # GIVEN one weight used 60 times, so that the backward pass is cut into many pieces
    specimen = build("shared", repeats=60)
    # WHEN it is looked at
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    # THEN each use counts once in its gradient
    twin = plain(specimen.model, specimen.batch, specimen.loss_fn)
    for parameter in trace.parameters:
        grad = twin.grads[parameter.name]
        assert grad is not None
        assert parameter.log10_grad == pytest.approx(math.log10(float(grad.norm())), abs=1e-9)


@pytest.mark.parametrize("direct", [True, False], ids=["x @ w", "normalised once"])
def test_a_raw_parameter_used_in_many_pieces_is_counted_once(direct: bool) -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        w = s.w if direct else s.w / s.w.norm() * 2
        for _ in range(80):
            x = torch.tanh(x @ w + s.b)
        return x

    model = Written(run, w=nn.Parameter(torch.randn(6, 6) / 2), b=nn.Parameter(torch.randn(6) / 9))
    batch = (torch.randn(5, 6), torch.randn(5, 6))
    trace = look_at(model, batch, F.mse_loss)
    twin = plain(model, batch, F.mse_loss)
    for parameter in trace.parameters:
        grad = twin.grads[parameter.name]
        assert grad is not None
        assert parameter.log10_grad == pytest.approx(math.log10(float(grad.norm())), abs=1e-9)
    assert_balanced(trace)


def test_a_model_called_twice_is_booked_from_the_loss_on() -> None:
    # GIVEN a forward that runs the model on two views of the data
    model = mlp_part()
    batch = (torch.randn(5, 6), torch.randn(5, 6))

    def forward(m: nn.Module, b: Any) -> Tensor:
        return F.mse_loss(m(b[0]), m(b[1]) * 0.5)

    trace = look_at(model, batch, forward=forward)
    # THEN the books reach from the loss (gradient 1) to both inputs, with both calls inside
    a, b = (t.double().requires_grad_() for t in batch)
    twin = mlp_part().double()
    twin.load_state_dict(model.state_dict())
    F.mse_loss(twin(a), twin(b) * 0.5).backward()
    assert a.grad is not None
    assert b.grad is not None
    expected = 0.5 * math.log10(float(a.grad.square().sum() + b.grad.square().sum()))
    assert trace.total_decades == pytest.approx(expected, abs=1e-9)
    assert_balanced(trace)
    assert {("", 0), ("", 1)} <= set(modules(trace))


def test_a_loss_computed_inside_the_model_is_booked() -> None:
    model = Written(
        lambda s, x, y: {"loss": F.cross_entropy(s.b(torch.tanh(s.a(x))), y)},
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    )
    x, y = xy()
    batch = {"x": x, "y": y}

    def forward(m: nn.Module, b: Any) -> Tensor:
        return m(**b)["loss"]

    trace = look_at(model, batch, forward=forward)
    twin = plain(model, batch, forward=forward)
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert_balanced(trace)


def test_reentrant_checkpointing_is_booked() -> None:
    # GIVEN blocks under torch's older kind of checkpointing, which refuses autograd.grad
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.stem(x)
        for block in s.blocks:
            x = checkpoint(block, x, use_reentrant=True)
        return s.head(x)

    blocks = nn.ModuleList(mlp_part() for _ in range(3))
    model = Written(run, stem=nn.Linear(6, 6), blocks=blocks, head=nn.Linear(6, 3))
    batch = xy()
    trace = look_at(model, batch, F.cross_entropy)
    twin = plain(model, batch, F.cross_entropy)
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert_balanced(trace)


def test_reentrant_checkpointing_of_data_cuts_the_gradient_as_it_does_in_training() -> None:
    # GIVEN a first block checkpointed with nothing but data going in: torch gives it no gradient
    def run(s: Any, x: Tensor) -> Tensor:
        return s.head(s.mid(checkpoint(s.stem, x, use_reentrant=True)))

    model = Written(run, stem=mlp_part(), mid=mlp_part(), head=nn.Linear(6, 3))
    x, y = xy()
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        F.cross_entropy(model(x), y).backward()
    assert model.stem[0].weight.grad is None
    # WHEN it is looked at, THEN the stem is shown as not reached, although our input has a gradient
    trace = look_at(model, (x, y), F.cross_entropy)
    reached = {p.name: p.reached for p in trace.parameters}
    assert not reached["stem.0.weight"]
    assert reached["mid.0.weight"]


def test_detached_graphs_are_booked_as_deep_as_the_gradient_goes() -> None:
    specimen = build("functional_mlp", depth=6, detach_at=2)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    reached = {p.name: p.reached for p in trace.parameters}
    twin = plain(specimen.model, specimen.batch, specimen.loss_fn)
    assert reached == {name: grad is not None for name, grad in twin.grads.items()}
    assert trace.ledger is not None
    assert trace.ledger.start == "the first module the loss reaches"
    assert_balanced(trace)


def test_only_what_was_made_from_integers_is_a_start() -> None:
    # GIVEN a layer called with keyword arguments: a hook sees no positional tensor
    case = MODELS["keyword_arguments_inside"]()
    trace = look_at(*case[:2], case.loss_fn)
    # THEN the gradient is followed to the input, through that layer
    assert [op.name for op in trace.operations if op.weights] == ["linear", "linear"]
    assert trace.ledger is not None
    assert trace.ledger.start == "the inputs"


# --- what the loss and the user's glue do outside of the model ---


def test_a_loss_that_reads_the_input_as_well_is_kept_out_of_the_models_books() -> None:
    # GIVEN an autoencoder trained in one function: the input is the target, too
    model, x = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)), torch.randn(5, 6)

    def forward(m: nn.Module, b: Any) -> Tensor:
        return F.mse_loss(m(b), b)

    trace = look_at(model, x, forward=forward)
    assert trace.total_decades == pytest.approx(plain(model, x, forward=forward).total, abs=1e-9)
    assert_balanced(trace)


def test_a_model_that_hands_its_input_back_balances() -> None:
    model = Written(lambda s, x: (x, s.a(x)), a=nn.Linear(6, 3))
    trace = look_at(model, xy(), lambda o, y: F.cross_entropy(o[1], y) + o[0].square().mean())
    assert_balanced(trace)


def test_what_is_done_to_the_input_outside_is_not_the_models_gain() -> None:
    # GIVEN a forward that scales the input by 10 before the model sees it
    model, batch = mlp_part(), (torch.randn(5, 6), torch.randn(5, 6))

    def forward(m: nn.Module, b: Any) -> Tensor:
        return F.mse_loss(m(b[0] * 10), b[1])

    trace = look_at(model, batch, forward=forward)
    inside = look_at(model, (batch[0] * 10, batch[1]), F.mse_loss)
    assert trace.total_decades == pytest.approx(inside.total_decades, abs=1e-6)
    assert_balanced(trace)


def test_hidden_states_beside_a_target_that_is_the_input_have_no_second_opinion() -> None:
    # GIVEN outputs that the model reads on inside, and an input that the loss reads: plain
    # passes cannot part the model's share from the loss's
    def run(s: Any, x: Tensor) -> Any:
        h = torch.tanh(s.a(x))
        return s.b(h), h

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        out, h = m(x)
        return F.mse_loss(out, x) + h.square().mean()

    model = Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    x = torch.randn(5, 6)
    trace = look_at(model, x, forward=forward)
    assert trace.total_decades == pytest.approx(plain(model, x, forward=forward).total, abs=1e-9)
    assert trace.ledger is not None
    # THEN it says that it does not know, rather than a difference that is none
    assert trace.ledger.unexplained_decades is None
    assert trace.ledger.imbalance == pytest.approx(0, abs=1e-9)


def test_a_packed_sequence_is_one_input() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 4), torch.randn(3, 4)])
    model = Written(lambda s, x: s.body(x)[1][0][0], body=nn.LSTM(4, 5))
    trace = look_at(model, (packed, torch.randint(5, (2,))), F.cross_entropy)
    assert_balanced(trace)


def test_a_tensor_hook_that_changes_the_gradient_is_told() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        h = s.a(x)
        h.register_hook(lambda grad: grad * 0.1)
        return s.b(torch.tanh(h))

    trace = look_at(Written(run, a=nn.Linear(6, 6), b=nn.Linear(6, 3)), xy(), F.cross_entropy)
    assert trace.ledger is not None
    assert trace.ledger.unexplained_decades == pytest.approx(0, abs=1e-9)
    assert any("a hook on a tensor" in note for note in trace.ledger.notes)


@pytest.mark.parametrize(
    "build_case",
    [
        lambda: (nn.Bilinear(4, 5, 3), ((torch.randn(6, 4), torch.randn(6, 5)), xy(size=6)[1])),
        lambda: (
            nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            ((torch.randn(3, 4, 8), torch.randn(3, 5, 8)), torch.randint(5, (3, 8))),
        ),
        lambda: (
            nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3)),
            (torch.randint(9, (5, 3)), torch.randint(3, (5,))),
        ),
    ],
    ids=["bilinear", "encoder and decoder", "embedding bag"],
)
def test_more_of_torchs_own_modules_balance(build_case: Any) -> None:
    model, batch = build_case()
    trace = look_at(model, batch, F.cross_entropy)
    twin = plain(model, batch, F.cross_entropy, starts=(nn.Embedding, nn.EmbeddingBag))
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert_balanced(trace)


def test_sparse_embedding_gradients_are_measured() -> None:
    model = Written(
        lambda s, x: s.head(s.table(x).mean(1)),
        table=nn.Embedding(9, 4, sparse=True),
        head=nn.Linear(4, 3),
    )
    batch = (torch.randint(9, (5, 3)), torch.randint(3, (5,)))
    trace = look_at(model, batch, F.cross_entropy)
    grad = plain(model, batch, F.cross_entropy).grads["table.weight"]
    assert grad is not None
    by_name = {p.name: p.log10_grad for p in trace.parameters}
    assert by_name["table.weight"] == pytest.approx(math.log10(grad.to_dense().norm().item()))


# --- closed forms ---


def orthogonal_chain(gains: list[float], width: int = 16) -> nn.Sequential:
    layers = []
    for gain in gains:
        layer = nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(layer.weight, gain)
        layers.append(layer)
    return nn.Sequential(*layers)


def data(width: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(8, width), torch.randn(8, width)


@pytest.mark.parametrize("gain", [0.1, 0.9, 1.0, 3.0])
def test_scaled_orthogonal_layers_cost_their_gain_each(gain: float) -> None:
    with torch.no_grad():
        model = orthogonal_chain([gain] * 40).double()
        for layer in model:
            nn.init.orthogonal_(layer.weight, gain)
    trace = look_at(model, data(), F.mse_loss)
    assert trace.total_decades == pytest.approx(40 * math.log10(gain), abs=1e-10)
    assert [op.own_decades for op in trace.weights] == pytest.approx(
        [math.log10(gain)] * 40, abs=1e-12
    )
    assert trace.ledger is not None
    assert trace.ledger.by_cause == {"weights": pytest.approx(40 * math.log10(gain), abs=1e-10)}
    assert trace.is_chain
    assert trace.chain_depth == 40


def test_a_diagonal_net_has_the_gain_of_its_product() -> None:
    diagonals = torch.rand(5, 16, dtype=torch.float64) + 0.5
    model = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(5))).double()
    with torch.no_grad():
        for layer, diagonal in zip(model, diagonals, strict=True):
            layer.weight.copy_(torch.diag(diagonal))
    x, y = data()
    trace = look_at(model, (x, y), F.mse_loss)
    error = x.double() * diagonals.prod(0) - y.double()
    expected = math.log10(float((error * diagonals.prod(0)).norm() / error.norm()))
    assert trace.total_decades == pytest.approx(expected, abs=1e-12)


def test_an_identity_residual_doubles_the_gradient() -> None:
    model = nn.Sequential(nn.Linear(16, 16), *(Residual(nn.Identity()) for _ in range(10)))
    trace = look_at(model, data(), F.mse_loss)
    entries = modules(trace)
    assert [entries[str(i), 0].own_decades for i in range(1, 11)] == pytest.approx(
        [math.log10(2)] * 10, abs=1e-12
    )


def test_rezero_with_alpha_zero_is_the_identity() -> None:
    # GIVEN x + 0 * f(x), at which the branch gets an exactly zero gradient
    model = nn.Sequential(*(Residual(mlp_part(), 0.0) for _ in range(20)))
    with torch.no_grad():
        first = nn.Linear(6, 6, bias=False)
        nn.init.orthogonal_(first.weight)
    trace = look_at(nn.Sequential(first, model), (torch.randn(5, 6), torch.randn(5, 6)), F.mse_loss)
    assert trace.total_decades == pytest.approx(0.0, abs=1e-6)
    assert_balanced(trace)
    assert all(p.exact_zero for p in trace.parameters if "inner" in p.name)
    assert all(p.log10_grad == -math.inf for p in trace.parameters if "inner" in p.name)


def test_a_learned_rezero_alpha_has_a_gradient_at_zero() -> None:
    class ReZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.zeros(()))
            self.inner = mlp_part()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.alpha * self.inner(x)

    model = nn.Sequential(*(ReZero() for _ in range(20)))
    trace = look_at(model, (torch.randn(5, 6), torch.randn(5, 6)), F.mse_loss)
    assert trace.total_decades == pytest.approx(0.0, abs=1e-12)
    alphas = [p for p in trace.parameters if p.name.endswith("alpha")]
    assert not any(p.exact_zero for p in alphas)


def test_the_hundred_layer_sigmoid_net_splits_as_known() -> None:
    specimen = build("mlp", depth=100, activation="sigmoid", width=64)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    assert trace.ledger is not None
    causes = trace.ledger.by_cause
    # A sigmoid's slope is at most 1/4, and nearly that while the signal is small;
    # torch's default weights are uniform with E[w^2] = 1 / (3 fan_in).
    assert causes["activation-derivative"] == pytest.approx(100 * math.log10(1 / 4), abs=1.5)
    assert causes["weights"] == pytest.approx(100 * math.log10(math.sqrt(1 / 3)), abs=2.0)
    assert causes["activation-derivative"] <= 100 * math.log10(1 / 4)
    assert trace.total_decades == pytest.approx(sum(causes.values()), abs=1e-9)
    assert_balanced(trace)


# --- books that do not balance ---


def test_one_norm_measured_wrongly_shows_as_unexplained(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a chain whose last booked norm (that of the input's gradient) is misread by 1 %
    specimen = build("mlp", depth=5)
    honest = backward.tally

    def tampered(*args: Any, **kwargs: Any) -> backward.Tally:
        found = honest(*args, **kwargs)
        last = list(args[0].nodes)[-2]  # the first layer; after it only the probe's own copy
        for key, position in found.passed:
            if key == last:
                found.passed[key, position] += math.log10(1.01)
        return found

    monkeypatch.setattr(backward, "tally", tampered)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    # THEN the second opinion disagrees by just that
    assert trace.ledger is not None
    assert trace.ledger.unexplained_decades == pytest.approx(math.log10(1.01), abs=1e-9)


@pytest.mark.parametrize("where", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("table", ["passed", "totals"])
def test_one_operation_measured_wrongly_shows_as_imbalance(
    table: str, where: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN what one inner operation sends or gets is misread: it cancels out of every sum
    specimen = build("mlp", depth=6)
    honest = backward.tally

    def tampered(*args: Any, **kwargs: Any) -> backward.Tally:
        found = honest(*args, **kwargs)
        wrong = getattr(found, table)
        wrong[list(wrong)[int(len(wrong) * where)]] += 0.5
        return found

    monkeypatch.setattr(backward, "tally", tampered)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    # THEN two measurements of one gradient contradict each other
    assert trace.ledger is not None
    assert trace.ledger.imbalance == pytest.approx(0.5, abs=1e-9)


def test_a_fork_measured_wrongly_shows_as_imbalance(monkeypatch: pytest.MonkeyPatch) -> None:
    specimen = build("residual_mlp", depth=4)
    honest = backward.tally

    def tampered(*args: Any, **kwargs: Any) -> backward.Tally:
        found = honest(*args, **kwargs)
        forks = list(found.groups)
        found.totals[forks[len(forks) // 2]] += 0.5
        return found

    monkeypatch.setattr(backward, "tally", tampered)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    assert trace.ledger is not None
    assert trace.ledger.imbalance == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("scale", [1.001, 0.5])
def test_a_norm_function_that_lies_is_found_out(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a kernel that misreads the norm of every tensor of the input's shape
    specimen = build("mlp", depth=3, features=17)
    honest = backward.norm

    class Liar:
        on = False

        def norm(self, grad: Tensor) -> Tensor:
            wrong = self.on and grad.shape == (32, 17)
            return honest(grad) * (scale if wrong else 1.0)

    liar = Liar()
    tally = backward.tally

    def lying_tally(*args: Any, **options: Any) -> Any:
        liar.on = True
        try:
            return tally(*args, **options)
        finally:
            liar.on = False

    monkeypatch.setattr(backward, "norm", liar.norm)
    monkeypatch.setattr(backward, "small_array", lambda grad: None)  # all norms are asked of it
    monkeypatch.setattr(backward, "tally", lying_tally)
    trace = look_at(specimen.model, specimen.batch, specimen.loss_fn)
    assert trace.ledger is not None
    assert trace.ledger.unexplained_decades == pytest.approx(abs(math.log10(scale)), abs=1e-9)


# --- random graphs ---


class Graph(nn.Module):
    """A random network: each node joins earlier tensors by a sum, a product or a concat."""

    def __init__(self, plan: list[tuple[str, int, int, int]], width: int = 4) -> None:
        super().__init__()
        self.plan = plan
        self.parts = nn.ModuleList()
        for kind, _, _, nested in plan:
            part: nn.Module = nn.Linear(2 * width if kind == "cat" else width, width)
            part = nn.Sequential(part, nn.Tanh() if nested % 2 else nn.Softplus())
            if nested > 1 and kind != "cat":
                part = Residual(part)
            if nested > 2:
                part = nn.Sequential(part, mlp_part(width))
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for (kind, a, b, _), part in zip(self.plan, self.parts, strict=True):
            left, right = made[a % len(made)], made[b % len(made)]
            if kind == "cat":
                made.append(part(torch.cat([left, right], 1)))
            elif kind == "mul":
                made.append(part(left * right))
            elif kind == "add":
                made.append(part(left + right))
            else:
                made.append(part(left))
        return made[-1] + made[len(made) // 2]


PLANS = st.lists(
    st.tuples(
        st.sampled_from(["cat", "mul", "add", "one"]),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plan=PLANS, seed=st.integers(0, 10))
def test_random_graphs_balance(plan: list[tuple[str, int, int, int]], seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 4), Graph(plan), nn.Tanh(), Graph(plan[::-1]))
        batch = (torch.randn(3, 4), torch.randn(3, 4))
        trace = look_at(model, batch, F.mse_loss)
        twin = plain(model, batch, F.mse_loss, borders=True)
    assert trace.total_decades == pytest.approx(twin.total, abs=1e-9)
    assert_balanced(trace)
    for (path, call), entry in modules(trace).items():
        expected = twin.gains[path][call]
        if expected is not None and entry.own_decades is not None:
            assert entry.own_decades == pytest.approx(expected, abs=1e-9)
