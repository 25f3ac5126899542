"""Prescriptions on disk: data from elsewhere, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gradmend.errors import BadInput
from gradmend.records.codec import to_plain
from gradmend.records.prescription import SCHEMA, Edit, Prediction, Prescription

_ADAPTER = TypeAdapter(Prescription)


def read_prescription(source: Mapping[str, Any] | str | Path) -> Prescription:
    """Read a prescription from a dict or a JSON file.

    Raises:
        BadInput: If the file is not there, not JSON, of a newer version, or not a prescription.
    """
    name, content = "the prescription", source
    if isinstance(source, str | Path):
        name = str(source)
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(
                f"{name} cannot be read ({error.strerror})",
                "",
                "pass the file that gradmend fix or demo wrote",
            ) from None
        except (ValueError, RecursionError):  # the second for "[[[[[..." without end
            raise BadInput(
                f"{name} is not JSON", "", "pass the file that gradmend fix or demo wrote"
            ) from None
    if isinstance(content, Mapping) and content.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(
            f"{name} has schema {content['schema']}, this gradmend reads {SCHEMA}",
            "its edits may mean something else",
            "use the gradmend that wrote it, or prescribe anew",
        )
    # pydantic overlooks what a dataclass has no field for, so that a report, or {}, would pass
    # for a prescription of nothing.
    junk = _unknown_keys(content)
    if junk or (isinstance(content, Mapping) and "edits" not in content):
        raise BadInput(
            f"{name} is not a prescription: "
            + (f"it has '{junk[0]}', which none has" if junk else "it has no 'edits'"),
            "edits from elsewhere are checked before they touch a model",
            "pass the file that gradmend fix or demo wrote",
        )
    try:
        text = json.dumps(dict(content) if isinstance(content, Mapping) else content)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{name} is not a prescription: {error}", "it must be JSON throughout", ""
        ) from None
    try:
        return _ADAPTER.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top"
        raise BadInput(
            f"{name} is not a prescription: at {where}, {first['msg']}",
            "edits from elsewhere are checked before they touch a model",
            "prescribe anew with gradmend.fix",
        ) from None


def _unknown_keys(content: Any) -> list[str]:
    """Keys of a would-be prescription, its edits and its predictions that no record has."""
    parts: list[tuple[type, Any]] = [(Prescription, content)]
    if isinstance(content, Mapping):
        for key, record in (("edits", Edit), ("predictions", Prediction)):
            items = content.get(key)
            parts += [(record, item) for item in items] if isinstance(items, list | tuple) else []
    return [
        str(key)
        for record, part in parts
        if isinstance(part, Mapping)
        for key in set(part) - {field.name for field in fields(record)}
    ]


def write_prescription(prescription: Prescription, path: Path) -> Path:
    """Write a prescription as JSON, to be reviewed, kept and applied elsewhere."""
    text = json.dumps(to_plain(prescription), indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path
