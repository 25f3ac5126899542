"""Calls of torch's loss functions: what they were handed, read at once and not held.

What ``torch.nn.functional`` calls underneath is replaced for as long as somebody listens, so that
a function bound before is heard as well as a module. A loss written by hand is not heard.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.jit._builtins import _find_builtin, _get_builtin_table, _register_builtin

from gradmend.probe.batch import Feeder
from gradmend.probe.quiet import Quiet
from gradmend.probe.sample import plain
from gradmend.records.loss_call import MANY, LossCall, Values

NN = torch._C._nn
MOST_CALLS = 16

LOSSES: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "mse_loss": (NN, "mse_loss", ("input", "target", "reduction")),
    "l1_loss": (NN, "l1_loss", ("input", "target", "reduction")),
    "smooth_l1_loss": (NN, "smooth_l1_loss", ("input", "target", "reduction")),
    "huber_loss": (NN, "huber_loss", ("input", "target", "reduction")),
    "cross_entropy": (
        NN,
        "cross_entropy_loss",
        ("input", "target", "weight", "reduction", "ignore_index"),
    ),
    "nll_loss": (NN, "nll_loss_nd", ("input", "target", "weight", "reduction", "ignore_index")),
    "binary_cross_entropy": (
        NN,
        "binary_cross_entropy",
        ("input", "target", "weight", "reduction"),
    ),
    "binary_cross_entropy_with_logits": (
        torch,
        "binary_cross_entropy_with_logits",
        ("input", "target", "weight", "pos_weight", "reduction"),
    ),
    "kl_div": (torch, "kl_div", ("input", "target", "reduction", "log_target")),
    "soft_margin_loss": (NN, "soft_margin_loss", ("input", "target", "reduction")),
    "hinge_embedding_loss": (torch, "hinge_embedding_loss", ("input", "target")),
    "margin_ranking_loss": (torch, "margin_ranking_loss", ("input1", "input2", "target")),
    "cosine_embedding_loss": (torch, "cosine_embedding_loss", ("input1", "input2", "target")),
    "poisson_nll_loss": (torch, "poisson_nll_loss", ("input", "target")),
}
"""The loss functions that are heard: where torch's own functions and modules look up what does the
work at every call, under which name, and its first arguments."""

REDUCTIONS = {0: "none", 1: "mean", 2: "sum"}

ROWS, ENTRIES = 512, 1 << 15
"""Samples, and entries in all, of a tensor up to which all are looked at."""

_REARRANGED = frozenset(
    {"CloneBackward0", "ToCopyBackward0", "ViewBackward0", "SqueezeBackward0", "SqueezeBackward1"}
    | {"UnsqueezeBackward0", "UnsafeViewBackward0", "ExpandBackward0", "AliasBackward0"}
    | {"ReshapeAliasBackward0", "TBackward0", "TransposeBackward0", "PermuteBackward0"}
)


class Ear:
    """Replaces the loss functions between :meth:`open` and :meth:`close`.

    Args:
        tell: Gets a loss's name, its positional and its named arguments.
        made: Gets a loss's name and what came out.
    """

    def __init__(
        self,
        tell: Callable[[str, Any, Any], None],
        made: Callable[[str, Any], None] = lambda name, result: None,
    ) -> None:
        self.tell, self.made = tell, made
        self._undo: list[Callable[[], None]] = []

    def open(self) -> None:
        """Begin to hear."""
        for name, (holder, attribute, _) in LOSSES.items():
            original = getattr(holder, attribute, None)
            if original is not None:
                self._replace(holder, attribute, original, name)

    def close(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, holder: Any, attribute: str, original: Any, name: str) -> None:
        @functools.wraps(original)
        def heard(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not torch.compiler.is_compiling():
                try:
                    self.tell(name, args, kwargs)
                    self.made(name, result)
                except Exception:  # ours, inside the user's loss: not known is better than broken
                    return result
            return result

        # torch.jit.script knows operations by their id.
        operation = _find_builtin(original)  # type: ignore[no-untyped-call]
        if operation is not None:
            _register_builtin(heard, operation)
        setattr(holder, attribute, heard)

        def undo() -> None:
            # Somebody may have wrapped it after us: then theirs stays, and ours only passes on.
            if getattr(holder, attribute) is heard:
                setattr(holder, attribute, original)
                _get_builtin_table().pop(id(heard), None)  # type: ignore[no-untyped-call]

        self._undo.append(undo)


@contextmanager
def hearing(calls: list[LossCall]) -> Iterator[None]:
    """Collect the loss calls of a block."""

    def tell(name: str, args: Any, kwargs: Any) -> None:
        given = arguments(name, args, kwargs) if len(calls) < MOST_CALLS else None
        if given is not None:
            calls.append(measured(name, *given))

    ear = Ear(tell)
    ear.open()
    try:
        yield
    finally:
        ear.close()


def arguments(
    name: str, args: Any, kwargs: Any
) -> tuple[Tensor | None, Tensor, dict[str, Any]] | None:
    """(prediction, target, other arguments) of a call; ``None`` where there is no target of data.

    The side that needs a gradient is the prediction, on whichever side it was handed.
    """
    given = dict(zip(LOSSES[name][2], args, strict=False)) | dict(kwargs)
    first, target = given.get("input", given.get("input1")), given.get("target")
    if not isinstance(first, Tensor) or not isinstance(target, Tensor):
        return None
    if _is_made_by_a_model(target):
        if _is_made_by_a_model(first) or name not in ("mse_loss", "l1_loss", "smooth_l1_loss"):
            return None  # two outputs compared with each other
        first, target = target, first
    if not first.requires_grad:
        return None  # an evaluation
    return first, target, given


def _is_made_by_a_model(x: Tensor) -> bool:
    """Whether anything but a rearranged copy of the data."""
    node: Any = x.grad_fn
    while node is not None and type(node).__name__ in _REARRANGED:
        node = node.next_functions[0][0]
    return node is not None and type(node).__name__ != "AccumulateGrad"


def whole_of(x: Tensor) -> Tensor:
    """A tensor, or what it is a broadcast view of, if of the same shape."""
    base = x._base
    return base if base is not None and base.shape == x.shape else x


def targets_of(batch: Any, feeder: Feeder, calls: list[LossCall]) -> list[LossCall]:
    """The targets of a pair ``(x, y)`` where no loss call was heard that read them.

    Args:
        batch: The user's batch.
        feeder: How batch and model make a loss.
        calls: Those that were heard.
    """
    if calls or feeder.forward is not None or not isinstance(batch, list | tuple):
        return []
    if len(batch) != 2 or not isinstance(batch[1], Tensor):
        return []
    return [measured("", None, batch[1], {})]


def measured(
    name: str, prediction: Tensor | None, target: Tensor, settings: dict[str, Any]
) -> LossCall:
    """Facts of a call of which tensors are at hand."""
    ignored = settings.get("ignore_index", -100) if name in ("cross_entropy", "nll_loss") else None
    return LossCall(
        function=name,
        reduction=REDUCTIONS.get(settings.get("reduction", 1), "mean"),
        weighted=settings.get("weight") is not None,
        log_target=bool(settings.get("log_target", False)),
        prediction=None if prediction is None else values_of(prediction),
        target=values_of(target, ignored=ignored),
    )


def is_bad_data(x: Tensor) -> int:
    """Entries that are not finite, additive attention masks of 0 and -inf aside."""
    values = plain(x)
    if values is None:
        return 0
    with Quiet():
        finite = torch.isfinite(values)
        if bool(finite.all()) or bool(((values == 0) | (values == -torch.inf)).all()):
            return 0
        return int((~finite).sum())


def values_of(x: Tensor, ignored: int | None = None) -> Values:
    """Facts of a tensor.

    Args:
        x: Samples along dimension 0; classes along dimension 1.
        ignored: An index that stands for no class.
    """
    facts: dict[str, Any] = {
        "shape": tuple(int(n) for n in x.shape),
        "dtype": str(x.dtype).removeprefix("torch."),
    }
    with Quiet():
        part = _part(x)
        if part is None:
            return Values(**facts)
        facts |= _numbers(part, ignored)
        facts |= _rows(part)
    return Values(**facts)


def _part(x: Tensor) -> Tensor | None:
    """A bounded number of samples, as float64 on the CPU; None where they cannot be read here."""
    if x.dtype.is_floating_point:
        found = plain(x)
    else:
        readable = type(x) is Tensor and not x.is_complex() and x.layout is torch.strided
        found = x if readable and x.numel() and not x.is_meta else None
    if found is None:
        return None
    found = found.detach()
    if found.dim() == 0:
        return found.reshape(1).to("cpu", torch.float64)
    samples = len(found)
    keep = max(2, min(ROWS, ENTRIES * samples // found.numel()))
    if samples > keep:
        found = found[:: -(-samples // keep)]
    if found.numel() > 4 * ENTRIES and found.dim() > 2:  # big samples: every k-th place
        found = found.flatten(2)
        found = found[:, :, :: -(-found.numel() // (4 * ENTRIES))]
    return found.to("cpu", torch.float64)


def _numbers(part: Tensor, ignored: int | None) -> dict[str, Any]:
    flat = part.reshape(-1)
    finite = torch.isfinite(flat)
    kept = flat[finite]
    facts: dict[str, Any] = {"non_finite": int(flat.numel() - kept.numel())}
    if ignored is not None:
        kept = kept[kept != ignored]
    if not kept.numel():
        return facts
    ordered = kept.sort().values
    edge = (len(ordered) - 1) // 100
    facts |= {
        "mean": float(kept.mean()),
        "std": float(kept.std(correction=0)),
        "smallest": float(ordered[0]),
        "largest": float(ordered[-1]),
        "low": float(ordered[edge]),
        "high": float(ordered[len(ordered) - 1 - edge]),
        "whole": bool((kept == kept.round()).all()),
    }
    found, counts = ordered.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    if len(found) <= MANY:
        most = int(counts.argmax())
        facts |= {
            "distinct": len(found),
            "commonest": float(found[most]),
            "commonest_share": float(counts[most]) / len(ordered),
        }
    if part.dim() and len(part) > 1:
        facts["spread_share"] = _spread_share(part, ignored)
    return facts


def _spread_share(part: Tensor, ignored: int | None) -> float:
    if ignored is not None and part.dim() == 1:
        part = part[part != ignored]
        if len(part) < 2:
            return math.nan
    if bool((part == part[:1]).all()):
        return 0.0
    energy = float(part.square().mean())
    share = float(part.var(dim=0, correction=0).mean()) / energy if energy > 0 else math.nan
    return max(share, 1e-300)


def _rows(part: Tensor) -> dict[str, Any]:
    if part.dim() < 2 or part.shape[1] < 2 or not bool(torch.isfinite(part).all()):
        return {}
    total = part.sum(dim=1)
    if bool(((part >= 0) & (part <= 1.0 + 1e-6)).all()):
        sums = bool(((total - 1.0).abs() < 1e-2).all())
        hot = bool(((part == 0) | (part == 1)).all()) and bool((total == 1).all())
        return {"distribution": sums, "one_hot": hot}
    if bool((part <= 1e-6).all()):
        logs = bool(((part.exp().sum(dim=1) - 1.0).abs() < 1e-2).all())
        return {"log_distribution": logs}
    return {}
