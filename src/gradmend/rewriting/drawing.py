"""Weights and biases: lines of ``torch.nn.init`` that draw from the same distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradmend.records.layout import ModuleFacts
from gradmend.records.prescription import Edit
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page
from gradmend.rewriting.script import Script

_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d")
"""Weights [out, in, *kernel], of which torch counts the fans as gradmend does."""
_CLOSE = 1e-6
"""Relative difference of two gains that are the same number computed in two ways."""
_MOST_NAMED = 24
"""Layers that are listed by name: more of them would be a page of names. Our choice."""
_MOST_SPARED = 3
"""Layers that "all but these" may name. Our choice."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One layer: what is called on its weight and on its bias, with ``{}`` for the layer."""

    path: str
    kind: str
    lines: tuple[str, ...]


def initialise(script: Script, edit: Edit) -> None:
    """Lines behind the model's construction that draw the same weights.

    Raises:
        Unclear: If ``torch.nn.init`` has no call that draws from the same distribution.
    """
    page, statement, behind, name = script.before_training()
    rows = _rows(script, page, edit)
    code = "\n".join(_loops(script, page, rows, name, page.room(statement)))
    if behind:
        page.insert_after(statement, code)
    else:
        page.insert_before(statement, code)


def _rows(script: Script, page: Page, edit: Edit) -> list[_Row]:
    args = edit.args
    count = len(edit.targets)
    if any(row is not None for row in _listed(args.get("rows"), count, None)):
        raise Unclear("only some units of a layer are drawn")
    if any(_listed(args.get("input_first"), count, False)):
        raise Unclear("a weight is drawn that belongs to no layer of torch's own")
    init = f"{script.nn(page)}.init"
    rows = []
    lists = (
        _listed(args.get("schemes"), count, args.get("scheme", "orthogonal")),
        _listed(args.get("biases"), count, None),
        _listed(args.get("gains"), count, 1.0),
        _listed(args.get("centres"), count, 0.0),
        _listed(args.get("bias_stds"), count, 0.0),
    )
    for target, scheme, bias, gain, centre, spread in zip(edit.targets, *lists, strict=True):
        path, _, leaf = target.rpartition(".")
        facts = script.facts.module(path)
        if leaf != "weight" or not facts.standard or facts.kind not in _LAYERS:
            raise Unclear(f"'{target}' is no weight of a plain linear or convolutional layer")
        if centre:
            raise Unclear("biases take back the mean that each layer reads")
        call = _call(facts, str(scheme), float(gain)).replace('"', page.quote)
        lines = [f"{init}.{call}"]
        if bias is not None:
            if bias != (f"{path}.bias" if path else "bias"):
                raise Unclear(f"'{bias}' is not the bias of '{path}'")
            lines.append(
                f"{init}.normal_({{}}.bias, std={figure(float(spread))})"
                if spread
                else f"{init}.zeros_({{}}.bias)"
            )
        rows.append(_Row(path, facts.kind, tuple(lines)))
    return rows


def _listed(value: Any, count: int, default: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [default] * count


def _call(facts: ModuleFacts, scheme: str, gain: float) -> str:
    """The call of ``nn.init`` for a weight whose gain sqrt(fan_in E[w^2]) is given."""
    fan_in, fan_out, groups = _fans(facts)
    if not gain > 0.0:
        raise Unclear(f"a gain of {gain:g} leaves no weights")
    if scheme == "orthogonal":
        if groups != 1:
            raise Unclear("each group of a convolution is orthogonal by itself")
        # torch makes the columns unit vectors; every output is to keep its variance.
        rows = fan_out[0]
        return f"orthogonal_({{}}.weight{_gain(gain * math.sqrt(max(1.0, rows / fan_in)))})"
    if scheme == "usual" and facts.kind in _LAYERS:
        scheme, gain = "uniform", 3.0**-0.5
    if scheme not in ("normal", "uniform"):
        raise Unclear(f"torch.nn.init has nothing for '{scheme}'")
    if _same(gain, math.sqrt(2.0)):
        return f'kaiming_{scheme}_({{}}.weight, nonlinearity="relu")'
    if _same(gain, 1.0):
        return f'kaiming_{scheme}_({{}}.weight, nonlinearity="linear")'
    glorot = math.sqrt(2.0 * fan_in / (fan_in + fan_out[1]))
    if _same(gain, glorot):
        return f"xavier_{scheme}_({{}}.weight)"
    if gain < math.sqrt(2.0):
        slope = math.sqrt(2.0 / gain**2 - 1.0)
        if _same(slope, round(slope, 3)):
            return f"kaiming_{scheme}_({{}}.weight, a={figure(round(slope, 3))})"
        if _same(slope**2, round(slope**2)):
            return f"kaiming_{scheme}_({{}}.weight, a={round(slope**2)} ** 0.5)"
    if scheme == "normal":
        return f"normal_({{}}.weight, std={_short(gain / math.sqrt(fan_in))})"
    bound = _short(gain * math.sqrt(3.0 / fan_in))
    return f"uniform_({{}}.weight, -{bound}, {bound})"


def _fans(facts: ModuleFacts) -> tuple[int, tuple[int, int], int]:
    """(fan-in, (rows, fan-out), groups) as torch counts them."""
    settings = facts.settings

    def whole(key: str) -> int:
        value = settings.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Unclear(f"'{key}' of '{facts.path}' is not known")
        return value

    if facts.kind == "Linear":
        return whole("in_features"), (whole("out_features"),) * 2, 1
    kernel = settings.get("kernel_size")
    if not isinstance(kernel, list | tuple):
        raise Unclear(f"the kernel of '{facts.path}' is not known")
    taps, groups = math.prod(int(k) for k in kernel), whole("groups")
    out = whole("out_channels")
    return whole("in_channels") // groups * taps, (out, out * taps), groups


def _gain(gain: float) -> str:
    return "" if _same(gain, 1.0) else f", gain={_short(gain)}"


def _short(value: float) -> str:
    """A scale to six digits: far below what a draw of weights can show."""
    return figure(float(f"{value:.6g}"))


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_CLOSE)


