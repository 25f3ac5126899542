"""One contract for all remedies, on the cases of the rules they treat."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from edit_subjects import Record
from subjects import Subject, every
from torch import Tensor, nn

from gradmend.edits import KINDS, Bench, apply_edits
from gradmend.engine.diagnose import diagnose
from gradmend.engine.examine import examine, with_optimizer
from gradmend.engine.files import read_prescription, write_prescription
from gradmend.engine.measure import Measurer
from gradmend.engine.predictions import MEASURES, check_predictions
from gradmend.engine.prescribe import Candidates, prescribe, together
from gradmend.engine.session import CHEAP_SECONDS, REHEARSED_STEPS
from gradmend.engine.state import Snapshot
from gradmend.errors import CannotApply, UnknownName
from gradmend.probe.batch import Feeder, map_tensors
from gradmend.probe.look import look
from gradmend.records.codec import to_plain
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import KEEPS, Advice, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import Case, Remedy, find, remedies, rules
from gradmend.zoo.specimen import build

CASES: dict[str, Case] = {str(case): case for rule in rules() for case in rule.fires_on} | {
    str(case): case
    for case in (
        Case.of("mlp", depth=30, activation="tanh", scale=100.0),
        Case.of("functional_mlp", depth=12, activation="sigmoid"),
        Case.of("shared", repeats=40),
    )
}
"""The rules' own, some sick in two ways, and some that few remedies fit."""

EXTRA = dict(every())
"""Whole trainings, for what only an optimizer or some steps show."""
EVERY = [*CASES, *EXTRA]

CONSTANT = "cnn(depth=2, activation='relu', norm=False, init='constant', gain=-4.0)"
SLOW = "mlp(depth=100, activation='sigmoid')"


def made(case: str, seed: int = 0) -> Subject:
    """A case, freshly built."""
    if case in EXTRA:
        return EXTRA[case](seed)
    specimen = build(CASES[case].model, seed=seed, **CASES[case].args)
    optimizer = torch.optim.Adam(specimen.model.parameters(), lr=1e-2)
    return Subject(specimen.model, specimen.batches, specimen.loss_fn, optimizer)


@cache
def looked(case: str) -> tuple[Trace, tuple[Finding, ...]]:
    """What is found in a case: at one look, or for a whole training after some steps, too."""
    subject = made(case)
    feeder = Feeder(loss_fn=subject.loss_fn)
    if case in EXTRA:
        report = examine(
            Measurer(
                model=subject.model,
                batch=subject.batches[0],
                feeder=feeder,
                optimizer=subject.optimizer,
                steps=REHEARSED_STEPS,
                seconds=CHEAP_SECONDS,
            )
        )
        return report.trace, report.findings
    trace = look(subject.model, subject.batches[0], feeder)
    trace = with_optimizer(trace, subject.optimizer, subject.model)
    return trace, diagnose(trace).findings


def serious(case: str) -> tuple[Finding, ...]:
    return tuple(f for f in looked(case)[1] if f.severity is not Severity.NOTE)


def treated_by(remedy: Remedy) -> Iterator[str]:
    for case in EVERY:
        if any(f.name in remedy.treats for f in serious(case)):
            yield case


def answers(remedy: Remedy, case: str) -> list[Prescription | Refusal | Advice]:
    treated = tuple(f for f in serious(case) if f.name in remedy.treats)
    return list(remedy(treated, looked(case)[0]))


@pytest.mark.parametrize("remedy", remedies(), ids=lambda r: r.name)
def test_a_remedy_answers_with_prescriptions_or_a_reason_and_changes_no_trace(
    remedy: Remedy,
) -> None:
    tried = list(treated_by(remedy))
    assert tried, "a remedy that is never asked is not tested"
    helped = False
    for case in tried:
        before = to_plain(looked(case)[0])
        found = answers(remedy, case)
        assert found, f"{remedy.name} has nothing to say about {case}"
        assert sum(isinstance(answer, Prescription) for answer in found) <= 3
        for answer in found:
            if isinstance(answer, Refusal):
                assert answer.reason
                assert answer.remedy == remedy.name
            elif isinstance(answer, Advice):
                helped = True
                assert answer.text
                assert answer.remedy == remedy.name
            else:
                helped = True
                assert answer.edits
                assert answer.reason
                assert set(answer.changes) <= set(remedy.changes)
                assert {edit.kind for edit in answer.edits} <= set(KINDS)
                assert all(p.quantity in MEASURES for p in answer.predictions)
                assert all(p.low < p.high and p.sentence for p in answer.predictions)
        assert to_plain(looked(case)[0]) == before
        assert to_plain(answers(remedy, case)) == to_plain(found), "pure: the same answer again"
    assert helped, "a remedy that only refuses is not tested"


