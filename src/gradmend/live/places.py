"""Where on the server a run is shown."""

from __future__ import annotations

from urllib.parse import quote


def address(name: str, rank: int = 0) -> str:
    """The path of a run on the server, or of what one of its ranks saw."""
    path = f"/run/{quote(name, safe='')}"
    return f"{path}/rank/{rank}" if rank else path
