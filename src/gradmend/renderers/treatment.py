"""Prescriptions and trials in words: edits, predictions, arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gradmend.records.prescription import Edit, Prediction
from gradmend.records.report import Report
from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers
from gradmend.renderers.visible import visible


def edit_words(edit: Edit) -> str:
    """One edit as a sentence: what is done, to what, with which figures."""
    what = _VERBS.get(edit.kind, visible(edit.kind).replace("_", " "))
    where = f" {_targets(edit.targets)}" if edit.targets else ""
    details = [
        f"{visible(key).replace('_', ' ')} {_argument(value)}"
        for key, value in edit.args.items()
        if _said(value) and not (key == "seed" and value == 0)
    ]
    return f"{what}{where}" + (f": {', '.join(details)}" if details else "")


_VERBS = {
    "standardise_target": "learn in standard units behind",
    "follow_module": "put a module behind",
    "impute_input": "fill gaps in the input of",
    "clamp_input": "hold the input within limits of",
    "drop_non_finite_samples": "leave out samples that are not finite",
    "class_prior_bias": "begin with the classes' frequencies in",
    "scale_output": "scale",
    "maximise": "let the optimizer maximise",
    "register_modules": "register with torch",
    "initialise": "draw anew",
    "looks_linear": "draw in mirrored pairs",
    "replace_module": "replace",
    "wrap_residual": "wrap into a residual block",
    "standardise_input": "standardise the input of",
    "rescale_by_data": "rescale on one batch",
    "scale_learning_rate": "scale the learning rate",
    "scale_layer_rates": "scale the learning rate of",
    "scale_rows": "scale",
    "multiply_output": "multiply what comes out of",
    "deep_norm": "weigh the skips of",
    "normalise_attention": "normalise queries and keys of",
    "normalise_heads": "normalise the heads of",
    "centre_sigmoids": "train in centred coordinates",
    "shift_activations": "train in shifted coordinates",
}
"""Kinds of :mod:`gradmend.edits` as verbs; others show their own name."""


def _targets(targets: Sequence[str]) -> str:
    names = [visible(name) or "(the model)" for name in targets]
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} .. {names[-1]} ({len(names):,} of them)"


def _said(value: object) -> bool:
    """Whether an argument tells a reader something: lists of names only repeat the targets."""
    if isinstance(value, list | tuple):
        numeric = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
        return bool(numeric) and len(numeric) == len(value) and any(numeric)
    return value is not None


def _argument(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return numbers.number(float(value))
    if isinstance(value, list | tuple):
        known = [float(v) for v in value if math.isfinite(float(v))]
        if not known:
            return numbers.UNKNOWN
        low, high = numbers.number(min(known)), numbers.number(max(known))
        return low if low == high else f"{low} to {high}"
    return visible(value)


@dataclass(frozen=True, slots=True)
class Promise:
    """A prediction and what became of it."""

    words: str
    interval: str
    observed: str
    held: bool | None
    """``None`` while it was not checked."""

    @property
    def outcome(self) -> str:
        """``held``, ``not held`` or ``not checked``."""
        return "not checked" if self.held is None else "held" if self.held else "not held"


def promises(report: Report) -> list[Promise]:
    """Every prediction of the prescription, with the trial's measurement where there is one."""
    checked = list(report.verdict.checked) if report.verdict else []
    made = list(report.prescription.predictions) if report.prescription else []
    found = [
        _promise(item.prediction, numbers.with_unit(item.observed, item.prediction.unit), item.held)
        for item in checked
    ]
    known = [item.prediction for item in checked]
    found += [_promise(item, "", None) for item in made if item not in known]
    return found


def _promise(prediction: Prediction, observed: str, held: bool | None) -> Promise:
    words = visible(prediction.sentence or prediction.quantity)
    unit = "" if prediction.unit in ("", "1") else f" {visible(prediction.unit)}"
    low, high = numbers.number(prediction.low), numbers.number(prediction.high)
    return Promise(words, f"{low} to {high}{unit}", observed, held)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Original and winner trained from one seed."""

    seed: int
    original: Arm | None
    winner: Arm | None

    @property
    def steps(self) -> str:
        """How far the two were trained: seeds that agree early are not trained to the end."""
        known = [arm.steps for arm in (self.original, self.winner) if arm is not None]
        return "/".join(f"{steps:,}" for steps in dict.fromkeys(known))

    @property
    def taken_off(self) -> float | None:
        """Share of the original's unseen loss that the repair takes off."""
        before = self.original.unseen if self.original is not None else None
        after = self.winner.unseen if self.winner is not None else None
        if before is None or after is None or not before or not math.isfinite(before + after):
            return None
        if "/" in self.steps:
            return None  # not the same training
        return (before - after) / abs(before)

    def gained(self, verdict: Verdict) -> float | None:
        """The same, or what it adds where more is better."""
        share = self.taken_off
        return -share if share is not None and verdict.judged_by.higher else share


def pairings(verdict: Verdict) -> list[Pairing]:
    """Original beside winner, one per seed, in the order they ran."""
    seeds = dict.fromkeys(arm.seed for arm in (*verdict.original, *verdict.winner))
    original = {arm.seed: arm for arm in reversed(verdict.original)}
    winner = {arm.seed: arm for arm in reversed(verdict.winner)}
    return [Pairing(seed, original.get(seed), winner.get(seed)) for seed in seeds]


def judged_words(verdict: Verdict, *, brief: bool = False) -> str:
    """What the trainings were judged by: ``loss on unseen data``."""
    name = visible(verdict.judged_by.name)
    if name == "unseen loss":
        return name if brief else "loss on unseen data"
    if name == "loss":
        return name if brief else "the script's own loss, mean over the last third of the steps"
    return name if brief else f"{name}, as the script evaluates it"


def unseen_words(arm: Arm | None) -> str:
    """The loss on unseen data, or why there is none."""
    if arm is None:
        return "not run"
    if arm.error:
        return f"failed: {visible(arm.error)}"
    if arm.diverged:
        return "diverged"
    return numbers.number(arm.unseen, 4)


def taken_off_words(pairs: Sequence[Pairing], verdict: Verdict) -> str:
    """What the repair takes off the unseen loss, mean and range: ``81 % (78 % to 84 %)``."""
    known = [gained for pair in pairs if (gained := pair.gained(verdict)) is not None]
    if not known:
        return numbers.UNKNOWN
    mean = numbers.percent(math.fsum(known) / len(known))
    if len(known) == 1:
        return mean
    return f"{mean} ({numbers.percent(min(known))} to {numbers.percent(max(known))})"


def curve(arm: Arm | None) -> list[tuple[int, float]]:
    """The finite points of a training curve."""
    return [point for point in arm.losses if math.isfinite(point[1])] if arm else []
