"""GRF205: a part of the forward pass that runs under no_grad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradmend.records.finding import Finding
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import cuts

REASONS = {"no_grad": "torch.no_grad()", "inference_mode": "torch.inference_mode()"}


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: None is a fact
    yield from _findings(cuts.of_run(history)[0])


def _findings(every: Iterable[cuts.Lost]) -> Iterator[Finding]:
    for lost in every:
        if lost.reason not in REASONS or not lost.modules:
            continue
        behind = f"; {lost.behind} behind it does get one" if lost.behind else ""
        yield cuts.finding(
            lost,
            code="GRF205",
            name="no-grad-forward",
            summary=(
                f"{lost.modules[0]} runs under {REASONS[lost.reason]}, so none of its"
                f" {len(lost.names)} trainable parameters gets a gradient{behind}: take the block"
                " off for training, or freeze them (requires_grad=False) if that is meant"
            ),
            exculpation="requires_grad=False, or a forward pass that records its graph",
        )


@rule(
    code="GRF205",
    fires_on=[Case.of("cut_network", fault="no_grad"), Case.of("cut_network", fault="inference")],
    silent_on=[
        Case.of("cut_network"),
        Case.of("cut_network", fault="detach"),
        Case.of("cut_network", fault="reentrant_checkpoint"),
        Case.of("cut_network", fault="frozen"),
        Case.of("cut_network", fault="teacher"),
    ],
    live=_live,
    live_fires_on=[Case.of("two_stages", fault="no_grad")],
    live_silent_on=[
        Case.of("two_stages"),
        Case.of("two_stages", fault="detach"),
        Case.of("two_stages", fault="reentrant_checkpoint"),
        Case.of("two_stages", fault="checkpoint"),
        Case.of("teacher_and_student"),
    ],
)
def no_grad_forward(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """Trainable modules whose forward pass runs under no_grad or inference_mode.

    What it finds:
        Modules with trainable parameters that ran while recording was switched off, in a forward
        pass that a loss was taken of, so that no gradient reaches them.

    Why it matters:
        Their gradient is None, not small: they stay as they were initialised while the rest learns
        around them. It looks like a first layer whose gradient has vanished.

    How it is measured:
        Whether recording is on as each module begins, and whether the loss reaches its
        parameters; exact. In a run: the same, of parameters whose gradient is None at every step.

    Silent when:
        The parameters are frozen; a tensor was detached instead (detached-parameters), or a
        reentrant checkpoint switched recording off; the module is a teacher's or target copy by its
        name, which is told as a note.

    References:
        speechbrain/speechbrain#2759; PyTorch, "Locally disabling gradient computation".
    """
    del limits  # unused: whether recording is on is a fact
    yield from _findings(cuts.of_trace(trace))