def _loops(script: Script, page: Page, rows: list[_Row], model: str, width: int) -> list[str]:
    """Loops over the model's modules, one for each way to draw."""
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.lines, []).append(row)
    code = []
    for lines, members in groups.items():
        code += _loop(script, page, lines, members, model, width)
    if len(code) > 2 * _MOST_NAMED:
        raise Unclear(f"{len(groups)} layers are each drawn in their own way")
    return code


def _loop(
    script: Script, page: Page, lines: tuple[str, ...], members: list[_Row], model: str, width: int
) -> list[str]:
    nn = script.nn(page)
    layer = page.fresh("module", "layer", "drawn")
    kinds = sorted({row.kind for row in members})
    paths = {row.path for row in members}
    spared = _others(script, kinds, paths)
    kind = f"{nn}.{kinds[0]}" if len(kinds) == 1 else ", ".join(f"{nn}.{k}" for k in kinds)
    kind = kind if len(kinds) == 1 else f"({kind})"
    if "" in paths:
        return [line.format(model) for line in lines]
    if spared == []:
        return [
            f"for {layer} in {model}.modules():",
            f"    if isinstance({layer}, {kind}):",
            *(f"        {line.format(layer)}" for line in lines),
        ]
    if script.model.compiled:
        raise Unclear("a compiled model's layers have other paths")
    if len(members) == 1:
        path = members[0].path
        where = f"{model}.get_submodule({page.string(path)})"
        if len(lines) == 1:
            return [lines[0].format(where)]
        return [f"{layer} = {where}", *(line.format(layer) for line in lines)]
    if spared is not None and len(spared) <= _MOST_SPARED and len(members) > len(spared) + 1:
        name = page.fresh("name", "path", "place")
        test = (
            f"{name} != {page.string(spared[0])}"
            if len(spared) == 1
            else f"{name} not in ({', '.join(map(page.string, spared))})"
        )
        return [
            f"for {name}, {layer} in {model}.named_modules():",
            f"    if isinstance({layer}, {kind}) and {test}:",
            *(f"        {line.format(layer)}" for line in lines),
        ]
    if len(members) > _MOST_NAMED:
        raise Unclear(f"{len(members)} layers of many would have to be named")
    name = page.fresh("name", "path", "place")
    return [
        *named_loop(page, name, [row.path for row in members], width),
        f"    {layer} = {model}.get_submodule({name})",
        *(f"    {line.format(layer)}" for line in lines),
    ]


def named_loop(page: Page, name: str, paths: Sequence[str], width: int) -> list[str]:
    """The head of a loop over names, on as many lines as it needs."""
    words = [page.string(path) for path in paths]
    listed = ", ".join(words) + ("," if len(words) == 1 else "")
    if len(listed) + len(name) + 11 <= width:
        return [f"for {name} in ({listed}):"]
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return [f"for {name} in (", *lines, line, "):"]


def _others(script: Script, kinds: Sequence[str], paths: set[str]) -> list[str] | None:
    """The modules of some kinds that are not meant; ``None`` where ``isinstance`` may find more."""
    found = []
    for facts in script.facts.layout:
        if facts.path in paths:
            continue
        if facts.standard and facts.kind in kinds:
            found.append(facts.path)
        elif not facts.standard and any(name.endswith("weight") for name in facts.parameters):
            return None  # it may be derived from one of them
    return found
