"""Which activation is put where, when it is refused, and that it helps."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.engine.diagnose import diagnose
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.layers import CentredSigmoid, Tailored
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.prescription import Change, Prescription
from gradmend.theory.activation_choice import ELU_DEPTH, SELU_DEPTH, worth_trying
from gradmend.theory.tailoring import SMOOTH, leaky_correlation, leaky_tat, solved

GENERATOR = torch.Generator().manual_seed(3)
PATTERNS = torch.randn(4, 16, generator=GENERATOR)


def data(size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (size,), generator=generator)
    return PATTERNS[y] + 0.5 * torch.randn(size, 16, generator=generator), y


def mlp(depth: int, activation: Any = nn.Sigmoid, width: int = 32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(width if number else 16, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def treated(model: nn.Module, batch: Any = None) -> Candidates:
    batch = data() if batch is None else batch
    trace = look(model, batch, Feeder(loss_fn=F.cross_entropy))
    return prescribe(diagnose(trace).findings, trace)


def of(found: Candidates, remedy: str) -> list[Prescription]:
    return [p for p in found.prescriptions if p.remedies == (remedy,)]


def refusal(found: Candidates, remedy: str) -> str:
    reasons = [r.reason for r in found.refusals if r.remedy == remedy]
    assert reasons, f"{remedy} did not refuse"
    return reasons[0]


def put_in(found: list[Prescription]) -> list[str]:
    return [str(p.edits[0].args["module"]) for p in found]


def accuracy_after(prescription: Prescription | None, model: nn.Module, steps: int = 60) -> float:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    if prescription is not None:
        fixed = gradmend.apply(
            prescription, model, optimizer=optimizer, batches=[data()], loss_fn=F.cross_entropy
        )
        model = fixed.model
    for step in range(steps):
        x, y = data(seed=step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = data(400, seed=999)
    return float((model.eval()(x).argmax(1) == y).float().mean())


# -- what is prescribed


def test_shallow_sigmoids_become_relu_or_elu_each_with_its_own_gain() -> None:
    found = of(treated(mlp(10)), "replace-activation")
    assert put_in(found) == ["ReLU", "ELU"]
    gains = [p.edits[1].args["gains"] for p in found]
    assert gains[0] == pytest.approx([math.sqrt(2)] * 10)
    assert gains[1][0] == pytest.approx(1.2, abs=0.1)  # type: ignore[index]
    assert all(p.changes == (Change.INITIALISATION, Change.ACTIVATION) for p in found)


def test_deep_sigmoids_become_tanh_first_and_selu_gets_normal_weights() -> None:
    found = of(treated(mlp(25)), "replace-activation")
    assert put_in(found) == ["Tanh", "ELU", "SELU"]
    selu = found[2].edits[1]
    assert selu.args["scheme"] == "normal"
    assert selu.args["gains"] == [1.0] * 25


@given(
    depth=st.integers(1, 2000),
    function=st.sampled_from(["sigmoid", "relu", "tanh", "gelu", "softplus", "elu"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@settings(max_examples=40, deadline=None)
def test_choices_are_few_new_and_fit_the_depth(
    depth: int, function: str, flags: tuple[bool, bool, bool]
) -> None:
    convolutional, died, transformer = flags
    found = worth_trying(
        function, depth, convolutional=convolutional, died=died, transformer=transformer
    )
    names = [c.module for c in found]
    assert len(found) == len(set(names)) <= 3
    assert all(c.function != function and 0.3 < c.gain < 5.0 for c in found)
    if not died:
        assert "SELU" not in names or depth <= SELU_DEPTH
        assert "ELU" not in names or depth <= ELU_DEPTH


def test_units_that_died_become_leaky_in_the_guilty_layer_only() -> None:
    # GIVEN one layer of several switched off by its bias
    model = mlp(5, nn.ReLU)
    with torch.no_grad():
        model[4].bias.fill_(-40.0)  # type: ignore[union-attr]
    found = of(treated(model), "replace-activation")
    # THEN only its activation is replaced, and only its weights are drawn anew
    assert put_in(found) == ["LeakyReLU", "ELU"]
    for prescription in found:
        assert prescription.edits[0].targets == ("5",)
        assert prescription.edits[1].targets == ("4.weight",)


def test_an_activation_registered_twice_is_replaced_in_both_places() -> None:
    act = nn.Sigmoid()
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(10):
        layers += [nn.Linear(32 if number else 16, 32), act]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    (first, *_) = of(treated(model), "replace-activation")
    gradmend.apply(first, model)
    assert not any(isinstance(m, nn.Sigmoid) for m in model.modules())


# -- near misses


def test_weights_drawn_too_small_are_not_the_activations_fault() -> None:
    # GIVEN tanh, and few ReLU layers, with tiny weights
    for model in (mlp(8, nn.Tanh), mlp(12, nn.ReLU)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.2)
        found = treated(model)
        assert not of(found, "replace-activation")
        assert not of(found, "scale-sigmoid")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        result: Tensor = self.head(x)
        return result


def test_functional_activations_are_refused_with_the_change_of_the_source() -> None:
    found = treated(Functional())
    assert "called as a function" in refusal(found, "replace-activation")
    (advice,) = [a for a in found.advice if a.remedy == "replace-activation"]
    assert "sigmoid" in advice.before
    assert "relu" in advice.after
    assert advice.source is not None
    assert "test_activations.py" in advice.source
    for remedy in ("scale-sigmoid", "tailor-activation"):
        assert "function" in refusal(found, remedy)


def test_gates_are_left_alone() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(10)
            self.gate, self.open = nn.Linear(16, 4), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(x) * self.open(self.gate(x))
            return result

    for prescription in of(treated(Gated()), "replace-activation"):
        assert "open" not in prescription.edits[0].targets


# -- sigmoids


def test_sigmoids_between_linear_layers_are_left_to_centred_coordinates() -> None:
    found = treated(mlp(10))
    assert of(found, "centre-coordinates")
    assert "fold away wholly" in refusal(found, "scale-sigmoid")


def test_sigmoids_behind_convolutions_are_scaled_and_the_last_row_folds() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(8):
        layers += [nn.Conv1d(6 if number else 1, 6, 3, padding=1), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 4))
    x, y = data()
    (found,) = of(treated(model, (x[:, None], y)), "scale-sigmoid")
    assert len(found.edits[0].targets) == 8
    assert (
        found.edits[0].args["readers"] == [[]] * 7 + [["17"]]
        or found.edits[0].args["readers"] == [[]] * 8
    )
    assert found.edits[1].args["gains"][0] == pytest.approx(1.25, abs=0.25)  # type: ignore[index]


# -- tailoring


def naive_correlation(slope: float, depth: int) -> float:
    """E[phi(u) phi(v)] on a fine grid, layer after layer."""
    z = torch.linspace(-8, 8, 641, dtype=torch.float64)
    w = torch.exp(-z * z / 2)
    w = w / w.sum()
    scale, c = math.sqrt(2 / (1 + slope**2)), 0.0
    for _ in range(depth):
        v = c * z[:, None] + math.sqrt(max(0.0, 1 - c * c)) * z[None, :]
        phi = [F.leaky_relu(t, slope) * scale for t in (z[:, None].expand_as(v), v)]
        c = float((w[:, None] * w[None, :] * phi[0] * phi[1]).sum())
    return c


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
def test_the_correlation_map_of_leaky_relu_is_that_of_a_grid(slope: float) -> None:
    c = 0.0
    for _ in range(4):
        c = leaky_correlation(c, slope)
    assert c == pytest.approx(naive_correlation(slope, 4), abs=2e-3)


@pytest.mark.parametrize(("depth", "slope"), [(50, 0.431), (100, 0.570), (1000, 0.844)])
def test_slopes_of_leaky_tat_are_those_of_the_package(depth: int, slope: float) -> None:
    found = leaky_tat(depth)
    assert found is not None
    assert found.negative_slope == pytest.approx(slope, abs=1e-3)


@given(depth=st.integers(1, 300))
@settings(max_examples=10, deadline=None)
def test_leaky_tat_ends_at_its_correlation_and_is_none_where_relu_stays_below(depth: int) -> None:
    found = leaky_tat(depth)
    c = 0.0
    for _ in range(depth):
        c = leaky_correlation(c, found.negative_slope if found else 0.0)
    assert c == pytest.approx(0.9, abs=1e-6) if found else c <= 0.9


def test_deep_relus_are_bent_and_shallow_ones_are_not() -> None:
    (found,) = of(treated(mlp(24, nn.ReLU)), "tailor-activation")
    assert found.edits[0].args["function"] == "leaky_relu"
    assert found.edits[1].args["gains"] == [1.0] * 24
    model = mlp(24, nn.ReLU, seed=5)
    gradmend.apply(found, model)
    assert sum(isinstance(m, Tailored) for m in model.modules()) == 24


def test_skips_and_norms_are_refused() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body = nn.Linear(16, 16), mlp(14)
            self.body[-1] = nn.Linear(32, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            result: Tensor = self.head(1e-6 * h + self.body(h))
            return result

    found = treated(Skip())
    for remedy in ("tailor-activation", "shape-kernel"):
        reasons = [r.reason for r in found.refusals if r.remedy == remedy]
        assert not of(found, remedy)
        assert all("plain chains" in reason for reason in reasons)


# Found by dks 0.1.2, the authors' package: function, method, depth, alpha, |beta|, gamma.
DKS = [
    ("tanh", "TAT", 10, 0.18463840, 0.55736658, 7.2349565),
    ("softplus", "TAT", 10, 0.49620301, 0.56000716, 3.1538852),
    ("gelu_tanh", "TAT", 100, 0.05761299, 0.32615876, 23.096257),
    ("tanh", "DKS", 100, 0.09043794, 0.56010669, 14.902526),
    ("softplus", "DKS", 10, 0.81027954, 0.41900041, 2.0465172),
    ("sigmoid", "DKS", 100, 0.18087589, 1.12021338, 29.805052),
]


@pytest.mark.parametrize(("function", "method", "depth", "alpha", "beta", "gamma"), DKS)
def test_constants_are_those_of_the_authors_package(
    function: str, method: str, depth: int, alpha: float, beta: float, gamma: float
) -> None:
    found = solved(function, method, depth)
    assert found is not None
    # of an odd function's two mirror images, either
    got = (found.input_scale, abs(found.input_shift), found.output_scale)
    assert got == pytest.approx((alpha, beta, gamma), rel=1e-5)


@given(depth=st.integers(10, 400), function=st.sampled_from(SMOOTH))
@settings(max_examples=15, deadline=None)
def test_a_shaped_kernel_keeps_what_it_promises(depth: int, function: str) -> None:
    c = solved(function, "DKS", depth)
    assert c is not None
    # Q(1) = 1, C(0) = 0 and C'(1) = 1.5 ^ (1 / depth), by a sum over a fine grid
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64, requires_grad=True)
    w = torch.exp(-(z.detach() ** 2) / 2)
    w = w / w.sum()
    phi = Tailored(
        function, input_scale=c.input_scale, input_shift=c.input_shift,
        output_scale=c.output_scale, output_shift=c.output_shift,
    ).double()(z)  # fmt: skip
    (slope,) = torch.autograd.grad(phi.sum(), z)
    assert float((w * phi.detach() ** 2).sum()) == pytest.approx(1.0, abs=1e-3)
    assert float((w * phi.detach()).sum()) == pytest.approx(0.0, abs=1e-3)
    assert float((w * slope**2).sum()) == pytest.approx(1.5 ** (1 / depth), abs=1e-3)


# -- that it helps


def test_repaired_networks_train_where_the_original_does_not() -> None:
    assert accuracy_after(None, mlp(10, seed=7)) < 0.5
    found = treated(mlp(10))
    for remedy in ("replace-activation", "centre-coordinates"):
        assert accuracy_after(of(found, remedy)[0], mlp(10, seed=7)) > 0.9, remedy
    assert accuracy_after(None, mlp(24, nn.ReLU, seed=7)) < 0.5
    (bent,) = of(treated(mlp(24, nn.ReLU)), "tailor-activation")
    assert accuracy_after(bent, mlp(24, nn.ReLU, seed=7)) > 0.9
    fixed = gradmend.apply(of(found, "centre-coordinates")[0], mlp(10, seed=8))
    assert any(isinstance(m, CentredSigmoid) for m in fixed.model.modules())
