"""The sentences that every view of a report shares, made from the report's numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradmend.records.finding import Finding, Severity
from gradmend.records.ledger import Ledger
from gradmend.records.report import Report
from gradmend.records.trace import Trace
from gradmend.renderers import numbers
from gradmend.renderers.visible import visible

CAUSE_WORDS = {
    "activation-derivative": "the activations' derivatives",
    "weights": "the weights",
    "normalisation": "normalisation",
    "attention-softmax": "the attention softmax",
    "products": "products of activations (gates, attention)",
    "recurrence": "recurrence through time",
    "dropout": "dropout",
    "scaling": "scaling",
    "pooling": "pooling",
    "number-format": "the number format",
    "joins": "joins (skips, concatenations, shared use)",
    "other": "other operations",
}
"""Each cause of the books as it stands in a sentence."""


@dataclass(frozen=True, slots=True)
class Folded:
    """A finding with those it explains, directly or through another."""

    finding: Finding
    explains: tuple[Finding, ...] = ()


def fold_findings(findings: Sequence[Finding]) -> list[Folded]:
    """Put each explained finding under its cause, in the report's order.

    A finding whose explainer is not in the report, or that explains itself in a circle, stands
    on its own: nothing may be hidden.
    """
    first: dict[str, int] = {}
    for index, finding in enumerate(findings):
        first.setdefault(finding.name, index)

    def root_of(index: int) -> int:
        seen = {index}
        at = index
        while True:
            above = first.get(findings[at].explained_by or "")
            if above is None:
                return at
            if above in seen:
                return index
            seen.add(above)
            at = above

    roots = [root_of(index) for index in range(len(findings))]
    below: dict[int, list[Finding]] = {}
    for index, root in enumerate(roots):
        if roots[root] != root:  # its cause is part of a circle: keep it in sight
            root = index
        if root == index:
            below.setdefault(index, [])
        else:
            below.setdefault(root, []).append(findings[index])
    return [Folded(findings[index], tuple(inside)) for index, inside in sorted(below.items())]


def verdict_sentence(report: Report) -> str:
    """What the report says, in one sentence."""
    model = visible(report.trace.run.model) or "the model"
    if report.verdict is not None:
        said = "Repaired" if report.verdict.kept else "Left as it was"
        reason = visible(report.verdict.reason).rstrip(".")
        return f"{said}: {reason}." if reason else f"{model} was {said.lower()}."
    if not report.findings and report.undecided:
        left = numbers.count(len(report.undecided), "question")
        return f"Nothing found in {model}; {left} left open."
    if not report.findings:
        return f"Healthy: nothing found in {model}."
    causes = [entry.finding for entry in fold_findings(report.findings)]
    top = causes[0]
    if report.healthy:
        notes = numbers.count(len(report.findings), "note")
        return f"Healthy: nothing above a note found in {model} ({notes})."
    worst = max(report.findings, key=lambda f: f.severity.rank).severity
    hurt = "keeps it from training" if worst is Severity.ERROR else "hurts its training"
    if len(causes) == 1:
        return f"{model}: {top.name} {hurt}."
    each = "keep it from training" if worst is Severity.ERROR else "hurt its training"
    return f"{model}: {len(causes)} causes {each}, {top.name} first."


def ledger_sentence(report: Report) -> str:
    """Where the gradient went, for a person: the total and its largest parts by cause."""
    ledger = report.ledger
    if ledger is None:
        return "No gradient ledger: nothing was booked."
    if ledger.total_decades is None or not math.isfinite(ledger.total_decades):
        return unbooked_sentence(ledger)
    total = ledger.total_decades
    arrives = (
        f"The gradient arrives at {visible(ledger.start)} {numbers.factor(total)} times as large "
        "as it left the outputs"
    )
    limit = 0.02 * max((abs(v) for v in _finite(ledger.by_cause).values()), default=0.0)
    lost = {k: v for k, v in _finite(ledger.by_cause).items() if v < -max(limit, 0.005)}
    won = {k: v for k, v in _finite(ledger.by_cause).items() if v > max(limit, 0.005)}
    clauses = []
    if lost:
        clauses.append(_clause(_parts(lost, report.trace), "went to", "to"))
    if won:
        clauses.append(_clause(_parts(won, report.trace), "came from", "from"))
    if total > 0:
        clauses.reverse()
    return f"{arrives}: {'; '.join(clauses)}." if clauses else f"{arrives}."


def second_look_words(report: Report) -> str:
    """When the second look was taken: ``after the repair``, ``after 50 steps``."""
    if report.verdict is not None and report.verdict.kept:
        return "after the repair"
    steps = report.after.run.step if report.after is not None else 0
    return f"after {numbers.count(steps, 'step')}" if steps else "on a second look"


def after_sentence(report: Report) -> str | None:
    """What the second look saw of the gradient; ``None`` where there was none."""
    ledger = report.after.ledger if report.after is not None else None
    if ledger is None or ledger.total_decades is None or not math.isfinite(ledger.total_decades):
        return None
    when = second_look_words(report)
    return (
        f"{when[:1].upper()}{when[1:]} it arrives {numbers.factor(ledger.total_decades)} times as "
        f"large as it left the outputs ({numbers.decades(ledger.total_decades)} decades)."
    )


def unbooked_sentence(ledger: Ledger) -> str:
    """What is known of a gradient whose whole gain cannot be booked."""
    if ledger.blocked_by is not None:
        where = visible(ledger.blocked_by) or "the model itself"
        return (
            f"The gradient is exactly zero from {where} on: nothing before it can learn, "
            "and no number of decades says how much was lost."
        )
    return "The gradient's whole gain cannot be booked."


def books_line(ledger: Ledger) -> str:
    """How far the books can be trusted."""
    if ledger.unexplained_decades is None or not math.isfinite(ledger.unexplained_decades):
        balance = "books not checked against a second backward pass"
    else:
        off = numbers.number(abs(ledger.unexplained_decades), 2)
        off = "better than 1e-15" if off == "0" else off
        balance = f"books balance to {off} decades against a second backward pass"
    parts = [f"{balance} without hooks"]
    if ledger.imbalance is not None and math.isfinite(ledger.imbalance):
        level = numbers.number(ledger.imbalance, 2)
        parts.append(
            f"at every level of the model to {'better than 1e-15' if level == '0' else level}"
        )
    parts.append(f"kept in {visible(ledger.dtype)}")
    parts.append(f"from the outputs back to {visible(ledger.start)}")
    cotangent = {"loss": "the loss's own gradient", "random": "a random gradient"}
    parts.append(f"followed {cotangent.get(ledger.cotangent, visible(ledger.cotangent))}")
    if ledger.log10_cotangent is not None and math.isfinite(ledger.log10_cotangent):
        parts.append(f"which has norm 10^{ledger.log10_cotangent:.1f} at the outputs")
    return "; ".join(parts) + "."


def module_range(modules: Sequence[str]) -> str:
    """Many module paths in a few words: ``1 .. 199 (100 modules)``."""
    paths = [visible(module) or "(the model)" for module in modules]
    if len(paths) <= 3:
        return ", ".join(paths)
    return f"{paths[0]} .. {paths[-1]} ({len(paths):,} modules)"


def undecided_lines(report: Report) -> list[str]:
    """What one look left open, and what would decide it."""
    return [
        f"{visible(request.code)} {visible(request.name)}: {visible(request.why)};"
        f" {request.measurement.words} would decide it ({request.measurement.how_to})"
        for request in report.undecided
    ]


def cost_line(report: Report) -> str:
    """What looking cost, and the circumstances."""
    run = report.trace.run
    parts = [f"{visible(run.model)}", f"{run.parameters:,} parameters in {visible(run.dtype)}"]
    if run.batch_size:
        parts.append(f"batch of {run.batch_size:,}")
    if run.loss is not None and math.isfinite(run.loss):
        parts.append(f"loss {numbers.number(run.loss)}")
    if run.step:
        parts.append(f"after {numbers.count(run.step, 'step')}")
    parts.append(f"looked in {numbers.seconds(run.seconds)} on {visible(run.device)}")
    if report.verdict is not None:
        steps = numbers.count(report.verdict.steps, "step")
        parts.append(f"trial of {steps} in {numbers.seconds(report.verdict.seconds)}")
    if run.torch:
        parts.append(f"torch {visible(run.torch)}")
    if report.made_at:
        parts.append(visible(report.made_at))
    return " | ".join(parts)


def activation_words(trace: Trace, *, losing: bool) -> str:
    """``sigmoid's derivative (at most 1/4 per layer)``, from the operations booked there."""
    moved: dict[str, float] = {}
    steepest: dict[str, float] = {}
    for op in trace.operations:
        if op.cause != "activation-derivative":
            continue
        name = op.activation.function if op.activation else op.name
        if math.isfinite(op.decades):
            moved[name] = moved.get(name, 0.0) + op.decades
        if op.activation and op.activation.steepest_slope is not None:
            steepest[name] = op.activation.steepest_slope
    names = sorted(moved, key=lambda n: moved[n] if losing else -moved[n])
    if not names:
        return CAUSE_WORDS["activation-derivative"]
    if len(names) > 2:
        listed = ", ".join(visible(n) for n in names[:3])
        return f"the activations' derivatives ({listed}{', ...' if len(names) > 3 else ''})"
    words = []
    for name in names:
        bound = steepest.get(name)
        limit = f" (at most {numbers.slope(bound)} per layer)" if bound and bound < 1 else ""
        words.append(f"{visible(name)}'s derivative{limit}")
    return " and ".join(words)