SCALE = "speaks of the weights only: inputs a hundred times too large still saturate layer one"
HEAD = (
    "all rows of the output layer are equal, which the remedy leaves alone: a softmax's gradient"
    " sums to zero over classes, so it cancels there"
)
RIM = "the zeros that pad a convolution are no half: a bias that centres sigmoids is wrong there"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("critical-init", "mlp(depth=30, activation='tanh', scale=100.0)", "signal_lost"): SCALE,
    ("replace-activation", CONSTANT, "total_decades"): HEAD,
    ("insert-batch-norm", CONSTANT, "total_decades"): HEAD,
    ("critical-init", "activations: sigmoids behind convolutions", "signal_lost"): RIM,
}  # fmt: skip
"""(remedy, case, quantity): why the prediction does not hold there. Each is a promise too many."""
UNFIT: set[tuple[tuple[str, ...], str]] = set()
"""(remedies, case): combinations that do not fit after all, which a race finds out."""
BORDERLINE = {("critical-init", "cnn(depth=16, activation='relu', norm=False)", "signal_lost")}
"""Within half a decade of the limit: held with some seeds and not with others."""


@cache
def candidates(case: str) -> Candidates:
    trace, _ = looked(case)
    return prescribe(serious(case), trace)


def prescriptions(case: str) -> tuple[Prescription, ...]:
    return candidates(case).prescriptions


def opened(case: str, seed: int) -> tuple[Subject, Bench]:
    """A fresh model of another seed, ready for edits."""
    subject = made(case, seed)
    feeder = Feeder(loss_fn=subject.loss_fn)
    first = subject.batches[0]
    bench = Bench(
        model=subject.model,
        optimizer=subject.optimizer,
        run_batch=lambda model: feeder.loss(
            model, bench.batch(map_tensors(first, lambda t: t.clone()))
        ),
        seed=seed,
    )
    return subject, bench


def a_step(subject: Subject, bench: Bench) -> None:
    """One training step with the edits, as a trial takes it."""
    fed = bench.batch(map_tensors(subject.batches[0], lambda t: t.clone()))
    if fed is None:
        return
    subject.optimizer.zero_grad()
    loss = bench.loss(Feeder(loss_fn=subject.loss_fn).loss(bench.model, fed))
    if loss.requires_grad and bool(torch.isfinite(loss)):
        loss.backward()
        subject.optimizer.step()


def new_causes(case: str, bench: Bench, subject: Subject) -> tuple[Trace, set[str]]:
    """What is found in the edited model that was not found before, symptoms aside."""
    fed = bench.batch(subject.batches[0])
    trace = look(bench.model, fed, Feeder(loss_fn=subject.loss_fn))
    found = {
        f.name
        for f in diagnose(trace).findings
        if f.severity is Severity.ERROR and not f.symptom and f.explained_by is None
    }
    return trace, found - {f.name for f in looked(case)[1]}


@pytest.mark.parametrize("case", EVERY)
def test_prescriptions_fit_fresh_models_undo_exactly_and_keep_promises(case: str) -> None:
    broken = set()
    for prescription in prescriptions(case):
        (name,) = prescription.remedies
        # GIVEN a fresh model of another seed
        subject, bench = opened(case, seed=1)
        before = Record(subject.model, subject.optimizer)
        noise = torch.get_rng_state()
        # WHEN a prescription is applied to it THEN it fits
        apply_edits(bench, prescription.edits)
        assert torch.equal(torch.get_rng_state(), noise)
        # AND what it predicts is so, and nothing new is wrong
        trace, new = new_causes(case, bench, subject)
        broken |= {(name, case, f"new: {cause}") for cause in new}
        for checked in check_predictions(prescription.predictions, trace):
            if not checked.held:
                broken.add((name, case, checked.prediction.quantity))
        # AND after training with it everything can be taken back, bit for bit
        shot = Snapshot.take(bench.model, subject.optimizer)
        a_step(subject, bench)
        shot.put_back()
        bench.undo()
        assert bench.model is subject.model
        before.assert_same()
        assert not bench.loss_changes
        assert not bench.batch_changes
    assert broken - BORDERLINE == {row for row in EXCEPTIONS if row[1] == case}


@pytest.mark.parametrize("case", [c for c in EVERY if c != SLOW])
def test_writing_and_reading_a_prescription_is_the_identity(case: str, tmp_path: Path) -> None:
    for prescription in prescriptions(case):
        path = write_prescription(prescription, tmp_path / "p.json")
        assert read_prescription(path) == prescription
        assert read_prescription(str(path)) == prescription
        assert read_prescription(to_plain(prescription)) == prescription


