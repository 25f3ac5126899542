"""One contract for all remedies, on the cases of the rules they treat."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.engine.diagnose import diagnose
from gradmend.engine.examine import with_optimizer
from gradmend.engine.files import read_prescription, write_prescription
from gradmend.engine.predictions import MEASURES, check_predictions
from gradmend.engine.prescribe import prescribe
from gradmend.errors import UnknownName
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.codec import to_plain
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import KEEPS, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import Case, Remedy, find, remedies, rules
from gradmend.zoo.specimen import Specimen, build

CASES: dict[str, Case] = {str(case): case for rule in rules() for case in rule.fires_on} | {
    str(case): case
    for case in (
        Case.of("mlp", depth=30, activation="tanh", scale=100.0),
        Case.of("functional_mlp", depth=12, activation="sigmoid"),
        Case.of("shared", repeats=40),
    )
}
"""The rules' own, some sick in two ways, and some that few remedies fit."""

CONSTANT = "cnn(depth=2, activation='relu', norm=False, init='constant', gain=-4.0)"
SLOW = "mlp(depth=100, activation='sigmoid')"


@cache
def looked(case: str) -> tuple[Trace, tuple[Finding, ...]]:
    specimen = made(case)
    optimizer = torch.optim.Adam(specimen.model.parameters(), lr=1e-2)
    trace = look(specimen.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn))
    trace = with_optimizer(trace, optimizer, specimen.model)
    return trace, diagnose(trace).findings


def made(case: str, seed: int = 0) -> Specimen:
    return build(CASES[case].model, seed=seed, **CASES[case].args)


def treated_by(remedy: Remedy) -> Iterator[str]:
    for case in CASES:
        if any(f.name in remedy.treats and f.severity is not Severity.NOTE
               for f in looked(case)[1]):  # fmt: skip
            yield case


def answers(remedy: Remedy, case: str) -> list[Prescription | Refusal]:
    trace, findings = looked(case)
    serious = tuple(f for f in findings if f.severity is not Severity.NOTE)
    return list(remedy(tuple(f for f in serious if f.name in remedy.treats), trace))


@pytest.mark.parametrize("remedy", remedies(), ids=lambda r: r.name)
def test_a_remedy_answers_with_prescriptions_or_a_reason_and_changes_no_trace(
    remedy: Remedy,
) -> None:
    tried = list(treated_by(remedy))
    assert tried, "a remedy that is never asked is not tested"
    for case in tried:
        before = to_plain(looked(case)[0])
        found = answers(remedy, case)
        assert found, f"{remedy.name} has nothing to say about {case}"
        for answer in found:
            if isinstance(answer, Refusal):
                assert answer.reason
                assert answer.remedy == remedy.name
            else:
                assert answer.edits
                assert answer.reason
                assert set(answer.changes) <= set(remedy.changes)
                assert all(p.quantity in MEASURES for p in answer.predictions)
                assert all(p.low < p.high and p.sentence for p in answer.predictions)
        assert to_plain(looked(case)[0]) == before
        assert to_plain(answers(remedy, case)) == to_plain(found), "pure: the same answer again"


@pytest.mark.parametrize("remedy", remedies(), ids=lambda r: r.name)
def test_every_remedy_has_a_case_that_it_fits(remedy: Remedy) -> None:
    assert any(
        isinstance(answer, Prescription)
        for case in treated_by(remedy)
        for answer in answers(remedy, case)
    )


DRIFT = (
    "chi is one at the fixed point of q, but q itself drifts away from it: neither GELU's nor"
    " softplus's is stable, and over this depth the drift is worth some decades"
)
SCALE = "speaks of the weights only: inputs a hundred times too large still saturate layer one"
HEAD = (
    "all rows of the output layer are equal, which the remedy leaves alone: a softmax's gradient"
    " sums to zero over classes, so it cancels there"
)
PART = "promises for the whole model, but can only touch the layers that are used once"
STACK = "encoder(layers=16, steps=30, rate=0.02, handmade=True)"
NORMS = "norms on the stream rescale what the branches get, whatever their weights"
EXCEPTIONS: dict[tuple[str, str, str], str] = {
    ("critical-init", "mlp(depth=30, activation='softplus')", "total_decades"): DRIFT,
    ("critical-init", "mlp(depth=30, activation='softplus')", "signal_lost"): DRIFT,
    ("critical-init", "mlp(depth=24, activation='gelu')", "total_decades"): DRIFT,
    ("critical-init", "mlp(depth=24, activation='gelu')", "signal_lost"): DRIFT,
    ("critical-init", "mlp(depth=12, activation='gelu', init='normal', gain=6.0)",
     "total_decades"): DRIFT,
    ("critical-init", "mlp(depth=3, activation='tanh', scale=100.0)", "signal_lost"): SCALE,
    ("critical-init", "mlp(depth=30, activation='tanh', scale=100.0)", "signal_lost"): SCALE,
    ("critical-init", CONSTANT, "total_decades"): HEAD,
    ("replace-activation", CONSTANT, "total_decades"): HEAD,
    ("critical-init", "shared(repeats=40)", "total_decades"): PART,
    ("critical-init", "shared(repeats=40)", "signal_lost"): PART,
    ("rescale-by-data", "shared(repeats=40)", "signal_lost"): PART,
    ("critical-init", STACK, "total_decades"): NORMS,
    ("critical-init", STACK, "signal_lost"): NORMS,
}  # fmt: skip
"""(remedy, case, quantity): why the prediction does not hold there. Each is a promise too many."""
BORDERLINE = {("critical-init", "cnn(depth=16, activation='relu', norm=False)", "signal_lost")}
"""Within half a decade of the limit: held with some seeds and not with others."""


