"""Edits of recurrent layers: their recurrent weights, their gates, and what they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.draws import draw_units, from_units, layout_of, to_units, usual
from gradmend.edits.exchanging import exchange
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import CELLS, LAYERS
from gradmend.records.prescription import Edit
from gradmend.theory.gates import balanced_bias, keep_bias, keep_opening

Recurrent = nn.RNNBase | nn.RNNCellBase

_SETTINGS = ("num_layers", "batch_first", "dropout", "bidirectional")
_RECURRENT_GAIN = {3: 1.0, 4: 0.7}
"""Of a new GRU's and LSTM's recurrent weights, in each gate's block. Beside a cell that keeps its
gradient, weights of 1 add more at every step: 3.3 decades in a stack of two over 200 steps."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
          "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
          "_forward_hooks_always_called")  # fmt: skip


@edit_kind
def draw_recurrence(bench: Bench, edit: Edit) -> None:
    """Draw recurrent weights anew: what the state becomes of itself at each step.

    ``targets`` are recurrent layers, cells, or square linear layers that a loop calls. ``scheme``
    is ``orthogonal`` or ``identity``, in each gate's block; ``gain`` its size. The lists
    ``inputs`` and ``biases`` run parallel: a factor on the weights that read the input, and one
    on the biases (0 takes them away).
    """
    scheme = str(edit.args.get("scheme", "orthogonal"))
    if scheme not in ("orthogonal", "identity"):
        raise CannotApply(f"'{scheme}' is no recurrence", "", "orthogonal or identity")
    gain = float(number(edit.args.get("gain", 1.0)))
    generator = _generator(bench, edit)
    rows = zip(edit.targets, list_of(edit, "inputs"), list_of(edit, "biases"), strict=True)
    for path, reads, shifts in rows:
        layer = inside(bench.module(path))
        for name in _recurrent_names(path, layer):
            weight = bench.parameter(f"{path}.{name}" if path else name)
            layout = layout_of(layer, name)
            drawn = draw_units(tuple(to_units(weight, layout).shape), layout, scheme, gain,
                               generator)  # fmt: skip
            values = from_units(drawn, layout)
            bench.write(weight, values.to(weight.device, weight.dtype))
        for name, parameter in layer._parameters.items():
            if parameter is None:
                continue
            factor = reads if name.startswith("weight_ih") else shifts if "bias" in name else 1.0
            if number(factor) != 1.0:
                bench.write(parameter, parameter.detach() * float(factor))


@edit_kind
def bound_recurrence(bench: Bench, edit: Edit) -> None:
    """Scale the recurrent weights of each target down, each gate's block by itself.

    The lists run parallel to ``targets``: to a spectral radius of at most ``radii``; where that is
    null, by ``factors``.
    """
    rows = zip(edit.targets, list_of(edit, "radii"), list_of(edit, "factors"), strict=True)
    for path, radius, given in rows:
        factor = float(number(given))
        if not factor > 0.0 or (radius is not None and not number(radius) > 0.0):
            raise CannotApply("nothing is left of a recurrence that is scaled to zero")
        layer = inside(bench.module(path))
        for name in _recurrent_names(path, layer):
            weight = bench.parameter(f"{path}.{name}" if path else name)
            if radius is None:
                bench.write(weight, weight.detach() * factor)
                continue
            blocks = weight.detach().chunk(layout_of(layer, name).blocks)
            bench.write(weight, torch.cat([_bounded(block, float(radius)) for block in blocks]))


def _bounded(block: Tensor, radius: float) -> Tensor:
    """A block scaled down to a spectral radius; a projected state's has singular values only."""
    wide = block.double().cpu()
    if not bool(torch.isfinite(wide).all()):
        raise CannotApply("recurrent weights are not finite", "they have no spectrum to bound")
    if block.shape[0] == block.shape[1]:
        largest = float(torch.linalg.eigvals(wide).abs().max())
    else:
        largest = float(torch.linalg.matrix_norm(wide, 2))
    return block * min(1.0, radius / largest) if largest > 0 else block.clone()


