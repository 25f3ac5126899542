"""Which norm is put where, when it is refused, and that it helps."""

from typing import Any

import pytest
import torch
from cases_activations import SUBJECTS
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.engine.diagnose import diagnose
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.layers import Followed
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Advice, Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import Remedy, find
from gradmend.theory.norm_choice import groups_of
from gradmend.theory.norm_gain import decades_per_norm

INSERTIONS = ("insert-batch-norm", "insert-group-norm", "insert-layer-norm", "insert-rms-norm")


def seen(model: nn.Module, batch: Any) -> Trace:
    return look(model, batch, Feeder(loss_fn=F.cross_entropy))


def treated(model: nn.Module, batch: Any) -> Candidates:
    trace = seen(model, batch)
    return prescribe(diagnose(trace).findings, trace)


def of(found: Candidates, remedy: str) -> list[Prescription]:
    return [p for p in found.prescriptions if p.remedies == (remedy,)]


def refusal(found: Candidates, remedy: str) -> str:
    reasons = [r.reason for r in found.refusals if r.remedy == remedy]
    assert reasons, f"{remedy} did not refuse"
    return reasons[0]


def inserted(found: Candidates) -> dict[str, Prescription]:
    return {name: p for name in INSERTIONS for p in of(found, name)}


def accused(name: str, *modules: str) -> tuple[Finding, ...]:
    """A finding as a rule over a run would make it."""
    return (Finding(code="X", name=name, severity=Severity.ERROR, modules=modules, summary=""),)


def answer(remedy: str, finding: tuple[Finding, ...], trace: Trace) -> list[Any]:
    found = find(remedy)
    assert isinstance(found, Remedy)
    return list(found(finding, trace))


def mlp(depth: int, activation: Any, norm: bool = False, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Linear(32 if number else 16, 32))
        if norm:
            layers.append(nn.BatchNorm1d(32))
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(32, 4))


def data(size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    patterns = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (size,), generator=generator)
    return patterns[y] + 0.5 * torch.randn(size, 16, generator=generator), y


# -- what a norm does to the gradient


@pytest.mark.parametrize(
    ("function", "norm", "decades"),
    [
        ("relu", "BatchNorm", 0.0832),  # sqrt(pi / (pi - 1)), Yang et al. 2019
        ("relu", "LayerNorm", 0.0),
        ("sigmoid", "LayerNorm", -0.408),
        ("tanh", "RMSNorm", 0.0355),
    ],
)
def test_the_gain_of_a_norm_is_that_of_the_literature(
    function: str, norm: str, decades: float
) -> None:
    assert decades_per_norm(function, norm) == pytest.approx(decades, abs=5e-4)


def test_the_gain_of_batch_norm_is_what_a_wide_net_shows() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 256, dtype=torch.float64, requires_grad=True)
    hidden = [x]
    for _ in range(6):
        x = F.linear(x, torch.randn(256, 256, dtype=torch.float64) / 16)
        x = torch.relu((x - x.mean(0)) / x.std(0))
        hidden.append(x)
    first, last = torch.autograd.grad(x, [hidden[1], hidden[5]], torch.randn_like(x))
    assert float(torch.log10(first.norm() / last.norm())) / 4 == pytest.approx(0.0832, abs=0.02)


