"""From an edited model's checkpoint to weights of the plain architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.export import FOLDING, fold_away
from gradmend.engine.checkpoint import load_weights, read_weights, save_weights
from gradmend.engine.factory import load_specimen
from gradmend.engine.files import read_prescription
from gradmend.engine.session import apply
from gradmend.errors import BadInput, CannotApply, GradmendError
from gradmend.probe.batch import Batch, Feeder, map_tensors
from gradmend.probe.capture import tensors_in
from gradmend.records.prescription import Edit, Prescription

_TRAINING = frozenset(
    {"add_parameters", "clip_gradients", "drop_non_finite_samples", "maximise", "scale_loss",
     "scale_layer_rates", "scale_learning_rate", "scale_weight_decay", "set_dropout", "set_epsilon",
     "set_learning_rate", "train_mode", "unfreeze_parameters", "warm_up"}
)  # fmt: skip
"""Edits of how a model is trained: nothing of them is in what it computes afterwards."""
_WEIGHTS = frozenset(
    {"balance_layers", "bound_recurrence", "class_prior_bias", "draw_recurrence", "initialise",
     "rescale_by_data", "revive_units", "scale_output", "scale_rows", "scale_to_gain",
     "scale_weights", "set_gates"}
)  # fmt: skip
"""Edits of numbers, which are in the checkpoint."""
WRONG = 0.01
"""Difference of outputs, as a share of the largest, from which an export is refused: float32
rounds 1e-7 a layer, so a fold that is right stays far below it. Our choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written, and what it is worth."""

    path: str
    model: str
    """Class of the model."""
    parameters: int
    """Tensors in the file."""
    folded: Mapping[str, int]
    """Places by kind of edit that are plain layers now."""
    in_weights: tuple[str, ...]
    """Kinds of edit that changed numbers, which the file holds."""
    training_only: tuple[str, ...]
    """Kinds of edit that nothing is left of after training."""
    stays: Mapping[str, tuple[str, ...]]
    """Places by kind of edit that the architecture itself must have."""
    plain: bool
    """Whether the factory's own model loads the file and computes the same."""
    difference: float
    """Largest difference of an output on the factory's batch: edited model against exported."""
    largest: float
    """Largest output there, to compare it with."""

    def __str__(self) -> str:
        """What became of the edits, for a person."""
        lines = [f"{self.path}: {self.parameters} tensors of {self.model}"]
        if self.folded:
            lines.append(f"folded into plain layers: {_counted(self.folded)}")
        if self.in_weights:
            lines.append(f"part of the weights: {', '.join(self.in_weights)}")
        if self.training_only:
            lines.append(f"of the training only: {', '.join(self.training_only)}")
        if self.stays:
            places = {kind: len(where) for kind, where in self.stays.items()}
            lines.append(f"stays in the architecture: {_counted(places)}")
            lines.append(
                "  load the file into a model with these edits: in its source, or by gradmend.apply"
            )
        elif self.plain:
            lines.append("loads into the model as your own code builds it")
        lines.append(
            f"largest difference of an output on the factory's batch: {self.difference:.2g}"
            f" (the largest output is {self.largest:.3g})"
        )
        return "\n".join(lines)


