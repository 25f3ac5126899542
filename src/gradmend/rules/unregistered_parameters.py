"""GRF202: parameters that the loss depends on and that belong to no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import fact, loss_tails, no_loss_falls, owners, states


@dataclass(frozen=True)
class Limits:
    """When parameters count as unregistered."""

    parameters: float = limit(
        1.0, unit="parameters", source="a fact: a model's parameters() yields it or does not"
    )


@rule(
    code="GRF202",
    limits=Limits,
    fires_on=[
        Case.of("optimizer_groups", fault="python_list", labels="random"),
        Case.of("optimizer_groups", fault="python_list"),
    ],
    silent_on=[
        Case.of("optimizer_groups"),
        Case.of("optimizer_groups", fault="missing", labels="random"),
        Case.of("two_players"),
    ],
)
def unregistered_parameters(history: History, limits: Limits) -> Iterator[Finding]:
    """Parameters on the loss's way that neither a watched model nor an optimizer knows.

    What it finds:
        Parameters that get gradients but are reached by no ``parameters()`` of a model in
        training: layers kept in a plain Python list or dict. Either seen on the graph of the
        loss, or as a model of its own none of whose parameters is in an optimizer. A note while
        the loss falls, as a fixed network may be meant; not where they are found, in training
        mode, in a list or dict of the model.

    Why it matters:
        ``model.parameters()`` does not yield them, so no optimizer moves them, ``to(device)``
        leaves them behind and ``state_dict()`` does not save them.

    How it is measured:
        Leaves of the loss's graph against the models' parameters and the parameter groups; where
        the models' own attributes hold them.

    Silent when:
        They are frozen, in evaluation mode, or in an optimizer; they are inputs that need a
        gradient.

    References:
        torch.nn.ModuleList's page.
    """
    strangers = max(
        (int(tail.facts.get("strangers") or 0) for tail in loss_tails(history)), default=0
    )
    modules, source = _models_of_their_own(history)
    tells = any(tail.facts.get("hidden") for tail in loss_tails(history))
    if strangers < limits.parameters and not modules and not tells:
        return
    hidden = next(
        (tuple(map(str, h)) for t in loss_tails(history) if (h := t.facts.get("hidden"))), ()
    )
    flat = no_loss_falls(history) or bool(hidden)
    modules = hidden or modules
    count = max(strangers, len(modules))
    what = f"{strangers} parameters" if strangers else f"the parameters of {len(modules)} modules"
    if hidden:
        what = f"{what} ({', '.join(hidden[:3])}{' ...' if len(hidden) > 3 else ''})"
    yield Finding(
        code="GRF202",
        name="unregistered-parameters",
        severity=Severity.WARNING if flat else Severity.NOTE,
        modules=modules,
        source=source,
        summary=(
            f"{what} get gradients, but no trained model and no optimizer holds them: keep layers"
            " in an nn.ModuleList, not in a list, or freeze them if they are meant to stay"
        ),
        evidence=(
            Evidence(
                quantity="parameters (or modules) on the graph that no model registers",
                observed=float(count),
                limit=limits.parameters,
                unit="parameters",
                step=history.step,
            ),
        ),
        weight=100.0 if flat else 0.0,
        explains=("loss-plateau",) if flat else (),
        exculpation="every parameter in a registered module, or frozen",
    )


def _models_of_their_own(history: History) -> tuple[tuple[str, ...], str | None]:
    """Modules of root models that get gradients while no optimizer holds any part of them."""
    table = history["gradient"]
    if not len(table) or len(history.run.models) < 2:
        return (), None
    owner = owners(table)
    candidates = (owner < 0) & fact(table, "trainable") & states(history).some
    roots = np.array([c.name.partition(".")[0] for c in table.columns])
    held = np.isin(roots, roots[owner >= 0])
    if not held.any():
        return (), None
    alone = [c for c, is_one in zip(table.columns, candidates & ~held, strict=True) if is_one]
    return tuple(dict.fromkeys(c.module for c in alone)), alone[0].source if alone else None