@given(channels=st.integers(1, 2048))
def test_groups_divide_the_channels_and_are_not_too_small(channels: int) -> None:
    groups = groups_of(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= 4


# -- which one


def test_a_shallow_perceptron_on_large_batches_gets_batch_norm_only() -> None:
    found = treated(mlp(10, nn.Sigmoid), data())
    assert list(inserted(found)) == ["insert-batch-norm"]
    prescription = inserted(found)["insert-batch-norm"]
    assert prescription.changes == (Change.NORMALISATION,)
    assert prescription.edits[0].targets == tuple(str(2 * n) for n in range(10))


def test_many_relus_in_a_row_get_no_norm_at_all() -> None:
    found = treated(mlp(26, nn.ReLU), data())
    assert not inserted(found)
    assert "multiply the gradient" in refusal(found, "insert-batch-norm")
    assert "all alike" in refusal(found, "insert-layer-norm")


def test_layer_norm_is_not_put_into_sigmoid_chains() -> None:
    found = treated(mlp(10, nn.Sigmoid), data(size=8))
    assert not inserted(found)
    assert "8 samples" in refusal(found, "insert-batch-norm")
    assert "leave of the gradient" in refusal(found, "insert-layer-norm")


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("positions of sequences", "insert-layer-norm"),
        ("positions without biases", "insert-rms-norm"),
        ("convolutions on small batches", "insert-group-norm"),
        ("sigmoids behind convolutions", "insert-batch-norm"),
    ],
)
def test_each_kind_has_its_place(case: str, remedy: str) -> None:
    # GIVEN a training of which only one kind of norm suits
    subject = SUBJECTS[case](0)
    found = treated(subject.model, subject.batches[0])
    assert list(inserted(found)) == [remedy]
    # THEN it fits a fresh model of another seed, and keeps the gradient
    fresh = SUBJECTS[case](5)
    (prescription,) = of(found, remedy)
    fixed = gradmend.apply(prescription, fresh.model, optimizer=fresh.optimizer)
    assert any(isinstance(m, Followed) for m in fixed.model.modules())
    after = seen(fixed.model, fresh.batches[0])
    assert after.total_decades is not None
    assert abs(after.total_decades) < 3


def test_only_the_guilty_layer_is_normed() -> None:
    model = mlp(8, nn.Tanh)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
        model[6].weight.mul_(3e-3)  # type: ignore[operator, union-attr]
    found = treated(model, data())
    (prescription,) = inserted(found).values()
    assert "6" in prescription.edits[0].targets
    assert len(prescription.edits[0].targets) <= 2
    # AND none where the norm's own eps would be more than what the layer puts out
    with torch.no_grad():
        model[6].weight.mul_(1e-3)  # type: ignore[operator, union-attr]
    assert "eps" in refusal(treated(model, data()), "insert-batch-norm")


def test_models_in_evaluation_mode_and_shared_layers_get_no_batch_norm() -> None:
    assert "evaluation mode" in refusal(
        treated(mlp(10, nn.Sigmoid).eval(), data()), "insert-batch-norm"
    )
    shared = nn.Linear(16, 16)
    model = nn.Sequential(*[shared, nn.Sigmoid()] * 12, nn.Linear(16, 4))
    assert "called once" in refusal(treated(model, data()), "insert-batch-norm")


# -- weights


def test_weights_of_convolutions_are_standardised_at_the_critical_gain() -> None:
    subject = SUBJECTS["convolutions on small batches"](0)
    (found,) = of(treated(subject.model, subject.batches[0]), "standardise-weights")
    assert found.edits[0].args["gains"] == pytest.approx([2**0.5] * 16)
    assert "for convolutions" in refusal(
        treated(mlp(10, nn.Sigmoid), data()), "standardise-weights"
    )


# -- taking out


def test_batch_norms_that_explode_are_taken_out_and_layers_start_critical() -> None:
    model = mlp(40, nn.ReLU, norm=True)
    trace = seen(model, data())
    names = tuple(str(3 * n + 1) for n in range(40))
    found = answer("remove-norm", accused("batch-norm-explosion", *names), trace)
    bent, critical = found
    assert bent.edits[0].targets == names
    assert bent.edits[1].kind == "tailor_activation"
    assert critical.edits[1].args["gains"] == pytest.approx([2**0.5] * 40)
    after = seen(gradmend.apply(bent, mlp(40, nn.ReLU, norm=True, seed=4)).model, data())
    assert after.total_decades is not None
    assert abs(after.total_decades) < 2


