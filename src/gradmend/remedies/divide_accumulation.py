"""Divide the losses of an accumulated step."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["undivided-accumulation"], changes=[Change.WIRING])
def divide_accumulation(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Hand loss / n to backward where n passes make one step: a change to the training loop.

    What it does:
        Shows the line. The number of passes is the user's own loop's, which no edit reaches.

    Why it should work:
        n backward passes add up n gradients. Divided by n they are the gradient of the mean over
        all their samples, for which the learning rate was meant.

    What it predicts:
        Nothing that one look can check: it makes one backward pass.

    When it refuses:
        Never: where the sum does no harm the finding is a note, and is not treated.

    What it costs:
        Nothing. A rate divided by n does the same for plain descent.

    References:
        Goyal et al. 2017, remark 3 (normalise by the whole minibatch).
    """
    del trace  # unused: the loop is not in it
    for finding in findings:
        passes = finding.evidence[0].observed if finding.evidence else 0.0
        n = f"{passes:.0f}" if passes >= 2 else "n"
        yield Advice(
            remedy="divide-accumulation",
            finding=finding.name,
            text=f"divide each loss by the {n} backward passes that one step is made of",
            before="loss.backward()",
            after=f"(loss / {n}).backward()",
            source=finding.source,
        )
