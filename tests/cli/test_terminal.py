"""What a terminal gets: lines no wider than it, no codes where none are wanted, ASCII in C."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from torch import nn

import gradmend
from gradmend.cli import main
from gradmend.records.report import Report
from gradmend.renderers.catalogue import reflowed
from gradmend.renderers.paper import on_paper
from gradmend.renderers.tables import wants_ascii

WIDTHS = (40, 60, 80, 120, 200)
ENVIRONMENT = (
    "COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING",
)  # fmt: skip
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

MODULE = """
import torch
from torch import nn
from gradmend.zoo.specimen import build


def sick():
    return build("mlp", depth=12, width=8, activation="sigmoid")


class Hostile(nn.Module):
    def __init__(self):
        super().__init__()
        for k in range(8):
            name = "\\x1b[31mred\\u202e [red]</script>\\u5c64 " + "n" * 60 + str(k)
            self.add_module(name, nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()))

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


def hostile():
    batches = [(torch.randn(16, 8), torch.randint(0, 8, (16,)))]
    return Hostile(), batches, nn.functional.cross_entropy
"""


class Out(io.TextIOWrapper):
    """A stream that is a terminal or a pipe, as it is told."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


_check = gradmend.check
_LOOKS: dict[str, Report] = {}
Ran = tuple[str, str]
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of models and two runs."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "terminal_models.py").write_text(MODULE)
    for seed in range(2):
        torch.manual_seed(seed)
        parts = [part for _ in range(8) for part in (nn.Linear(8, 8), nn.Sigmoid())]
        model = nn.Sequential(*parts, nn.Linear(8, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
        with gradmend.watch(model, optimizer, run=folder / "runs" / str(seed), looks=False):
            for _ in range(40):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    def looked(model: nn.Module, *rest: Any, **named: Any) -> Report:
        """The look at a model, taken once: what differs here is how it is printed."""
        name = type(model).__name__
        if name not in _LOOKS:
            _LOOKS[name] = _check(model, *rest, **named)
        return _LOOKS[name]

    def ran(
        *arguments: str,
        width: int = 80,
        terminal: bool = False,
        encoding: str = "utf-8",
        **environment: str,
    ) -> Ran:
        for name in ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(str(place))
        monkeypatch.setattr("gradmend.engine.session.check", looked)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm-256color")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        streams = []
        for name in ("stdout", "stderr"):
            stream = Out(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
            stream.terminal = terminal and name == "stdout"
            monkeypatch.setattr(sys, name, stream)
            streams.append(stream)
        main(list(arguments))
        out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
        monkeypatch.undo()
        return out, err

    yield ran


COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("check", "terminal_models:sick"),
    "hostile": ("check", "terminal_models:hostile"),
    "report": ("report", "runs/0"),
    "diff": ("diff", "runs/0", "runs/1"),
    "ls": ("ls", "runs"),
    "explain": ("explain",),
    "page": ("explain", "GRF102"),
    "remedy": ("explain", "critical-init"),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_pipe_gets_plain_lines_no_wider_than_it_is_told(name: str, width: int, run: Run) -> None:
    # given a pipe of a width, when a command prints into it
    out, err = run(*COMMANDS[name], width=width)
    # then no line is wider, none has codes or blanks at its end, and the words are there
    assert out and not err and "\x1b" not in out
    assert [line for line in out.splitlines() if cell_len(line) > width] == []
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.parametrize("locale", [{"encoding": "ascii"}, {"LANG": "C"}, {"LC_ALL": "POSIX"}])
def test_a_c_locale_gets_ascii(name: str, locale: dict[str, Any], run: Run) -> None:
    for terminal in (False, True):
        out, _ = run(*COMMANDS[name], width=40, terminal=terminal, NO_COLOR="1", **locale)
        assert out.isascii() and "\x1b" not in out and len(out) > 40


@pytest.mark.parametrize("name", list(COMMANDS))
def test_no_color_and_a_dumb_terminal_get_no_codes_at_all(name: str, run: Run) -> None:
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        out, _ = run(*COMMANDS[name], terminal=True, **environment)
        assert "\x1b" not in out


@pytest.mark.parametrize("name", ["check", "report", "ls"])
def test_a_terminal_and_forced_colour_get_colours_and_the_same_words(name: str, run: Run) -> None:
    # given the same command on a terminal, in a pipe with colour forced, and in a plain terminal
    shown, _ = run(*COMMANDS[name], terminal=True)
    forced, err = run(*COMMANDS[name], FORCE_COLOR="1")
    plain, _ = run(*COMMANDS[name], terminal=True, NO_COLOR="1")
    # then the first two have codes, none of them progress, and without them all say the same
    assert "\x1b[" in shown and "\x1b[" in forced and not err

    def words(text: str) -> list[str]:
        return [re.sub(r"\d", "0", line) for line in CODES.sub("", text).splitlines()[:12]]

    assert words(shown) == words(forced) == words(plain)


@pytest.mark.parametrize("width", [40, 80])
def test_a_hostile_name_sends_nothing_of_its_own_to_the_terminal(width: int, run: Run) -> None:
    out, _ = run(*COMMANDS["hostile"], width=width, terminal=True)
    left = CODES.sub("", out)
    assert "\x1b" not in left and "\u202e" not in left and "[31mred" in left
    assert "[red]" in left.replace("\n", "")


def test_a_narrow_ledger_keeps_what_it_is_there_for(run: Run) -> None:
    # given 40 columns
    out, _ = run(*COMMANDS["check"], width=40)
    # then causes and decades stand unabridged, and nothing is cut to a few letters
    assert re.search(r"activation-derivative +-\d+\.\d\d", out)
    assert not re.search(r"\b\w{1,3}\.\.\.\s", out[out.index("by cause") :])


def test_an_error_is_one_line_and_says_hostile_bytes_as_codes(run: Run) -> None:
    out, err = run("report", "\x1b[31mno/such\u202erun")
    assert out == "" and err.count("\n") == 1 and "\x1b" not in err and "\\x1b[31m" in err


def test_blanks_between_codes_at_the_end_of_a_line_go() -> None:
    from rich.text import Text

    drawn = on_paper([Text.assemble(("a", "bold"), ("   ", "red"), " ")], width=20, colour=True)
    assert not re.search(r" (?:\x1b\[[0-9;]*m)*\n", drawn) and "a" in drawn


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"LANG": "C"}, True),
        ({"LANG": "C.UTF-8"}, False),
        ({"LANG": "en_GB.UTF-8"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # Python's own coercion
        ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, False),
        ({"LANG": "en_GB.UTF-8", "LC_ALL": "C"}, True),
        ({"LC_ALL": "POSIX"}, True),
    ],
)
def test_the_c_locale_is_known_though_python_takes_it_for_utf8(
    environment: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LANG", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_ascii() is wanted


def test_a_page_is_wrapped_anew_but_formulas_keep_their_lines() -> None:
    # given a paragraph, a list and a formula that is set in
    body = "One paragraph\nof two lines.\n\n- an item that is\n  long\n- another\n\n"
    body += "    a = b + c\n    d"
    # then words flow, items hang, and what is set in stays
    assert reflowed(body, 20) == [
        "One paragraph of two", "lines.", "", "- an item that is", "  long", "- another", "",
        "    a = b + c", "    d",
    ]  # fmt: skip


def test_a_real_terminal_sees_progress_and_is_left_clean(place: Path) -> None:
    # given a pseudo-terminal of 80 columns for stdout and stderr
    script = (
        "import time\nfrom gradmend.engine.progress import shown_progress\n"
        "with shown_progress() as tell:\n"
        "    tell('racing the remedies', 0.25)\n    time.sleep(0.5)\nprint('done')\n"
    )
    leader, follower = pty.openpty()
    home = {
        **{k: v for k, v in os.environ.items() if k not in ENVIRONMENT},
        "PYTHONPATH": str(Path(gradmend.__file__).parents[1]),
        "TERM": "xterm", "COLUMNS": "80",
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=follower, stderr=follower, env=home, cwd=place
    )
    os.close(follower)
    seen = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux's word for the end of it
            break
        if not part:
            break
        seen += part
    assert child.wait() == 0
    os.close(leader)
    said = seen.decode()
    # then the line was there, and was erased before the result
    assert "racing the remedies" in said and "25 %" in said
    assert "\x1b[2K" in said[: said.index("done")] and said.rstrip().endswith("done")
