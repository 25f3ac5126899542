"""The closed set of reversible edits; the only place that writes to a user's model.

An edit is data (:class:`gradmend.records.prescription.Edit`): a kind, targets by name, and
arguments. Each kind is one function here, which changes the model and registers how to undo it:
always a saved copy or the old object itself, never an inverse computation, so that undoing
restores every bit and the same ``Parameter`` objects. A kind nobody knows is refused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.errors import CannotApply, GradmendError
from gradmend.layers import REPLACEMENTS, CentredSigmoid, ReZero, Standardised
from gradmend.records.prescription import Edit

RunBatch = Callable[[nn.Module], Any]
"""Runs one forward pass of a model on a batch of data, for edits that look at data."""


@dataclass(slots=True)
class Bench:
    """What edits work on, and the way back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    run_batch: RunBatch | None = None
    """Given where edits may look at data; edits that must, refuse without it."""
    seed: int = 0
    """Added to every edit's own seed, so that trials can draw anew."""
    undo_steps: list[Callable[[], None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def undo(self) -> None:
        """Take every edit back, last first, bit for bit."""
        while self.undo_steps:
            self.undo_steps.pop()()

    # -- the primitives that every kind of edit is made of

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter by name.

        Raises:
            CannotApply: If the model has none of that name.
        """
        path, _, leaf = name.rpartition(".")
        found = _inside(self.module(path))._parameters.get(leaf)
        if found is None:
            raise CannotApply(
                f"the model has no parameter '{name}'",
                "the prescription was written for another model",
                "prescribe anew with gradmend.fix",
            )
        return found

    def module(self, path: str) -> nn.Module:
        """A module by path.

        Paths are those of the model as it was prescribed for: a :class:`Standardised` that an
        earlier edit put in does not count, or no other edit could be combined with it.
        """
        found = _find(self.model, path)
        if found is None:
            raise CannotApply(
                f"the model has no module '{path}'",
                "the prescription was written for another model",
                "prescribe anew with gradmend.fix",
            )
        return found

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Overwrite a tensor in place; its identity, and the optimizer's state for it, stay."""
        if values.shape != parameter.shape:
            raise CannotApply(
                f"a value of shape {list(values.shape)} does not fit one of"
                f" {list(parameter.shape)}",
                "the prescription was written for another model",
                "prescribe anew with gradmend.fix",
            )
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(values)

        def back() -> None:
            with torch.no_grad():
                parameter.copy_(saved)

        self.undo_steps.append(back)

    def put(self, path: str, module: nn.Module) -> None:
        """Set a module into its parent's place for ``path``; the root where that is empty."""
        old = self.module(path)
        # Not .train(): that would reach into wrapped modules, which keep the flags they have.
        module.training = old.training
        if isinstance(old, Standardised):
            table, name, old = old._modules, "inner", old.inner
        elif not path:
            self.model = module
            self.undo_steps.append(lambda: setattr(self, "model", old))
            return
        else:
            parent_path, _, name = path.rpartition(".")
            table = _inside(self.module(parent_path))._modules
        table[name] = module

        def back() -> None:
            table[name] = old

        self.undo_steps.append(back)

    def register(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let a live optimizer train new parameters, in a group with its first group's options."""
        new = list(parameters)
        optimizer = self.optimizer
        if optimizer is None or not new:
            return
        if isinstance(optimizer, torch.optim.LBFGS):
            raise CannotApply(
                "LBFGS trains the one group of parameters it was built with",
                "it would never move the new ones",
                "use another optimizer, or keep=['architecture']",
            )
        groups = optimizer.param_groups
        options = {k: v for k, v in groups[0].items() if k not in ("params", "param_names")}
        params: list[Any] = list(new)
        if "param_names" in groups[0]:  # built from named_parameters(): it wants names for all
            named = {id(p): name for name, p in self.model.named_parameters()}
            params = [(named.get(id(p), f"new.{i}"), p) for i, p in enumerate(new)]
        optimizer.add_param_group({**options, "params": params})
        group = groups[-1]
        self.notes.append(
            f"{len(new)} new parameter(s) joined the optimizer in a group of their own"
        )

        def back() -> None:
            # By identity: list.remove compares dicts, and so tensors, which have no truth value.
            groups[:] = [other for other in groups if other is not group]
            for parameter in new:
                optimizer.state.pop(parameter, None)

        self.undo_steps.append(back)


def apply_edits(bench: Bench, edits: Iterable[Edit]) -> Bench:
    """Apply edits in order; on any failure undo those already made.

    Raises:
        CannotApply: If an edit does not fit; the model is then as it was.
    """
    try:
        for edit in edits:
            if edit.kind not in KINDS:
                raise CannotApply(
                    f"there is no edit of kind '{edit.kind}'",
                    "edits are a closed set, so that every one can be undone",
                    f"known kinds: {', '.join(sorted(KINDS))}",
                )
            KINDS[edit.kind](bench, edit)
    except (GradmendError, torch.OutOfMemoryError):
        bench.undo()
        raise
    except Exception as error:  # hostile values, or the user's model on the way through it
        bench.undo()
        raise CannotApply(
            f"the edit '{edit.kind}' failed: {' '.join(str(error).split())[:300]}",
            "it does not fit this model, which was left as it was",
            "prescribe anew with gradmend.fix",
        ) from error
    except BaseException:
        bench.undo()
        raise
    return bench


def _inside(module: nn.Module) -> nn.Module:
    """What a :class:`Standardised` or ``torch.compile`` wraps; any other module itself."""
    while True:
        wrapped = module._modules.get("_orig_mod")
        if isinstance(module, Standardised):
            module = module.inner
        elif wrapped is not None:
            module = wrapped
        else:
            return module


def _find(model: nn.Module, path: str) -> nn.Module | None:
    """A registered module by its path, which does not count ``Standardised`` on the way."""
    for name in path.split(".") if path else ():
        found = _inside(model)._modules.get(name)
        if found is None:
            return None
        model = found
    return model


# -- the kinds of edit


def initialise(bench: Bench, edit: Edit) -> None:
    """Draw weights anew: scheme, gain, seed; and set biases, centred where asked.

    ``targets`` are weights; the lists in ``args`` run parallel to them: ``biases`` (names or
    null), ``gains`` (sigma_w), ``centres`` (the mean of what the layer reads, removed by the
    bias b = -centre * W 1), ``bias_stds`` (random part of the bias).
    """
    args = edit.args
    scheme = str(args.get("scheme", "orthogonal"))
    generator = torch.Generator().manual_seed(int(_number(args.get("seed", 0))) + bench.seed)
    rows = zip(
        edit.targets, _list(edit, "biases"), _list(edit, "gains"), _list(edit, "centres"),
        _list(edit, "bias_stds"), strict=True,
    )  # fmt: skip
    for name, bias_name, gain, centre, bias_std in rows:
        weight = bench.parameter(name)
        drawn = draw_weight(tuple(weight.shape), scheme, float(_number(gain)), generator)
        bench.write(weight, drawn.to(weight.device, weight.dtype))
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            values = _draw(tuple(bias.shape), generator) * float(_number(bias_std))
            values = values - float(_number(centre)) * drawn.reshape(drawn.shape[0], -1).sum(dim=1)
            bench.write(bias, values.to(bias.device, bias.dtype))


def draw_weight(
    shape: tuple[int, ...], scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """A weight with sqrt(fan_in E[w^2]) = gain.

    Args:
        shape: [out, in, *kernel].
        scheme: ``orthogonal`` (all singular values equal, Saxe et al. 2014) or ``normal``.
        gain: sigma_w.
        generator: Source of randomness.
    """
    out, fan_in = shape[0], math.prod(shape[1:])
    if scheme == "normal":
        return _draw(shape, generator) * (gain / math.sqrt(fan_in))
    if scheme != "orthogonal":
        raise CannotApply(f"there is no initialisation '{scheme}'", "", "orthogonal or normal")
    tall = _draw((max(out, fan_in), min(out, fan_in)), generator)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r))  # makes the distribution uniform (Mezzadri 2007)
    q = q if out >= fan_in else q.T
    # Columns are unit where out > in: scale up so that every output keeps its variance.
    drawn: Tensor = (q * (gain * math.sqrt(max(1.0, out / fan_in)))).reshape(shape).contiguous()
    return drawn


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers; the same bits whatever default type or device the user has set."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def replace_module(bench: Bench, edit: Edit) -> None:
    """Put another activation in the place of each target; ``module`` names its class."""
    name = str(edit.args.get("module"))
    if name not in REPLACEMENTS:
        raise CannotApply(f"'{name}' cannot be put in", "", f"one of {', '.join(REPLACEMENTS)}")
    for path in edit.targets:
        bench.put(path, REPLACEMENTS[name]())


def wrap_residual(bench: Bench, edit: Edit) -> None:
    """Wrap runs of modules into h + alpha f(h): each target with its row of ``parts`` behind it.

    The first module of a run becomes the block, the others hand their input on.
    """
    alphas = []
    for path, rest in zip(edit.targets, _rows(edit, "parts"), strict=True):
        paths = [path, *(str(part) for part in rest)]
        block = ReZero(*(_inside(bench.module(part)) for part in paths))
        for part in paths[1:]:
            bench.put(part, nn.Identity())
        bench.put(path, block)
        block.f.training = block.training
        alphas.append(block.alpha)
    bench.register(alphas)


def standardise_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read (x - mean) / std; ``mean`` and ``std`` per feature or for all."""
    if not _list(edit, "mean") or not _list(edit, "std"):
        raise CannotApply("the edit 'standardise_input' has an empty 'mean' or 'std'")
    for path in edit.targets:
        inner = _inside(bench.module(path))
        like = next(inner.parameters(), next(bench.model.parameters()))
        mean, std = (
            torch.tensor(
                [float(_number(v)) for v in _list(edit, key)], device=like.device, dtype=like.dtype
            )
            for key in ("mean", "std")
        )
        bench.put(path, Standardised(inner, mean, std))


def rescale_by_data(bench: Bench, edit: Edit) -> None:
    """Rescale each target layer on one batch: units centred, pre-activations at rms ``std``.

    One forward pass: each layer is corrected as it runs, so the next sees the corrected signal
    (after LSUV, Mishkin and Matas 2016, with a mean per unit instead of one for all).
    ``orthogonal`` draws the weights anew first. ``targets`` are the layers' module paths.
    """
    if bench.run_batch is None:
        raise CannotApply(
            "this edit looks at a batch of data, and there is none",
            "the scales are measured, not computed",
            "pass batches= and loss_fn= to gradmend.apply",
        )
    target = float(_number(edit.args.get("std", 1.0)))
    if edit.args.get("orthogonal", True):
        generator = torch.Generator().manual_seed(
            int(_number(edit.args.get("seed", 0))) + bench.seed
        )
        for path in edit.targets:
            weight = bench.parameter(f"{path}.weight")
            drawn = draw_weight(tuple(weight.shape), "orthogonal", 1.0, generator)
            bench.write(weight, drawn.to(weight.device, weight.dtype))
    handles = []

    def correct(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        del inputs  # unused: the layer's own output is what is scaled
        channel = 1 if output.dim() >= 3 and not isinstance(module, nn.Linear) else -1
        rows = output.detach().movedim(channel, -1).reshape(-1, output.shape[channel])
        mean = rows.mean(dim=0)
        size = (rows - mean).square().mean().sqrt()
        if not bool(torch.isfinite(size)):
            raise CannotApply(
                f"a layer of {list(output.shape)} outputs gives NaN or infinity on this batch",
                "no scale can be measured there",
            )
        scale = target / size if bool(size > 0) else torch.ones_like(size)
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        assert weight is not None and bias is not None
        bench.write(weight, weight.detach() * scale)
        bench.write(bias, (bias.detach() - mean) * scale)
        shape = [1] * output.dim()
        shape[channel] = -1
        return (output - mean.view(shape)) * scale

    # The pass is a measurement: running statistics of a BatchNorm must not move with it.
    buffers = [(buffer, buffer.detach().clone()) for buffer in bench.model.buffers()]
    try:
        for path in edit.targets:
            layer = _inside(bench.module(path))
            if layer._parameters.get("bias") is None:
                raise CannotApply(f"'{path}' has no bias", "its units cannot be centred")
            handles.append(layer.register_forward_hook(correct))
        with torch.no_grad():
            bench.run_batch(bench.model)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)


def scale_learning_rate(bench: Bench, edit: Edit) -> None:
    """Multiply the learning rate of every parameter group by ``factor``."""
    if bench.optimizer is None:
        raise CannotApply(
            "the learning rate belongs to an optimizer, and there is none",
            "a plain network this deep diverges at the usual rate",
            "pass optimizer= to gradmend.apply",
        )
    factor = float(_number(edit.args.get("factor", 1.0)))
    if factor <= 0:
        raise CannotApply(f"a factor of {factor:g} leaves no learning rate to train with")
    for group in bench.optimizer.param_groups:
        saved = group["lr"]
        group["lr"] = saved * factor

        def back(group: dict[str, Any] = group, saved: Any = saved) -> None:
            group["lr"] = saved

        bench.undo_steps.append(back)


def centre_sigmoids(bench: Bench, edit: Edit) -> None:
    """Put the sigmoid into centred coordinates: targets become :class:`CentredSigmoid`.

    ``feeds`` names the layer in front of each and ``readers`` those behind it; export folds them.
    """
    for path in edit.targets:
        if type(_inside(bench.module(path))) is not nn.Sigmoid:
            raise CannotApply(
                f"'{path}' is a {type(bench.module(path)).__name__}, not an nn.Sigmoid",
                "only the sigmoid has these coordinates",
            )
        bench.put(path, CentredSigmoid())


KINDS: dict[str, Callable[[Bench, Edit], None]] = {
    function.__name__: function
    for function in (
        initialise,
        replace_module,
        wrap_residual,
        standardise_input,
        rescale_by_data,
        scale_learning_rate,
        centre_sigmoids,
    )
}
"""Every kind of edit there is."""


def export_plain(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A copy of an edited model in which edits that fold away are folded into plain layers.

    Centred sigmoids become ``nn.Sigmoid`` between adjusted linear layers, standardised inputs
    part of the first linear layer; exact up to rounding. Residuals stay: they cannot be folded.

    Args:
        model: The edited (and perhaps trained) model; left as it is.
        edits: The edits it bears.
    """
    plain = copy.deepcopy(model)
    for edit in reversed(list(edits)):
        if edit.kind == "centre_sigmoids":
            rows = zip(edit.targets, _list(edit, "feeds"), _rows(edit, "readers"), strict=True)
            for path, feed, readers in rows:
                _fold_sigmoid(plain, path, str(feed), [str(reader) for reader in readers])
        elif edit.kind == "standardise_input":
            for path in edit.targets:
                plain = _fold_standardised(plain, path)
    return plain


@torch.no_grad()
def _fold_sigmoid(model: nn.Module, path: str, feed: str, readers: list[str]) -> None:
    """2 sigma(2 x) - 1 as a plain sigmoid: W, b -> 2 W, 2 b before it; 2 W, b - W 1 behind."""
    # A standardised input scales what a layer reads, not what it computes: fold into the layer.
    before, *layers = (_find(model, name) for name in (feed, *readers))
    for name, layer in zip((feed, *readers), (before, *layers), strict=True):
        inner = _inside(layer) if layer is not None else None
        wrapped = isinstance(layer, Standardised) and name in readers
        if not isinstance(inner, nn.Linear) or inner.bias is None or wrapped:
            raise CannotApply(f"'{name}' was wrapped by another edit and cannot be folded into")
    for parameter in _inside(before)._parameters.values():  # type: ignore[arg-type]
        if parameter is not None:
            parameter.mul_(2.0)
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        layer.bias.sub_(layer.weight.sum(dim=1))
        layer.weight.mul_(2.0)
    _set(model, path, nn.Sigmoid())


@torch.no_grad()
def _fold_standardised(model: nn.Module, path: str) -> nn.Module:
    layer = _find(model, path)
    assert isinstance(layer, Standardised)
    inner = layer.inner
    if not isinstance(inner, nn.Linear) or inner.bias is None:
        return model  # a convolution's padding would see another zero; a whole model has no weight
    inner.weight.div_(layer.std)
    inner.bias.sub_((inner.weight * layer.mean).sum(dim=1))
    return _set(model, path, inner)


def _set(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent_path, _, name = path.rpartition(".")
    old, parent = _find(model, path), _find(model, parent_path)
    assert old is not None and parent is not None
    module.training = old.training
    _inside(parent)._modules[name] = module
    return model


def _list(edit: Edit, key: str) -> list[Any]:
    value = edit.args.get(key)
    if not isinstance(value, list):
        raise CannotApply(f"the edit '{edit.kind}' lacks its list '{key}'")
    return value


def _rows(edit: Edit, key: str) -> list[list[Any]]:
    rows = _list(edit, key)
    if not all(isinstance(row, list) for row in rows):
        raise CannotApply(f"the edit '{edit.kind}' needs lists inside its list '{key}'")
    return rows


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CannotApply(f"{value!r} stands where an edit needs a finite number")
    return value
