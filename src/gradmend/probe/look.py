"""One look at a model on a batch: everything measured, nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from gradmend.errors import BadInput, GradmendError
from gradmend.probe.assemble import Assembler
from gradmend.probe.batch import Batch, Feeder, check_fit, check_loss, check_module, map_tensors
from gradmend.probe.capture import run_captured
from gradmend.probe.collecting import collecting_later
from gradmend.probe.following import following
from gradmend.probe.influence import with_uses
from gradmend.probe.loss_calls import hearing, targets_of
from gradmend.probe.native import first_bad_of
from gradmend.probe.shadow import convert, data_leaves, make_shadow, untouched
from gradmend.records.badvalue import BadValue
from gradmend.records.loss_call import LossCall
from gradmend.records.trace import Trace

FLOAT64_LIMIT = 20_000_000
"""Parameters up to which the books are kept in float64; above, in the model's own type,
because a float64 copy would double the memory of a model that may fill the machine. Nor are the
books audited there, which takes as long again as to keep them."""


@collecting_later()
def look(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    *,
    precision: str = "auto",
    shadow: Mapping[int, Tensor] | None = None,
    step: int = 0,
) -> Trace:
    """Measure a model on one batch, forward and backward, leaving no mark.

    Args:
        model: Any module; compiled ones are looked at through their eager original.
        batch: One batch, in a form ``feeder`` knows.
        feeder: How batch and model make a loss.
        precision: ``auto`` (float64 up to 20 million parameters), ``float64`` or ``native``.
        shadow: Tensors to look at instead of the model's own, by ``id`` of the original.
        step: Optimizer steps the shadow has behind it, noted in the trace.

    Returns:
        The trace.

    Raises:
        BadInput: If the model raises on the batch, or the loss cannot be followed back.
    """
    began = time.perf_counter()
    check_module(model)
    if precision not in ("auto", "float64", "native"):
        raise BadInput(
            f"precision='{precision}' is none",
            "",
            "write 'auto', 'float64' or 'native'",
        )
    notes: list[str] = []
    eager = getattr(model, "_orig_mod", model)
    if eager is not model:
        notes.append("torch.compile: looked at the eager model behind the compiled one")
    check_fit(eager, batch)
    count = sum(p.numel() for p in eager.parameters())
    device = next(eager.parameters()).device
    wide = precision == "float64" or (precision == "auto" and count <= FLOAT64_LIMIT)
    wide = wide and device.type in ("cpu", "cuda")
    attempts: list[torch.dtype | None] = [torch.float64, None] if wide else [None]
    for dtype in attempts:
        try:
            trace = _look_either_way(eager, batch, feeder, dtype, shadow, step)
            break
        except GradmendError:
            raise
        except Exception as error:
            if dtype is attempts[-1]:
                raise _as_bad_input(error, eager) from error
            notes.append(
                f"float64 books were not possible ({' '.join(str(error).split())[:120]}); kept in"
                " the model's own type, exact to about 1e-6 decades per layer"
            )
    sound, bad = _first_bad(eager, batch, feeder, shadow, trace)
    if sound and trace.not_finite and dtype is not None:  # a mask made for another format, say
        trace = _look_either_way(eager, batch, feeder, None, shadow, step)
        notes.append(
            "float64 books were not finite, although the model is in its own type: kept so"
        )
    trace = replace(trace, sound=sound, bad=bad)
    trace = replace(trace, parameters=with_uses(eager, batch, feeder, shadow, trace))
    own = next(eager.parameters())
    run = replace(
        trace.run,
        dtype=str(own.dtype).removeprefix("torch."),
        device=str(own.device),
        seconds=time.perf_counter() - began,
    )
    return replace(trace, run=run, notes=(*notes, *trace.notes))


def _first_bad(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    shadow: Mapping[int, Tensor] | None,
    trace: Trace,
) -> tuple[bool, BadValue | None]:
    """Whether the pass is finite in the model's own number format, and where it ceased to be."""
    own = str(next(model.parameters()).dtype).removeprefix("torch.")
    if trace.run.probe_dtype == own and not trace.not_finite:
        return True, None  # the books were kept in this format, and all of them are finite
    try:
        return first_bad_of(model, batch, feeder, shadow)
    except (GradmendError, torch.OutOfMemoryError):
        raise
    except Exception:  # the pass that float64 could make, the model's own format could not
        return not trace.not_finite, None


