"""What a trial's child is asked, and the words it has with its parent."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

BEGAN = time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a child is asked to do; see :mod:`.trial_child`."""

    target: str
    arguments: tuple[str, ...] = ()
    as_module: bool = False
    seed_shift: int = 0
    prescription: Path | None = None
    until: int = 1
    seconds: float | None = None
    fewest: int = 1
    patience: float = 1.0
    watch: bool = False
    report_to: Path | None = None
    writable: tuple[str, ...] = ()
    words: int = 1
    orders: int = 0
    folder: Path | None = None

    @classmethod
    def read(cls, path: Path) -> Spec:
        """From its JSON file; keys that are not known are a newer parent's."""
        given = json.loads(path.read_text(encoding="utf-8"))
        known = {key: given[key] for key in cls.__dataclass_fields__ if given.get(key) is not None}
        for key in ("prescription", "report_to", "folder"):
            if key in known:
                # The script may change its folder.
                known[key] = Path(known[key]).absolute()
        for key in ("arguments", "writable"):
            known[key] = tuple(known.get(key, ()))
        return cls(**known)


class Line:
    """The way to the parent and back."""

    def __init__(self, words: int, orders: int) -> None:
        for number in (words, orders):  # the script's own children must not hold them open
            with contextlib.suppress(OSError):
                os.set_inheritable(number, False)
        self._words, self._orders = words, orders
        self._rest = b""

    def say(self, kind: str, **facts: Any) -> None:
        """One message, whole or not at all."""
        told = {"kind": kind, **facts, "t": round(time.perf_counter() - BEGAN, 3)}
        data = (json.dumps(plain(told), allow_nan=False) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._words, data) :]
        except OSError:  # the parent is gone
            leave(1)

    def listen(self) -> dict[str, Any]:
        """The next order; an end of orders is one to quit."""
        while b"\n" not in self._rest:
            found = os.read(self._orders, 65536)
            if not found:
                return {"kind": "quit"}
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order


def leave(status: int) -> NoReturn:
    """End at once: no exit handler, no thread, no clean-up of the script's."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def plain(value: Any) -> Any:
    """Numbers that JSON has not become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
