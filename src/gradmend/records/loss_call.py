"""What a loss was handed: its outputs and targets, as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

REGRESSIONS = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
"""Losses that measure how far each output is from its target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Facts of a tensor that a loss was handed; of a big one, of a part of it.

    Numbers are of the finite entries; NaN where there are none.
    """

    shape: tuple[int, ...] = ()
    dtype: str = ""
    mean: float = math.nan
    std: float = math.nan
    smallest: float = math.nan
    largest: float = math.nan
    low: float = math.nan
    """A hundredth of the entries lies below."""
    high: float = math.nan
    """A hundredth of the entries lies above."""
    non_finite: int = 0
    distinct: int = 0
    """Different numbers among those looked at; 0 where there are more than :data:`MANY`."""
    commonest: float = math.nan
    """The commonest number, and its share; where ``distinct`` is known."""
    commonest_share: float = math.nan
    whole: bool = False
    """Whether every number is whole."""
    spread_share: float = math.nan
    """Of the energy, what differs between samples: 0 where all samples are alike. NaN for one."""
    distribution: bool = False
    """Whether the numbers of each sample (dimension 1) are probabilities that add up to 1."""
    log_distribution: bool = False
    """Whether they are the logarithms of such."""
    one_hot: bool = False
    """Whether each sample has a single 1, and zeros."""

    @property
    def rms(self) -> float:
        """Root mean square."""
        return math.hypot(self.mean, self.std)

    @property
    def constant(self) -> bool:
        """Whether all samples are alike."""
        return self.spread_share == 0.0

    @property
    def outputs(self) -> int:
        """Numbers of one sample."""
        return math.prod(self.shape[1:])


MANY = 64
"""Different numbers up to which they are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCall:
    """One call of a loss function, or the targets of a batch where no call was heard."""

    function: str = ""
    """``cross_entropy``, ``mse_loss``; empty where the loss was written by hand."""
    reduction: str = "mean"
    weighted: bool = False
    """Whether samples or classes have weights, which may leave some out."""
    log_target: bool = False
    """Of ``kl_div``."""
    prediction: Values | None = None
    target: Values = Values()

    def to_facts(self) -> dict[str, Any]:
        """JSON values for an event: what is not a number is left out."""
        plain = asdict(self)
        for side in ("prediction", "target"):
            if plain[side] is not None:
                plain[side] = {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in plain[side].items()
                    if not (isinstance(value, float) and math.isnan(value))
                }
        return plain

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """Read an event's facts; what is missing or unknown is left at its default."""
        known = {key: facts[key] for key in ("function", "reduction") if facts.get(key)}
        before, target = facts.get("prediction"), facts.get("target")
        return cls(
            **known,
            weighted=bool(facts.get("weighted", False)),
            log_target=bool(facts.get("log_target", False)),
            prediction=_values(before) if before else None,
            target=_values(target or {}),
        )


_NAMES = frozenset(field.name for field in fields(Values))


def _values(facts: Mapping[str, Any]) -> Values:
    known = {key: value for key, value in facts.items() if key in _NAMES and value is not None}
    return Values(**known | {"shape": tuple(known.get("shape", ()))})