def _as_bad_input(error: Exception, model: nn.Module) -> BadInput:
    text = " ".join(str(error).split())
    return BadInput(
        f"{type(model).__name__} raised {type(error).__name__} on this batch: {text[:300]}",
        "without a forward and a backward pass nothing can be measured",
        "run loss_fn(model(x), y).backward() yourself to see where",
    )


def _look_either_way(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    dtype: torch.dtype | None,
    shadow: Mapping[int, Tensor] | None,
    step: int,
) -> Trace:
    """With inputs that want a gradient, or without, for models that set that flag on them."""
    try:
        return _look_in(model, batch, feeder, dtype, shadow, step)
    except RuntimeError as error:
        if "requires_grad flags of leaf" not in str(error):
            raise
    return _look_in(model, batch, feeder, dtype, shadow, step, differentiable=False)


@torch.inference_mode(False)  # a caller in inference mode would leave us without a graph
def _look_in(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    dtype: torch.dtype | None,
    shadow: Mapping[int, Tensor] | None,
    step: int,
    *,
    differentiable: bool = True,
) -> Trace:
    owners = feeder.owners(model)
    originals = {id(p): name for name, p in model.named_parameters()}
    if shadow is None:
        shadow = make_shadow(owners, dtype)
    elif dtype is not None:
        shadow = {
            key: convert(t.detach(), dtype).clone().requires_grad_(t.requires_grad)
            for key, t in shadow.items()
        }
    with untouched(owners, shadow, dtype), torch.enable_grad():
        if dtype is not None:
            torch.set_default_dtype(dtype)
        leaves: list[Tensor] = []
        ours: set[int] = set()

        def prepare(tensor: Tensor) -> Tensor:
            copy = convert(tensor.detach(), dtype).clone()
            if (
                not copy.is_floating_point()
                or not differentiable
                or copy.layout is not torch.strided
            ):
                return copy  # a graph's adjacency is structure, and torch knows no view of it
            leaves.append(copy.requires_grad_())
            if not tensor.requires_grad:
                ours.add(id(copy))
            return copy.clone()  # a copy of the leaf, so that the model may write into it

        fed = _prepare(batch, feeder, prepare, dtype)
        data_leaves.set(frozenset(ours))
        watched = {id(t): name for name, t in feeder.inputs(fed).items()}
        calls: list[LossCall] = []
        with hearing(calls), following(model) as recurrent:
            loss, capture = run_captured(
                model, lambda: check_loss(feeder.loss(model, fed), cut_off=True), watched
            )
        names = {id(shadow[key]): name for key, name in originals.items()}
        assembler = Assembler(
            model=model,
            loss=loss,
            capture=capture,
            leaves=leaves,
            names=names,
            shadow=shadow,
            frugal=sum(p.numel() for p in model.parameters()) > FLOAT64_LIMIT,
        )
        trace = assembler.trace(batch, feeder, fed, step)
        return replace(
            trace,
            losses=(*calls, *targets_of(batch, feeder, calls)),
            recurrences=recurrent.records(),
        )


def _prepare(
    batch: Batch, feeder: Feeder, prepare: Callable[[Tensor], Tensor], dtype: torch.dtype | None
) -> Batch:
    """Inputs become differentiable copies; targets plain copies."""

    def copy(tensor: Tensor) -> Tensor:
        return convert(tensor.detach(), dtype).clone()

    if feeder.forward is None and isinstance(batch, list | tuple) and len(batch) == 2:
        return (map_tensors(batch[0], prepare), map_tensors(batch[1], copy))
    return map_tensors(batch, prepare)
