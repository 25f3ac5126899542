"""Write docs/rules and docs/remedies from the files that hold the code: ``python tools/docs.py``.

``--check`` writes nothing and exits with 1 if a page is missing, stale or left over.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gradmend.registry import remedies, rules
from gradmend.renderers.catalogue import page_markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEADER = "<!-- Generated from the source by tools/docs.py; edit the docstring instead. -->\n"


def pages() -> dict[Path, str]:
    """Every generated page and what belongs on it."""
    found = {Path("rules") / f"{r.name}.md": page_markdown(r) for r in rules()}
    found |= {Path("remedies") / f"{r.name}.md": page_markdown(r) for r in remedies()}
    found[Path("rules/README.md")] = _index(
        "Rules",
        "What gradmend finds. A rule is one file in `src/gradmend/rules`.",
        [(f"{r.code} [{r.name}]({r.name}.md)", r.summary) for r in rules()],
    )
    found[Path("remedies/README.md")] = _index(
        "Remedies",
        "What gradmend tries, smallest change first. A remedy is one file in"
        " `src/gradmend/remedies`.",
        [(f"[{r.name}]({r.name}.md)", r.summary) for r in remedies()],
    )
    return found


def _index(title: str, words: str, rows: list[tuple[str, str]]) -> str:
    lines = [HEADER, f"# {title}", "", words, "", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {link} | {text} |" for link, text in rows), ""])


def main() -> int:
    """Write the pages, or with ``--check`` tell which would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is stale")
    check = parser.parse_args().check
    wanted = {DOCS / path: text for path, text in pages().items()}
    there = {path for room in ("rules", "remedies") for path in (DOCS / room).glob("*.md")}
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    left_over = sorted(there - set(wanted))
    if check:
        for path in [*stale, *left_over]:
            print(f"stale: {path.relative_to(DOCS.parent)}", file=sys.stderr)
        if stale or left_over:
            print("run: python3 dev.py docs", file=sys.stderr)
        return 1 if stale or left_over else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")
    for path in left_over:
        path.unlink()
        print(f"removed {path.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
