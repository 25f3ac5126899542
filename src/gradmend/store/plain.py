"""Records of a run as JSON, and back; what comes from elsewhere is checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from gradmend.records.codec import to_plain
from gradmend.records.history import Column, Event, RunFacts
from gradmend.store.errors import Damaged

_MOST_TEXT = 1 << 20
"""Characters of a record: what a reader is willing to parse."""


def clean(text: str) -> str:
    """Text that can be stored: file names may hold bytes that are no characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_json(record: Any) -> str:
    """A record, or a mapping, as one line. NaN and infinities become null."""
    return json.dumps(to_plain(_simple(record)), separators=(",", ":"))


def _simple(value: Any) -> Any:
    """Python values for NumPy's; words for what has no JSON form, since facts are evidence."""
    if isinstance(value, Mapping):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _simple(value.tolist())
    if isinstance(value, Column | Event | RunFacts):
        return {field.name: _simple(getattr(value, field.name)) for field in fields(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def parse(text: Any) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Damaged: If the text is none, or too long to be a record.
    """
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        raise Damaged("a record is no text, or too long")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # the second for "[[[[[..." without end
        raise Damaged("a record is not JSON") from None
    if not isinstance(content, dict):
        raise Damaged("a record is not an object")
    return content


def column_of(text: Any) -> Column:
    """A column from its JSON."""
    content = _typed(Column, parse(text))
    shape = content.get("shape", ())
    if not all(isinstance(size, int) for size in shape):
        raise Damaged("a column's shape holds something else than integers")
    return Column(**content)


def event_of(step: Any, kind: Any, text: Any) -> Event:
    """An event from its JSON."""
    return Event(**_typed(Event, {**parse(text), "step": step, "kind": kind}))


def as_stored(event: Event) -> Event:
    """An event as it will be read back: lists for tuples, null for NaN and infinities."""
    record = {"where": event.where, "text": event.text, "facts": event.facts}
    try:
        return event_of(event.step, event.kind, to_json(record))
    except Damaged:  # too long to be read back
        return event


def run_of(content: Any) -> RunFacts:
    """The circumstances of a run from a JSON object."""
    if not isinstance(content, Mapping):
        raise Damaged("the circumstances are not an object")
    facts = _typed(RunFacts, content)
    if not all(isinstance(name, str) for name in facts.get("models", ())):
        raise Damaged("a model's name is no text")
    return RunFacts(**facts)


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "tuple[str, ...]": (list,),
    "tuple[int, ...]": (list,),
    "Mapping[str, Any]": (dict,),
}


def _typed(record: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that the content has, each of its own type."""
    known: dict[str, Any] = {}
    for field in fields(record):
        if field.name not in content:
            continue
        value = content[field.name]
        if value is None and field.type == "float":
            value = math.nan
        if not isinstance(value, _TYPES[str(field.type)]):
            raise Damaged(f"{field.name} is {type(value).__name__}, not {field.type}")
        known[field.name] = tuple(value) if isinstance(value, list) else value
    return known
