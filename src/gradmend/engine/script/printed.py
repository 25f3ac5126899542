"""Figures that a script prints of its own evaluation: ``test acc: 0.91``, ``val_loss=0.34``."""

from __future__ import annotations

import re

from gradmend.records.verdict import Figure

HIGHER = frozenset(
    {"acc", "accuracy", "acc1", "acc5", "top1", "top5", "f1", "auc", "auroc", "precision"}
    | {"recall", "bleu", "rouge", "reward", "return", "returns", "iou", "miou", "dice", "map"}
    | {"r2", "correct", "score"}
)
"""Words for what is better when there is more of it."""
LOWER = frozenset(
    {"loss", "err", "error", "ppl", "perplexity", "bpc", "mse", "rmse", "mae", "nll", "fid"}
    | {"kid", "wer", "cer", "distance", "divergence"}
)
"""Words for what is better when there is less of it."""
UNSEEN = frozenset(
    {"val", "valid", "validation", "test", "testing", "eval", "evaluation", "dev", "heldout"}
    | {"held", "unseen", "holdout"}
)
"""Words for data that was not trained on."""
TRAINED = frozenset({"train", "training"})
LONGEST = 2000
"""Characters of a line that are read."""

_PAIR = re.compile(
    r"(?P<label>[A-Za-z][A-Za-z0-9_@/\- ]{0,40}?)['\"]?\s*(?:[:=]+|\bis\b|\s)\s*"
    r"(?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf))(?P<percent>\s?%)?"
)


def printed_figures(text: str) -> dict[str, Figure]:
    """The last figure of each name in what a script has printed, evaluations only.

    A loss or an error counts if its label or the words before it on the line speak of unseen data;
    an accuracy and its like also where nothing is said, but not of training data.

    Args:
        text: Standard output.
    """
    found: dict[str, Figure] = {}
    for line in text.splitlines():
        about: set[str] = set()
        read_to = 0
        for match in _PAIR.finditer(line[:LONGEST]):
            words = _words(match["label"])
            about = set(_words(line[read_to : match.end("label")])) & (UNSEEN | TRAINED) or about
            read_to = match.end()
            kind = next((w for w in reversed(words) if w in HIGHER | LOWER), None)
            if kind is None or about & TRAINED or (kind in LOWER and not about & UNSEEN):
                continue
            name = " ".join(words[-3:])
            if about & UNSEEN and not set(words) & UNSEEN:
                name = f"{sorted(about & UNSEEN)[0]} {name}"
            value = float(match["number"])
            found[name] = Figure(name, value, kind in HIGHER)
    return found


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z0-9]+", text.lower()) if word]
