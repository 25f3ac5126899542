"""One file of source that is going to change: everything but the changes stays, to the byte."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gradmend.rewriting.facts import Unclear

if TYPE_CHECKING:
    import libcst as cst

    Node = cst.CSTNode
    Change = Callable[[Any], Any]

WIDTH = 88
"""Columns that inserted lines keep to: what black and ruff allow unless told otherwise."""

_DEEPEST = 250
"""Levels that are read: libcst recurses at each, and takes seconds for thousands of them."""


class Page:
    """A parsed file and what is to be changed in it.

    Args:
        name: As the sources name it.
        source: Its text.
    """

    def __init__(self, name: str, source: str) -> None:
        import libcst as cst
        from libcst.metadata import MetadataWrapper, PositionProvider

        self.name, self.source = name, source
        if _depth(source) > _DEEPEST:
            raise Unclear("it is nested too deeply to be read")
        self._mark = "\ufeff" if source.startswith("\ufeff") else ""
        try:
            self.module: cst.Module = cst.parse_module(source.removeprefix(self._mark))
            wrapper = MetadataWrapper(self.module, unsafe_skip_copy=True)
            self._positions = wrapper.resolve(PositionProvider)
        except cst.ParserSyntaxError as error:
            raise Unclear(f"line {error.raw_line} does not parse") from None
        except RecursionError:
            raise Unclear("it is nested too deeply to be read") from None
        if self._mark + self.module.code != source:
            raise Unclear("it cannot be read and written back without a change")
        self._parents: dict[Node, Node] = {}
        self._order: list[Node] = []
        stack: list[Node] = [self.module]
        while stack:
            node = stack.pop()
            self._order.append(node)
            children = list(node.children)
            self._parents.update((child, node) for child in children)
            stack += reversed(children)
        self._changes: dict[Node, list[Change]] = {}
        self._before: dict[Node, list[str]] = {}
        self._after: dict[Node, list[str]] = {}
        self.touched: list[tuple[int, int]] = []
        """First and last line of every statement that a change is made to."""
        self._taken: set[str] = set()
        self.aliases: dict[Any, tuple[str, ...]] = {}
        """What things are called elsewhere, as far as it was asked."""
        self.added: set[str] = set()
        """Imports that were added."""

    # -- reading

    def nodes(self, kind: type[Any] | tuple[type[Any], ...]) -> Iterator[Any]:
        """All nodes of a kind, in the order of the source."""
        return (node for node in self._order if isinstance(node, kind))

    def inside(self, root: Node, kind: type[Any] | tuple[type[Any], ...]) -> Iterator[Any]:
        """All nodes of a kind within another, itself included."""
        stack = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, kind):
                yield node
            stack += reversed(list(node.children))

    def code(self, node: Node) -> str:
        """The source of a node."""
        return self.module.code_for_node(node).strip()

    def span(self, node: Node) -> tuple[int, int]:
        """First and last line."""
        position = self._positions[node]
        return position.start.line, position.end.line

    def parent(self, node: Node) -> Node:
        """What holds a node."""
        return self._parents[node]

    def up(self, node: Node, *kinds: type[Any]) -> Any:
        """The nearest node around one that is of some kinds; ``None`` if there is none."""
        found = self._parents.get(node)
        while found is not None and not isinstance(found, kinds):
            found = self._parents.get(found)
        return found

    def function(self, node: Node) -> Node:
        """The function whose code a node is; the module itself outside of any."""
        import libcst as cst

        found: Node = self.up(node, cst.FunctionDef, cst.Lambda, cst.Module) or self.module
        return found

    def around(self, node: Node) -> list[Node]:
        """The functions around a node, the nearest first; the module last."""
        found = []
        while node is not self.module:
            node = self.function(node)
            found.append(node)
        return found or [self.module]

    def statement(self, node: Node) -> Any:
        """The line that a node is part of, where it has one of its own."""
        import libcst as cst

        line = self.up(node, cst.SimpleStatementLine, cst.SimpleStatementSuite,
                       cst.BaseCompoundStatement)  # fmt: skip
        lambda_ = self.up(node, cst.Lambda)
        if not isinstance(line, cst.SimpleStatementLine):
            raise Unclear(f"line {self.span(node)[0]} is no statement of its own")
        if lambda_ is not None and self.up(lambda_, cst.SimpleStatementLine) is line:
            raise Unclear(f"line {self.span(node)[0]} builds it in a lambda")
        return line

    def block(self, statement: Node) -> list[Any]:
        """The statements that stand side by side with one, itself included."""
        body: Any = self.parent(statement)
        return list(body.body)

    def calls_at(self, line: int) -> list[Any]:
        """The calls that the interpreter reports at a line: where they or their names begin."""
        import libcst as cst

        return [
            call
            for call in self.nodes(cst.Call)
            if line == self.span(call)[0]
            or (isinstance(call.func, cst.Attribute) and line == self.span(call.func.attr)[0])
        ]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name that occurs in the file."""
        import libcst as cst

        return frozenset(node.value for node in self.nodes(cst.Name))

    def fresh(self, *candidates: str) -> str:
        """A name that the file does not use yet."""
        for name in (*candidates, *(f"{candidates[0]}_{n}" for n in range(2, 100))):
            if name not in self.names | self._taken:
                return name
        raise Unclear("every name for a variable is taken")

    def take(self, name: str) -> None:
        """Use a fresh name outside of a loop: nothing else may use it again."""
        self._taken.add(name)

    @cached_property
    def quote(self) -> str:
        """The quotation mark that the file's strings mostly have."""
        import libcst as cst

        marks = [node.value.lstrip("rRbBuUfF")[:1] for node in self.nodes(cst.SimpleString)]
        return "'" if marks.count("'") > marks.count('"') else '"'

    def string(self, text: str) -> str:
        """A string literal in the file's own style."""
        plain = re.fullmatch(r"[\w .,:/+-]*", text)
        return f"{self.quote}{text}{self.quote}" if plain else repr(text)

    # -- changing

    def touch(self, node: Node) -> None:
        """Note that a change is made to the statement that a node is part of."""
        import libcst as cst

        kinds = (cst.SimpleStatementLine, cst.SimpleStatementSuite, cst.BaseCompoundStatement)
        whole = node if isinstance(node, kinds) else self.up(node, *kinds)
        self.touched.append(self.span(node if whole is None else whole))

    def change(self, node: Node, change: Change) -> None:
        """Put what a function makes of a node, its inner changes made, in its place."""
        self._changes.setdefault(node, []).append(change)
        self.touch(node)

    def replace(self, node: Node, code: str) -> None:
        """Put an expression in the place of another; parentheses around it stay."""
        import libcst as cst

        def change(old: Any) -> Any:
            new = cst.parse_expression(code)
            if code.startswith("("):  # it brings its own
                return new
            return new.with_changes(
                lpar=[*old.lpar, *new.lpar],
                rpar=[*new.rpar, *old.rpar],
            )

        self.change(node, change)

    def insert_after(self, statement: Node, code: str) -> None:
        """Put lines behind a statement, at its own depth."""
        self._after.setdefault(statement, []).append(code)

    def insert_before(self, statement: Node, code: str) -> None:
        """Put lines in front of a statement, at its own depth."""
        self._before.setdefault(statement, []).append(code)

    @property
    def changed(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self._changes or self._before or self._after)

    def parsed(self, code: str) -> list[Any]:
        """Statements in the file's own indentation and line ends."""
        import libcst as cst

        return list(cst.parse_module(code, config=self.module.config_for_parsing).body)

    def room(self, statement: Node) -> int:
        """Columns that a line beside a statement may fill."""
        return WIDTH - int(self._positions[statement].start.column)

    def render(self) -> str:
        """The changed source."""
        import libcst as cst

        page = self

        class Changing(cst.CSTTransformer):
            def on_leave(self, original_node: Any, updated_node: Any) -> Any:
                updated = updated_node
                for change in page._changes.get(original_node, ()):
                    updated = change(updated)
                before = page._before.get(original_node, ())
                after = page._after.get(original_node, ())
                if not before and not after:
                    return updated
                lines = [
                    *(line for code in before for line in page.parsed(code)),
                    updated,
                    *(line for code in after for line in page.parsed(code)),
                ]
                return cst.FlattenSentinel(lines)

        try:
            return self._mark + self.module.visit(Changing()).code
        except RecursionError:
            raise Unclear("it is nested too deeply to be changed") from None


def _depth(source: str) -> int:
    """How deep expressions and statements are nested; zero for what is no Python."""
    try:
        stack: list[tuple[ast.AST, int]] = [(ast.parse(source.removeprefix("\ufeff")), 1)]
    except (SyntaxError, ValueError):
        return 0  # the other parser says where
    except (RecursionError, MemoryError):
        return _DEEPEST + 1
    deepest = 0
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def last_name(node: Any) -> str:
    """``Adam`` of ``torch.optim.Adam``; empty for what is no name."""
    import libcst as cst

    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def is_path(node: Any) -> bool:
    """Whether an expression is a name or attributes of one: ``model``, ``self.model``."""
    import libcst as cst

    while isinstance(node, cst.Attribute):
        node = node.value
    return isinstance(node, cst.Name)