@pytest.mark.parametrize("case", [c for c in EVERY if c != SLOW])
def test_combinations_fit_as_well(case: str) -> None:
    found = candidates(case)
    for best in found.prescriptions[:2]:
        for prescription in found.combined(best):
            subject, bench = opened(case, seed=2)
            before = Record(subject.model, subject.optimizer)
            try:
                apply_edits(bench, prescription.edits)
            except CannotApply:
                assert (prescription.remedies, case) in UNFIT
            bench.undo()
            before.assert_same()


def test_data_scaling_can_be_combined_with_every_other_remedy() -> None:
    # GIVEN a network sick in its inputs and in its weights
    case = "mlp(depth=30, activation='tanh', scale=100.0)"
    singles = [p for p in prescriptions(case) if p.remedies != ("standardise-input",)]
    scaling = next(p for p in prescriptions(case) if p.remedies == ("standardise-input",))
    assert len(singles) >= 3, "the case must offer combinations"
    # THEN no combination is a dead letter (the edits of one do not hide the layers of another)
    for other in singles:
        _, bench = opened(case, seed=3)
        apply_edits(bench, together(scaling, other).edits)


# -- when they refuse


def reasons(case: str) -> dict[str, str]:
    return {r.remedy: r.reason for r in candidates(case).refusals}


def test_functional_activations_are_refused_where_a_module_is_needed() -> None:
    refused = reasons("functional_mlp(depth=12, activation='sigmoid')")
    assert "function" in refused["replace-activation"]
    assert "centre-coordinates" in refused
    assert "add-rezero-residual" in refused
    assert "critical-init" not in refused, "weights can be drawn anew all the same"


def test_shared_layers_are_left_alone() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Sigmoid(), *[shared, nn.Sigmoid()] * 14, nn.Linear(8, 3)
    )
    batch = (torch.randn(16, 8), torch.randint(3, (16,)))
    trace = look(model, batch, Feeder(loss_fn=nn.functional.cross_entropy))
    found = diagnose(trace).findings
    assert found
    for prescription in prescribe(found, trace).prescriptions:
        targets = {t.removesuffix(".weight") for edit in prescription.edits for t in edit.targets}
        assert not {"2", "4", "28"} & {
            t for t in targets if isinstance(model.get_submodule(t), nn.Linear)
        }


def test_frozen_layers_keep_their_weights() -> None:
    specimen = made("mlp(depth=30, activation='tanh')")
    specimen.model[4].requires_grad_(False)
    kept = specimen.model[4].weight.clone()
    trace = look(specimen.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn))
    found = prescribe(diagnose(trace).findings, trace).prescriptions
    assert found
    for prescription in found:
        bench = Bench(model=specimen.model, run_batch=lambda m: m(specimen.batch[0]))
        if any(edit.kind == "scale_learning_rate" for edit in prescription.edits):
            continue
        apply_edits(bench, prescription.edits)
        frozen = [p for p in bench.model.parameters() if not p.requires_grad]
        assert any(torch.equal(p, kept) for p in frozen), prescription.remedies
        bench.undo()


def test_an_input_that_no_module_reads_is_refused_with_a_reason() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    remedy = find("standardise-input")
    assert isinstance(remedy, Remedy)
    batch = (torch.randn(16, 4) * 500, torch.randint(3, (16,)))
    trace = look(Functional(), batch, Feeder(loss_fn=nn.functional.cross_entropy))
    found = tuple(f for f in diagnose(trace).findings if f.name == "unscaled-input")
    assert found
    assert list(remedy(found, trace))


# -- keep=


@pytest.mark.parametrize(
    "keep", [c for n in range(6) for c in itertools.combinations(KEEPS, n)], ids="+".join
)
def test_what_must_be_kept_is_kept(keep: tuple[str, ...]) -> None:
    for case in (
        "mlp(depth=30, activation='tanh', scale=100.0)",
        "mlp(depth=24, activation='relu')",
    ):
        trace, findings = looked(case)
        found = prescribe(findings, trace, iter(keep))
        forbidden = set().union(*(KEEPS[word] for word in keep))
        assert found.prescriptions or keep
        assert not found.prescriptions or set(keep) != set(KEEPS)
        for prescription in found.prescriptions:
            assert not forbidden & set(prescription.changes)
        # and each remedy that is left out says which word forbids it
        blocked = [r for r in found.refusals if "forbids" in r.reason]
        treat = [r for r in remedies() if {f.name for f in findings} & set(r.treats)]
        assert {r.remedy for r in blocked} == {r.name for r in treat if forbidden & set(r.changes)}
        for refusal in blocked:
            words = refusal.reason.removeprefix("keep=").removesuffix(" forbids it").split(", ")
            assert set(words) <= set(keep)
            assert words


def test_an_unknown_word_to_keep_is_refused() -> None:
    trace, findings = looked("mlp(depth=24, activation='relu')")
    for word in ("weights", "", "Data", "activation"):
        with pytest.raises(UnknownName, match=r"[Uu]se any of"):
            prescribe(findings, trace, [word])
