"""What is done at each step: gradients clipped in front of it, a warm-up counted behind it."""

from __future__ import annotations

from typing import Any

from gradmend.records.prescription import Edit
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page, last_name
from gradmend.rewriting.places import names_in
from gradmend.rewriting.script import Script


def clip_gradients(script: Script, edit: Edit) -> None:
    """``torch.nn.utils.clip_grad_norm_`` in front of every step of the optimizer.

    Raises:
        Unclear: If torch does not clip in this way, or the steps are not in the script.
    """
    method = edit.args.get("method")
    if method == "norm":
        function, limit = "clip_grad_norm_", ("max_norm", edit.args.get("limit"))
    elif method == "value" and edit.args.get("lower") == -_number(edit.args.get("upper")):
        function, limit = "clip_grad_value_", ("clip_value", edit.args.get("upper"))
    else:
        raise Unclear(f"torch.nn.utils does not clip by {method}")
    code = f"{limit[0]}={figure(_number(limit[1]))}"
    page = script.optimizer.page
    for call, optimizer, scaler in _steps(script):
        if any(arg.keyword is None and not scaler for arg in call.args) or len(call.args) > 1:
            raise Unclear("the optimizer's step is given a closure, in which gradients are made")
        whole = script.facts.trains_everything
        model = script.model_in(page, page.function(call)) if whole else None
        _in_front(script, page, call, optimizer, scaler, model, function, code)
    if method == "norm":
        script.notes.append(
            "gradmend's own clipping also leaves out steps whose gradient is not finite"
        )


def _in_front(
    script: Script, page: Page, call: Any, optimizer: str, scaler: str, model: str | None,
    function: str, limit: str,
) -> None:  # fmt: skip
    import libcst as cst

    small = page.parent(call)
    if not isinstance(small, cst.Expr | cst.Assign):
        raise Unclear(f"line {page.span(call)[0]} does more than a step")
    clip = f"{script.nn(page)}.utils.{function}"
    if model is not None:
        given = f"{model}.parameters()"
    else:
        group, p = page.fresh("group", "param_group"), page.fresh("p", "parameter")
        given = f"[{p} for {group} in {optimizer}.param_groups for {p} in {group}['params']]"
        given = given.replace("'", page.quote)
    code = [f"{clip}({given}, {limit})"]
    line = page.parent(small)
    if isinstance(line, cst.SimpleStatementLine):
        if len(code[0]) > page.room(line):
            code = [f"{clip}(\n    {given}, {limit}\n)"]
        if scaler and not _unscaled(page, line, scaler, optimizer):
            code.insert(0, f"{scaler}.unscale_({optimizer})")
        if line.body[0] is small:
            page.insert_before(line, "\n".join(code))
            return
    elif scaler:
        raise Unclear(f"line {page.span(call)[0]} has no room for another")

    def change(old: Any) -> Any:  # `loss.backward(); optimizer.step()`
        return cst.FlattenSentinel([*(page.parsed(line)[0].body[0] for line in code), old])

    page.change(small, change)


def _unscaled(page: Page, line: Any, scaler: str, optimizer: str) -> bool:
    """Whether the gradients are divided by the scale already, in a line before."""
    import libcst as cst

    block = page.block(line)
    return any(
        page.code(call) == f"{scaler}.unscale_({optimizer})"
        for before in block[: block.index(line)]
        for call in page.inside(before, cst.Call)
    )


def _steps(script: Script) -> list[tuple[Any, str, str]]:
    """(call, the optimizer's name there, the gradient scaler's or nothing) of every step.

    Raises:
        Unclear: If none is found, or some may be another optimizer's.
    """
    import libcst as cst

    found = script.optimizer
    page = found.page
    steps = []
    for call in page.nodes(cst.Call):
        if last_name(call.func) != "step" or not isinstance(call.func, cst.Attribute):
            continue
        receiver = page.code(call.func.value)
        names = names_in(page, found.name, found.home, page.function(call))
        given = page.code(call.args[0].value) if call.args else ""
        if receiver in names:
            steps.append((call, receiver, ""))
        elif given in names:
            if "scaler" not in receiver.lower():
                raise Unclear(f"{receiver} makes the optimizer's steps")
            steps.append((call, given, receiver))
    if not steps:
        raise Unclear("no line of the script calls the optimizer's step")
    return steps


def warm_up(script: Script, edit: Edit) -> None:
    """``LambdaLR`` behind the optimizer's construction, and its step behind every step.

    Raises:
        Unclear: If something else changes the rate, or steps are left out by a scaler.
    """
    count = edit.args.get("steps")
    anchor = script.optimizer
    page = anchor.page
    if not isinstance(count, int) or not anchor.name:
        raise Unclear("the line that builds the optimizer gives it no name")
    facts = script.facts.optimizer
    said = page.source.lower().replace('"', "'")
    if (facts is not None and facts.scheduled) or "scheduler" in said or "'lr'" in said:
        raise Unclear("the script changes the learning rate as well")
    steps = _steps(script)
    if any(scaler for _, _, scaler in steps):
        raise Unclear("a gradient scaler leaves steps out")
    if "." in anchor.name:
        name = f"{anchor.name.rpartition('.')[0]}.{page.fresh('warm_up')}"
    else:
        name = page.fresh("warm_up", "warmup")
        page.take(name)
    step = page.fresh("step", "taken", "t")
    build = (
        f"{name} = {script.torch(page)}.optim.lr_scheduler.LambdaLR(\n"
        f"    {anchor.name}, lambda {step}: min(1.0, ({step} + 1) / {count})\n)"
    )
    page.insert_after(anchor.named, build)
    for call, _, _ in steps:
        small = page.parent(call)
        line = page.parent(small)
        here = next(iter(names_in(page, name, anchor.home, page.function(call))), None)
        if here is None or not isinstance(line, cst_line()) or line.body[-1] is not small:
            raise Unclear(f"line {page.span(call)[0]} has no room for the warm-up's step")
        page.insert_after(line, f"{here}.step()")


def cst_line() -> type[Any]:
    """The kind of a line of small statements."""
    import libcst as cst

    return cst.SimpleStatementLine


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unclear("the limit is no number")
    return float(value)
