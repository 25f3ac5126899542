"""Measurement requests: what a rule would need to see before it can decide.

A counterfactual is the best evidence: the same model after a few steps, from another seed, on
another batch, with its input or one layer scaled. A rule asks for one as data; the engine takes
it where it is cheap and judges again, and otherwise the report says "undecided".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradmend.records.trace import Trace


class Measurement(StrEnum):
    """What can be changed before a model is looked at again."""

    FEW_STEPS = "few-steps"
    """After some optimizer steps on copies of the weights, on the same batch."""
    ANOTHER_SEED = "another-seed"
    """With every module's own initialisation drawn anew."""
    SECOND_BATCH = "second-batch"
    """On another batch, where one was handed over."""
    ZEROED_INPUT = "zeroed-input"
    """With every floating input set to zero."""
    SCALED_INPUT = "scaled-input"
    """With every floating input multiplied by ``factor``."""
    SCALED_LAYER = "scaled-layer"
    """With the weights of ``module`` multiplied by ``factor``."""

    @property
    def words(self) -> str:
        """For "decided by ..."."""
        return {
            Measurement.FEW_STEPS: "a few training steps",
            Measurement.ANOTHER_SEED: "another random initialisation",
            Measurement.SECOND_BATCH: "a second batch",
            Measurement.ZEROED_INPUT: "the same model on zeros",
            Measurement.SCALED_INPUT: "the same batch at another scale",
            Measurement.SCALED_LAYER: "the same model with one layer scaled",
        }[self]

    @property
    def how_to(self) -> str:
        """What a user does where it was not cheap enough to be taken unasked."""
        if self is Measurement.FEW_STEPS:
            return "check(..., steps=50)"
        if self is Measurement.SECOND_BATCH:
            return "check(..., second_batch=...)"
        return "a smaller model or batch makes it cheap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A rule's answer when the evidence does not decide but a measurement would."""

    code: str
    name: str
    measurement: Measurement
    why: str
    """What it would decide, as a clause: ``whether the gradient comes back``."""
    module: str = ""
    """Of ``SCALED_LAYER``: the path of the module that owns the weight."""
    factor: float = 1.0
    """Of ``SCALED_INPUT`` and ``SCALED_LAYER``."""

    @property
    def key(self) -> tuple[Measurement, str, float]:
        """Requests of the same key are answered by one measurement."""
        return self.measurement, self.module, self.factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a requested measurement showed."""

    measurement: Measurement
    trace: Trace
    """The look under the changed circumstances."""
    module: str = ""
    factor: float = 1.0
    losses: tuple[float, ...] = ()
    """Of ``FEW_STEPS``: the loss at each of them."""

    @property
    def key(self) -> tuple[Measurement, str, float]:
        """As :attr:`Request.key`."""
        return self.measurement, self.module, self.factor
