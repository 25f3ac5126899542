"""What a model is built of, and what trains it, as facts that remedies can read without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Setting = str | int | float | bool | None | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """One module of a model."""

    path: str
    """In ``model.named_modules()``; empty for the model itself."""
    kind: str
    """Its class: ``Linear``, ``LSTM``, ``TransformerEncoderLayer``, or the user's own."""
    standard: bool = False
    """Whether it is that very class of ``torch.nn``, not one derived from it."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Its public attributes that are plain numbers, words or tuples of numbers: ``in_features``,
    ``hidden_size``, ``num_layers``, ``dim``, ``p``, ``norm_first``...; ``bias`` (whether it has
    one) where its class may have one."""
    training: bool = True
    parameters: tuple[str, ...] = ()
    """Own parameters, by full name."""
    uses: int = 1
    """Places where it is registered: 2 for a module shared by two parents."""
    calls: int = 0
    """How often it ran in this look."""
    takes: tuple[int, ...] | None = None
    """Shape of the floating tensor that was all it was called with; else, or if it ran more than
    once, ``None``."""
    gives: tuple[int, ...] | None = None
    """Shape of the floating tensor that was all it answered, under the same conditions."""
    fed_by: str = ""
    """The innermost module whose very answer it was called with, nothing in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One parameter group of an optimizer."""

    options: Mapping[str, Setting] = field(default_factory=dict)
    """``lr``, ``betas``, ``eps``, ``weight_decay``, ``momentum``..., as far as plain."""
    parameters: tuple[str, ...] = ()
    """The model's parameters in it, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerFacts:
    """What trains the model."""

    name: str
    """Its class."""
    groups: tuple[GroupFacts, ...] = ()
    missing: tuple[str, ...] = ()
    """Trainable parameters of the model that no group holds."""
    foreign: int = 0
    """Parameters it holds that are not the model's."""
    steps_taken: bool = False
    """Whether it has any state: the model has been trained with it."""
    scheduled: bool = False
    """Whether a scheduler is attached."""

    @property
    def learning_rate(self) -> float | None:
        """Of the first group."""
        rate = self.groups[0].options.get("lr") if self.groups else None
        return float(rate) if isinstance(rate, int | float) else None

    @property
    def adaptive(self) -> bool:
        """Whether a step's size does not depend on the gradient's: Adam and its kin."""
        name = self.name.lower()
        return any(word in name for word in ("adam", "rmsprop", "adagrad", "rprop", "adadelta"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What the few steps on copies showed, for remedies that need the run's own figures."""

    losses: tuple[float, ...] = ()
    """By step."""
    log10_norms: tuple[float, ...] = ()
    """log10 |gradient| over all parameters, by step; NaN where not finite."""
    own_optimizer: bool = False
    """Whether the steps were the user's optimizer's; else Adam's at 1e-3."""
