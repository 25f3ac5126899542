"""Remedies of data: what is prescribed, what is refused, and one training each that it helps."""

from dataclasses import replace
from functools import cache

import cases_data
import pytest
import torch
from subjects import Subject
from torch import Tensor, nn
from torch.nn import functional as F

import gradmend
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.probe.usual import drawn_in
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Advice, Prescription, Refusal
from gradmend.records.report import Report
from gradmend.records.stats import Stats
from gradmend.records.trace import Input, Run, Trace
from gradmend.registry import Remedy, find

CASES = cases_data.SUBJECTS


@cache
def report(case: str) -> Report:
    s = CASES[case](0)
    steps = 50 if case == "a rare class" else 16  # that it is not learned shows late
    return gradmend.check(s.model, s.batches[0], s.loss_fn, optimizer=s.optimizer, steps=steps)


@cache
def candidates(case: str) -> Candidates:
    return prescribe(report(case).findings, report(case).trace)


def by(case: str, remedy: str) -> list[Prescription]:
    return [p for p in candidates(case).prescriptions if p.remedies == (remedy,)]


def refused(case: str, remedy: str) -> str:
    return next(r.reason for r in candidates(case).refusals if r.remedy == remedy)


def train(subject: Subject, prescription: Prescription | None, epochs: int = 25) -> nn.Module:
    """The user's own loop, which knows nothing of gradmend, on a fresh model of another seed."""
    model, optimizer = subject.model, subject.optimizer
    if prescription is not None:
        model = gradmend.apply(prescription, model, optimizer=optimizer).model
    for _ in range(epochs):
        for x, y in subject.batches:
            optimizer.zero_grad()
            subject.loss_fn(model(x), y).backward()
            optimizer.step()
    return model


def accuracy(model: nn.Module, subject: Subject) -> float:
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float().mean() for x, y in subject.batches]
    return float(torch.stack(right).mean())


def explained(model: nn.Module, subject: Subject) -> float:
    """Share of the targets' variance, of those that are there."""
    x, y = (torch.cat(part) for part in zip(*subject.batches, strict=True))
    with torch.no_grad():
        error = (model(x) - y)[torch.isfinite(y)]
    return float(1 - error.square().mean() / y[torch.isfinite(y)].var())


# -- targets


@pytest.mark.parametrize(
    ("case", "degree"),
    [
        ("targets in thousands, SGD", 2),
        ("targets in thousands, Adam", 2),
        ("targets in thousands, absolute error", 1),
    ],
)
def test_far_targets_are_learned_in_their_own_units(case: str, degree: int) -> None:
    # GIVEN targets of mean 5,000 WHEN a remedy is asked
    (prescription,) = by(case, "standardise-target")
    (edit,) = prescription.edits
    # THEN the last layer alone is touched, by the loss's degree
    assert edit.targets == ("4",)
    assert edit.args["degree"] == degree
    # AND another network learns them, where the unrepaired one does not
    assert explained(train(CASES[case](1), prescription), CASES[case](1)) > 0.6
    assert not explained(train(CASES[case](1), None), CASES[case](1)) > 0.1


def test_targets_behind_another_operation_or_of_several_losses_are_refused() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(12, 16), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.softplus(self.head(torch.relu(self.body(x))))

    x, y, _, _ = cases_data.drawn(0)
    model = Ends()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    found = gradmend.check(
        model, (x[:64], y[:64] * 1e3 + 5e3), F.mse_loss, optimizer=optimizer, steps=50
    )
    answers = prescribe(found.findings, found.trace)
    reasons = [r.reason for r in answers.refusals if r.remedy == "standardise-target"]
    assert reasons
    assert "between the last layer and the loss" in reasons[0]
    assert any(a.remedy == "standardise-target" for a in answers.advice), "the source can"


# -- inputs


def test_features_of_different_scales_get_figures_of_their_own() -> None:
    (prescription,) = by("features apart", "standardise-input")
    assert len(prescription.edits[0].args["mean"]) == 12  # type: ignore[arg-type]
    case = CASES["features apart"]
    assert accuracy(train(case(1), prescription), case(1)) > 0.8
    assert accuracy(train(case(1), None), case(1)) < 0.6


def test_pixels_keep_their_relations_and_channels_get_their_own() -> None:
    (pixels,) = by("pixels", "standardise-input")
    assert len(pixels.edits[0].args["mean"]) == 1  # type: ignore[arg-type]
    assert pixels.predictions
    assert not pixels.keeps_function
    (images,) = by("channels apart", "standardise-input")
    assert len(images.edits[0].args["mean"]) == 3  # type: ignore[arg-type]
    assert images.edits[0].args["trailing"] == 2
    assert images.edits[0].args["std"] == pytest.approx([4.0, 40.0, 90.0], rel=0.05)


def test_a_trained_model_keeps_its_function_first() -> None:
    # GIVEN a checkpoint whose inputs are bytes
    first, second = by("trained on pixels", "standardise-input")
    assert first.keeps_function
    assert not second.keeps_function
    # WHEN the first is applied THEN it computes what it did
    subject = CASES["trained on pixels"](0)
    x = subject.batches[0][0]
    before = subject.model(x).detach()
    made = gradmend.apply(first, subject.model, optimizer=subject.optimizer)
    after = made.model(x).detach()
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_a_few_wild_entries_are_drawn_in_and_the_scale_left_alone() -> None:
    (prescription,) = by("wild entries", "clamp-outliers")
    assert "wild" in refused("wild entries", "standardise-input")
    case = CASES["wild entries"]
    assert accuracy(train(case(1), prescription), case(1)) > 0.7
    assert accuracy(train(case(1), None), case(1)) < 0.6
    # AND an input that is out of scale as a whole is not its business
    assert "wild" in refused("pixels", "clamp-outliers")


