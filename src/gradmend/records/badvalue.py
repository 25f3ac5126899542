"""The first value that is not finite: which operation made it, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One number or tensor that an operation read."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    entries: int = 0
    zeros: int = 0
    negative: int = 0
    """Finite entries below zero."""
    nan: int = 0
    infinite: int = 0
    """Entries of plus infinity."""
    minus_infinite: int = 0
    largest: float = 0.0
    """The largest finite entry, sign included; 0 where there is none."""
    least: float = 0.0
    """The least finite entry."""
    masked_rows: int = 0
    """Rows (last dimension) in which every entry is minus infinity, or masked by a mask."""
    lineage: tuple[str, ...] = ()
    """The operations that made it, the last one first."""
    name: str = ""
    """``log_std``: the parameter it is, ``input``: the batch."""

    @property
    def bad(self) -> int:
        """Entries that are not finite."""
        return self.nan + self.infinite + self.minus_infinite


@dataclass(frozen=True, slots=True, kw_only=True)
class BadValue:
    """Where NaN or infinity came into a computation."""

    direction: str
    """``weights`` or ``input``: it was handed in; ``forward``: an operation's output, in the model
    or the loss; ``backward``: an operation's gradient, of a loss that is finite."""
    operation: str
    """``sqrt``, ``log``, ``div``, ``softmax``, ``cross_entropy``, ``linear``."""
    module: str = ""
    """Path of the innermost module that ran it; empty for the loss and plain code."""
    inside: bool = True
    """Whether it ran inside the model; else in the loss or in plain code."""
    near: str = ""
    """Path of the module, or name of the parameter, that made what it was given."""
    source: str | None = None
    """``train.py:31``."""
    value: str = "nan"
    """``nan``, ``inf``, ``-inf``: the first of these that it holds."""
    dtype: str = ""
    """Of the output."""
    entries: int = 0
    """Of the output, or of the gradient."""
    bad: int = 0
    """Those that are not finite."""
    operands: tuple[Operand, ...] = ()
    wide_largest: float | None = None
    """The largest |output| of the same operation in a wider number format; ``None`` where it is
    not finite either, or was not tried."""
    received_zero: bool = False
    """Of a gradient: what came in was exactly zero where what went out is not finite."""
    behind: str = ""
    """Of a gradient: the operation that picked another branch: ``where``, ``masked_fill``."""
    ignored: float | None = None
    """Share of the targets that the loss was told to ignore."""
    target_lengths: tuple[int, ...] = ()
    """Of a CTC loss, of the first sample that cannot be aligned: (input length, target length,
    repeats in the target)."""
    confirmed: bool = True
    """Whether its numbers were seen, rather than the graph's operations alone."""

    @property
    def where(self) -> str:
        """``sqrt in encoder.norm (model.py:12)``."""
        found = f"{self.operation} in {self.module}" if self.module else self.operation
        return f"{found} ({self.source})" if self.source else found

    @property
    def modules(self) -> tuple[str, ...]:
        """The module to blame: its own, or the one that its operand comes from."""
        named = self.module or (self.near if self.inside else "")
        return (named,) if named else ()

    def operand(self, at: int = 0) -> Operand:
        """What it was given at a place; an empty operand where that is not known."""
        return self.operands[at] if at < len(self.operands) else Operand()

    @classmethod
    def of(cls, plain: Any) -> BadValue | None:
        """Read one from its plain form; ``None`` where a file from elsewhere holds none."""
        if not isinstance(plain, Mapping) or "direction" not in plain:
            return None
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in plain.items() if key in known}
        operands = given.pop("operands", ()) or ()
        try:
            return cls(
                operands=tuple(_operand(item) for item in operands),
                target_lengths=tuple(int(n) for n in given.pop("target_lengths", ()) or ()),
                **given,
            )
        except (TypeError, ValueError):
            return None


def _operand(plain: Mapping[str, Any]) -> Operand:
    known = {f.name for f in fields(Operand)}
    given = {key: value for key, value in plain.items() if key in known}
    for key in ("shape", "lineage"):
        given[key] = tuple(given.get(key) or ())
    for key in ("largest", "least"):
        given[key] = float("nan") if given.get(key) is None else float(given[key])
    return Operand(**given)
