"""Draw units anew that are off for every sample, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    activation_of,
    causes,
    healthy_gain,
    own_layers,
    refusal,
    target_of,
)
from gradmend.theory.initialisation import he_gain


@remedy(treats=["dead-relu"], changes=[Change.INITIALISATION])
def revive_dead_units(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Draw the incoming weights of dead units anew, and keep all that live.

    What it does:
        In one forward pass on a batch, layer after layer, finds the units that are below zero on
        every sample, draws their incoming weights at the gain of healthy layers, and centres
        their biases. Behind a norm, its scale and offset for those units become one and zero. In
        a trained model what is read of them becomes zero, so that it computes what it did; the
        first step opens those weights again.

    Why it should work:
        A unit that is off on all data has no gradient, and nothing brings it back. Those that
        live keep what they have learned.

    What it predicts:
        Fewer than half of the units of any layer are dead.

    When it refuses:
        Nothing that is drawn anew feeds the dead units: the layer is frozen, shared, tied or
        called as a function; the finding follows from another cause.

    What it costs:
        One forward pass once. Needs data when applied.

    References:
        Lu, Shin, Su, Karniadakis 2019; Sokar et al. 2023 (ReDo: incoming weights drawn anew,
        outgoing zero).
    """
    guilty = causes(findings)
    own = {op.id: op for op in own_layers(trace)}
    acts = activation_of(trace)
    trained = trace.run.step > 0 or (trace.optimizer is not None and trace.optimizer.steps_taken)
    names = {module for finding in guilty for module in finding.modules}
    targets: dict[str, tuple[float, list[str]]] = {}
    exact = trained
    for act in trace.activations:
        facts = act.activation
        if facts is None or not facts.dead_units or len(act.upstream) != 1 or not guilty:
            continue
        fed = trace.operations[act.upstream[0]]
        sole = trace.readers.get(fed.id, ()) == (act.id,)
        if not fed.module or not sole or not {act.module, fed.module} & names:
            continue
        if fed.id in own and own[fed.id].weights is not None and own[fed.id].module:
            sick = [op for op in own.values() if _is_dead(acts.get(op.id))]
            gain = healthy_gain(trace, own[fed.id], sick)
            known = target_of(trace, own[fed.id], act, max(1, trace.chain_depth))
            gain = gain or (known.gain if known is not None else he_gain())
        elif fed.cause == "normalisation" and _once(trace, fed):
            gain = 1.0
        else:
            continue
        readers = _readers(trace, act, own) if trained else []
        exact = exact and bool(readers)
        targets[fed.module] = (gain, readers)
    if not guilty or not targets:
        reason = (
            "no layer or norm of its own feeds the dead units"
            if guilty
            else f"it follows from {findings[0].explained_by if findings else 'nothing'}"
        )
        yield refusal("revive-dead-units", findings, reason)
        return
    yield Prescription(
        edits=(
            Edit(
                kind="revive_units",
                targets=tuple(targets),
                args={
                    "gains": [gain for gain, _ in targets.values()],
                    "readers": [readers for _, readers in targets.values()],
                    "seed": 0,
                },
            ),
        ),
        predictions=(
            Prediction(
                quantity="dead_share",
                low=-0.01,
                high=0.5,
                unit="share",
                sentence="fewer than half of any layer's units are dead",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"dead units of {len(targets)} layer(s) drawn anew",
        keeps_function=exact,
    )


def _is_dead(act: Operation | None) -> bool:
    return act is not None and act.activation is not None and act.activation.dead_share >= 0.5


def _once(trace: Trace, op: Operation) -> bool:
    module = trace.module_at.get(op.module)
    return module is not None and module.standard and module.uses == 1


def _readers(trace: Trace, act: Operation, own: dict[int, Operation]) -> list[str]:
    """The weights that read an activation, where all that do can be silenced; else none."""
    names = []
    pending = list(trace.readers.get(act.id, ()))
    while pending:
        op = trace.operations[pending.pop()]
        if op.cause in ("pooling", "dropout"):
            pending.extend(trace.readers.get(op.id, ()))
        elif op.id in own and op.weights is not None and op.weights.module_is_plain:
            if op.weights.unit_spread is None and op.weights.kind == "convolution":
                return []  # groups: a column is not an input channel
            names.append(op.weights.parameter)
        else:
            return []
    return names