def test_norms_that_are_not_between_layer_and_activation_are_not_taken_out() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))
    (found,) = answer("remove-norm", accused("batch-norm-explosion", "2"), seen(model, data()))
    assert isinstance(found, Refusal)


def test_starved_batch_norms_become_group_norms_with_their_parameters() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8),
        nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    x, y = data(2)
    trace = seen(model, (x.view(2, 1, 4, 4), y))
    (found,) = answer("replace-batch-norm", accused("starved-batch-norm", "1", "5"), trace)
    assert found.edits[0].args["groups"] == [4, 1]
    old = model[1].weight
    fixed = gradmend.apply(found, model)
    assert fixed.model[1].weight is old  # type: ignore[index]
    lazy = answer("replace-batch-norm", accused("starved-batch-norm", "0"), trace)
    assert isinstance(lazy[0], Refusal)


# -- modes and dropout


def test_a_model_left_in_evaluation_mode_is_put_back_and_the_loop_is_shown() -> None:
    trace = seen(mlp(3, nn.ReLU, norm=True).eval(), data())
    found = answer("restore-training-mode", accused("evaluation-mode-in-training", "1"), trace)
    prescription, advice = found
    assert isinstance(advice, Advice)
    fixed = gradmend.apply(prescription, mlp(3, nn.ReLU, norm=True).eval())
    assert all(m.training for m in fixed.model.modules())
    # a choice of parts is left alone
    chosen = mlp(3, nn.ReLU, norm=True)
    chosen[1].eval()
    (refused, _) = answer(
        "restore-training-mode", accused("evaluation-mode-in-training", "1"), seen(chosen, data())
    )
    assert isinstance(refused, Refusal)


def test_dropouts_are_lowered_each_to_its_own_and_functions_are_shown() -> None:
    trace = seen(SUBJECTS["dropout of nearly all"](0).model, data())
    found = answer("lower-dropout", accused("excessive-dropout", "2", "5"), trace)
    (prescription,) = found
    by_target = {edit.targets: edit.args["p"] for edit in prescription.edits}
    assert by_target == {("5",): 0.1, ("2",): 0.05}
    refused, advice = answer("lower-dropout", accused("excessive-dropout", ""), trace)
    assert isinstance(refused, Refusal)
    assert isinstance(advice, Advice)


# -- transformers


def test_torch_s_own_layers_become_pre_norm_and_others_are_shown() -> None:
    subject = SUBJECTS["post-norm encoder"](0)
    trace = seen(subject.model, subject.batches[0])
    norms = [f"encoder.layers.{n}.norm{k}" for n in range(12) for k in (1, 2)]
    (found,) = answer("move-norm-first", accused("post-norm-without-warm-up", *norms), trace)
    assert found.edits[0].targets == tuple(f"encoder.layers.{n}" for n in range(12))
    assert found.edits[0].args["stacks"] == ["encoder"]
    refused, advice = answer(
        "move-norm-first", accused("post-norm-without-warm-up", "blocks.0.norm"), trace
    )
    assert "by hand" in refused.reason
    assert "branch(norm(x))" in advice.after


# -- that it helps


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 80) -> float:
    for step in range(steps):
        x, y = data(seed=step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = data(400, seed=999)
    return float((model.eval()(x).argmax(1) == y).float().mean())


def test_normed_networks_train_where_the_original_does_not() -> None:
    for depth, activation, size in ((10, nn.Sigmoid, 64), (14, nn.ReLU, 8)):
        model = mlp(depth, activation, seed=7)
        assert trained(model, torch.optim.Adam(model.parameters(), lr=2e-3)) < 0.8
        (prescription,) = inserted(treated(mlp(depth, activation), data(size))).values()
        model = mlp(depth, activation, seed=7)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        fixed = gradmend.apply(prescription, model, optimizer=optimizer)
        assert trained(fixed.model, optimizer) > 0.9, activation
