"""Edits that give the gradient a way around modules, or weigh the ways that there are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number, rows_of
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers.deep_norm import DeepNormDecoderLayer, DeepNormEncoderLayer
from gradmend.layers.residuals import Moved, Residual, ReZero, ScaledResidual, Times
from gradmend.layers.wrappers import Followed
from gradmend.records.prescription import Edit


@edit_kind
def wrap_residual(bench: Bench, edit: Edit) -> None:
    """Wrap runs of modules into h + alpha f(h): each target with its row of ``parts`` behind it.

    The first module of a run becomes the block, the others hand their input on. alpha is learned
    from zero, or fixed at ``factor`` where that is given.
    """
    fixed = float(number(edit.args["factor"])) if "factor" in edit.args else None
    alphas = []
    for path, rest in zip(edit.targets, rows_of(edit, "parts"), strict=True):
        paths = [path, *(str(part) for part in rest)]
        modules = [inside(bench.module(part)) for part in paths]
        _check_apart(paths, modules)
        block: Residual = (
            ReZero(*modules) if fixed is None else ScaledResidual(*modules, factor=fixed)
        )
        for part, module in zip(paths[1:], modules[1:], strict=True):
            bench.put(part, Moved(module))
        bench.put(path, block)
        block.rest.training = block.training
        if isinstance(block.alpha, nn.Parameter):
            alphas.append(block.alpha)
    bench.register(alphas)


@edit_kind
def scale_rows(bench: Bench, edit: Edit) -> None:
    """Multiply parameters, or some of their rows; ``factors`` and ``rows`` run parallel.

    A row of ``rows`` is [first, one past the last], or empty for all.
    """
    lists = zip(edit.targets, list_of(edit, "factors"), rows_of(edit, "rows"), strict=True)
    for name, factor, span in lists:
        parameter = bench.parameter(name)
        values = parameter.detach().clone()
        _rows(values, span, name).mul_(float(number(factor)))
        bench.write(parameter, values)


@edit_kind
def multiply_output(bench: Bench, edit: Edit) -> None:
    """Multiply what modules answer: ``factors`` run parallel to targets.

    With ``learned`` every factor is a parameter; export folds the others into linear layers.
    ``rows``, parallel too, restricts a factor to units [first, one past the last] of a linear
    layer's answer.
    """
    spans = rows_of(edit, "rows") if "rows" in edit.args else [[]] * len(edit.targets)
    learned = edit.args.get("learned") is True
    new: list[nn.Parameter] = []
    for path, factor, span in zip(edit.targets, list_of(edit, "factors"), spans, strict=True):
        inner = inside(bench.module(path))
        if isinstance(inner, nn.MultiheadAttention):
            _refuse_read_weights(bench, path)
        like = next((p for p in inner.parameters() if p.is_floating_point()), torch.zeros(()))
        value = torch.full((), float(number(factor)), dtype=like.dtype, device=like.device)
        if span:
            if not isinstance(inner, nn.Linear):
                raise CannotApply(f"'{path}' is no linear layer with units {span}")
            value = torch.ones_like(inner.weight[:, 0]).detach()
            _rows(value, span, path).mul_(float(number(factor)))
        times = Times(value, learned=learned)
        times.training = inner.training
        bench.put(path, Followed(inner, times))
        new += times.parameters()
    bench.register(new)


def _refuse_read_weights(bench: Bench, path: str) -> None:
    """In inference torch's own transformer layers read their attention's weights themselves."""
    holder = inside(bench.module(path.rpartition(".")[0]))
    if isinstance(holder, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        raise CannotApply(
            f"'{path}' is inside of a {type(holder).__name__}",
            "in inference that reads the weights itself, and the factor would be left out",
        )


@edit_kind
def deep_norm(bench: Bench, edit: Edit) -> None:
    """Let the skips of post-norm transformer layers count ``alpha`` times, one for all targets."""
    alpha = float(number(edit.args.get("alpha")))
    if alpha <= 0.0:
        raise CannotApply(f"a skip that counts {alpha:g} times is none", "", "alpha above zero")
    for path in edit.targets:
        old = inside(bench.module(path))
        if type(old) is nn.TransformerEncoderLayer:
            new: nn.Module = DeepNormEncoderLayer.of(old, alpha)
        elif type(old) is nn.TransformerDecoderLayer:
            new = DeepNormDecoderLayer.of(old, alpha)
        else:
            raise CannotApply(
                f"'{path}' is a {type(old).__name__}, not a transformer layer of torch's own",
                "only of those is the way through known",
                "prescribe anew with gradmend.fix",
            )
        if old.norm_first:
            raise CannotApply(f"'{path}' has its norms in the branches: there is nothing to weigh")
        bench.put(path, new)


def _check_apart(paths: list[str], modules: list[nn.Module]) -> None:
    """Modules that stand one behind the other: none twice, none inside another."""
    for path in paths:
        around = [other for other in paths if other == "" or path.startswith(f"{other}.")]
        if around and path:
            raise CannotApply(f"'{around[0]}' is no module behind '{path}': it holds it")
    if len(set(map(id, modules))) < len(modules):
        raise CannotApply(f"a module stands twice in the run that begins at '{paths[0]}'")


def _rows(values: Tensor, span: list[object], name: str) -> Tensor:
    """The rows from the first to before the last; all where none are named."""
    if not span:
        return values
    ends = [at for at in span if type(at) is int]
    if len(ends) != 2 or not values.dim() or not 0 <= ends[0] < ends[1] <= values.shape[0]:
        raise CannotApply(f"'{name}' has no rows {span}", "another shape was prescribed for")
    return values[ends[0] : ends[1]]
