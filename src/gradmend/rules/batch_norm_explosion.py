"""NRM101: batch norms in a row that multiply the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Measurement
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When batch norms explode."""

    decades: float = limit(
        2.5,
        unit="decades",
        source="of gradient between last and first norm. Own runs on digits, width 64, 200 steps "
        "of Adam at 1e-3: 20 layers (1.7 decades) 86 %, 30 (2.5) 33 %, 40 (3.3) 14 %",
    )
    error_decades: float = limit(
        3.3, unit="decades", source="the same runs: at 40 layers nothing is learned"
    )
    per_norm: float = limit(
        0.04,
        unit="decades",
        source="half of log10 sqrt(pi / (pi - 1)) = 0.083, what one costs under ReLU (Yang et al. "
        "2019); near-linear layers cost less and train",
    )


@rule(
    code="NRM101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=40, norm="batch", width=64),
        Case.of("mlp", depth=60, norm="batch", init="normal", gain=1.414),
    ],
    silent_on=[
        Case.of("mlp", depth=12, norm="batch"),
        Case.of("mlp", depth=40, norm="layer", init="normal", gain=1.414),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
        Case.of("mlp", depth=40, activation="sigmoid", norm="batch"),
        Case.of("residual_stack", depth=40, norm="batch"),
        Case.of("cnn", depth=6),
    ],
)
def batch_norm_explosion(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Batch normalisation in a deep plain network, which multiplies the gradient at every layer.

    What it finds:
        Chains of batch norms without skips along which the gradient grows by decades on its way
        back.

    Why it matters:
        Normalising over the batch takes away what samples share, so what tells them apart is
        blown up, and the gradient with it: at initialisation by sqrt(pi / (pi - 1)) = 1.21 for
        each ReLU layer, whatever the weights' scale. Forty layers have a factor of 2,000 between
        first and last: no learning rate fits both.

    How it is measured:
        Decades of gradient, in the ledger, between the first and the last batch norm that all of
        the gradient passes.

    Silent when:
        Skips carry the gradient past the norms; there are few layers, or the layers are nearly
        linear; the norms do not normalise by the batch (eval mode); a few steps on one batch
        brought the loss down.

    References:
        Yang, Pennington, Rao, Sohl-Dickstein, Schoenholz 2019 (A mean field theory of batch
        normalization), which has the factor.
    """
    if not trace.run.training:
        return
    norms = [op for op in trace.operations if op.name == "batch_norm" and op.share > 0.99]
    if len(norms) < 2 or 2 * len(norms) < trace.chain_depth:
        return
    between = [op for op in trace.operations if norms[0].id < op.id <= norms[-1].id]
    grown = sum(op.decades for op in between)
    if not limits.decades <= grown < math.inf:  # NaN convicts nobody
        return
    per_norm = grown / (len(norms) - 1)
    largest = max((op.decades for op in between), default=0.0)
    if per_norm < limits.per_norm or largest > 0.5 * grown or _learns(trace):
        return
    yield Finding(
        code="NRM101",
        name="batch-norm-explosion",
        severity=Severity.ERROR if grown >= limits.error_decades else Severity.WARNING,
        modules=_modules(norms),
        source=norms[0].source,
        summary=(
            f"{len(norms)} batch norms in a row, without a skip, multiply the gradient by"
            f" {10.0**per_norm:.2f} each: by {10.0 ** min(grown, 300.0):.2g} from the last to"
            f" {norms[0].module or 'the first'}; add skips, or use fewer layers"
        ),
        evidence=(
            Evidence(
                quantity="decades gained between the norms",
                observed=grown,
                limit=limits.decades,
                unit="decades",
                module=norms[0].module,
            ),
        ),
        weight=grown + 1.0,
        explains=(
            "exploding-gradient",
            "depth-without-skip",
            "gain-unlike-theory",
            "loss-plateau",
            "learning-rate-too-high",
            "update-norm-spike",
            "init-gain-too-large",
        ),
        exculpation="skips, or fewer layers",
    )


def _modules(norms: list[Operation]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op.module for op in norms))


def _learns(trace: Trace) -> bool:
    """Whether a few steps that somebody asked for halved the loss on their batch."""
    answer = trace.answer(Measurement.FEW_STEPS)
    if answer is None or len(answer.losses) < 8:
        return False
    return answer.losses[-1] < 0.5 * answer.losses[0]
