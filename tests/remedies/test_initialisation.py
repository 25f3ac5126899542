"""Who is drawn anew, how, and when not: each remedy of the initialisation on small trainings."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from cases_initialisation import (
    SUBJECTS,
    convolutions,
    every_weight,
    mlp,
    pictures,
    scale,
    training,
    vectors,
)
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

import gradmend
from gradmend.engine.diagnose import diagnose
from gradmend.engine.examine import with_optimizer
from gradmend.engine.predictions import check_predictions
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import Remedy, find
from gradmend.remedies.centre_activations import reach
from gradmend.theory.identity_paths import residual_branches
from gradmend.zoo.specimen import build

ROOM = (
    "balance-layers", "break-symmetry", "centre-activations", "centre-bias", "critical-init",
    "delta-orthogonal-init",
    "fixup-init", "he-init", "lecun-init", "looks-linear-init", "orthogonal-init", "redraw-layer",
    "rescale-by-data",
    "revive-dead-units", "xavier-init", "zero-init-residual",
)  # fmt: skip


def seen(subject: Subject) -> tuple[Trace, tuple[Finding, ...]]:
    trace = look(subject.model, subject.batches[0], Feeder(loss_fn=subject.loss_fn))
    trace = with_optimizer(trace, subject.optimizer, subject.model)
    return trace, diagnose(trace).findings


def answers(subject: Subject) -> dict[str, list[Prescription | Refusal]]:
    """What each remedy of the room says."""
    trace, findings = seen(subject)
    found: dict[str, list[Prescription | Refusal]] = {}
    for name in ROOM:
        remedy = find(name)
        assert isinstance(remedy, Remedy)
        treated = tuple(
            f for f in findings if f.name in remedy.treats and f.severity is not Severity.NOTE
        )
        if treated:
            found[name] = [
                a for a in remedy(treated, trace) if isinstance(a, Prescription | Refusal)
            ]
    return found


def prescribed(subject: Subject) -> dict[str, list[Prescription]]:
    every = {
        name: [a for a in given if isinstance(a, Prescription)]
        for name, given in answers(subject).items()
    }
    return {name: given for name, given in every.items() if given}


@cache
def for_case(case: str) -> dict[str, list[Prescription]]:
    return prescribed(SUBJECTS[case](0))


def zoo(name: str, **args: object) -> Subject:
    made = build(name, seed=0, **args)
    return Subject(made.model, made.batches, made.loss_fn, SGD(made.model.parameters(), lr=0.01))


WHO: dict[str, set[str]] = {
    "all zero": {"break-symmetry"},
    "equal units, a regression": {"break-symmetry"},
    "one layer of residuals, a hundredfold": {"redraw-layer", "rescale-by-data"},
    "one layer before tanh fiftyfold": {"redraw-layer", "rescale-by-data"},
    "one layer ten thousandth": {"redraw-layer", "rescale-by-data"},
    "dead convolutions": {"centre-bias", "redraw-layer", "revive-dead-units", "rescale-by-data"},
    "small weights before tanh, convolutions": {
        "critical-init", "delta-orthogonal-init", "rescale-by-data",
    },
    "small weights before SELU": {"critical-init", "lecun-init", "rescale-by-data"},
    "a stack of linear maps": {"orthogonal-init", "rescale-by-data"},
}  # fmt: skip
"""Which remedies fit, of all fifteen: few, and each for its own kind of network."""


@pytest.mark.parametrize("case", WHO)
def test_only_those_answer_that_are_made_for_it(case: str) -> None:
    assert set(for_case(case)) == WHO[case]


def test_a_rectified_net_gets_hes_scale_and_a_tanh_net_glorots() -> None:
    relu = zoo("mlp", depth=12, activation="relu", init="normal", gain=0.2)
    tanh = zoo("mlp", depth=8, activation="tanh", init="normal", gain=12.0)
    assert set(prescribed(relu)) == {
        "critical-init", "he-init", "looks-linear-init", "rescale-by-data",
    }  # fmt: skip
    assert set(prescribed(tanh)) == {"critical-init", "xavier-init", "rescale-by-data"}
    # AND the leak counts
    leaky = training(
        lambda: mlp(16, lambda: nn.LeakyReLU(0.5)),  # type: ignore[arg-type]
        lambda m: every_weight(m, lambda p: p.mul_(0.1)),
    )(0)
    (drawn,) = prescribed(leaky)["he-init"]
    assert drawn.edits[0].args["gains"][0] == pytest.approx((2.0 / 1.25) ** 0.5)  # type: ignore[index]


def test_where_one_layer_is_to_blame_only_that_one_is_touched() -> None:
    for case, layer in (
        ("one layer of residuals, a hundredfold", "inner.1"),
        ("one layer ten thousandth", "4"),
        ("dead convolutions", "2"),
    ):
        for name, given in for_case(case).items():
            for prescription in given:
                touched = {t.removesuffix(".weight") for e in prescription.edits for t in e.targets}
                assert touched == {layer}, (case, name)


def test_the_layer_goes_back_to_the_gain_of_its_neighbours() -> None:
    # GIVEN He's scale, and one layer a ten thousandth of it
    first = for_case("one layer ten thousandth")["redraw-layer"][0]
    assert first.edits[0].kind == "scale_to_gain"
    assert first.edits[0].args["gains"][0] == pytest.approx(2**0.5, rel=0.1)  # type: ignore[index]
    # WHEN it is applied to the same model THEN it is what it was before the fault
    sick, healthy = (
        training(lambda: mlp(6, nn.ReLU, he=True), lambda m, f=f: scale(m, "4", f))(0)
        for f in (1e-4, 1.0)
    )
    gradmend.apply(first, sick.model)
    a, b = sick.model[4].weight, healthy.model[4].weight  # type: ignore[index]
    ratio = (a / b).detach()
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert float(ratio.mean()) == pytest.approx(1.0, rel=0.15)


def test_a_layer_of_equal_weights_is_not_scaled_but_drawn() -> None:
    sick = training(
        lambda: mlp(6, nn.ReLU, he=True), lambda m: nn.init.constant_(m[4].weight, 1e-7)
    )(0)
    given = prescribed(sick).get("redraw-layer", [])
    assert [p.edits[0].kind for p in given] == ["initialise"]


def test_what_follows_from_another_cause_is_left_to_that_cause() -> None:
    # GIVEN dead units that another finding accounts for
    trace, findings = seen(SUBJECTS["dead convolutions"](0))
    explained = tuple(
        replace(f, explained_by="learning-rate-too-high") for f in findings if f.name == "dead-relu"
    )
    assert explained
    for name in ("critical-init", "centre-bias", "he-init", "redraw-layer", "rescale-by-data",
                 "revive-dead-units"):  # fmt: skip
        remedy = find(name)
        assert isinstance(remedy, Remedy)
        (answer,) = remedy(explained, trace)
        assert isinstance(answer, Refusal)
        assert "learning-rate-too-high" in answer.reason


def test_zero_and_equal_weights_are_drawn_in_every_kind_of_layer() -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.cell = nn.GRU(8, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            h = h + self.attend(h, h, h, need_weights=False)[0]
            logits: Tensor = self.head(self.cell(h)[0][:, -1])
            return logits

    model = Everything()
    every_weight(model, lambda p: p.zero_())
    x = torch.randint(9, (16, 5))
    subject = Subject(model, [(x, x[:, 0] % 3)], F.cross_entropy, SGD(model.parameters(), lr=0.1))
    # WHEN it is looked at and mended
    (drawn,) = prescribed(subject)["break-symmetry"]
    gradmend.apply(drawn, model)
    # THEN no matrix is zero, blocks differ, biases are as they were
    for name, parameter in model.named_parameters():
        assert bool(parameter.detach().any()) == (parameter.dim() > 1), name
    query, key, value = model.attend.in_proj_weight.detach().chunk(3)
    assert not torch.equal(query, key)
    assert not torch.equal(key, value)


def test_weights_that_begin_at_zero_on_purpose_stay() -> None:
    # GIVEN branches, a head or an adapter's second factor at zero THEN nobody speaks of them
    for name, args in (
        ("begun", {"init": "zero head"}),
        ("residual_stack", {"init": "fixup"}),
        ("adapter", {"zero": "second"}),
    ):
        assert "break-symmetry" not in prescribed(zoo(name, **args))


def test_frozen_shared_and_tied_layers_are_refused() -> None:
    # GIVEN a guilty layer that must not be drawn
    sick = SUBJECTS["one layer ten thousandth"](0)
    sick.model[4].requires_grad_(False)  # type: ignore[index]
    assert "redraw-layer" not in prescribed(sick)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 16)
            self.body = mlp(8, nn.Tanh, width=16)
            self.inner = nn.Linear(16, 12)
            self.out = nn.Linear(4, 16)

        def forward(self, x: Tensor) -> Tensor:
            h = self.out(self.body(self.inner(self.embed(x).mean(1))))
            return h @ self.embed.weight.T

    model = Tied()
    every_weight(model, lambda p: p.normal_(0.0, 0.02))
    x = torch.randint(12, (24, 5))
    subject = Subject(model, [(x, x[:, 0])], F.cross_entropy, SGD(model.parameters(), lr=0.1))
    for given in prescribed(subject).values():
        for prescription in given:
            for edit in prescription.edits:
                assert "embed.weight" not in edit.targets


def test_residual_branches_are_told_from_what_they_are_added_to() -> None:
    # GIVEN blocks of two layers, with and without norms and shortcuts
    for args in ({}, {"norm": "batch"}, {"convolutional": True}):
        subject = zoo("residual_stack", depth=3, **args)
        trace, _ = seen(subject)
        found = residual_branches(trace)
        assert [[op.module for op in b.weights] for b in found] == [
            [f"{at}.inner", f"{at}.outer"] for at in (1, 2, 3)
        ]
        assert not any(b.norm for b in found), "the norm is at the entrance"

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short = nn.Conv2d(2, 4, 1)
            self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(x)
            h = self.short(h) + self.norm(self.b(F.relu(self.a(h))))
            logits: Tensor = self.head(h.mean((2, 3)))
            return logits

    model = Shortcut()
    x, y = torch.randn(8, 2, 5, 5), torch.randint(3, (8,))
    trace = look(model, (x, y), Feeder(loss_fn=F.cross_entropy))
    (branch,) = residual_branches(trace)
    assert [op.module for op in branch.weights] == ["a", "b"]
    assert branch.norm == "norm"


def test_growing_residuals_begin_at_zero_and_other_weights_are_kept() -> None:
    subject = zoo("residual_stack", depth=16)
    found = prescribed(subject)
    assert {"zero-init-residual", "fixup-init"} <= set(found)
    assert not {"critical-init", "he-init"} & set(found)
    (zeroed,) = found["zero-init-residual"]
    assert zeroed.edits[0].targets == tuple(f"{at}.outer.weight" for at in range(1, 17))
    (fixup,) = found["fixup-init"]
    # L^(-1/(2m-2)) with m = 2 is L^-1/2
    assert sorted(set(fixup.edits[0].args["factors"])) == [0.0, pytest.approx(0.25)]  # type: ignore[arg-type]
    for prescription in (zeroed, fixup):
        fresh = zoo("residual_stack", depth=16)
        gradmend.apply(prescription, fresh.model)
        trace, findings = seen(fresh)
        assert all(c.held for c in check_predictions(prescription.predictions, trace))
        assert "residual-growth" not in {f.name for f in findings}


def test_a_checkpoint_is_balanced_and_computes_the_same() -> None:
    subject = SUBJECTS["a checkpoint, rescaled"](0)
    found = prescribed(subject)
    (balanced,) = found["balance-layers"]
    assert balanced.keeps_function
    x = subject.batches[0][0]
    was = subject.model(x).detach()
    gradmend.apply(balanced, subject.model)
    assert torch.equal(subject.model(x).detach(), was)
    trace, _ = seen(subject)
    assert all(c.held for c in check_predictions(balanced.predictions, trace))
    # AND an untrained network whose product is wrong is not balanced but mended
    assert "balance-layers" not in for_case("one layer ten thousandth")


def test_revived_units_keep_a_trained_networks_function() -> None:
    # GIVEN a trained network of which most of one layer died
    subject = training(lambda: mlp(3, nn.ReLU, he=True), lambda model: None)(0)
    for x, y in subject.batches:
        subject.optimizer.zero_grad()
        F.cross_entropy(subject.model(x), y).backward()
        subject.optimizer.step()
    with torch.no_grad():
        subject.model[2].bias[:28] = -50.0  # type: ignore[index]
    (revived,) = prescribed(subject)["revive-dead-units"]
    assert revived.keeps_function
    x = subject.batches[0][0]
    was = subject.model(x).detach()
    gradmend.apply(revived, subject.model, batches=subject.batches, loss_fn=F.cross_entropy)
    torch.testing.assert_close(subject.model(x).detach(), was, rtol=1e-5, atol=1e-6)


DRIFTING = ("gelu", "silu", "mish", "softplus")


@pytest.mark.parametrize("name", DRIFTING)
def test_activations_whose_scale_drifts_keep_gradient_and_signal_all_the_same(name: str) -> None:
    subject = training(
        lambda: mlp(24, {"gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish,
                         "softplus": nn.Softplus}[name], width=64),
        lambda m: every_weight(m, lambda p: p.normal_(0.0, 0.02)),
    )(0)  # fmt: skip
    critical, *_ = prescribed(subject)["critical-init"]
    gradmend.apply(critical, subject.model, seed=1)
    trace, _ = seen(subject)
    for checked in check_predictions(critical.predictions, trace):
        assert checked.held, (checked.prediction.quantity, checked.observed)


def test_an_activation_that_nobody_knows_gets_the_gain_that_was_measured() -> None:
    # GIVEN a leaky hardtanh of slope 1/2 within, under no name that theory has
    deep = training(
        lambda: mlp(14, lambda: nn.Hardtanh(-3.0, 3.0)),  # type: ignore[arg-type]
        lambda m: every_weight(m, lambda p: p.normal_(0.0, 0.03)),
    )(0)
    found = answers(deep)
    assert seen(deep)[1]
    gains = [
        gain
        for given in found.get("critical-init", [])
        if isinstance(given, Prescription)
        for gain in given.edits[0].args["gains"]  # type: ignore[union-attr]
    ]
    assert all(gain == pytest.approx(1.0, rel=0.05) for gain in gains)


HELPS: dict[str, str] = {
    "all zero": "break-symmetry",
    "one layer before tanh fiftyfold": "redraw-layer",
    "dead convolutions": "revive-dead-units",
    "small weights before SELU": "lecun-init",
    "a stack of linear maps": "orthogonal-init",
    "small weights before tanh, convolutions": "critical-init",
}


@pytest.mark.parametrize("case", HELPS)
def test_a_fresh_model_trains_with_it_and_not_without(case: str) -> None:
    (first, *_) = for_case(case)[HELPS[case]]

    def lowest(mended: bool) -> float:
        subject = SUBJECTS[case](1)
        if mended:
            gradmend.apply(
                first, subject.model, optimizer=subject.optimizer, batches=subject.batches,
                loss_fn=subject.loss_fn,
            )  # fmt: skip
        loss = torch.zeros(())
        for at in range(80):
            x, y = subject.batches[at % len(subject.batches)]
            subject.optimizer.zero_grad()
            loss = subject.loss_fn(subject.model(x), y)
            loss.backward()
            subject.optimizer.step()
        return float(loss.detach())

    assert lowest(mended=True) < 0.9 * lowest(mended=False)


def test_healthy_networks_are_asked_nothing() -> None:
    for subject in (
        training(lambda: mlp(3, nn.ReLU), lambda model: None)(0),
        training(lambda: mlp(6, nn.ReLU, he=True), lambda model: None)(0),
        zoo("cnn", depth=6), zoo("transformer"), zoo("residual_mlp"),
    ):  # fmt: skip
        assert not prescribed(subject)


def test_subjects_are_fresh_and_alike_for_one_seed() -> None:
    for build_one in SUBJECTS.values():
        a, b = build_one(3), build_one(3)
        assert all(
            torch.equal(p, q)
            for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True)
        )
    assert len(vectors(0)) == 8
    assert isinstance(convolutions(2, nn.ReLU), nn.Sequential)


# -- mirrored pairs


def deep(depth: int, act: type[nn.Module], fill: float = 0.5, rate: float = 1e-3) -> Subject:
    """A deep net whose weights are half of what torch draws, trained by Adam."""
    made = training(
        lambda: mlp(depth, act), lambda m: every_weight(m, lambda p: p.mul_(fill))
    )(0)  # fmt: skip
    return replace(made, optimizer=torch.optim.Adam(made.model.parameters(), lr=rate))


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU])
def test_a_deep_rectified_net_begins_linear_and_learns(act: type[nn.Module]) -> None:
    # GIVEN forty plain layers WHEN they are drawn in mirrored pairs
    subject = deep(40, act)
    first, *_ = prescribed(subject)["looks-linear-init"]
    gradmend.apply(first, subject.model)
    # THEN gradient and signal are kept
    trace, _ = seen(subject)
    assert all(checked.held for checked in check_predictions(first.predictions, trace))
    assert trace.total_decades == pytest.approx(0.0, abs=0.2)
    # AND it learns at the first steps, which it does at no other draw
    losses = []
    for _ in range(4):
        for x, y in subject.batches:
            subject.optimizer.zero_grad()
            loss = F.cross_entropy(subject.model(x), y)
            loss.backward()
            subject.optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SELU, nn.Mish])
def test_a_deep_net_begins_straight_and_learns_and_is_exported_as_it_was(
    act: type[nn.Module],
) -> None:
    # GIVEN forty plain layers WHEN their activations are centred on their straight side
    subject = deep(40, act)
    first, *_ = prescribed(subject)["centre-activations"]
    fixed = gradmend.apply(first, subject.model)
    # THEN gradient and signal are kept
    trace, _ = seen(subject)
    assert all(checked.held for checked in check_predictions(first.predictions, trace))
    assert trace.total_decades == pytest.approx(0.0, abs=0.3)
    # AND it learns at the first steps
    losses = []
    for _ in range(4):
        for x, y in subject.batches:
            subject.optimizer.zero_grad()
            loss = F.cross_entropy(subject.model(x), y)
            loss.backward()
            subject.optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])
    # AND what is exported has the modules that it had, and is the same function
    plain = fixed.export()
    assert {type(m) for m in plain.modules()} == {nn.Sequential, nn.Linear, act}
    x = subject.batches[0][0]
    assert torch.allclose(plain(x), subject.model(x), atol=1e-3)


def test_the_deeper_a_net_the_straighter_it_begins() -> None:
    # GIVEN what lies on the straight side, by depth: the measured places, and between them
    assert reach(100) == pytest.approx(3.0)
    assert reach(1000) == reach(100_000) == pytest.approx(6.0)
    assert 1.5 <= reach(30) <= reach(40) < reach(99)


def test_nets_that_cannot_be_straight_or_need_not_be_are_left() -> None:
    for subject, word in (
        (deep(20, nn.ReLU), "fewer than 30"),
        (deep(40, nn.Tanh), "no straight side"),
        (deep(40, nn.ReLU6), "no straight side"),
    ):
        (refused,) = answers(subject)["centre-activations"]
        assert isinstance(refused, Refusal)
        assert word in refused.reason
    # AND neither is one whose activation somebody else's layer shares, or a layer without bias
    for spoil in (share_an_activation, drop_a_bias):
        subject = deep(40, nn.ReLU)
        spoil(subject.model)
        (refused,) = answers(subject)["centre-activations"]
        assert isinstance(refused, Refusal)
        assert "not alone between plain linear layers" in refused.reason


def share_an_activation(model: nn.Module) -> None:
    places = [name for name, m in model.named_modules() if isinstance(m, nn.ReLU)]
    model.set_submodule(places[3], model.get_submodule(places[9]))


def drop_a_bias(model: nn.Module) -> None:
    [m for m in model.modules() if isinstance(m, nn.Linear)][5].bias = None


def test_a_shallow_net_and_one_of_other_activations_are_not_drawn_in_pairs() -> None:
    for subject, word in (
        (deep(9, nn.ReLU), "hidden layers"),
        (deep(14, nn.Tanh), "mirror image"),
        (deep(14, nn.ELU), "mirror image"),
    ):
        (refused,) = answers(subject)["looks-linear-init"]
        assert isinstance(refused, Refusal)
        assert word in refused.reason


def test_the_rate_comes_down_with_the_draw_where_neither_helps_alone() -> None:
    # GIVEN a rate thirty times too high for the depth
    first, second = prescribed(deep(30, nn.ReLU, rate=3e-2))["looks-linear-init"]
    # THEN both changes come as one, and the draw alone after them
    assert [edit.kind for edit in first.edits] == ["looks_linear", "scale_learning_rate"]
    assert first.edits[1].args["factor"] == pytest.approx(3e-2 / 31 / 3e-2, rel=0.05)
    assert [edit.kind for edit in second.edits] == ["looks_linear"]


def test_convolutions_begin_at_their_centre_but_for_the_first() -> None:
    subject = training(
        lambda: convolutions(24, nn.ReLU),
        lambda m: every_weight(m, lambda p: p.mul_(0.3)),
        pictures,
    )(0)
    first, *_ = prescribed(subject)["looks-linear-init"]
    assert first.edits[0].args["deltas"] == [False] + [True] * 23 + [False]
    gradmend.apply(first, subject.model)
    trace, _ = seen(subject)
    assert all(checked.held for checked in check_predictions(first.predictions, trace))
