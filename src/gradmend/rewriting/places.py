"""Where a script builds a thing, what it calls it there, and what it is called elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradmend.records.script import Place
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.page import Page, is_path, last_name

if TYPE_CHECKING:
    import libcst as cst

_SAME = frozenset(
    {"to", "cuda", "cpu", "train", "eval", "float", "double", "half", "bfloat16", "requires_grad_"}
)
"""Methods of a module that answer the module itself."""
_DEPTH = 8
"""Functions through which something is handed on, at most."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The call that built something, the line it stands on, and what it was assigned to."""

    page: Page
    call: cst.Call
    statement: cst.SimpleStatementLine
    home: cst.CSTNode
    """The function around it, or the module."""
    name: str
    """``model``, ``self.model``; empty where it has none: it is returned or handed on."""
    named: cst.SimpleStatementLine
    """The line from which on it has the name."""
    returned: bool = False
    """Whether the line returns it."""
    compiled: bool = False
    """Whether the name is that of ``torch.compile(...)``, in which modules have other paths."""


def anchor(pages: dict[str, Page], place: Place | None, kind: str, what: str) -> Anchor:
    """Find where something was built.

    Args:
        pages: The files at hand.
        place: Where it was built.
        kind: Its class.
        what: ``the model``, for the reason.
    """
    import libcst as cst

    if place is None:
        raise Unclear(f"it is not known where {what} is built")
    page = pages.get(place.file)
    if page is None:
        raise Unclear(f"{what} is built in another file ({place})")
    calls = page.calls_at(place.line)
    named = [call for call in calls if last_name(call.func) == kind]
    if len(named) > 1:
        raise Unclear(f"line {place.line} builds several of {kind}")
    if not named:  # by a function that is nobody's here, or a name that is made as it runs
        outer = [call for call in calls if not any(page.up(call, cst.Call) is c for c in calls)]
        named = [_peeled(call) for call in outer]
    if len(named) != 1:
        raise Unclear(f"line {place.line} has no single call that builds {what}")
    return _assigned(page, named[0], what)


def _peeled(call: Any) -> Any:
    """``build()`` of ``build().to(device)``."""
    import libcst as cst

    while (
        isinstance(call.func, cst.Attribute)
        and call.func.attr.value in _SAME
        and isinstance(call.func.value, cst.Call)
    ):
        call = call.func.value
    return call


def _assigned(page: Page, call: Any, what: str) -> Anchor:
    import libcst as cst

    statement = page.statement(call)
    home = page.function(call)
    if page.up(call, cst.ListComp, cst.GeneratorExp, cst.DictComp, cst.SetComp) is not None:
        raise Unclear(f"line {page.span(call)[0]} builds several at once")
    value: Any = call
    compiled = False
    while True:  # outwards through .to(device) and torch.compile(...)
        up = page.parent(value)
        if isinstance(up, cst.Arg) and isinstance(page.parent(up), cst.Call):
            outer: Any = page.parent(up)
            if page.code(outer.func) == "torch.compile" and outer.args[0] is up:
                value, compiled = outer, True
                continue
        if isinstance(up, cst.Attribute) and up.attr.value in _SAME:
            outer = page.parent(up)
            if isinstance(outer, cst.Call) and outer.func is up:
                value = outer
                continue
        break
    holder = page.parent(value)
    target: Any = None
    if isinstance(holder, cst.Assign) and len(holder.targets) == 1:
        target = holder.targets[0].target
    elif isinstance(holder, cst.AnnAssign):
        target = holder.target
    if target is not None and is_path(target):
        name = page.code(target)
        return Anchor(page, call, statement, home, name, statement, compiled=compiled)
    if isinstance(holder, cst.Return) and isinstance(home, cst.FunctionDef):
        received = _receiver(page, home)
        if received is not None:
            line, name = received
            return Anchor(page, call, statement, page.function(line), name, line, True, compiled)
        return Anchor(page, call, statement, home, "", statement, True, compiled)
    return Anchor(page, call, statement, home, "", statement)


def _receiver(page: Page, function: Any) -> tuple[Any, str] | None:
    """The one line that calls a function and names what it answers, and the name."""
    import libcst as cst

    calls = _calls_of(page, function)
    if len(calls) != 1 or page.up(calls[0], cst.Lambda) is not None:
        return None
    value: Any = calls[0]
    while isinstance(page.parent(value), cst.Attribute | cst.Call) and (
        isinstance(page.parent(value), cst.Call) or page.parent(value).attr.value in _SAME  # type: ignore[attr-defined]
    ):
        up: Any = page.parent(value)
        if isinstance(up, cst.Call) and up.func is not value:
            break
        value = up
    holder = page.parent(value)
    if isinstance(holder, cst.Assign) and len(holder.targets) == 1:
        target = holder.targets[0].target
        if is_path(target) and isinstance(page.parent(holder), cst.SimpleStatementLine):
            return page.parent(holder), page.code(target)
    return None


