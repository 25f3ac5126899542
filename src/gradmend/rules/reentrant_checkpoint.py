"""GRF204: a reentrant checkpoint whose inputs need no gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradmend.records.finding import Finding
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import cuts


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: None is a fact
    yield from _findings(cuts.of_run(history)[0])


def _findings(every: Iterable[cuts.Lost]) -> Iterator[Finding]:
    for lost in every:
        if lost.reason != "reentrant_checkpoint" or not lost.modules:
            continue
        first = lost.modules[-1]
        yield cuts.finding(
            lost,
            code="GRF204",
            name="reentrant-checkpoint",
            summary=(
                f"{len(lost.names)} trainable parameters inside checkpointed blocks, from {first}"
                f" to {lost.modules[0]}, get no gradient: checkpoint(..., use_reentrant=True) gives"
                " none where no tensor handed in requires one: pass use_reentrant=False, or let the"
                " inputs require one (enable_input_require_grads)"
            ),
            exculpation="an input that requires a gradient, or use_reentrant=False",
        )


@rule(
    code="GRF204",
    fires_on=[Case.of("cut_network", fault="reentrant_checkpoint")],
    silent_on=[
        Case.of("cut_network"),
        Case.of("cut_network", fault="checkpoint"),
        Case.of("cut_network", fault="reentrant_behind"),
        Case.of("cut_network", fault="no_grad"),
        Case.of("cut_network", fault="detach"),
    ],
    live=_live,
    live_fires_on=[Case.of("two_stages", fault="reentrant_checkpoint")],
    live_silent_on=[
        Case.of("two_stages"),
        Case.of("two_stages", fault="checkpoint"),
        Case.of("two_stages", fault="no_grad"),
        Case.of("two_stages", fault="detach"),
    ],
)
def reentrant_checkpoint(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """Activation checkpoints of the reentrant kind around the first trainable layers.

    What it finds:
        Trainable parameters inside ``checkpoint(..., use_reentrant=True)`` whose inputs come of
        data or frozen layers alone (LoRA on a frozen embedding), so that none of them gets a
        gradient.

    Why it matters:
        The reentrant checkpoint runs its block without recording and hands back a result that
        requires a gradient only if an input did. Torch warns once, among many warnings; the loss
        still falls a little by what lies behind.

    How it is measured:
        Whether a trainable tensor led to what each reentrant checkpoint was handed, and whether the
        loss reaches the parameters inside; exact. In a run: modules that ran inside such a block
        and whose parameters' gradients are None at every step.

    Silent when:
        An input requires a gradient; the checkpoint is not reentrant; recording was switched off by
        the user's own no_grad (no-grad-forward).

    References:
        microsoft/LoRA#120; locuslab/open-unlearning#178; torch.utils.checkpoint, "use_reentrant".
    """
    del limits  # unused: None is a fact
    yield from _findings(cuts.of_trace(trace))
