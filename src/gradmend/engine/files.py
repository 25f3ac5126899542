"""Prescriptions on disk: data from elsewhere, checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gradmend.errors import BadInput
from gradmend.records.codec import to_plain
from gradmend.records.prescription import SCHEMA, Prescription

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
        except ValueError:
            raise BadInput(
                f"{name} is not JSON", "", "pass the file that gradmend fix or demo wrote"
            ) from None
    if isinstance(content, Mapping) and content.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(
            f"{name} has schema {content['schema']}, this gradmend reads {SCHEMA}",
            "its edits may mean something else",
            "use the gradmend that wrote it, or prescribe anew",
        )
    try:
        return _ADAPTER.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top"
        raise BadInput(
            f"{name} is not a prescription: at {where}, {first['msg']}",
            "edits from elsewhere are checked before they touch a model",
            "prescribe anew with gradmend.fix",
        ) from None


def write_prescription(prescription: Prescription, path: Path) -> Path:
    """Write a prescription as JSON, to be reviewed, kept and applied elsewhere."""
    text = json.dumps(to_plain(prescription), indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path
