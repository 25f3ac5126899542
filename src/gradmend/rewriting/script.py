"""A script on the table: its files, where it builds model and optimizer, and its imports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from gradmend.rewriting.facts import SourceFacts, Unclear
from gradmend.rewriting.page import Page
from gradmend.rewriting.places import Anchor, anchor, names_in, rebound

_INITIALISES = ("apply", "load_state_dict", "reset_parameters", "init_weights")


class Script:
    """The files of a script, while they are being changed.

    Args:
        sources: Text by name.
        facts: Where things were built.
    """

    def __init__(self, sources: Mapping[str, str], facts: SourceFacts) -> None:
        self.sources, self.facts = sources, facts
        self.notes: list[str] = []
        self._read: dict[str, Page] = {}

    def page(self, name: str) -> Page:
        """One of the files, parsed."""
        if name not in self.sources:
            raise Unclear(f"{name.rsplit('/', 1)[-1]} is not among the script's own files")
        if name not in self._read:
            self._read[name] = Page(name, self.sources[name])
        return self._read[name]

    @property
    def pages(self) -> list[Page]:
        """Those that were looked at."""
        return list(self._read.values())

    @cached_property
    def model(self) -> Anchor:
        """Where the model is built."""
        return self._anchor(self.facts.model_place, self.facts.model, "the model")

    @cached_property
    def optimizer(self) -> Anchor:
        """Where the optimizer is built."""
        facts = self.facts.optimizer
        kind = facts.name if facts is not None else ""
        return self._anchor(self.facts.optimizer_place, kind, "the optimizer")

    def _anchor(self, place: Any, kind: str, what: str) -> Anchor:
        if place is not None and place.file in self.sources:
            self.page(place.file)
        return anchor(self._read, place, kind, what)

    def model_in(self, page: Page, function: Any) -> str | None:
        """What the model is called within a function, if that is certain."""
        try:
            found = self.model
        except Unclear:
            return None
        if found.page is not page or rebound(page, found):
            return None
        names = names_in(page, found.name, found.home, function)
        used = [name for name in names if f"{name}(" in page.code(function)]
        return next(iter(used or names), None)

    def before_training(self) -> tuple[Page, Any, bool, str]:
        """Where lines about the model's weights belong: (file, statement, behind it, name).

        Right behind the line that builds it, unless something else writes the weights between
        that and the optimizer: then in front of the optimizer's line.

        Raises:
            Unclear: If neither place has a name for the model.
        """
        found = self.model
        if not found.name:
            raise Unclear("the line that builds the model gives it no name")
        page = found.page
        changed = rebound(page, found)
        later = self._siblings_behind(found)
        try:
            end = self.optimizer.named
        except Unclear:
            end = None
        beside = end is not None and end in later
        if beside:
            later = later[: later.index(end)]
        writes = [line for line in later if self._writes(page, line, found.name)]
        if not writes:
            return page, found.named, True, found.name
        if beside and not changed:
            return page, end, False, found.name
        raise Unclear(f"line {page.span(writes[0])[0]} sets the weights after the model is built")

    def _siblings_behind(self, found: Anchor) -> list[Any]:
        block = found.page.block(found.named)
        return block[block.index(found.named) + 1 :]

    def _writes(self, page: Page, line: Any, name: str) -> bool:
        """Whether a statement may set the weights of what has a name."""
        import libcst as cst

        for call in page.inside(line, cst.Call):
            func = call.func
            method = isinstance(func, cst.Attribute) and page.code(func.value).startswith(name)
            if method and func.attr.value in _INITIALISES:
                return True
            given = any(page.code(arg.value).startswith(name) for arg in call.args)
            if given and any(word in page.code(func).lower() for word in ("init", "load", "reset")):
                return True
        return any(
            page.code(loop.iter).startswith(f"{name}.") for loop in page.inside(line, cst.For)
        )

    # -- imports

    def nn(self, page: Page) -> str:
        """How the file says ``torch.nn``; an import is added where it cannot."""
        for alias, whole in _imported(page).items():
            if whole == "torch.nn":
                return alias
        return f"{self.torch(page)}.nn"

    def torch(self, page: Page) -> str:
        """How the file says ``torch``; an import is added where it cannot."""
        for alias, whole in _imported(page).items():
            if whole == "torch":
                return alias
        add_import(page, "torch")
        return "torch"


def _imported(page: Page) -> dict[str, str]:
    """What modules of torch the top of a file imports, by the name they have there."""
    import libcst as cst

    found: dict[str, str] = {}
    for line in page.module.body:
        for small in line.body if isinstance(line, cst.SimpleStatementLine) else ():
            if isinstance(small, cst.Import):
                for name in small.names:
                    whole = page.code(name.name)
                    if name.asname is not None:
                        found[page.code(name.asname.name)] = whole
                    else:
                        found.setdefault(whole.split(".")[0], whole.split(".")[0])
            elif isinstance(small, cst.ImportFrom) and small.module is not None:
                for name in () if isinstance(small.names, cst.ImportStar) else small.names:
                    given = name.name if name.asname is None else name.asname.name
                    found[page.code(given)] = f"{page.code(small.module)}.{page.code(name.name)}"
    return found


def add_import(page: Page, name: str) -> None:
    """Add ``import name`` at the top of a file, among the imports that are there; once."""
    import libcst as cst

    if name in page.added or _imported(page).get(name) == name:
        return
    if name in page.names:
        raise Unclear(f"the name '{name}' means something else in the file")
    page.added.add(name)
    body = list(page.module.body)
    imports = [
        line
        for line in body
        if isinstance(line, cst.SimpleStatementLine)
        and all(isinstance(small, cst.Import | cst.ImportFrom) for small in line.body)
    ]
    if not imports:
        first = body[0] if body else None
        said = page.code(first) if first is not None else ""
        if first is not None and said.startswith(('"', "'")):
            page.insert_after(first, f"import {name}")
        elif first is not None:
            page.insert_before(first, f"import {name}")
        return
    for line in imports:  # in the place the alphabet gives it, among those of the first kind
        small = line.body[0]
        whole = page.code(small.names[0].name) if isinstance(small, cst.Import) else ""
        if whole.split(".")[0] == "torch" and whole > name and not line.leading_lines:
            page.insert_before(line, f"import {name}")
            return
    last = imports[0]  # of the unbroken run of imports at the top
    for after in body[body.index(last) + 1 :]:
        if not isinstance(after, cst.SimpleStatementLine) or after not in imports:
            break
        last = after
    page.insert_after(last, f"import {name}")