@edit_kind
def set_gates(bench: Bench, edit: Edit) -> None:
    """Give gates the biases that a memory over ``steps`` needs; one number for each target.

    ``spread`` is ``same`` (every unit keeps over the whole sequence, b = log(T - 1)) or
    ``uniform`` (chrono: b = log U[1, T - 1]). Of an LSTM, ``admit`` says what becomes of the
    input gate: ``kept``, ``chrono`` (b_i = -b_f) or ``balanced`` (the cell keeps the variance of
    what it reads); ``read`` is the output gate's bias, null to keep it.
    """
    generator = _generator(bench, edit)
    for path, steps in zip(edit.targets, list_of(edit, "steps"), strict=True):
        layer = inside(bench.module(path))
        if not isinstance(layer, nn.LSTM | nn.GRU | nn.LSTMCell | nn.GRUCell):
            raise CannotApply(
                f"'{path}' is a {type(layer).__name__}, which has no gates",
                "only LSTM and GRU can keep a memory open",
            )
        for ours, theirs in _biases(path, layer):
            _open(bench, layer, ours, theirs, _steps(steps), edit, generator)


@edit_kind
def replace_cell(bench: Bench, edit: Edit) -> None:
    """Put an LSTM or a GRU (``cell``) into the place of a simpler recurrent layer.

    Same sizes, layers, directions and interface, so that the code around it notices nothing; new
    weights, orthogonal in each gate's block of the recurrence, no biases but those that a memory
    over ``steps`` needs. The optimizer trains the new weights where it trained the old ones.
    """
    name = str(edit.args.get("cell"))
    generator = _generator(bench, edit)
    for path, steps in zip(edit.targets, list_of(edit, "steps"), strict=True):
        old = inside(bench.module(path))
        new = _twin(bench, path, old, name)
        for leaf, parameter in new.named_parameters(recurse=False):
            _draw(new, leaf, parameter, generator)
        bench.put(path, new)
        for ours, theirs in _biases(path, new):
            _open(bench, new, ours, theirs, _steps(steps), edit, generator)
        pairs = [(old.get_parameter(leaf), p) for leaf, p in new.named_parameters(recurse=False)]
        exchange(bench, pairs)
        bench.notes.append(f"'{path}' is {_a(name)} with weights of its own: nothing is kept")


def _twin(bench: Bench, path: str, old: nn.Module, name: str) -> Recurrent:
    """An empty layer of another kind with the sizes and the interface of an old one."""
    fits = {nn.RNN: ("GRU", "LSTM"), nn.GRU: ("LSTM",), nn.RNNCell: ("GRU",)}
    if name not in fits.get(type(old), ()):
        raise CannotApply(
            f"'{path}' is a {type(old).__name__}, and {_a(name)} cannot take its place",
            "it would answer something else",
            "RNN becomes GRU or LSTM, GRU becomes LSTM, RNNCell becomes GRU",
        )
    assert isinstance(old, nn.RNN | nn.GRU | nn.RNNCell)
    own = dict(old.named_parameters(recurse=False))
    _refuse_shared(bench, path, own)
    if not old.bias:
        raise CannotApply(f"'{path}' has no biases", "its gates could not be opened by them")
    like = next(iter(own.values()))
    made: Recurrent
    if isinstance(old, nn.RNNCell):
        made = CELLS[name](old.input_size, old.hidden_size, device="meta", dtype=like.dtype)
    else:
        settings: dict[str, Any] = {key: getattr(old, key) for key in _SETTINGS}
        made = LAYERS[name](
            old.input_size, old.hidden_size, device="meta", dtype=like.dtype, **settings
        )
    made = made.to_empty(device=like.device)
    for table in _HOOKS:
        if isinstance(getattr(old, table, None), dict):
            getattr(made, table).update(getattr(old, table))
    return made


