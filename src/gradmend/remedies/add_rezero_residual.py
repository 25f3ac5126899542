"""Give the gradient a way around every layer, with branches that begin closed."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import (
    Advice,
    Change,
    Edit,
    Prescription,
    Refusal,
)
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.wrappable import SHALLOW, gradient_left, why_not, wrappable


@remedy(
    treats=[
        "depth-without-skip",
        "attenuating-activation",
        "uncentred-activation",
        "init-gain-too-small",
        "init-gain-too-large",
        "dead-relu",
        "vanishing-gradient",
        "collapsed-signal",
        "batch-norm-explosion",
        "learning-rate-unscaled-with-depth",
    ],
    changes=[Change.RESIDUAL],
)
def add_rezero_residual(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Wrap layers into h + alpha f(h), alpha learned from zero.

    What it does:
        Every linear layer or convolution that keeps its input's shape becomes, with the norms,
        activations and dropout behind it, the branch of a residual with one new parameter alpha,
        which starts at zero. Modules of one's own that keep the shape are wrapped as a whole
        where layers of theirs cannot be.

    Why it should work:
        At alpha = 0 every block is the identity, so signal and gradient pass unchanged at any
        depth, whatever f does; training opens the branches as far as they help.

    What it predicts:
        The whole model's gradient changes by what the layers take that cannot be wrapped, as
        measured, within three decades.

    When it refuses:
        There are fewer than five layers in a row, or few of them are at fault; fewer than half
        keep the shape, or they are used several times; the activations are functional (then the
        change of the source is shown). A ReLU called as a function may stand behind the sum: what
        is nowhere negative passes it unchanged.

    What it costs:
        One parameter and one addition a block. The architecture changes: checkpoints of the plain
        model no longer load, and it cannot be folded away. Small rates open the branches slowly.

    References:
        Bachlechner et al. 2021 (ReZero); De and Smith 2020 (SkipInit); He et al. 2016.
    """
    found = wrappable(trace)
    reason = why_not(trace, found, findings)
    if reason is not None:
        finding = findings[0].name if findings else ""
        yield Refusal(remedy="add-rezero-residual", finding=finding, reason=reason)
        called = found.functional
        if called is not None and called.source and found.chain >= SHALLOW:
            yield Advice(
                remedy="add-rezero-residual",
                finding=finding,
                text=(
                    f"{called.name} is called as a function, so only the source can give each layer"
                    " a skip: one learned number for each layer, from zero"
                ),
                before=f"x = torch.{called.name}(layer(x))",
                after=(
                    "self.alphas = nn.Parameter(torch.zeros(len(self.layers)))  # in __init__\n"
                    f"x = x + alpha * torch.{called.name}(layer(x))"
                ),
                source=called.source,
            )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="wrap_residual",
                targets=tuple(run.parts[0] for run in found.runs),
                args={"parts": [list(run.parts[1:]) for run in found.runs]},
            ),
        ),
        predictions=(gradient_left(trace, found),),
        changes=(Change.RESIDUAL,),
        reason=(
            f"{found.layers} layers wrapped into {len(found.runs)} blocks h + alpha f(h), alpha"
            " from zero"
        ),
    )
