"""The Trace: everything one look at a model measured, as numbers.

Rules and remedies are pure functions over a Trace, so it holds facts (norms, shares, shapes,
names), never tensors, and can be saved, sent and judged again without torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from gradmend.records.badvalue import BadValue
from gradmend.records.layout import ModuleFacts, OptimizerFacts, Rehearsed
from gradmend.records.ledger import Ledger
from gradmend.records.loss_call import LossCall
from gradmend.records.recurrence import Recurrence
from gradmend.records.request import Answer, Measurement
from gradmend.records.stats import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Forward statistics of one tensor of shape [..samples.., units].

    A tensor's energy splits into what all samples share and what tells them apart:
    ``mean_square = offset_square + spread_square``.
    """

    mean_square: float
    """E[x^2] over samples and units."""
    offset_square: float
    """Mean over units of (mean over samples)^2: the part that carries no information."""
    spread_square: float
    """Mean over units of the variance over samples: the part that does."""
    mean: float
    """Mean over samples and units."""
    max_abs: float
    units: int
    samples: int
    non_finite: int = 0

    @property
    def offset_share(self) -> float:
        """Share of the energy that is the same for every sample, in [0, 1]."""
        return self.offset_square / self.mean_square if self.mean_square > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFacts:
    """What an elementwise activation did to this batch."""

    function: str
    """The field's name: ``sigmoid``, ``tanh``, ``relu``, ``gelu``..."""
    slope_rms: float
    """sqrt(E[phi'(z)^2]) over all entries: the gain of a random gradient."""
    slope_max: float
    """Largest |phi'(z)| met in this batch."""
    flat_share: float
    """Share of entries with |phi'(z)| below 5 % of the activation's steepest slope."""
    dead_units: int
    """Units with phi'(z) = 0 on every sample of the batch."""
    units: int
    samples: int
    steepest_slope: float | None = None
    """sup |phi'| of the function itself, where it is known."""
    replaceable: bool = False
    """Whether the activation is a module of its own, so that an edit can replace it."""
    negative_slope: float | None = None

    @property
    def dead_share(self) -> float:
        """Share of dead units, in [0, 1]."""
        return self.dead_units / self.units if self.units else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """A linear map with its parameters, as the backward pass met it."""

    parameter: str
    """Name of the weight in ``model.named_parameters()``."""
    kind: str
    """``linear`` or ``convolution``."""
    shape: tuple[int, ...]
    """Weight shape [out, in, *kernel]; for a transposed layout, as stored."""
    fan_in: int
    fan_out: int
    mean_square: float
    """E[w^2] over the entries."""
    bias: str | None = None
    bias_mean_square: float = 0.0
    bias_centring: float = 0.0
    """a in the fit b = r - a W 1: the mean of the input that the bias removes."""
    bias_residual_square: float = 0.0
    """E[r^2] over units: what of the bias is not centring."""
    trainable: bool = True
    module_is_plain: bool = False
    """Whether it is an ``nn.Linear`` or ``nn.Conv*d`` used once, with its own weight."""
    unit_spread: float | None = None
    """Rms deviation of the units' weights from their mean over the units, over the rms of the
    weights: 0 where all units are alike. ``None`` for a single unit, and where units do not read
    the same inputs (groups)."""
    reader_spread: float | None = None
    """The same over the inputs: 0 where all inputs are read alike."""

    @property
    def sigma_w(self) -> float:
        """Weight gain sqrt(fan_in E[w^2]), the mean-field sigma_w (Poole et al. 2016)."""
        return float((self.fan_in * self.mean_square) ** 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation on the gradient's way, in forward order."""

    id: int
    """Position in :attr:`Trace.operations`."""
    name: str
    """``linear``, ``sigmoid``, ``layer_norm``, ``add``..."""
    cause: str
    """The ledger's cause this operation is booked under."""
    module: str
    """Path of the innermost module that ran it; empty for the model itself."""
    call: int = 0
    source: str | None = None
    upstream: tuple[int, ...] = ()
    """The operations whose outputs it reads, through reshapes and views."""
    own_decades: float | None = None
    decades: float = 0.0
    share: float = 0.0
    predicted: float | None = None
    log10_grad: float | None = None
    """log10 |grad wrt this operation's output|, beyond the range of any float."""
    signal: Signal | None = None
    """Its output on the forward pass."""
    shape: tuple[int, ...] | None = None
    """Of what the call that made it returned, where it is known."""
    activation: ActivationFacts | None = None
    weights: WeightFacts | None = None
    inside: bool = True
    """Whether it ran within the model's own call; else in the loss or in plain code."""


class Use(StrEnum):
    """What becomes of a parameter that no gradient reaches although its module ran."""

    CUT_OFF = "cut-off"
    """The loss changes with it: the gradient is cut off on the way."""
    RETURNED = "returned"
    """The loss does not depend on it; what comes of it is one of several results handed out."""
    SPENT = "spent"
    """The loss does not depend on it in this pass, though something reads what comes of it."""
    DROPPED = "dropped"
    """Nothing reads what its module put out: that was computed in vain."""
    UNREAD = "unread"
    """Nothing is computed from it in this pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A call that was given a tensor with a history and returned a result without one."""

    operation: str
    """``detach``, ``data``, ``item``, ``numpy``, ``argmax``, ``tensor``..."""
    module: str = ""
    """Path of the module that called it."""
    source: str | None = None
    before: str = ""
    """Path of the module that made what it was given."""
    lost: tuple[str, ...] = ()
    """The unreached parameters that lie behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter and whether the loss reaches it."""

    name: str
    shape: tuple[int, ...]
    trainable: bool
    reached: bool
    """Whether a path of the autograd graph leads from the loss to it."""
    log10_grad: float | None
    """log10 |grad|; ``None`` if not reached, ``-inf`` as ``None`` with ``exact_zero``."""
    exact_zero: bool
    stats: Stats
    module: str = ""
    module_called: bool = True
    """Whether the module that owns it ran in this forward pass."""
    unrecorded: str = ""
    """Why its module ran without recording a graph: ``no_grad``, ``inference_mode``,
    ``reentrant_checkpoint``; empty where it did record one."""
    use: Use | None = None
    """Of a trainable one that is not reached although its module ran, where it could be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One tensor of the batch that the model received."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    stats: Stats
    feature_rms_max: float | None = None
    """Largest and smallest per-feature rms after centring, over features that vary."""
    feature_rms_min: float | None = None
    reader: str | None = None
    """Path of the first module that read it."""
    usual_mean: float | None = None
    """Mean and standard deviation with what lies ten deviations out drawn in to there, so that
    rare wild entries do not make the figures."""
    usual_std: float | None = None
    feature_dim: int | None = None
    """The dimension that the figures per feature run over: the channels of images, else the last;
    ``None`` where there are none."""
    feature_means: tuple[float, ...] = ()
    """The same by feature."""
    feature_stds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The circumstances of the look."""

    model: str
    torch: str = ""
    dtype: str = "float32"
    """The model's own parameter type."""
    probe_dtype: str = "float64"
    """The type the books were kept in."""
    device: str = "cpu"
    training: bool = True
    batch_size: int = 0
    parameters: int = 0
    loss: float | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    step: int = 0
    """Optimizer steps taken on a shadow before this look."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one look measured: the run, its operations in forward order, and both books."""

    run: Run
    operations: tuple[Operation, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    inputs: tuple[Input, ...] = ()
    ledger: Ledger | None = None
    ledger_random: Ledger | None = None
    non_finite: str | None = None
    """First operation, in forward order, whose output is not finite."""
    sound: bool | None = None
    """Whether loss and gradient are finite in the model's own number format; ``None``: unknown."""
    bad: BadValue | None = None
    """The first value that is not finite in the model's own number format, and what made it."""
    cuts: tuple[Cut, ...] = ()
    """Where the graph ends for parameters that ran and are not reached, in forward order."""
    notes: tuple[str, ...] = ()
    """What could not be seen, and why."""
    losses: tuple[LossCall, ...] = ()
    """Calls of loss functions; of a pair ``(x, y)`` also the targets of a loss by hand."""
    loss_graph: Mapping[str, Any] | None = None
    """``tail`` and ``flat`` of the ``loss-graph`` event of :mod:`gradmend.records.history`."""
    answers: tuple[Answer, ...] = ()
    """Measurements that rules asked for after a first look."""
    modules: tuple[ModuleFacts, ...] = ()
    """Every module of the model, in the order of ``named_modules()``."""
    optimizer: OptimizerFacts | None = None
    """What trains the model, where it was given."""
    rehearsed: Rehearsed | None = None
    """The few steps taken on copies, where they were."""
    recurrences: tuple[Recurrence, ...] = ()
    """What recurrent layers and cells do to the gradient through time, the curve thinned."""

    @property
    def not_finite(self) -> bool:
        """Whether the loss of this look, its gradient or a weight is not finite."""
        loss = self.run.loss
        return (
            (loss is not None and not abs(loss) < math.inf)
            or any(p.stats.non_finite for p in self.parameters)
            or (self.ledger is not None and any("not finite" in n for n in self.ledger.notes))
            or any(p.log10_grad is not None and math.isnan(p.log10_grad) for p in self.parameters)
            or any(p.log10_grad == math.inf for p in self.parameters)
        )

    @cached_property
    def module_at(self) -> dict[str, ModuleFacts]:
        """The modules by path."""
        return {module.path: module for module in self.modules}

    def answer(self, measurement: Measurement, module: str = "") -> Answer | None:
        """The answer to a request, where it was taken; of several factors the last."""
        fitting = (a for a in self.answers if a.measurement is measurement and a.module == module)
        return max(enumerate(fitting), default=(0, None), key=lambda pair: pair[0])[1]

    @cached_property
    def activations(self) -> tuple[Operation, ...]:
        """Operations that are elementwise activations, in forward order."""
        return tuple(op for op in self.operations if op.activation is not None)

    @cached_property
    def gates(self) -> tuple[Operation, ...]:
        """Sigmoids that choose: to be shut or open is what they are for.

        Their output only multiplies others, or what they are fed is masked by infinities.
        """
        return tuple(
            op
            for op in self.activations
            if op.activation is not None
            and op.activation.function in ("sigmoid", "hardsigmoid")
            and (self._only_multiplies(op) or self._is_masked(op))
        )

    def _only_multiplies(self, op: Operation) -> bool:
        readers = [self.operations[at] for at in self.readers.get(op.id, ())]
        return bool(readers) and all(
            reader.name in ("mul", "rsub", "sub") and reader.weights is None for reader in readers
        )

    def _is_masked(self, op: Operation) -> bool:
        fed = (self.operations[at].signal for at in op.upstream)
        return any(signal is not None and signal.non_finite > 0 for signal in fed)

    @cached_property
    def weights(self) -> tuple[Operation, ...]:
        """Operations that are linear maps with parameters, in forward order."""
        return tuple(op for op in self.operations if op.weights is not None)

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """For each operation's id, the ids of the operations that read its output."""
        found: dict[int, list[int]] = {}
        for op in self.operations:
            for source in op.upstream:
                found.setdefault(source, []).append(op.id)
        return {key: tuple(value) for key, value in found.items()}

    def pairs(self) -> Iterator[tuple[Operation, Operation]]:
        """Yield each (weights, activation) where nothing but pooling or dropout lies between."""
        for act in self.activations:
            for source in act.upstream:
                op = self.operations[source]
                while op.cause in ("pooling", "dropout") and len(op.upstream) == 1:
                    op = self.operations[op.upstream[0]]
                if op.weights is not None:
                    yield op, act

    @cached_property
    def is_chain(self) -> bool:
        """Whether the gradient has one way only: no joins, so depth multiplies unhindered."""
        # The shares see what the operations cannot: a skip that begins at the input itself.
        return all(
            len(op.upstream) <= 1
            and len(self.readers.get(op.id, ())) <= 1
            and not 0.0 < op.share < 1.0 - 1e-9
            for op in self.operations
        )

    @cached_property
    def signal_lost(self) -> float | None:
        """Decades of rms signal across samples lost from the first to the last linear map.

        Negative when the signal grows; ``None`` with fewer than two linear maps or samples.
        """
        # A head that begins at zero says nothing of the signal that it was given.
        seen = [
            (op.module, op.signal)
            for op in self.weights
            if op.signal and op.signal.samples > 1 and op.weights and op.weights.mean_square != 0
        ]
        if len(seen) < 2 or not seen[0][1].spread_square > 0 or self.non_finite is not None:
            return None
        # Of a last map that is called at every time step, the call that tells most samples apart.
        (_, first), (module, last_call) = seen[0], seen[-1]
        calls = [signal for name, signal in seen if name == module] if module else [last_call]
        spread = max(signal.spread_square for signal in calls)
        # Rounding leaves about 1e-32 of the energy; an exact zero is at least that far down.
        last = max(spread, 1e-32 * first.spread_square)
        return 0.5 * (math.log10(first.spread_square) - math.log10(last))

    @cached_property
    def total_decades(self) -> float | None:
        """The model's whole gain, as booked with the loss's own cotangent."""
        return self.ledger.total_decades if self.ledger else None

    @cached_property
    def chain_depth(self) -> int:
        """Linear maps that nearly all of the gradient passes one after the other."""
        return sum(1 for op in self.weights if op.share > 0.99)
