"""The whole flow on one page: check, fix, apply."""

from __future__ import annotations

from datetime import UTC, datetime

from torch import nn

from gradmend.engine.diagnose import diagnose
from gradmend.engine.shadow_training import train_shadow
from gradmend.probe.batch import Batch, Feeder, Forward, LossFn
from gradmend.probe.look import look
from gradmend.records.report import Report


def check(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn | None = None,
    *,
    steps: int = 0,
    forward: Forward | None = None,
    precision: str = "auto",
    learning_rate: float = 1e-3,
) -> Report:
    """Look at a model on one batch and say what keeps its gradient from flowing.

    The model is left as it was, bit for bit: parameters, buffers, gradients, random state,
    train/eval flags and hooks.

    Args:
        model: Any ``nn.Module``.
        batch: ``(x, y)``: ``loss_fn(model(x), y)``, a tuple x is unpacked; or a mapping:
            ``loss_fn(model(**batch), batch)``; or anything, with ``forward``.
        loss_fn: The loss, one number.
        steps: Also try this many steps of Adam on a copy of the weights and look again, for
            what only shows after a while.
        forward: ``(model, batch) -> loss``, instead of ``loss_fn``.
        precision: ``auto``, ``float64`` or ``native``; see :func:`gradmend.probe.look.look`.
        learning_rate: Of those steps.

    Returns:
        The report; ``report.findings`` is ranked, the cause to start with first.

    Raises:
        BadInput: If model, batch and loss do not fit together; in one line what and why.
    """
    feeder = Feeder(loss_fn=loss_fn, forward=forward)
    trace = look(model, batch, feeder, precision=precision)
    found = diagnose(trace)
    after = None
    if steps:
        shadow = train_shadow(model, batch, feeder, steps=steps, learning_rate=learning_rate)
        after = look(model, batch, feeder, precision=precision, shadow=shadow, step=steps)
        found = found.joined(diagnose(after), step=steps)
    return Report(
        trace=trace,
        findings=found.findings,
        cannot_judge=found.cannot_judge,
        after=after,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
