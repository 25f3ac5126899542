"""A module exchanged for another, in the line that builds it."""

from __future__ import annotations

from typing import Any

from gradmend.records.prescription import Edit
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page, last_name
from gradmend.rewriting.script import Script

_PLAIN = (
    "ELU", "GELU", "Identity", "LeakyReLU", "LogSoftmax", "PReLU", "ReLU", "SELU", "SiLU",
    "Sigmoid", "Softmax", "Softplus", "Tanh",
)  # fmt: skip
"""What an edit may put in that torch has under the same name."""
_OPTIONS = ("dim", "negative_slope", "init", "alpha")
_SAME_OPTIONS = {"LogSoftmax": ("Softmax",), "Softmax": ("LogSoftmax",)}
"""Modules that are built with the same arguments."""
_FUNCTIONS = {"Logit": "sigmoid"}
"""What is put behind a layer to take a function back, and the function."""


def replace_module(script: Script, edit: Edit) -> None:
    """Another class in the line that builds each target, if that line builds nothing else.

    Raises:
        Unclear: If a target's line is not known, or builds other modules of the kind, too.
    """
    name = str(edit.args.get("module"))
    if name not in _PLAIN:
        raise Unclear(f"torch.nn has no {name}")
    options = ", ".join(f"{key}={_option(edit.args[key])}" for key in _OPTIONS if key in edit.args)
    for page, call in calls_of(script, edit.targets):
        _exchange(script, page, call, name, options)


def calls_of(script: Script, targets: tuple[str, ...]) -> list[tuple[Page, Any]]:
    """The calls that build some modules and no others of their kind.

    Raises:
        Unclear: If there are none such.
    """
    wanted = set(targets)
    lines: dict[tuple[str, int], set[str]] = {}
    for path in targets:
        place, facts = script.facts.modules.get(path), script.facts.module(path)
        if place is None:
            raise Unclear(f"it is not known which line builds '{path}'")
        if not facts.standard:
            raise Unclear(f"'{path}' is a {facts.kind}, which is not torch's own")
        if (place.file, place.line) in script.facts.shared:
            raise Unclear(f"line {place.line} also builds modules of another model")
        lines.setdefault((place.file, place.line), set()).add(facts.kind)
    for facts in script.facts.layout:
        place = script.facts.modules.get(facts.path)
        if facts.path in wanted or facts.kind not in {k for ks in lines.values() for k in ks}:
            continue
        if place is None:
            raise Unclear(f"'{facts.path}' is a {facts.kind} too, and may be a copy of one")
        if facts.kind in lines.get((place.file, place.line), ()):
            raise Unclear(f"line {place.line} also builds '{facts.path}', which stays as it is")
    found = []
    for (file, line), kinds in lines.items():
        page = script.page(file)
        for kind in sorted(kinds):
            calls = [call for call in page.calls_at(line) if last_name(call.func) == kind]
            if not calls:
                raise Unclear(f"line {line} calls no {kind} by its name")
            found += [(page, call) for call in calls]
    return found


def _option(value: Any) -> str:
    return str(value) if isinstance(value, int) else figure(float(value))


def _exchange(script: Script, page: Page, call: Any, name: str, options: str) -> None:
    import libcst as cst

    if name == "Identity" and _leaves_a_row(page, call):
        page.change(page.parent(page.parent(call)), _without_last)
        return
    same = last_name(call.func) in _SAME_OPTIONS.get(name, ())
    func = call.func
    if isinstance(func, cst.Attribute):
        new = f"{page.code(func.value)}.{name}"
    else:
        new = f"{script.nn(page)}.{name}"
    if same and not options:
        page.replace(func, new)
        return
    page.replace(call, f"{new}({options})")


def _without_last(row: Any) -> Any:
    """A call without its last argument; the bracket stands behind the one before as it did."""
    import libcst as cst

    *kept, last = row.args
    commas = isinstance(last.comma, cst.Comma)
    end = last.comma.whitespace_after if commas else last.whitespace_after_arg
    gap = kept[-1].comma.whitespace_after
    lined = isinstance(gap, cst.ParenthesizedWhitespace)
    if lined and isinstance(end, cst.ParenthesizedWhitespace):
        end = gap.with_changes(last_line=end.last_line)  # with the comment of the one that stays
    if commas:
        kept[-1] = kept[-1].with_changes(comma=kept[-1].comma.with_changes(whitespace_after=end))
    else:
        kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT, whitespace_after_arg=end)
    return row.with_changes(args=kept)


