"""Draw docs/terminal.svg, the README's picture of the ledger: ``python tools/pictures.py``.

The figures in it are measured when it is drawn. docs/report.png is a screenshot of the page that
``gradmend demo`` writes, taken by hand with any browser.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import gradmend
from gradmend.probe.source import remember_construction
from gradmend.renderers.tables import Look
from gradmend.renderers.text import finding_parts, ledger_parts
from gradmend.renderers.words import fold_findings, verdict_sentence
from gradmend.zoo.digits import load_digits, plain_network

WIDTH = 100


def main() -> None:
    """Look at the demo's network and draw what a terminal shows."""
    import torch.nn.functional as F  # noqa: N812  the name everybody uses

    with remember_construction():
        model = plain_network()
    report = gradmend.check(model, load_digits().batches(64)[0], F.cross_entropy)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    look = Look(WIDTH)
    console.print(Text(verdict_sentence(report), style="bold"))
    console.print()
    for part in ledger_parts(report, look):
        console.print(part, highlight=False)
    for rank, folded in enumerate(fold_findings(report.findings)[:2], start=1):
        console.print()
        for part in finding_parts(folded, rank, look):
            console.print(part, highlight=False)
    drawn = console.export_svg(title="gradmend", theme=MONOKAI)
    # The fonts it would fetch are not worth a request to a stranger's server.
    drawn = re.sub(r"@font-face\s*{[^}]*}", "", drawn)
    drawn = drawn.replace("Fira Code,", "ui-monospace, Menlo, Consolas,")
    target = Path(__file__).resolve().parent.parent / "docs" / "terminal.svg"
    target.write_text(re.sub(r"[ \t]+\n", "\n", drawn), encoding="utf-8")
    print(f"wrote {target.name}")


if __name__ == "__main__":
    main()