def names_in(
    page: Page, name: str, home: Any, function: Any, depth: int = _DEPTH
) -> tuple[str, ...]:
    """What something is called within a function, as far as that is certain.

    Followed through enclosing functions, globals, attributes of ``self`` and arguments.

    Args:
        page: The file.
        name: What it is called where it was built.
        home: The function in which it was; the module itself for a global.
        function: Where it is wanted.
        depth: Of calls to follow.
    """
    key = (name, home, function)
    if not name or depth < 1:
        return ()
    if key not in page.aliases:
        page.aliases[key] = ()  # a function that calls itself learns nothing from that
        page.aliases[key] = tuple(dict.fromkeys(_names(page, name, home, function, depth)))
    return page.aliases[key]


def _names(page: Page, name: str, home: Any, function: Any, depth: int) -> Iterator[str]:
    import libcst as cst

    root = name.split(".")[0]
    if function is home:
        yield name
        return
    if root == "self":
        owner = page.up(home, cst.ClassDef)
        if function is not page.module and page.up(function, cst.ClassDef) is owner:
            yield name
    handed = _handed_on(page, name, home, function, depth)
    if handed is not None:
        yield handed
    kept = _kept(page, name, home, function, depth)
    if kept is not None:
        yield kept
    if root == "self" or root in _parameters(function) or function is page.module:
        return
    if home in page.around(function) and not _binds(page, function, root):
        yield name


def _handed_on(page: Page, name: str, home: Any, function: Any, depth: int) -> str | None:
    """The parameter of a function that every call of it hands something to."""
    import libcst as cst

    if not isinstance(function, cst.FunctionDef):
        return None
    parameters = [p for p in _parameters(function) if p != "self"]
    found: set[str | None] = set()
    for call in _calls_of(page, function):
        here = names_in(page, name, home, page.function(call), depth - 1)
        given = None
        for at, arg in enumerate(call.args):
            if arg.star or page.code(arg.value) not in here:
                continue
            if arg.keyword is not None:
                given = arg.keyword.value
            elif at < len(parameters):
                given = parameters[at]
        found.add(given)
    return found.pop() if len(found) == 1 else None


def _calls_of(page: Page, function: Any) -> list[Any]:
    """The calls of a function of the file; of a method, whatever bears its name and is given all.

    ``model.train()`` is no call of the function ``train``, nor of a method that takes more.
    """
    import libcst as cst

    name = function.name.value
    owner = page.up(function, cst.ClassDef)
    method = owner is not None and page.parent(page.parent(function)) is owner
    if method and name == "__init__":
        method, name = False, owner.name.value
    least = sum(p.default is None for p in function.params.params) - 1
    return [
        call
        for call in page.nodes(cst.Call)
        if last_name(call.func) == name
        and (
            isinstance(call.func, cst.Attribute) and len(call.args) >= least
            if method
            else isinstance(call.func, cst.Name)
        )
    ]


def _kept(page: Page, name: str, home: Any, function: Any, depth: int) -> str | None:
    """``self.model``, where the class keeps what its ``__init__`` is handed."""
    import libcst as cst

    owner = page.up(function, cst.ClassDef)
    if not isinstance(owner, cst.ClassDef):
        return None
    for making in page.inside(owner, cst.FunctionDef):
        if making.name.value != "__init__":
            continue
        handed = _handed_on(page, name, home, making, depth - 1)
        for holder in page.inside(making, cst.Assign) if handed else ():
            target = holder.targets[0].target
            kept = page.code(target)
            if kept.startswith("self.") and page.code(_peeled_value(holder.value)) == handed:
                return kept
    return None


def _peeled_value(value: Any) -> Any:
    """``model`` of ``model.to(device)``."""
    import libcst as cst

    while (
        isinstance(value, cst.Call)
        and isinstance(value.func, cst.Attribute)
        and value.func.attr.value in _SAME
    ):
        value = value.func.value
    return value


def _parameters(function: Any) -> list[str]:
    import libcst as cst

    if not isinstance(function, cst.FunctionDef | cst.Lambda):
        return []
    given = function.params
    listed = [*given.posonly_params, *given.params, *given.kwonly_params]
    return [parameter.name.value for parameter in listed]


def _binds(page: Page, function: Any, name: str) -> bool:
    """Whether a function assigns a name of its own."""
    import libcst as cst

    for target in page.inside(function, cst.AssignTarget):
        if page.code(target.target) == name:
            return True
    return any(
        page.code(loop.target) == name for loop in page.inside(function, (cst.For, cst.CompFor))
    )


def rebound(page: Page, found: Anchor) -> list[Any]:
    """The lines that put something else under the name: ``model = DistributedDataParallel(model)``.

    ``model = model.to(device)`` is none of them.
    """
    import libcst as cst

    lines = []
    for holder in page.nodes(cst.Assign):
        line = page.parent(holder)
        if line in (found.statement, found.named) or page.function(holder) is not found.home:
            continue
        targets = [page.code(target.target) for target in holder.targets]
        if found.name in targets and page.code(_peeled_value(holder.value)) != found.name:
            lines.append(line)
    return lines