def _leaves_a_row(page: Page, call: Any) -> bool:
    """Whether a module is the last of an ``nn.Sequential`` that nobody counts the elements of."""
    import libcst as cst

    arg = page.parent(call)
    row = page.parent(arg) if isinstance(arg, cst.Arg) else None
    if not isinstance(row, cst.Call) or last_name(row.func) != "Sequential":
        return False
    if row.args[-1] is not arg or len(row.args) < 2 or any(given.star for given in row.args):
        return False
    holder = page.parent(row)
    if not isinstance(holder, cst.Assign) or len(holder.targets) != 1:
        return False
    name = page.code(holder.targets[0].target)
    counted = (page.code(node.value) == name for node in page.nodes(cst.Subscript))
    walked = (page.code(loop.iter).startswith(name) for loop in page.nodes((cst.For, cst.CompFor)))
    starred = (
        given.star and page.code(given.value).startswith(name) for given in page.nodes(cst.Arg)
    )
    asked = any(
        page.code(given.value) == name
        for other in page.nodes(cst.Call)
        if last_name(other.func) in ("len", "list", "enumerate", "Sequential")
        for given in other.args
    )
    return not (asked or any(counted) or any(walked) or any(starred))


def follow_module(script: Script, edit: Edit) -> None:
    """The call of a function on a layer's answer, left out where its inverse was to follow.

    Raises:
        Unclear: If the function is not called right on what the layer answers, and there alone.
    """
    function = _FUNCTIONS.get(str(edit.args.get("module")))
    if function is None:
        raise Unclear(f"{edit.args.get('module')} is gradmend's own")
    for path in edit.targets:
        attribute = path.rpartition(".")[2]
        if not attribute or attribute.isdigit():
            raise Unclear(f"what reads '{path}' has no line of its own")
        found = [
            (page, call, inner)
            for page in _pages_of_modules(script)
            for call, inner in _calls_on(page, function, attribute)
        ]
        same = [f for f in script.facts.layout if f.path.rpartition(".")[2] == attribute]
        if len(found) != 1 or len(same) != 1:
            raise Unclear(f"{len(found)} calls of {function} read what '{path}' answers")
        page, call, inner = found[0]
        page.replace(call, page.code(inner))


def _pages_of_modules(script: Script) -> list[Page]:
    files = dict.fromkeys(place.file for place in script.facts.modules.values())
    return [script.page(file) for file in files if file in script.sources]


def _calls_on(page: Page, function: str, attribute: str) -> list[tuple[Any, Any]]:
    """(call, its argument) of ``torch.sigmoid(self.head(x))`` and ``self.head(x).sigmoid()``."""
    import libcst as cst

    found = []
    for call in page.nodes(cst.Call):
        if last_name(call.func) != function:
            continue
        inner: Any = None
        if len(call.args) == 1 and not call.args[0].star:
            inner = call.args[0].value
        elif not call.args and isinstance(call.func, cst.Attribute):
            inner = call.func.value
        if isinstance(inner, cst.Call) and page.code(inner.func) == f"self.{attribute}":
            found.append((call, inner))
    return found


def set_dropout(script: Script, edit: Edit) -> None:
    """Another probability in the line that builds each dropout."""
    import libcst as cst

    p = edit.args.get("p")
    if isinstance(p, bool) or not isinstance(p, int | float):
        raise Unclear("the probability is no number")
    for page, call in calls_of(script, edit.targets):
        given = [a for a in call.args if a.keyword is not None and a.keyword.value == "p"]
        given = given or [a for a in call.args[:1] if a.keyword is None and not a.star]
        if not given:
            page.change(
                call,
                lambda old: old.with_changes(
                    args=[cst.Arg(cst.parse_expression(figure(float(p)))), *old.args]
                ),
            )
        elif isinstance(given[0].value, cst.Float | cst.Integer):
            page.replace(given[0].value, figure(float(p)))
        else:
            raise Unclear(f"'{page.code(given[0].value)}' is the probability of dropping")
