"""Remedies of wiring: the edit that is exact, else the line to change; and rules without any."""

import math
from functools import cache

import cases_wiring
import pytest
import torch
from subjects import Subject
from torch import nn
from torch.nn import functional as F

import gradmend
from gradmend.engine.prescribe import Candidates, prescribe
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Advice, Change, Prescription
from gradmend.records.trace import Run, Trace
from gradmend.registry import Remedy, find, remedies, rules
from gradmend.theory import source_changes

CASES = cases_wiring.SUBJECTS

TWINS = {
    "softmax twice": ("remove-doubled-softmax", "replace_module"),
    "no logarithm": ("add-missing-logarithm", "replace_module"),
    "logits to nll_loss": ("add-missing-logarithm", "follow_module"),
    "softmax over one": ("replace-one-unit-softmax", "replace_module"),
    "softmax over samples": ("turn-softmax-to-classes", "replace_module"),
    "rectified regression": ("remove-output-activation", "replace_module"),
    "bounded logits": ("remove-output-activation", "replace_module"),
    "broadcast": ("align-output-shape", "follow_module"),
    "negated": ("turn-the-sign", "maximise"),
    "summed": ("average-the-loss", "scale_learning_rate"),
    "layers in a list": ("register-modules", "register_modules"),
    "sigmoid twice": ("remove-doubled-sigmoid", "replace_module"),
    "softmax twice, functional": ("remove-doubled-softmax", "follow_module"),
    "softmax twice, at every step": ("remove-doubled-softmax", "follow_module"),
    "sigmoid twice, functional": ("remove-doubled-sigmoid", "follow_module"),
}
"""Case: the remedy that mends it, and by which kind of edit."""


@cache
def candidates(case: str) -> Candidates:
    s = CASES[case](0)
    found = gradmend.check(s.model, s.batches[0], s.loss_fn, optimizer=s.optimizer, steps=16)
    return prescribe(found.findings, found.trace)


def train(subject: Subject, prescription: Prescription | None, epochs: int = 12) -> nn.Module:
    """The user's own loop on a fresh model of another seed."""
    model, optimizer = subject.model, subject.optimizer
    if prescription is not None:
        model = gradmend.apply(prescription, model, optimizer=optimizer).model
    for _ in range(epochs):
        for x, y in subject.batches:
            optimizer.zero_grad()
            subject.loss_fn(model(x), y).backward()
            optimizer.step()
    return model


def error(model: nn.Module, subject: Subject) -> float:
    """What is really wanted: surprise at the classes, misranked pairs, or the error of numbers."""
    x, y = (torch.cat(part) for part in zip(*subject.batches, strict=True))
    with torch.no_grad():
        out = model(x)
    if y.dtype == torch.int64:
        y = y[:, None].expand(-1, out.shape[2]) if out.dim() == 3 else y
        return float(F.cross_entropy(out, y))  # of logarithms of probabilities it is the same
    if set(y.unique().tolist()) == {0.0, 1.0}:
        rank = out.reshape(-1).argsort().argsort().double()
        ones = y.reshape(-1) > 0.5
        n, m = int(ones.sum()), int((~ones).sum())
        tied = float(out.std()) == 0.0
        return 0.5 if tied else 1 - float((rank[ones].sum() - n * (n - 1) / 2) / (n * m))
    return float((out.reshape(-1) - y.reshape(-1)).square().mean() / y.var())


@pytest.mark.parametrize("case", TWINS)
def test_the_mistake_is_taken_back_by_the_smallest_edit_and_it_helps(case: str) -> None:
    remedy, kind = TWINS[case]
    # GIVEN a slip of wiring WHEN candidates are made THEN the first is the one that takes it back
    found = [p for p in candidates(case).prescriptions if p.remedies == (remedy,)]
    assert found, candidates(case).refusals
    kinds = [edit.kind for edit in found[0].edits]
    assert kinds in ([kind], [kind, "standardise_target"])
    assert max(found[0].changes) in (Change.WIRING, Change.DATA_SCALE, Change.OPTIMIZER)
    # AND a fresh network learns more with it, in a loop that knows nothing of gradmend
    repaired = error(train(CASES[case](1), found[0]), CASES[case](1))
    sick = error(train(CASES[case](1), None), CASES[case](1))
    assert repaired < sick or math.isnan(sick)


def test_a_repaired_network_is_the_healthy_one() -> None:
    # GIVEN a softmax twice, repaired, and a twin that never had it, with the same weights
    (prescription,) = candidates("softmax twice").prescriptions
    subject = CASES["softmax twice"](3)
    twin = nn.Sequential(*list(CASES["softmax twice"](3).model.children())[:-1])
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3)
    healthy = train(Subject(twin, subject.batches, F.cross_entropy, optimizer), None, 5)
    # WHEN both are trained THEN they are the same, bit for bit
    repaired = train(subject, prescription, 5)
    x = subject.batches[0][0]
    assert torch.equal(repaired(x), healthy(x))


