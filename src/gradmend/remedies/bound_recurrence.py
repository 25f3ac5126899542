"""Scale recurrent weights down until time changes no gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.recurrent_layers import blamed, blamed_loops, reaches_the_first_step
from gradmend.theory.repeated import repeated_modules

_NAME = "bound-recurrence"


@remedy(treats=["gradient-grown-through-time"], changes=[Change.INITIALISATION])
def bound_recurrence(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Divide the recurrent weights by what they multiply the gradient with at each step.

    What it does:
        Divides the recurrent weights of each layer to blame (or of the square linear layer that a
        loop calls) by the growth per step that was measured; as a bound on their spectral radius
        where that is known, so that it fits weights of another draw too.

    Why it should work:
        Over T steps the gradient is multiplied by about the T-th power of the growth per step, so
        ten decades in fifty steps are a factor of 1.6, and need no other weights. Their
        directions, and what training has made of them, stay.

    What it predicts:
        On its way back to the first time step the gradient loses less than two decades, and
        gains less than three.

    When it refuses:
        The growth per step is not above one, or not known; the weights are frozen or shared.

    What it costs:
        Nothing at run time. The layer computes something else, with a shorter memory. Training
        may make the weights grow again: clipping holds what this begins.

    References:
        Pascanu, Mikolov, Bengio 2013; Li et al. 2018 (IndRNN: recurrent weights within a bound
        that depends on the number of steps).
    """
    rows: list[tuple[str, float, float | None]] = [
        (layer.path, layer.gain, layer.radius if math.isfinite(layer.radius) else None)
        for layer in blamed(findings, trace)
        if layer.trainable and layer.gain > 0
    ]
    loops = {facts.path for facts, _ in blamed_loops(findings, trace)}
    rows += [
        (found.module, found.per_call, None)
        for found in repeated_modules(trace)
        if found.module in loops and found.per_call > 0
    ]
    # Beyond a thousand times per step a measured number says no more than that it is large.
    rows = [(path, min(gain, 3.0), radius) for path, gain, radius in rows]
    if not rows:
        yield Refusal(
            remedy=_NAME,
            finding=findings[0].name,
            reason="no recurrent layer whose weights are its own is known to grow at each step",
        )
        return
    paths = tuple(path for path, _, _ in rows)
    factors = [10.0**-gain for _, gain, _ in rows]
    radii = [
        None if radius is None else radius * factor
        for (_, _, radius), factor in zip(rows, factors, strict=True)
    ]
    yield Prescription(
        edits=(
            Edit(
                kind="bound_recurrence",
                targets=paths,
                args={"factors": factors, "radii": radii},
            ),
        ),
        predictions=(reaches_the_first_step(trace, paths),),
        changes=(Change.INITIALISATION,),
        reason=f"recurrent weights divided by the growth per step of up to {1 / min(factors):.3g}",
    )
