"""Put clipping where it acts, at a limit that is a safeguard."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import clipped_at, norm_limit

_CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), {})"


@remedy(
    treats=["late-clipping", "clipping-of-scaled-gradients", "clip-too-tight"],
    changes=[Change.WIRING],
)
def mend_clipping(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Advice]:
    """Clip between backward and step, unscaled, at a limit most steps pass: a change to the loop.

    What it does:
        Shows the lines in their right order, or a limit of twice the usual norm of the gradient.
        Clipping in the user's own loop is nothing that an edit could take out.

    Why it should work:
        Behind the step clipping changes gradients that nobody reads. In front of unscale_ the
        limit is compared with the gradient times the scale of thousands. And a limit that every
        step runs into is a smaller learning rate in disguise.

    What it predicts:
        Nothing that one look can check.

    When it refuses:
        Never.

    What it costs:
        Nothing; with a looser limit the steps are larger, and the rate may have to come down.

    References:
        Pascanu, Mikolov, Bengio 2013; torch.amp examples (working with unscaled gradients).
    """
    limit = norm_limit(trace)
    bound = f"{limit:.2g}" if limit is not None else "max_norm"
    clip = _CLIP.format(bound)
    for finding in findings:
        if finding.name == "late-clipping":
            text = "clip after backward and before the step; where it is now nobody reads it"
            before = f"loss.backward()\noptimizer.step()\n{_CLIP.format('max_norm')}"
            after = f"loss.backward()\n{_CLIP.format('max_norm')}\noptimizer.step()"
        elif finding.name == "clipping-of-scaled-gradients":
            text = "take the loss scale out of the gradients before they are clipped"
            before = f"scaler.scale(loss).backward()\n{_CLIP.format('max_norm')}"
            after = f"scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\n{clip}"
        else:
            effect = f": {clipped_at(trace, limit)}" if limit is not None else ""
            text = f"clip at a limit that most steps pass{effect}"
            before, after = _CLIP.format("max_norm  # runs into every step"), clip
        yield Advice(
            remedy="mend-clipping",
            finding=finding.name,
            text=text,
            before=before,
            after=after,
            source=finding.source,
        )