def test_far_targets_behind_a_sigmoid_get_their_unit_as_well() -> None:
    scaled, plain = (
        p
        for p in candidates("sigmoid and far targets").prescriptions
        if p.remedies == ("remove-output-activation",)
    )
    by_places = sorted((plain, scaled), key=lambda p: len(p.edits))
    assert [e.kind for e in by_places[1].edits] == ["replace_module", "standardise_target"]
    case = CASES["sigmoid and far targets"]
    assert error(train(case(1), by_places[1], 25), case(1)) < 0.5
    assert error(train(case(1), None, 25), case(1)) > 0.9


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("softmax in the loss", "doubled-softmax"),
        ("clamped", "clamped-loss"),
        ("detached", "detached-parameters"),
    ],
)
def test_what_no_edit_reaches_is_shown_as_a_change_of_source(case: str, rule: str) -> None:
    found = candidates(case)
    treating = {r.name for r in remedies() if rule in r.treats}
    assert not [p for p in found.prescriptions if set(p.remedies) & treating]
    advice = [a for a in found.advice if a.finding == rule]
    assert len(advice) == 1
    assert advice[0].before != advice[0].after
    assert advice[0].text


def test_the_line_is_named_where_it_is_known() -> None:
    (advice,) = (a for a in candidates("detached").advice if a.finding == "detached-parameters")
    assert advice.source is not None
    assert "cases_wiring.py" in advice.source


def test_a_gradient_that_breaks_at_a_root_is_stopped_behind_the_layer() -> None:
    found = candidates("norm of zeros").prescriptions
    mine = [p for p in found if p.remedies == ("mend-the-arithmetic",)]
    assert [e.targets for e in mine[0].edits] == [("body",)]
    model = train(CASES["norm of zeros"](1), mine[0], 3)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert any(a.finding == "square-root-at-zero" for a in candidates("norm of zeros").advice)


def test_one_of_several_terms_cannot_be_turned_by_the_optimizer() -> None:
    remedy = find("turn-the-sign")
    assert isinstance(remedy, Remedy)
    finding = Finding(
        code="LOS208", name="negated-loss", severity=Severity.ERROR, modules=(),
        summary="a mse loss, one of the terms, reaches backward with the wrong sign",
    )  # fmt: skip
    answers = list(remedy((finding,), Trace(run=Run(model="Net"))))
    assert not any(isinstance(answer, Prescription) for answer in answers)
    assert any(isinstance(answer, Advice) for answer in answers)


# -- advice


@pytest.mark.parametrize(
    ("remedy", "table"),
    [
        ("mend-the-graph", source_changes.GRAPH),
        ("mend-the-arithmetic", source_changes.ARITHMETIC),
        ("mend-the-loss", source_changes.LOSS),
        ("look-at-the-data", source_changes.DATA),
    ],
)
def test_every_shown_change_is_python_and_changes_something(
    remedy: str, table: dict[str, source_changes.SourceChange]
) -> None:
    known = {rule.name for rule in rules()}
    found = find(remedy)
    assert isinstance(found, Remedy)
    assert set(table) == set(found.treats)
    for name, change in table.items():
        assert name in known
        assert change.before != change.after
        for side in (change.before, change.after):
            compiled = "\n".join(f"    {line}" for line in side.splitlines())
            hangs = side.rstrip().endswith(":")
            compile(f"def f(self):\n{compiled}" + ("\n        pass" if hangs else ""), name, "exec")
        # AND it says so where the finding has a line
        finding = Finding(
            code="XXX000", name=name, severity=Severity.ERROR, modules=(), summary="",
            source="train.py:3",
        )  # fmt: skip
        answers = [a for a in found((finding,), Trace(run=Run(model="N"))) if isinstance(a, Advice)]
        assert [a.source for a in answers] == ["train.py:3"]


UNTREATED: dict[str, str] = {
    "loss-scale-collapse": "the scaler does what it should: the overflow behind it is the cause",
}
"""Rules that no remedy treats, and why."""


def test_every_rule_has_an_answer_or_a_reason_to_have_none() -> None:
    treated = {name for remedy in remedies() for name in remedy.treats}
    names = {rule.name for rule in rules()}
    assert names - treated == set(UNTREATED)
    assert treated <= names, "a remedy for what no rule finds"


class Squashed(nn.Module):
    """Ends in a function that bounds what its last layer says."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.hidden, self.head, self.name = nn.Linear(4, 16), nn.Linear(16, 1), name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = getattr(torch, self.name)(self.head(torch.tanh(self.hidden(x))))
        return out


@pytest.mark.parametrize(("name", "undone"), [("sigmoid", True), ("tanh", True), ("relu", False)])
def test_a_bound_that_is_called_as_a_function_is_taken_back_by_its_inverse(
    name: str, *, undone: bool
) -> None:
    torch.manual_seed(0)
    model, x = Squashed(name), torch.randn(32, 4)
    y = 20.0 * x[:, :1] - 8.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = gradmend.check(model, (x, y), nn.functional.mse_loss, optimizer=optimizer)
    mine = [
        p
        for p in prescribe(found.findings, found.trace).prescriptions
        if p.remedies == ("remove-output-activation",)
    ]
    assert bool(mine) is undone  # what a ReLU cut off is lost
    if undone:
        fixed = gradmend.apply(mine[0], model, optimizer=optimizer)
        plain = model.head(torch.tanh(model.hidden(x)))
        assert torch.allclose(fixed.model(x), plain * y.std(correction=0) + y.mean(), atol=1e-2)