def export(
    prescription: str | Path, target: str, checkpoint: Path, out: Path, *, force: bool = False
) -> Export:
    """Fold a prescription's edits out of a checkpoint, and save what is left as a state dict.

    Args:
        prescription: The file with which the model was trained.
        target: ``module:factory`` of the model as the user's code builds it.
        checkpoint: Of the edited model: a state dict, or one beside other things.
        out: Where to write.
        force: Overwrite.

    Raises:
        BadInput: If a file is not what it should be, or is of another model.
        CannotApply: If the prescription does not fit the model.
    """
    if out.exists() and not force:
        raise BadInput(f"{out} is there already", "it would be lost", "choose another, or --force")
    read = read_prescription(prescription)
    found = read_weights(checkpoint)
    model, batch, loss_fn = load_specimen(target)
    before = {name: value.shape for name, value in model.state_dict().items()}
    name = type(model).__name__
    built = replace(read, edits=tuple(e for e in read.edits if e.kind not in _TRAINING))
    edited = apply(built, model, batches=[batch], loss_fn=loss_fn).model
    load_weights(edited, found, checkpoint, before)
    folding = fold_away(edited, built.edits)
    outputs = [_outputs(each, batch) for each in (edited, folding.model)]
    difference, largest = _apart(*outputs)
    if not difference <= WRONG * max(largest, 1e-30):
        raise CannotApply(
            f"the exported model differs by {difference:.2g} where outputs reach {largest:.2g}",
            "the edits did not fold as they should; nothing was written",
            "keep the checkpoint, and apply the prescription where you load it",
        )
    state = folding.model.state_dict()
    folded: dict[str, int] = {}
    for kind, _ in folding.folded:
        folded[kind] = folded.get(kind, 0) + 1
    stays = _stays(built, set(folding.folded))
    save_weights(state, out)
    return Export(
        path=str(out),
        model=name,
        parameters=len(state),
        folded=folded,
        in_weights=_kinds(read, _WEIGHTS),
        training_only=_kinds(read, _TRAINING),
        stays=stays,
        plain=not stays and {key: value.shape for key, value in state.items()} == before,
        difference=difference,
        largest=largest,
    )


def _counted(places: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} ({n} place{'' if n == 1 else 's'})" for kind, n in places.items())


def _kinds(prescription: Prescription, among: frozenset[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(e.kind for e in prescription.edits if e.kind in among))


def _stays(prescription: Prescription, folded: set[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """What of the edits is in the architecture still."""
    left: dict[str, tuple[str, ...]] = {}
    for edit in prescription.edits:
        if edit.kind in _WEIGHTS:
            continue
        places = _left(edit, folded)
        if places:
            left[edit.kind] = (*left.get(edit.kind, ()), *places)
    return left


def _left(edit: Edit, folded: set[tuple[str, str]]) -> tuple[str, ...]:
    if edit.kind not in FOLDING:
        return tuple(target or "the model itself" for target in edit.targets) or ("",)
    return tuple(t or "the model itself" for t in edit.targets if (edit.kind, t) not in folded)


# -- what it computes


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Every floating-point output of a model on a batch, as in use: nothing drops out."""
    heard: list[Any] = []

    def hear(output: Any, _: Any) -> Any:
        heard.append(output)
        return output

    flags = [(module, module.training) for module in model.modules()]
    like = next((p for p in model.parameters()), torch.zeros(()))
    given = map_tensors(batch, lambda t: t.detach().clone().to(like.device))
    state = torch.get_rng_state()
    try:
        model.eval()
        torch.manual_seed(0)
        with torch.no_grad():
            Feeder(loss_fn=hear).loss(model, given)
    except GradmendError:
        raise
    except Exception as error:
        raise BadInput(
            f"{type(model).__name__} raised {type(error).__name__} on the factory's batch:"
            f" {' '.join(str(error).split())[:200]}",
            "what is exported could not be compared with what was trained",
            "let the factory give a batch that fits",
        ) from error
    finally:
        torch.set_rng_state(state)
        for module, training in flags:
            module.training = training
    return [t.detach().double() for t in tensors_in(heard[0]) if t.is_floating_point()]


def _apart(edited: list[Tensor], plain: list[Tensor]) -> tuple[float, float]:
    """(largest difference, largest output); infinite where they are not alike in shape."""
    if [t.shape for t in edited] != [t.shape for t in plain]:
        return float("inf"), 0.0
    pairs = [(a, b) for a, b in zip(edited, plain, strict=True) if a.numel()]
    difference = max((_gap(a, b) for a, b in pairs), default=0.0)
    return difference, max((float(a.nan_to_num().abs().max()) for a, _ in pairs), default=0.0)


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference; what is not finite in the same way in both is none."""
    alike = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(alike, torch.zeros_like(a), (a - b).abs())
    return float(gap.nan_to_num(nan=torch.inf).max())
