"""The optimizer's options: arguments of the call that builds it, or a loop over its groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gradmend.records.prescription import Edit
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page, last_name
from gradmend.rewriting.places import Anchor
from gradmend.rewriting.script import Script

_SECOND = "lr"
"""The one option that every optimizer of torch takes in the second place."""


def scale_learning_rate(script: Script, edit: Edit) -> None:
    """``lr=0.1`` becomes ``lr=0.01``, and ``lr=args.lr`` becomes ``lr=args.lr * 0.1``."""
    _scale(script, "lr", _number(edit, "factor"))


def scale_weight_decay(script: Script, edit: Edit) -> None:
    """The same for the weight decay."""
    _scale(script, "weight_decay", _number(edit, "factor"))


def set_learning_rate(script: Script, edit: Edit) -> None:
    """A rate where it is zero."""
    rate = figure(_number(edit, "rate"))
    anchor = script.optimizer
    argument = _argument(anchor.page, anchor.call, "lr")
    if script.facts.option("lr") == 0.0 and _literal(argument) == 0.0 and _even(anchor):
        anchor.page.replace(argument, rate)
        return
    _loop(anchor, lambda group, key: [f"if not {group}[{key}]:", f"    {group}[{key}] = {rate}"],
          "lr")  # fmt: skip


def set_epsilon(script: Script, edit: Edit) -> None:
    """``eps=``, changed or added."""
    _set(script, "eps", figure(_number(edit, "eps")))


def maximise(script: Script, edit: Edit) -> None:
    """``maximize=True``."""
    del edit  # unused: there is nothing to choose
    _set(script, "maximize", "True")
    script.notes.append("where you turn the sign of the loss instead, leave maximize=True out")


def _number(edit: Edit, key: str) -> float:
    value = edit.args.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unclear(f"'{key}' of the edit is no number")
    return float(value)


def _scale(script: Script, key: str, factor: float) -> None:
    anchor = script.optimizer
    page, call = anchor.page, anchor.call
    written = [_argument(page, call, key), *_in_groups(anchor, key)]
    places = [value for value in written if value is not None]
    if _even(anchor) and (places or not _starred(call)):
        for value in places:
            page.replace(value, _scaled(page, value, factor))
        if written[0] is None and _default_counts(anchor, key):
            _add(page, call, key, _product(script.facts.option(key), factor))
        return
    _loop(anchor, lambda group, name: [f"{group}[{name}] *= {figure(factor)}"], key)


def _set(script: Script, key: str, code: str) -> None:
    anchor = script.optimizer
    page, call = anchor.page, anchor.call
    argument = _argument(page, call, key)
    if _even(anchor) and not (argument is None and _starred(call)):
        for value in _in_groups(anchor, key):
            page.replace(value, code)
        if argument is not None:
            page.replace(argument, code)
        elif _default_counts(anchor, key):
            _add(page, call, key, code)
        return
    _loop(anchor, lambda group, name: [f"{group}[{name}] = {code}"], key)


def _scaled(page: Page, value: Any, factor: float) -> str:
    """A number multiplied out; any other expression with the factor behind it."""
    import libcst as cst

    literal = _literal(value)
    if literal is not None:
        return _product(literal, factor)
    code = page.code(value)
    simple = isinstance(value, cst.Name | cst.Attribute | cst.Call | cst.Subscript) or value.lpar
    if isinstance(value, cst.BinaryOperation):
        simple = simple or isinstance(value.operator, cst.Multiply | cst.Divide)
    return f"{code if simple else f'({code})'} * {figure(factor)}"


def _product(value: float, factor: float) -> str:
    return figure(value * factor)


def _literal(value: Any) -> float | None:
    import libcst as cst

    if isinstance(value, cst.Float | cst.Integer):
        return float(value.evaluated_value)
    return None


def _argument(page: Page, call: Any, key: str) -> Any:
    """The value of an argument; ``None`` where the call does not give it."""
    for at, arg in enumerate(call.args):
        if arg.keyword is not None and arg.keyword.value == key:
            return arg.value
        if key == _SECOND and at == 1 and arg.keyword is None and not arg.star:
            return arg.value
    positional = [arg for arg in call.args if arg.keyword is None]
    if key != _SECOND and len(positional) > 2:
        raise Unclear("the optimizer's options are given by their place")
    return None


def _starred(call: Any) -> bool:
    return any(arg.star for arg in call.args)


def _groups(anchor: Anchor) -> list[Any] | None:
    """The dicts of the parameter groups; empty where there is one group, ``None`` if unclear."""
    import libcst as cst

    page, call = anchor.page, anchor.call
    first: Any = next(
        (a.value for a in call.args if a.keyword is not None and a.keyword.value == "params"), None
    )
    if first is None and call.args and not call.args[0].star and call.args[0].keyword is None:
        first = call.args[0].value
    for _ in range(4):  # what stands behind a name, or inside list(...)
        if isinstance(first, cst.Name):
            first = _bound_once(page, first.value, page.function(call))
        elif (
            isinstance(first, cst.Call)
            and last_name(first.func) in ("list", "tuple")
            and len(first.args) == 1
        ):
            first = first.args[0].value
    if isinstance(first, cst.Call) and last_name(first.func) in (
        "parameters", "named_parameters", "filter", "chain",
    ):  # fmt: skip
        return []
    if isinstance(first, cst.GeneratorExp | cst.ListComp):
        return [] if isinstance(first.elt, cst.Name | cst.Attribute | cst.Tuple) else None
    if isinstance(first, cst.List | cst.Tuple):
        values = [element.value for element in first.elements]
        if all(isinstance(value, cst.Dict) for value in values):
            plain = all(isinstance(e, cst.DictElement) for v in values for e in v.elements)  # type: ignore[attr-defined]
            return values if plain and values else None
    return None


def _bound_once(page: Page, name: str, function: Any) -> Any:
    import libcst as cst

    found = []
    for holder in page.inside(function, (cst.Assign, cst.AugAssign, cst.AnnAssign)):
        targets = (
            [target.target for target in holder.targets]
            if isinstance(holder, cst.Assign)
            else [holder.target]
        )
        if any(page.code(target) == name for target in targets):
            found.append(holder)
    if len(found) != 1 or not isinstance(found[0], cst.Assign):
        return None
    grown = any(
        isinstance(call.func, cst.Attribute) and page.code(call.func.value) == name
        for call in page.inside(function, cst.Call)
    )
    return None if grown else found[0].value


def _even(anchor: Anchor) -> bool:
    """Whether it is plain from the call which option counts for which group."""
    return _groups(anchor) is not None


def _in_groups(anchor: Anchor, key: str) -> list[Any]:
    return [
        element.value
        for group in _groups(anchor) or ()
        for element in group.elements
        if _key(element) == key
    ]


def _default_counts(anchor: Anchor, key: str) -> bool:
    """Whether some group takes an option from the call."""
    groups = _groups(anchor)
    return not groups or any(
        all(_key(element) != key for element in group.elements) for group in groups
    )


def _key(element: Any) -> str:
    import libcst as cst

    key = getattr(element, "key", None)
    return str(key.evaluated_value) if isinstance(key, cst.SimpleString) else ""


def _add(page: Page, call: Any, key: str, code: str) -> None:
    """A keyword argument behind the others, laid out as they are."""
    import libcst as cst

    def change(old: Any) -> Any:
        equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
        new = cst.Arg(cst.parse_expression(code), keyword=cst.Name(key), equal=equal)
        if not old.args:
            return old.with_changes(args=[new])
        *others, last = old.args
        if isinstance(last.comma, cst.Comma):  # one argument a line, each with its comma
            between = others[-1].comma.whitespace_after if others else old.whitespace_before_args
            between, behind = _parted(between, last.comma.whitespace_after)
            end = last.comma.with_changes(whitespace_after=behind)
            last = last.with_changes(comma=cst.Comma(whitespace_after=between))
            return old.with_changes(args=[*others, last, new.with_changes(comma=end)])
        space = cst.SimpleWhitespace(" ")
        between = others[-1].comma.whitespace_after if others else space
        between, behind = _parted(between, last.whitespace_after_arg)
        last = last.with_changes(
            comma=cst.Comma(whitespace_after=between),
            whitespace_after_arg=cst.SimpleWhitespace(""),
        )
        new = new.with_changes(whitespace_after_arg=behind)
        return old.with_changes(args=[*others, last, new])

    page.change(call, change)


def _parted(between: Any, behind: Any) -> tuple[Any, Any]:
    """The layout in front of a new argument and behind it; a comment stays with the old one."""
    import libcst as cst

    if isinstance(between, cst.ParenthesizedWhitespace):
        between = between.with_changes(
            first_line=cst.TrailingWhitespace(newline=between.first_line.newline), empty_lines=[]
        )
    if not isinstance(behind, cst.ParenthesizedWhitespace) or behind.first_line.comment is None:
        return between, behind
    lined = isinstance(between, cst.ParenthesizedWhitespace)
    commented = behind.with_changes(last_line=between.last_line) if lined else behind
    bare = cst.TrailingWhitespace(newline=behind.first_line.newline)
    return commented, behind.with_changes(first_line=bare, empty_lines=[])


def _loop(anchor: Anchor, lines: Callable[[str, str], list[str]], key: str) -> None:
    """A loop over the groups behind the line that builds the optimizer: right for any groups."""
    page = anchor.page
    if not anchor.name:
        raise Unclear("the line that builds the optimizer gives it no name")
    group = page.fresh("group", "param_group", "options")
    body = [f"    {line}" for line in lines(group, page.string(key))]
    page.insert_after(
        anchor.named, "\n".join([f"for {group} in {anchor.name}.param_groups:", *body])
    )
