"""Measurements that rules ask for: the same model again, with one thing changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradmend.engine.rehearsal import LEARNING_RATE, Rehearsal, rehearse
from gradmend.errors import GradmendError
from gradmend.probe.batch import Batch, Feeder, map_tensors
from gradmend.probe.look import look
from gradmend.probe.shadow import make_shadow, untouched
from gradmend.records.request import Answer, Measurement, Request
from gradmend.records.trace import Operation, Trace

FEW = 24
"""Steps of a few, where the caller names no number: what the rules call recent."""


OPERATION_SECONDS = 4e-4
"""What a watched step spends on each operation beyond arithmetic, on a common CPU core."""
RECURRENT_SECONDS = 3e-5
"""On each of those that a recurrent layer runs on its own, of which only few are watched."""
PLAIN_DEPTH = 200
"""Layers in a row, without a norm, from which the first look says nearly all: steps on a gradient
that underflows show nothing new, and a trial needs the time itself."""
PLAIN_SHARE = 0.25
"""Share of the allowance that the rehearsal of such a network gets (our choice)."""
PARAMETER_SECONDS = 4e-9
"""On each parameter: Adam, and the statistics of gradients and updates."""
ARITHMETIC = 5e10
"""Floating-point operations a second of such a core."""
ONE_STEP_SECONDS = 0.5
"""Where a step is expected to take less, one is taken even if nothing is left for it."""
LOOK_STEPS = 4.0
"""Watched steps that one more look takes about as long as: two books, in twice the precision."""
FEWEST_RECURRENT = 2
"""Steps of a recurrent model there: whether a gradient is lost through time takes two looks."""


def step_seconds(trace: Trace) -> float:
    """What a watched training step is expected to take.

    An estimate from what the look counted, not from a clock: the same model must get the same
    diagnosis on a busy machine.
    """
    maps = [op for op in trace.weights if op.weights is not None and op.signal is not None]
    products = sum(
        math.prod(op.weights.shape) * op.signal.samples
        for op in maps
        if op.weights is not None and op.signal is not None
    )
    work = max(products, trace.run.parameters * max(trace.run.batch_size, 1))
    inner = sum(_is_recurrent(op) for op in trace.operations)
    return (
        OPERATION_SECONDS * (len(trace.operations) - inner)
        + RECURRENT_SECONDS * inner
        + PARAMETER_SECONDS * trace.run.parameters
        + 6.0 * work / ARITHMETIC
    )


def _is_recurrent(op: Operation) -> bool:
    return op.cause == "recurrence"


@dataclass(kw_only=True)
class Measurer:
    """Takes measurements of a model on one batch, as long as they are cheap.

    Args:
        steps: Of a few steps; ``None`` takes :data:`FEW`, or as many as are cheap.
        more: Batches that the few steps take in turns with ``batch``.
        seconds: What all of them together may take, as :func:`step_seconds` expects it; no limit
            on steps that were asked for.
        allowance: What steps that were asked for, and the look after them, may take at most; of a
            very deep network not even one fits into half a minute.
    """

    model: nn.Module
    batch: Batch
    feeder: Feeder
    precision: str = "auto"
    second_batch: Batch | None = None
    more: Sequence[Batch] = ()
    optimizer: Optimizer | None = None
    learning_rate: float = LEARNING_RATE
    steps: int | None = None
    seconds: float
    allowance: float = math.inf
    left_out: list[str] = field(default_factory=list, init=False)
    """What was wanted and would have taken too long, in words."""
    rehearsal: Rehearsal | None = field(default=None, init=False)
    spent: float = field(default=0.0, init=False)

    def __call__(self, request: Request, first: Trace) -> Answer | None:
        """Take one measurement.

        Args:
            request: What to change.
            first: The look that left the question open; it says what measuring costs.

        Returns:
            ``None`` where it is not cheap, not possible, or the changed model raises.
        """
        if request.measurement is not Measurement.FEW_STEPS or self.rehearsal is None:
            self.spent += LOOK_STEPS * step_seconds(first)
            if self.spent > self.seconds:
                return None
        try:
            return self._take(request, first)
        except (GradmendError, RuntimeError, ValueError, ArithmeticError):
            return None  # a model that cannot run on zeros has not answered

    def _take(self, request: Request, first: Trace) -> Answer | None:
        batch, shadow = self.batch, None
        losses: tuple[float, ...] = ()
        kind, factor = request.measurement, request.factor
        if kind is Measurement.FEW_STEPS:
            done = self.rehearse(first)
            if done is None or done.steps < min(self.steps or FEW, FEW):
                return None
            shadow, losses = done.shadow, done.losses
        elif kind is Measurement.ANOTHER_SEED:
            shadow = _drawn_anew(self.model, self.feeder)
        elif kind is Measurement.SECOND_BATCH:
            batch = self.second_batch
        elif kind in (Measurement.ZEROED_INPUT, Measurement.SCALED_INPUT):
            by = 0.0 if kind is Measurement.ZEROED_INPUT else factor
            batch = _scaled(self.batch, self.feeder, by)
        elif kind is Measurement.SCALED_LAYER:
            shadow = _layer_scaled(self.model, self.feeder, request.module, factor)
        if batch is None or (shadow is None and batch is self.batch):
            return None
        trace = look(
            self.model, batch, self.feeder, precision=self.precision, shadow=shadow,
            step=len(losses),
        )  # fmt: skip
        return Answer(
            measurement=kind,
            trace=trace,
            module=request.module,
            factor=factor,
            losses=losses,
        )

    def rehearse(self, first: Trace) -> Rehearsal | None:
        """Take the few steps, once; ``None`` where not even one is cheap."""
        if self.rehearsal is None:
            steps = self.steps
            if steps is None:
                each = step_seconds(first)
                steps = min(FEW, int((self.seconds - self.spent) / each))
                if each < ONE_STEP_SECONDS and self.seconds > 0:
                    recurrent = any(map(_is_recurrent, first.operations))
                    steps = max(steps, FEWEST_RECURRENT if recurrent else 1)
                self.spent += steps * each
            elif math.isfinite(self.allowance):
                steps = self._affordable(steps, first)
            if steps > 0:
                self.rehearsal = rehearse(
                    self.model,
                    self.batch,
                    self.feeder,
                    steps=steps,
                    optimizer=self.optimizer,
                    learning_rate=self.learning_rate,
                    more=self.more,
                )
        return self.rehearsal

    def _affordable(self, wanted: int, trace: Trace) -> int:
        """As many steps as fit into the allowance beside the look after them."""
        each = step_seconds(trace)
        normed = any(op.cause == "normalisation" for op in trace.operations)
        plain = trace.chain_depth >= PLAIN_DEPTH and not normed
        room = int((PLAIN_SHARE if plain else 1.0) * self.allowance / each - LOOK_STEPS)
        if room >= wanted:
            return wanted
        self.left_out = [
            f"{max(room, 0)} of {wanted} steps were rehearsed before the repair: in a model as"
            f" deep and large as this, each is expected to take {each:.2g} s"
        ]
        return max(room, 0)


def _drawn_anew(model: nn.Module, feeder: Feeder) -> Mapping[int, Tensor] | None:
    """Copies of the tensors, with every module's own initialisation drawn again.

    ``None`` where no module knows how: a model whose weights its owner wrote has no other seed.
    """
    owners = feeder.owners(model)
    shadow = make_shadow(owners, None)
    drawn = False
    with untouched(owners, shadow), torch.no_grad():
        torch.manual_seed(torch.initial_seed() % (1 << 31) + 1)  # put back with the rest
        for module in model.modules():
            if callable(again := getattr(module, "reset_parameters", None)):
                again()
                drawn = True
    return shadow if drawn else None


def _scaled(batch: Batch, feeder: Feeder, factor: float) -> Batch:
    """The batch with its floating inputs, not its targets, multiplied."""
    inputs = {id(tensor) for tensor in feeder.inputs(batch).values()}

    def scale(tensor: Tensor) -> Tensor:
        mine = id(tensor) in inputs and tensor.is_floating_point()
        return tensor * factor if mine else tensor

    return map_tensors(batch, scale)


def _layer_scaled(
    model: nn.Module, feeder: Feeder, module: str, factor: float
) -> Mapping[int, Tensor] | None:
    try:
        owner = model.get_submodule(module)
    except AttributeError:
        return None
    shadow = make_shadow(feeder.owners(model), None)
    with torch.no_grad():
        for name, parameter in owner.named_parameters(recurse=False):
            if "bias" not in name:
                shadow[id(parameter)].mul_(factor)
    return shadow