def test_wild_targets_are_not_an_inputs_fault() -> None:
    finding = Finding(
        code="DAT203", name="outlier-batch", severity=Severity.WARNING, modules=(),
        summary="at step 7 the target of mse_loss [64, 1] lies 90 standard deviations away",
    )  # fmt: skip
    (answer,) = ask("clamp-outliers", finding, Trace(run=Run(model="Net")))
    assert isinstance(answer, Refusal)
    assert "targets" in answer.reason
    # AND where it is the inputs, they are held
    item = Input(
        name="input", shape=(64, 2), dtype="float32", floating=True, reader="0",
        stats=Stats(count=128, max_abs=4.0), usual_mean=1.0, usual_std=2.0, feature_dim=1,
        feature_means=(1.0, 2.0), feature_stds=(2.0, 0.0),
    )  # fmt: skip
    wild = replace(finding, summary="at step 7 the input x lies 90 standard deviations away")
    (answer,) = ask("clamp-outliers", wild, Trace(run=Run(model="Net"), inputs=(item,)))
    assert isinstance(answer, Prescription)
    assert answer.edits[0].args == {"low": [-19.0, -18.0], "high": [21.0, 22.0]}


def ask(remedy: str, finding: Finding, trace: Trace) -> list[Prescription | Refusal | Advice]:
    found = find(remedy)
    assert isinstance(found, Remedy)
    return list(found((finding,), trace))


# -- gaps


def test_gaps_in_the_inputs_are_filled_and_no_sample_is_lost() -> None:
    case = CASES["gaps in the inputs"]
    (prescription,) = by("gaps in the inputs", "impute-missing-values")
    assert prescription.keeps_function
    assert not by("gaps in the inputs", "drop-non-finite-samples")
    assert "keeps the rest" in refused("gaps in the inputs", "drop-non-finite-samples")
    assert accuracy(train(case(1), prescription), case(1)) > 0.75
    assert accuracy(train(case(1), None), case(1)) < 0.4


@pytest.mark.parametrize("case", ["gaps in the targets", "gaps in both"])
def test_missing_targets_do_not_count_in_the_users_own_loop(case: str) -> None:
    (prescription,) = by(case, "drop-non-finite-samples")
    kinds = [edit.kind for edit in prescription.edits]
    assert kinds[0] == "drop_non_finite_samples"
    assert ("impute_input" in kinds) == (case == "gaps in both")
    # GIVEN a loop that hands the model every sample WHEN it trains THEN it learns from the rest
    made = train(CASES[case](1), prescription)
    assert all(bool(torch.isfinite(p).all()) for p in made.parameters())
    assert explained(made, CASES[case](1)) > 0.5
    assert any(bool(torch.isnan(p).any()) for p in train(CASES[case](1), None, 2).parameters())


# -- the first guess


def test_rare_classes_begin_with_their_frequency() -> None:
    (prescription,) = by("a rare class", "class-prior-bias")
    shares = prescription.edits[0].args["shares"]
    assert sum(shares) == pytest.approx(1.0)  # type: ignore[arg-type]
    subject = CASES["a rare class"](1)
    model = gradmend.apply(prescription, subject.model, optimizer=subject.optimizer).model
    x, y = subject.batches[0]
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), y)) < 0.4 < 0.69
    # AND classes that are about equally frequent are left alone
    assert "equally" in _prior_of_equal_classes()


def _prior_of_equal_classes() -> str:
    x, _, classes, _ = cases_data.drawn(0)
    model = cases_data.perceptron(0, 5)
    optimizer = torch.optim.SGD(model.parameters(), 1e-7)
    found = gradmend.check(
        model, (x[:64], classes[:64]), F.cross_entropy, optimizer=optimizer, steps=50
    )
    answers = prescribe(found.findings, found.trace)
    return next(r.reason for r in answers.refusals if r.remedy == "class-prior-bias")


def test_a_loud_output_begins_at_guessing() -> None:
    (prescription,) = by("a loud output", "quiet-output-layer")
    subject = CASES["a loud output"](1)
    x, y = subject.batches[0]
    with torch.no_grad():
        assert float(F.cross_entropy(subject.model(x), y)) > 10
    model = gradmend.apply(prescription, subject.model, optimizer=subject.optimizer).model
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), y)) == pytest.approx(1.61, abs=0.3)


# -- the figures


def test_wild_entries_do_not_make_the_figures() -> None:
    # GIVEN ordinary data THEN the figures are the plain ones
    x = torch.randn(400, 3, dtype=torch.float64) * 4 + 7
    mean, std = drawn_in(x)  # type: ignore[misc]
    assert torch.allclose(mean, x.mean(0))
    assert torch.allclose(std, x.std(0, correction=0))
    # AND with a few wild, missing or infinite ones they hardly move
    bad = x.clone()
    bad[:4] = torch.tensor([1e9, torch.nan, -torch.inf], dtype=torch.float64)
    mean, std = drawn_in(bad)  # type: ignore[misc]
    assert torch.allclose(mean, x.mean(0), atol=0.6)
    assert torch.allclose(std, x.std(0, correction=0), rtol=0.5)
    # AND sparse data, whose quartiles are all zero, keep their plain figures
    sparse = torch.zeros(100, 1, dtype=torch.float64)
    sparse[0] = 50.0
    assert float(drawn_in(sparse)[0]) == pytest.approx(0.5)  # type: ignore[index]
    assert drawn_in(torch.full((3, 2), torch.nan)) is None