def _refuse_shared(bench: Bench, path: str, own: dict[str, nn.Parameter]) -> None:
    """A weight that something else uses, or that is not trained, is not ours to replace."""
    ids = {id(parameter) for parameter in own.values()}
    uses = [p for _, p in bench.model.named_parameters(remove_duplicate=False) if id(p) in ids]
    if len(uses) > len(ids):
        raise CannotApply(f"'{path}' shares its weights", "another layer would lose them")
    if any(not parameter.requires_grad for parameter in own.values()):
        raise CannotApply(f"'{path}' is frozen", "new weights would have to be trained")


def _draw(layer: Recurrent, leaf: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    """First values of a new layer's parameter: torch's own scale, orthogonal recurrence."""
    with torch.no_grad():
        if leaf.startswith("bias"):
            parameter.zero_()
            return
        layout = layout_of(layer, leaf)
        shape = tuple(to_units(parameter, layout).shape)
        scheme, gain = usual(layer, leaf, shape)
        if leaf.startswith("weight_hh"):
            scheme, gain = "orthogonal", _RECURRENT_GAIN[layout.blocks]
        parameter.copy_(from_units(draw_units(shape, layout, scheme, gain, generator), layout))


def _open(
    bench: Bench,
    layer: Recurrent,
    ours: Tensor,
    theirs: Tensor,
    steps: int,
    edit: Edit,
    generator: torch.Generator,
) -> None:
    """Set the gates of one layer and direction; torch adds two biases, so one becomes zero."""
    gates = 4 if isinstance(layer, nn.LSTM | nn.LSTMCell) else 3
    size = ours.shape[0] // gates
    keep = torch.full((size,), keep_bias(steps))
    if edit.args.get("spread", "same") == "uniform":
        numbers = torch.rand(size, generator=generator, dtype=torch.float32, device="cpu")
        keep = torch.log(1.0 + numbers * max(math.exp(keep_bias(steps)) - 1.0, 0.0))
    places = {1: keep}  # LSTM: i, f, g, o; GRU: r, z, n with h' = (1 - z) n + z h
    if gates == 4:
        admit = edit.args.get("admit", "kept")
        if admit == "chrono":
            places[0] = -keep
        elif admit == "balanced":
            places[0] = torch.full((size,), balanced_bias(keep_opening(steps)))
        elif admit != "kept":
            raise CannotApply(f"'{admit}' is no input gate", "", "kept, chrono or balanced")
        if edit.args.get("read") is not None:
            places[3] = torch.full((size,), float(number(edit.args["read"])))
    first, second = ours.detach().clone(), theirs.detach().clone()
    for gate, values in places.items():
        rows = slice(gate * size, (gate + 1) * size)
        first[rows] = values.to(first.device, first.dtype)
        second[rows] = 0.0
    bench.write(ours, first)
    bench.write(theirs, second)


def _biases(path: str, layer: Recurrent) -> Iterator[tuple[Tensor, Tensor]]:
    """(b_ih, b_hh) of each layer and direction."""
    names = [name for name in layer._parameters if name.startswith("bias_ih")]
    for name in names:
        ours, theirs = (layer._parameters.get(n) for n in (name, name.replace("_ih", "_hh")))
        if ours is not None and theirs is not None:
            yield ours, theirs
    if not any(layer._parameters.get(name) is not None for name in names):
        raise CannotApply(f"'{path}' has no biases", "its gates cannot be opened by them")


def _recurrent_names(path: str, layer: nn.Module) -> list[str]:
    """Own names of the weights by which a layer's state becomes its next."""
    if isinstance(layer, Recurrent):
        return [name for name in layer._parameters if name.startswith("weight_hh")]
    if isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
        return ["weight"]
    raise CannotApply(
        f"'{path}' is a {type(layer).__name__}", "it has no recurrent weights of its own"
    )


def _generator(bench: Bench, edit: Edit) -> torch.Generator:
    return torch.Generator().manual_seed(int(number(edit.args.get("seed", 0))) + bench.seed)


def _steps(value: Any) -> int:
    steps = number(value)
    if not 1 <= steps <= 1e9:
        raise CannotApply(f"{steps:g} time steps are no sequence")
    return int(steps)


def _a(name: str) -> str:
    return f"an {name}" if name == "LSTM" else f"a {name}"