def prescriptions(case: str) -> tuple[Prescription, ...]:
    trace, findings = looked(case)
    serious = tuple(f for f in findings if f.severity is not Severity.NOTE)
    return prescribe(serious, trace).prescriptions


def applied(case: str, prescription: Prescription, seed: int) -> tuple[Specimen, Bench]:
    specimen = made(case, seed)
    x, y = specimen.batch
    bench = Bench(
        model=specimen.model,
        optimizer=torch.optim.Adam(specimen.model.parameters(), lr=1e-2),
        run_batch=lambda model: specimen.loss_fn(model(x.clone()), y),
        seed=seed,
    )
    return specimen, bench


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_prescriptions_fit_fresh_models_undo_exactly_and_keep_promises(
    case: str,
) -> None:
    broken = set()
    for prescription in prescriptions(case):
        for seed in (0, 1) if case != SLOW else (1,):
            specimen, bench = applied(case, prescription, seed)
            before, modules = bits(specimen.model), dict(specimen.model.named_modules())
            noise = torch.get_rng_state()
            if case.startswith("shared") and "standardise-input" in prescription.remedies:
                continue
            # WHEN it is applied THEN it fits, also with the weights of another seed
            apply_edits(bench, prescription.edits)
            # AND its predictions hold (alone and with scaled data; the rate shows in no look)
            if seed and not any(edit.kind == "scale_learning_rate" for edit in prescription.edits):
                trace = look(bench.model, specimen.batch, Feeder(loss_fn=specimen.loss_fn))
                for checked in check_predictions(prescription.predictions, trace):
                    if not checked.held:
                        broken.add((prescription.remedies, case, checked.prediction.quantity))
            # AND undoing is exact
            bench.undo()
            assert bench.model is specimen.model
            assert dict(specimen.model.named_modules()) == modules
            after = bits(specimen.model)
            assert list(after) == list(before)
            assert all(torch.equal(before[k], after[k]) for k in before)
            assert len(bench.optimizer.param_groups) == 1  # type: ignore[union-attr]
            assert torch.equal(torch.get_rng_state(), noise)
    alone = {(names[0], *rest) for names, *rest in broken if len(names) == 1}
    assert alone - BORDERLINE == {row for row in EXCEPTIONS if row[1] == case}
    combined = {(names, *rest) for names, *rest in broken if len(names) > 1}
    if "scale=100.0" in case:
        # The gradient is followed back to the raw input, so dividing that by its standard
        # deviation of 100 is two decades of the total which the other remedy's promise of two
        # does not know about.
        combined = {row for row in combined if row[2] != "total_decades"}
    assert not combined


@pytest.mark.parametrize("case", [c for c in CASES if c != SLOW])
def test_writing_and_reading_a_prescription_is_the_identity(case: str, tmp_path: Path) -> None:
    for prescription in prescriptions(case):
        path = write_prescription(prescription, tmp_path / "p.json")
        assert read_prescription(path) == prescription
        assert read_prescription(str(path)) == prescription
        assert read_prescription(to_plain(prescription)) == prescription


def test_data_scaling_can_be_combined_with_every_other_remedy() -> None:
    # GIVEN a network sick in its inputs and in its weights
    found = prescriptions("mlp(depth=30, activation='tanh', scale=100.0)")
    both = [p for p in found if "standardise-input" in p.remedies and len(p.remedies) > 1]
    assert len(both) >= 3, "the case must offer combinations"
    # THEN no combination is a dead letter (the edits of one do not hide the layers of another)
    for prescription in both:
        _, bench = applied("mlp(depth=30, activation='tanh', scale=100.0)", prescription, 3)
        apply_edits(bench, prescription.edits)


# -- when they refuse


def reasons(case: str) -> dict[str, str]:
    trace, findings = looked(case)
    serious = tuple(f for f in findings if f.severity is not Severity.NOTE)
    return {r.remedy: r.reason for r in prescribe(serious, trace).refusals}


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


def test_prescriptions_come_smallest_change_first() -> None:
    sizes: list[Any] = [
        p.size for p in prescriptions("mlp(depth=30, activation='tanh', scale=100.0)")
    ]
    assert sizes == sorted(sizes)
