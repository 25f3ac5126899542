"""NRM201: normalisation and dropout in evaluation mode while the model is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import standing


@dataclass(frozen=True)
class Limits:
    """When a model trains in evaluation mode."""

    share: float = limit(
        1.0,
        unit="share of modules",
        source="all of them: parts in evaluation mode are a choice (frozen batch norms)",
    )


@rule(
    code="NRM201",
    limits=Limits,
    fires_on=[Case.of("modes", fault="eval")],
    silent_on=[
        Case.of("modes"),
        Case.of("modes", fault="frozen_norms"),
        Case.of("modes", fault="eval_between"),
        Case.of("teacher_and_student"),
    ],
)
def evaluation_mode_in_training(history: History, limits: Limits) -> Iterator[Finding]:
    """Model that takes training steps with every norm and dropout in evaluation mode.

    What it finds:
        Trained models all of whose batch norms and dropouts are in evaluation mode while the
        optimizer steps: ``model.eval()`` after a validation, and no ``model.train()``.

    Why it matters:
        Batch norms use running statistics that no longer follow the weights: nothing is
        normalised, and the scale of the signal drifts. Dropout does nothing.

    How it is measured:
        The modules' own flags at training passes, with optimizer steps behind them.

    Silent when:
        Other modules are in training mode: freezing the norms alone is usual in fine-tuning.
        Models whose parameters no optimizer holds (teachers). Without a batch norm it is a note.

    References:
        torch.nn.Module.eval; pytorch/pytorch#5406.
    """
    trained = _trained_paths(history)
    states = [
        event
        for where, event in standing(history, "module-state").items()
        if "training" in event.facts and _is_trained(where, trained)
    ]
    norms = [event for event in states if _is_norm(event)]
    drops = [event for event in states if _is_dropout(event)]
    rest = [event for event in states if not _is_norm(event) and "p" not in event.facts]
    off = [event for event in norms + drops if not event.facts["training"]]
    if not off or len(off) < limits.share * len(norms + drops):
        return
    if any(event.facts["training"] for event in rest):
        return  # somebody has chosen which modules to switch
    serious = bool(norms) and bool(rest or drops)
    yield Finding(
        code="NRM201",
        name="evaluation-mode-in-training",
        severity=Severity.WARNING if serious else Severity.NOTE,
        modules=tuple(dict.fromkeys(event.where.partition(":")[0] for event in off)),
        summary=(
            f"all {len(norms)} batch norm and {len(drops)} dropout modules are in evaluation mode"
            f" since step {min(e.step for e in off)}, and the model is trained: call model.train()"
        ),
        evidence=(
            Evidence(
                quantity="share of norms and dropouts in evaluation mode",
                observed=len(off) / len(norms + drops),
                limit=limits.share,
                unit="share of modules",
                module=off[0].where,
                step=history.step,
            ),
        ),
        weight=100.0 if serious else 0.0,
        explains=("exploding-gradient", "diverging-loss", "oscillating-loss") if serious else (),
        exculpation="one of them in training mode",
    )


def _is_norm(event: Event) -> bool:
    return "values_per_channel" in event.facts


def _is_dropout(event: Event) -> bool:
    """One with a probability of zero has one mode only."""
    return bool(event.facts.get("p"))


def _trained_paths(history: History) -> dict[str, bool]:
    """Whether any parameter below a module is being trained, by the module's path."""
    found: dict[str, bool] = {"": False}
    for column in history["gradient"].columns:
        trained = column.facts.get("optimizer") is not None and bool(column.facts.get("trainable"))
        parts = column.module.split(".") if column.module else []
        for depth in range(len(parts) + 1):
            path = ".".join(parts[:depth])
            found[path] = found.get(path, False) or trained
    return found


def _is_trained(where: str, trained: dict[str, bool]) -> bool:
    """Of the nearest module around that has parameters."""
    while where not in trained:
        where = where.rpartition(".")[0]
    return trained[where]
