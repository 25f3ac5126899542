"""Weights that are scaled or set to numbers, and gates that are opened, in PyTorch's own words."""

from __future__ import annotations

import math
from typing import Any

from gradmend.records.prescription import Edit
from gradmend.rewriting.drawing import named_loop
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page
from gradmend.rewriting.script import Script

_MOST = 24
"""Parameters that are listed by name. Our choice."""
_FEWEST_STEPS = 3
"""As :data:`gradmend.theory.gates.FEWEST_STEPS`: below it no gate is opened."""


def scale_weights(script: Script, edit: Edit) -> None:
    """``parameter.mul_(factor)`` under ``no_grad``, a loop for each factor."""
    factors: Any = edit.args.get("factors")
    if edit.kind == "scale_output":
        factors = [edit.args.get("factor")] * len(edit.targets)
    if not isinstance(factors, list) or len(factors) != len(edit.targets):
        raise Unclear("the factors are not one for each parameter")
    page, statement, behind, model = _at(script)
    if len(edit.targets) > _MOST:
        raise Unclear(f"{len(edit.targets)} parameters would have to be named")
    groups: dict[float, list[str]] = {}
    for name, factor in zip(edit.targets, factors, strict=True):
        groups.setdefault(float(factor), []).append(name)
    code = [f"with {script.torch(page)}.no_grad():"]
    for factor, names in groups.items():
        change = f".mul_({figure(factor)})" if factor else ".zero_()"
        if len(names) == 1:
            code.append(f"    {model}.get_parameter({page.string(names[0])}){change}")
            continue
        name = page.fresh("name", "path", "place")
        head = named_loop(page, name, names, page.room(statement) - 4)
        code += [f"    {line}" for line in head]
        code.append(f"        {model}.get_parameter({name}){change}")
    _put(page, statement, behind, code)


def class_prior_bias(script: Script, edit: Edit) -> None:
    """The logits of the classes' shares, written into the bias."""
    shares = edit.args.get("shares")
    if not isinstance(shares, list) or not 0 < len(shares) <= _MOST:
        raise Unclear("there are too many classes to list")
    values = [float(share) for share in shares]
    if edit.args.get("sigmoid") is True:
        logits = [math.log(s / (1.0 - s)) for s in values]
    else:
        logits = [math.log(s) for s in values]
        middle = math.fsum(logits) / len(logits)
        logits = [value - middle for value in logits]
    page, statement, behind, model = _at(script)
    torch = script.torch(page)
    listed = ", ".join(figure(float(f"{value:.9g}")) for value in logits)
    code = [f"with {torch}.no_grad():"]
    for name in edit.targets:
        where = f"{model}.get_parameter({page.string(name)})"
        line = f"    {where}.copy_({torch}.tensor([{listed}]))"
        if len(line) > page.room(statement):
            line = f"    {where}.copy_(\n        {torch}.tensor([{listed}])\n    )"
        code.append(line)
    _put(page, statement, behind, code)


def set_gates(script: Script, edit: Edit) -> None:
    """The bias of an LSTM's forget gates: ``log(steps - 1)``, the same for every unit."""
    if edit.args.get("spread", "same") != "same" or edit.args.get("admit", "kept") != "kept":
        raise Unclear("gates are opened for memories of many lengths")
    if edit.args.get("read") is not None:
        raise Unclear("output gates are opened, too")
    page, statement, behind, model = _at(script)
    steps: Any = edit.args.get("steps")
    code = [f"with {script.torch(page)}.no_grad():"]
    for path, count in zip(edit.targets, steps, strict=True):
        facts = script.facts.module(path)
        hidden = facts.settings.get("hidden_size")
        if facts.kind != "LSTM" or not facts.standard or not isinstance(hidden, int):
            raise Unclear(f"'{path}' is a {facts.kind}, no LSTM")
        bias = math.log(max(int(count), _FEWEST_STEPS) - 1)
        parameter, name = page.fresh("parameter", "bias"), page.fresh("name", "path", "place")
        where = f"{model}.get_submodule({page.string(path)})" if path else model
        gate = f"{parameter}[{hidden} : {2 * hidden}]"
        code += [
            f"    for {name}, {parameter} in {where}.named_parameters():",
            f"        if {name}.startswith({page.string('bias_ih')}):  # i, f, g, o in a row",
            f"            {gate} = {figure(float(f'{bias:.9g}'))}",
            f"        elif {name}.startswith({page.string('bias_hh')}):",
            f"            {gate} = 0.0",
        ]
    _put(page, statement, behind, code)


def _at(script: Script) -> tuple[Page, Any, bool, str]:
    found = script.before_training()
    if script.model.compiled:
        raise Unclear("a compiled model's parameters have other names")
    return found


def _put(page: Page, statement: Any, behind: bool, code: list[str]) -> None:
    if behind:
        page.insert_after(statement, "\n".join(code))
    else:
        page.insert_before(statement, "\n".join(code))
