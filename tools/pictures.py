"""Draw the README's pictures of a terminal: ``python tools/pictures.py``.

docs/terminal.svg is the ledger of the demo's network, docs/run.svg what ``gradmend run`` says of a
script whose network stays at chance. The figures in them are measured when they are drawn.
docs/report.png is a screenshot of the page that ``gradmend demo`` writes, taken by hand.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import gradmend
from gradmend.engine.watching.summary import report_of
from gradmend.probe.source import remember_construction
from gradmend.renderers.run_closing import closing
from gradmend.renderers.tables import Look
from gradmend.renderers.text import finding_parts, ledger_parts
from gradmend.renderers.words import fold_findings, verdict_sentence
from gradmend.store.reader import open_run
from gradmend.zoo.digits import load_digits, plain_network

WIDTH = 100


ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Draw both."""
    draw("terminal.svg", the_ledger)
    draw("run.svg", a_run)


def the_ledger(console: Console) -> None:
    """Look at the demo's network and show what a terminal shows."""
    import torch.nn.functional as F  # noqa: N812  the name everybody uses

    with remember_construction():
        model = plain_network()
    report = gradmend.check(model, load_digits().batches(64)[0], F.cross_entropy)
    look = Look(WIDTH)
    console.print(Text(verdict_sentence(report), style="bold"))
    console.print()
    for part in ledger_parts(report, look):
        console.print(part, highlight=False)
    for rank, folded in enumerate(fold_findings(report.findings)[:2], start=1):
        console.print()
        for part in finding_parts(folded, rank, look):
            console.print(part, highlight=False)


def a_run(console: Console) -> None:
    """Run a sick example and show the end of what a terminal shows."""
    script = "examples/broken/mnist_mlp.py"
    console.print(Text(f"$ gradmend run {script}", style="bold"))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "gradmend", "run", "--run", str(run), script]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        history = open_run(run).history()
    for line in done.stdout.splitlines()[-3:]:
        console.print(Text(line))
    text = closing(
        report_of(history), folder="gradmend-runs/mnist_mlp", width=WIDTH, colour=True, ascii=False
    )
    console.print(Text.from_ansi(text))


def draw(name: str, show: Callable[[Console], None]) -> None:
    """Write one picture into docs."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    show(console)
    drawn = console.export_svg(title="gradmend", theme=MONOKAI)
    # The fonts it would fetch are not worth a request to a stranger's server.
    drawn = re.sub(r"@font-face\s*{[^}]*}", "", drawn)
    drawn = drawn.replace("Fira Code,", "ui-monospace, Menlo, Consolas,")
    (ROOT / "docs" / name).write_text(re.sub(r"[ \t]+\n", "\n", drawn), encoding="utf-8")
    print(f"wrote {name}")


if __name__ == "__main__":
    main()
