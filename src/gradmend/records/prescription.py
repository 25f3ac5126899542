"""Prescriptions: edits as data, with predictions that can fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

Scalar = str | int | float | bool | None
Argument = Scalar | Sequence[Scalar] | Sequence[Sequence[Scalar]]

SCHEMA = 1
"""Version of the prescription's JSON form."""


class Change(IntEnum):
    """How much an edit changes, smallest first; the race tries them in this order.

    The values are also what ``keep=`` protects: see :data:`KEEPS`.
    """

    WIRING = 0
    """A plain mistake taken back: a doubled softmax, a parameter that no optimizer holds."""
    DATA_SCALE = 1
    INITIALISATION = 2
    OPTIMIZER = 3
    ACTIVATION = 4
    NORMALISATION = 5
    RESIDUAL = 6
    CELL = 7


KEEPS: dict[str, frozenset[Change]] = {
    "data": frozenset({Change.DATA_SCALE}),
    "parameters": frozenset({Change.INITIALISATION}),
    "optimizer": frozenset({Change.OPTIMIZER}),
    "activations": frozenset({Change.ACTIVATION}),
    "architecture": frozenset(
        {Change.WIRING, Change.ACTIVATION, Change.NORMALISATION, Change.RESIDUAL, Change.CELL}
    ),
}
"""What each word of ``keep=`` forbids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One reversible change, as data. ``kind`` names a function of :mod:`gradmend.edits`."""

    kind: str
    targets: tuple[str, ...] = ()
    """Module paths or parameter names; none for an edit of the optimizer."""
    args: dict[str, Argument] = field(default_factory=dict)
    """Numbers and names; lists run parallel to ``targets``."""

    @classmethod
    def initialise(
        cls,
        layers: Sequence[tuple[str, str | None]],
        gains: Sequence[float],
        *,
        centres: Sequence[float] | None = None,
        bias_stds: Sequence[float] | None = None,
    ) -> Edit:
        """Draw orthogonal weights anew.

        Args:
            layers: (weight, bias or ``None``) of each layer, by parameter name.
            gains: sigma_w of each.
            centres: Mean of what each reads, removed by its bias; zeros where not given.
            bias_stds: Standard deviation of each bias's random part; zeros where not given.
        """
        zeros = [0.0] * len(layers)
        return cls(
            kind="initialise",
            targets=tuple(weight for weight, _ in layers),
            args={
                "scheme": "orthogonal",
                "seed": 0,
                "biases": [bias for _, bias in layers],
                "gains": list(gains),
                "centres": list(centres or zeros),
                "bias_stds": list(bias_stds or zeros),
            },
        )


def _decades(amount: float) -> str:
    return f"{amount:g} decade{'' if amount == 1 else 's'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A number the edited model must show, or the remedy was wrong about it."""

    quantity: str
    """A measurement the engine can take from a trace, see :mod:`gradmend.engine.predictions`."""
    low: float
    high: float
    unit: str = "1"
    sentence: str = ""

    @classmethod
    def gradient_kept(cls, within: float) -> Prediction:
        """The model's gradient changes by less than ``within`` decades, outputs to inputs."""
        return cls(
            quantity="total_decades",
            low=-within,
            high=within,
            unit="decades",
            sentence=f"the gradient keeps its size, outputs to inputs, within {_decades(within)}",
        )

    @classmethod
    def signal_kept(cls, within: float) -> Prediction:
        """The signal across samples changes by less than ``within`` decades, first to last."""
        return cls(
            quantity="signal_lost",
            low=-within,
            high=within,
            unit="decades",
            sentence=f"the signal across samples keeps its size within {_decades(within)}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """Edits in the order they are applied, what they promise, and why they were chosen."""

    edits: tuple[Edit, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    remedies: tuple[str, ...] = ()
    treats: tuple[str, ...] = ()
    """Names of the findings it answers."""
    changes: tuple[Change, ...] = ()
    reason: str = ""
    keeps_function: bool = False
    """Whether a trained model computes the same before and after the edits."""
    mends_loss: bool = False
    """Whether the loss means something else after the edits, so that the original must be judged
    with them, too: a softmax taken away, a logarithm added, a sign turned."""
    model: str = ""
    """Class of the model it was written for; a note, not a lock."""
    built_at: str = ""
    """``train.py:42``, from the script's folder: the line that built that model, where it was one
    of a script's; it tells two models of one class apart."""
    schema: int = SCHEMA

    def __bool__(self) -> bool:
        """False when nothing is to be changed."""
        return bool(self.edits)

    @property
    def size(self) -> tuple[int, int, int, int]:
        """How much it changes: largest change, how many kinds, edits, and places."""
        places = sum(len(edit.targets) for edit in self.edits)
        return (max(self.changes, default=0), len(set(self.changes)), len(self.edits), places)

    def plus(self, other: Prescription) -> Prescription:
        """Combine two prescriptions; the other's edits come after this one's."""

        def union(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(dict.fromkeys((*a, *b)))

        return Prescription(
            edits=self.edits + other.edits,
            predictions=self.predictions + other.predictions,
            remedies=union(self.remedies, other.remedies),
            treats=union(self.treats, other.treats),
            changes=tuple(sorted({*self.changes, *other.changes})),
            reason="; ".join(part for part in (self.reason, other.reason) if part),
            keeps_function=self.keeps_function and other.keeps_function,
            mends_loss=self.mends_loss or other.mends_loss,
            model=self.model or other.model,
            built_at=self.built_at or other.built_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A remedy that treats a finding but does not fit this model, and why."""

    remedy: str
    finding: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change to the user's own source, where the fault lies in what no edit can reach."""

    remedy: str
    finding: str
    text: str
    """What to do and why, in a sentence."""
    before: str = ""
    """The lines as they are, or of their kind."""
    after: str = ""
    """The same lines mended."""
    source: str | None = None
    """``train.py:42  nn.Softmax(dim=1)``: where, if known."""
