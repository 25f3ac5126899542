"""What repairs are tried on: planted and published faults, and trainings that are healthy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest

import torch
from planted.cells import Case, bare, build, cases, order
from planted.plants import PLANTS
from planted.training import Training
from published import cnn, mlp, regression, sequence
from published.material import FAULTS

FAMILIES = (mlp, cnn, regression, sequence)
"""Imported so that their faults are in the list."""

_FORWARD = "it is written in the model's own forward pass"
_LOSS = "it is written in the author's own loss"
_DATA = "the data hold nothing to learn"
ADVICE = {
    **dict.fromkeys(("blank", "same-sample", "one-class-only", "shuffled-labels"), _DATA),
    **dict.fromkeys(("all-ignored", "missing-values"), "only the author knows what was meant"),
    **dict.fromkeys(("mean-over-empty-mask", "own-cross-entropy", "norm-of-difference"), _LOSS),
    **dict.fromkeys(("standardised-by-nothing", "variance-by-exponential"), _LOSS),
    **dict.fromkeys(("clamped-error", "clamped-probability", "nll-of-probabilities"), _LOSS),
    **dict.fromkeys(("softmax-in-loss", "numbers-as-probabilities", "word-too-long"), _LOSS),
    **dict.fromkeys(("detach-inside", "detach-behind-stem", "rounded", "signs-of-stem"), _FORWARD),
    **dict.fromkeys(("reentrant-first-layer", "feature-extractor-without-grad"), _FORWARD),
    **dict.fromkeys(("detached-state", "drawn-in-forward", "all-padding"), _FORWARD),
    **dict.fromkeys(("distances-to-itself", "where-hides", "where-hides-division"), _FORWARD),
    **dict.fromkeys(("logarithm-inside", "mean-of-nothing", "exponential-inside"), _FORWARD),
    **dict.fromkeys(("rectifier-at-the-end", "rectified-logits", "softmax-of-one"), _FORWARD),
    "too-large-for-half": _FORWARD,
    "too-small-for-half": "the number format is the author's choice",
    "too-small-for-bfloat": "the number format is the author's choice",
    "optimizer-of-another": "the optimizer holds no parameter of the model: it is to be built anew",
}  # fmt: skip
"""Plants that no edit of model, loss, data or optimizer can mend, and why (our judgement). Where a
repair is found all the same, the better."""
CLEAN = ("missing-values", "rare-outlier", "rare-outlier-target")
"""Plants that spoil some batches: judged on unseen batches that are not spoilt."""

Build = Callable[[int, bool], Training]


@dataclass(frozen=True)
class Subject:
    """One training, sick or healthy, that can be built anew from any seed."""

    set: str
    """``planted`` or ``published``."""
    split: str
    name: str
    what: str
    arch: str
    source: str
    cause: str
    accepted: tuple[str, ...]
    guilty: tuple[str, ...]
    """Modules; empty where none is known."""
    advice: str
    """Why only its author can mend it; empty where an edit can."""
    sick: bool
    seed: int
    make: Build
    """Seed of the weights, sick or not -> the training before its first step."""


def subjects(which: str, split: str, healthy: bool, per: int) -> Iterator[Subject]:
    """All, in an order of which any beginning is a fair sample."""
    planted = _planted(split, healthy, per) if which != "published" else iter(())
    published = _published(split, healthy) if which != "planted" else iter(())
    both = chain.from_iterable(zip_longest(published, planted))
    return (subject for subject in both if subject is not None)


def in_loop(t: Training) -> bool:
    """Whether part of it is in a loop that ``fix`` never executes, or it is a GAN."""
    own = t.before or t.after_backward or t.after_step or not t.clear or t.accumulate != 1
    return bool(own) or t.schedule is not None or t.scaler is not None or t.critic is not None


def _planted(split: str, healthy: bool, per: int) -> Iterator[Subject]:
    for case in cases(split, not healthy, per):
        made = build(case)
        assert made is not None
        training, guilty = made
        if in_loop(training):
            continue
        plant = PLANTS.get(case.what) if case.planted else None
        yield Subject(
            set="planted",
            split=split,
            name=case.name,
            what=case.what,
            arch=case.arch,
            source="planted",
            cause=plant.cause if plant else "",
            accepted=(plant.cause, *plant.also) if plant else (),
            guilty=guilty,
            advice=ADVICE.get(case.what, ""),
            sick=plant is not None,
            seed=case.seed,
            make=partial(_plant, case),
        )


def _plant(case: Case, seed: int, sick: bool) -> Training:
    mine = replace(case, seed=seed)
    if not sick and case.planted:
        return bare(mine)
    made = build(mine)
    assert made is not None
    return made[0]


def _published(split: str, healthy: bool) -> Iterator[Subject]:
    mine = [fault for fault in FAULTS.values() if fault.split == split]
    for fault in sorted(mine, key=lambda f: order(f.name)):
        yield Subject(
            set="published",
            split=split,
            name=f"{'healthy' if healthy else 'fault'}/{fault.name}/{fault.family}/{split}",
            what=fault.name,
            arch=fault.family,
            source=fault.source,
            cause="" if healthy else fault.cause,
            accepted=() if healthy else (fault.cause, *fault.also),
            guilty=(),
            advice=fault.advice,
            sick=not healthy,
            seed=0,
            make=partial(_publish, fault.name, healthy),
        )


def _publish(name: str, healthy: bool, seed: int, sick: bool) -> Training:
    torch.manual_seed(seed)
    return FAULTS[name].make(sick and not healthy)