def _parts(by_cause: dict[str, float], trace: Trace) -> list[tuple[str, str, float]]:
    """(amount, words, decades) of each cause, largest first."""
    found = []
    for cause, value in sorted(by_cause.items(), key=lambda item: -abs(item[1])):
        if cause == "activation-derivative":
            words = activation_words(trace, losing=value < 0)
        else:
            words = CAUSE_WORDS.get(cause, visible(cause))
        found.append((_amount(value), words, value))
    return found


def _clause(parts: list[tuple[str, str, float]], verb: str, preposition: str) -> str:
    """``61.2 decades went to A, 24.1 to B, 0.3 to the rest``."""
    shown = parts[:3] if len(parts) > 4 else parts
    pieces = [f"{amount} {preposition} {what}" for amount, what, _ in shown[1:]]
    rest = math.fsum(value for _, _, value in parts[len(shown) :])
    if rest:
        pieces.append(f"{_amount(rest)} {preposition} the rest")
    return ", ".join([f"{shown[0][0]} decades {verb} {shown[0][1]}", *pieces])


def _amount(value: float) -> str:
    return f"{abs(value):,.{1 if abs(value) >= 1 else 2}f}"


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}


def fact_lines(facts: dict[str, float | str]) -> list[tuple[str, str]]:
    """(label, value) of the figures a caller added; ``x_before`` and ``x_after`` become one.

    Accuracies and shares are fractions and shown as per cent.
    """
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        if key.endswith("_after") and key.removesuffix("_after") + "_before" in facts:
            continue
        stem = key.removesuffix("_before")
        after = facts.get(f"{stem}_after") if stem != key else None
        label = visible(stem if after is not None else key).replace("_", " ")
        label = label.replace("python", "Python")
        shown = _fact(key, value)
        lines.append((label, shown if after is None else f"{shown} → {_fact(key, after)}"))
    return lines


def _fact(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if any(word in key for word in ("accuracy", "share", "fraction")) and 0 <= value <= 1:
        return numbers.percent(value)
    return numbers.number(value, 4)
