"""Every view of a watched run: what it says, and that hostile text does nothing."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from gradmend.engine.watching.difference import difference
from gradmend.records.difference import Difference, Parting, Setting
from gradmend.records.finding import Severity
from gradmend.records.history import History, RunFacts
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.records.watched import Spell
from gradmend.renderers import run_words
from gradmend.renderers.difference_text import difference_text
from gradmend.renderers.run_books import step_books
from gradmend.renderers.run_closing import closing, post_mortem
from gradmend.renderers.run_list import age_words, bytes_words, run_list, run_list_plain
from gradmend.renderers.run_markdown import code, markdown, plain, public
from gradmend.renderers.run_profile import layers
from gradmend.renderers.run_text import print_run, render_run
from gradmend.store.folders import RunSummary

_spec = importlib.util.spec_from_file_location("runs", Path(__file__).with_name("runs.py"))
assert _spec is not None and _spec.loader is not None
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

NOW = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)


def one_of_each(text: str) -> dict[str, str]:
    """Every view on a run, by name; at 80 columns and in ASCII."""
    report, history = runs.hostile(text)
    named = replace(history.run, name="other", command=f"{text} other")
    found = difference(history, replace(runs.run(seed=1, names=("a",)), run=named))
    summary = RunSummary(
        name=text or "x", path=Path("x"), run=history.run, worst=text or "x", bytes=1,
        open_findings={Severity.ERROR: 2}, problem="",
    )  # fmt: skip
    return {
        "closing": closing(report, folder=text or "runs/x"),
        "post mortem": post_mortem(report, folder=text or "runs/x"),
        "report": render_run(report, history, width=80, colour=False, ascii=True),
        "list": run_list([summary, replace(summary, problem=f"{text}!")], now=NOW),
        "difference": difference_text(found, (text or "a", f"{text}b")),
    }


@pytest.mark.parametrize("text", runs.HOSTILE)
def test_hostile_text_does_nothing(text: str) -> None:
    for name, shown in one_of_each(text).items():
        assert shown.isascii(), name
        assert all(letter == "\n" or letter.isprintable() for letter in shown), name
        assert all(len(line) <= 80 for line in shown.splitlines()), name
        assert len(shown.splitlines()) < 200, name
    report, history = runs.hostile(text)
    written = markdown(report, history)
    assert all(letter == "\n" or letter.isprintable() for letter in written)
    assert "<script" not in re.sub(r"(`+).*?\1", "", written)
    assert len(written.splitlines()) <= 40


@pytest.mark.parametrize("width", [60, 80, 97, 120, 160])
@pytest.mark.parametrize("ascii", [True, False])
def test_no_line_is_wider_than_asked(width: int, ascii: bool) -> None:
    for lost in (0.0, 5.0):
        history = runs.run(names=[f"encoder.layers.{k}.linear1" for k in range(50)], lost=lost)
        report = runs.report(history, [runs.finding()] * 7, still_parameters=0.35)
        found = difference(history, runs.run(names=("encoder.layers.0.linear1",), seed=2))
        for shown in (
            closing(report, folder="runs/x", width=width, ascii=ascii),
            post_mortem(report, folder="runs/x", width=width),
            render_run(report, history, width=width, colour=False, ascii=ascii),
            difference_text(found, width=width, ascii=ascii),
        ):
            assert max(cell_len(line) for line in shown.splitlines()) <= width
            assert shown.isascii() or not ascii


def test_colour_repeats_what_the_plain_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    history = runs.run()
    report = runs.report(history, [runs.finding()])
    found = difference(history, runs.run(seed=3))

    def drawn(colour: bool) -> list[str]:
        return [
            closing(report, width=80, colour=colour, ascii=False),
            render_run(report, history, width=80, colour=colour, ascii=False),
            difference_text(found, colour=colour, ascii=False),
        ]

    for coloured, uncoloured in zip(drawn(True), drawn(False), strict=True):
        bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
        assert bare != coloured
        assert [line.rstrip() for line in bare.splitlines()] == uncoloured.splitlines()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render_run(report, history)
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" in render_run(report, history)


def test_print_and_render_say_the_same() -> None:
    history = runs.run()
    report = runs.report(history, [runs.finding()])
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    print_run(report, history, console, ascii=True)
    console.file.close()
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    assert printed == render_run(report, history, width=80, ascii=True).splitlines()


# ---- the closing lines


def test_a_healthy_run_is_one_quiet_line() -> None:
    history = runs.run(1200)
    shown = closing(runs.report(history), folder="runs/x", width=120)
    assert shown == (
        "gradmend: healthy. 1,200 steps in 34 s, loss 2.31 -> 0.42; watching cost 1.3 %"
        " (budget 2 %). gradmend report runs/x\n"
    )
    notes = [runs.finding(severity=Severity.NOTE)] * 2
    assert "healthy (2 notes)." in closing(runs.report(history, notes), width=120)
    level = closing(runs.report(history, learns=False), width=120)
    assert "nothing found. " in level and "healthy" not in level and "noise" in level


def test_five_findings_and_those_they_explain() -> None:
    history = runs.run(1200)
    found = [runs.finding(f"cause-{k}") for k in range(7)]
    found.append(runs.finding("symptom", explained_by="cause-0"))
    found.append(runs.finding("aside", Severity.NOTE))
    report = runs.report(
        history, found, still_steps=0.12, still_seconds=4.1, still_parameters=0.35,
        clipped_steps=0.9, skipped_steps=0.01, notes=("one", "two", "three", "four"),
    )  # fmt: skip
    shown = closing(report, folder="my runs/x", width=100)
    lines = shown.splitlines()
    assert lines[0].startswith("gradmend: 7 findings in 1,200 steps (34 s), loss 2.31 -> 0.42")
    heads = [line for line in lines if re.match(r"\d ERROR ", line)]
    assert [head[10:].split(":")[0] for head in heads] == [f"GRF102 cause-{k}" for k in range(5)]
    assert shown.count("train.py:42  nn.Sigmoid()]") == 5
    assert shown.count("explains: symptom") == 1
    assert "and 2 more findings and 1 note; nothing moved in 12 % of the steps (4.1" in shown
    assert "in 35 % of the parameters; 90 % of the steps clipped; watching cost" in " ".join(lines)
    assert "skipped" not in shown
    assert "note: one" in shown and "note: two (and 2 more)" in shown and "three" not in shown
    assert lines[-1] == "next: gradmend report 'my runs/x'"
    assert len(lines) <= 20


def test_a_note_hides_nothing_graver() -> None:
    found = [
        runs.finding("aside", Severity.NOTE),
        runs.finding("grave", Severity.ERROR, explained_by="aside"),
    ]
    shown = closing(runs.report(runs.run(), found))
    assert "1 finding in" in shown and "GRF102 grave" in shown


@pytest.mark.parametrize(
    ("planned", "said"),
    [(1200, "saved about 9 min 27 s (1,000 steps of the 1,200 planned)"), (None, "the rest of")],
)
def test_a_run_ended_early_says_what_it_saved(planned: int | None, said: str) -> None:
    history = runs.run(200, seconds=113.4)
    report = runs.report(history, [runs.finding()], status="stopped", stopped="all dead.")
    shown = " ".join(closing(report, planned_steps=planned).split())
    assert "ended early after 200 steps in 1 min 53 s: all dead; saved" in shown
    assert said in shown


def test_a_script_that_never_trains() -> None:
    report = runs.report(runs.run(0), loss_first=None, loss_last=None, notes=("no optimizer",))
    shown = closing(report)
    assert shown.startswith("gradmend: no training step was seen")
    assert "no optimizer" in shown and "healthy" not in shown


def test_a_single_look_is_no_run_and_breaks_nothing() -> None:
    report = Report(trace=Trace(run=Run(model="Net")))
    assert "no training step" in closing(report)
    assert render_run(report, History(run=RunFacts()), width=80, ascii=True)


# ---- post mortem


def test_three_lines_after_a_nan() -> None:
    report = runs.report(runs.run(), [runs.finding()], first_bad=runs.BAD, status="crashed")
    assert post_mortem(report, folder="runs/x") == (
        "gradmend: first bad value: step 40, on the way forward: layers.1 (log)\n"
        "  batch 32 x 16; last good step 39; train.py:17\n"
        "  next: gradmend report runs/x\n"
    )


def test_a_crash_without_a_nan() -> None:
    report = runs.report(runs.run(60), status="crashed")
    assert post_mortem(report, folder="r") == (
        "gradmend: 60 steps in 34 s until here, loss 2.31 -> 0.42; all finite\n"
        "  next: gradmend report r\n"
    )
    found = runs.report(runs.run(60), [runs.finding()], status="crashed")
    assert "found before: GRF102" in post_mortem(found)
    assert len(post_mortem(found, folder="r").splitlines()) == 3
    assert "before the first" in post_mortem(runs.report(runs.run(0), status="crashed"))


# ---- the report


def test_what_the_report_shows() -> None:
    history = runs.run(60, clip=True, lost=2.0)
    spells = (
        Spell(code="GRF102", name="vanishing-gradient", severity="error", began=5, cleared=20),
        Spell(code="GRF102", name="vanishing-gradient", severity="error", began=40),
        Spell(code="LOS221", name="loss-spike", severity="warning", began=7, cleared=9),
    )
    report = runs.report(history, [runs.finding()], spells=spells, notes=("no line of it",))
    shown = render_run(report, history, width=100, ascii=True)
    assert shown.startswith("good (finished): vanishing-gradient hurts its training.")
    assert "held      steps 5 to 20, since step 40 (20 steps)" in shown
    assert "LOS221 loss-spike (warning): steps 7 to 9" in shown
    assert re.search(r"clipped +100 % of the steps, to 1; then to 0.5 of the gradient", shown)
    assert "- no line of it" in shown
    row = next(line for line in shown.splitlines() if line.startswith("layers.0 "))
    assert row.split()[1].startswith(("1.0e-06", "9.", "1.", "8.", "7."))
    assert "weight decay's part is 10 % of the change" in shown
    assert re.search(r"applied +3 +192", shown)
    assert "torch 2.13.0 | Python 3.12.1 | gradmend 0.1.0 | cpu" in shown


def test_books_add_up() -> None:
    books = step_books(runs.run(clip=True), 0)
    assert books is not None
    total = books.lines[0].log10
    assert total is not None
    for line in books.lines[1:]:
        if line.decades is not None:
            total += line.decades
        else:
            assert line.log10 == pytest.approx(total, abs=1e-12)
    assert books.decay_share == pytest.approx(0.1)
    assert [line.what for line in books.lines][1] == "clipping"
    history = runs.run()
    steps = history["step"]
    values = {k: v for k, v in steps.values.items() if k != "log10_update_norm"}
    unmeasured = {**history.tables, "step": replace(steps, values=values)}
    assert step_books(replace(history, tables=unmeasured), 0) is None


def test_rows_over_depth_pool_and_fold() -> None:
    names = [f"blocks.{k}.{part}" for k in range(20) for part in ("a", "b")]
    history = runs.run(names=names)
    assert [row.name for row in layers(history, 40)] == names
    blocks = layers(history, 24)
    assert [row.name for row in blocks] == [f"blocks.{k}" for k in range(20)]
    rms = history["gradient"].last("log10_rms")
    twin = 0.5 * np.log10((10 ** (2 * rms[0]) + 10 ** (2 * rms[1])) / 2)  # equal sizes
    assert blocks[0].log10_last == pytest.approx(twin)
    blocks = layers(runs.run(names=["embed", *names, "head.norm", "head.out"]), 24)
    assert [row.name for row in blocks][:2] == ["embed", "blocks.0"]
    assert [row.name for row in blocks][-2:] == ["head.norm", "head.out"]
    long = layers(runs.run(names=["embed", *(f"body.{k}.w" for k in range(60)), "head"]), 24)
    assert len(long) == 24
    assert [row.name for row in long][:2] == ["embed", "body.0 .. 2"]
    assert sum(row.modules for row in long) == 62
    spread = layers(runs.run(names=[str(k) for k in range(100)]), 24)
    assert len(spread) == 24
    assert sum(row.modules for row in spread) == 100
    assert spread[0].name == "0 .. 3" and spread[-1].name.endswith(".. 99")
    assert layers(History()) == []


def test_gradients_that_are_no_number_say_so() -> None:
    history = runs.run()
    values = {k: v.copy() for k, v in history["gradient"].values.items()}
    values["state"][-1] = [0.0, 3.0, 1.0]
    values["log10_rms"][-1] = [np.nan, np.nan, -np.inf]
    table = replace(history["gradient"], values=values)
    history = replace(history, tables={**history.tables, "gradient": table})
    assert [row.state for row in layers(history)] == ["None", "not finite", ""]
    shown = render_run(runs.report(history), history, width=80, ascii=True)
    assert re.search(r"layers\.0 +None", shown) and re.search(r"layers\.1 +not finite", shown)
    assert re.search(r"layers\.2 +0 ", shown)


# ---- markdown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("open '/home/bob smith/data.csv' failed", "open 'data.csv' failed"),
        ("/home/bob/net.py:3 and ~/x/y.py", "net.py:3 and y.py"),
        (r"C:\Users\bob\net.py is \\host\share\z.csv", "net.py is z.csv"),
        ("/home/bob.smith and /home/bob/", "(path) and (path)"),
        ("bob@node7:/scratch/bob", "(name)"),
        ("https://intern.corp/bob?x=1 is down", "(address) is down"),
        ("projects/bob/train.py:42", "train.py:42"),
        ("update/weight 1/2", "update/weight 1/2"),
    ],
)
def test_private_paths_do_not_leave(text: str, said: str) -> None:
    assert public(text) == said


def test_a_command_line_keeps_its_flags_only() -> None:
    given = "work/bob/train.py --data=/home/bob/d --out runs/bob --rate 1e-3"
    assert public(given, every=True) == "train.py --data=(path) --out (path) --rate 1e-3"


def test_markdown_is_short_and_says_what_matters() -> None:
    history = runs.run(lost=3.0, names=[f"layers.{k}" for k in range(60)])
    found = [runs.finding(f"cause-{k}", source="/home/bob/train.py:42") for k in range(9)]
    report = runs.report(history, found, crash="OSError: /home/bob/secret.txt", first_bad=runs.BAD)
    shown = markdown(report, history)
    assert "bob" not in shown
    assert len(shown.splitlines()) <= 40
    for part in ("9 causes hurt its training", "`train.py --rate 1e-3`", "`train.py:42`",
                 "And 4 more findings", "torch 2.13.0", "| `layers.0"):  # fmt: skip
        assert part in shown
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_markdown_escapes() -> None:
    assert plain("a*b_c <img> & [x](y) `z` | @me") == (
        r"a\*b\_c &lt;img&gt; &amp; \[x\](y) \`z\` \| (at)me"
    )
    assert code("a|b`c") == r"``a\|b`c``"
    assert code("`") == "`` ` ``"
    assert code("") == ""


# ---- the list


def summary(name: str, **facts: Any) -> RunSummary:
    return RunSummary(
        name=name,
        path=Path("runs") / name,
        run=RunFacts(started_at="2026-01-02T03:04:05+00:00", steps=1200, seconds=34.0, **facts),
        bytes=4_210_000,
    )


def test_the_list() -> None:
    bad = replace(
        summary("second", status="crashed"),
        open_findings={Severity.ERROR: 2, Severity.NOTE: 1},
        worst="vanishing-gradient",
    )
    lost = RunSummary(name="third", path=Path("runs/third"), problem="no such version")
    shown = run_list([summary("first", status="finished"), bad, lost], now=NOW, width=100)
    assert shown == (
        "run     status    steps  time  begun         size  worst finding\n"
        "first   finished  1,200  34 s  60 min ago  4.2 MB  -\n"
        "second  crashed   1,200  34 s  60 min ago  4.2 MB  vanishing-gradient (+1)\n"
        "third: no such version\n"
    )
    assert run_list([]) == "No runs here.\n"
    told = json.loads(json.dumps(run_list_plain([bad, lost]), allow_nan=False))
    assert told[0]["open_findings"] == {"error": 2, "note": 1}
    assert told[0]["path"] == "runs/second"
    assert told[1]["problem"] == "no such version"


def test_a_narrow_list_keeps_the_names() -> None:
    long = replace(
        summary("a-run-with-a-long-name", status="finished"),
        worst="attenuating-activation",
        open_findings={Severity.ERROR: 1},
    )
    shown = run_list([long], width=64, now=NOW)
    assert "a-run-with-a-long-name" in shown and "attenuating-activation" in shown


def test_ages_and_sizes() -> None:
    assert age_words("2026-01-02T04:04:00+00:00", NOW) == "just now"
    assert age_words("2026-01-02T01:04:05", NOW) == "3 h ago"
    assert age_words("2025-12-25T04:04:05+00:00", NOW) == "8 days ago"
    assert age_words("2027-01-01T00:00:00+00:00", NOW) == age_words("once", NOW) == "?"
    assert [bytes_words(n) for n in (0, 812, 4_210, 999_700, 10**13)] == [
        "0 B", "812 B", "4.2 kB", "1.0 MB", "10.0 TB",
    ]  # fmt: skip


# ---- the difference


def compared(*partings: Parting, **changes: Any) -> Difference:
    given: dict[str, Any] = {
        "names": ("good", "bad"), "steps": (60, 60), "compared": 60, "exact": True,
        "bitwise": True, "tolerance": 1e-5, "partings": partings,
    }  # fmt: skip
    return Difference(**(given | changes))


def parting(**changes: Any) -> Parting:
    given: dict[str, Any] = {
        "step": 40, "table": "output", "quantity": "log10_rms", "column": "layers.3",
        "unit": "decades", "a": -0.3, "b": 0.5, "last_same": 20, "source": "net.py:7",
    }  # fmt: skip
    return Parting(**(given | changes))


def test_the_verdict_on_a_difference() -> None:
    shown = difference_text(compared(parting()), width=160)
    assert shown.startswith(
        "good and bad part at step 40, in the output rms of layers.3 [net.py:7]: 5.0e-01 against"
        " 3.2e+00.\nWhat both measured before agrees to the last bit. There it was last compared"
        " at step 20"
    )
    assert difference_text(compared()).startswith("No difference in anything recorded, over 60")
    assert "nothing to compare" in difference_text(compared(compared=0))
    event = parting(table="event", quantity="non-finite", a=0.0, b=1.0, unit="1")
    assert "bad meets the first value that is not finite at step 40" in difference_text(
        compared(event)
    )
    noisy = difference_text(compared(parting(), exact=False, bitwise=False))
    assert "from about step 40 on" in noisy and "another seed" in noisy
    level = " ".join(difference_text(compared(exact=False, bitwise=False)).split())
    assert "do not part" in level and "its own variation" in level


def test_numbers_that_are_close_do_not_look_the_same() -> None:
    near = parting(a=-0.3, b=-0.3001)
    shown = difference_text(compared(near))
    values = re.findall(r"0\.50\d+", shown)
    assert len(set(values)) == 2
    flips = parting(quantity="zero_share", unit="share", a=0.1201, b=0.1187)
    assert "12.010 % against 11.870 %" in difference_text(compared(flips), width=120)
    state = parting(table="gradient", quantity="state", unit="code", a=2.0, b=0.0)
    assert "finite against None" in difference_text(compared(state), width=120)
    zero = parting(b=-math.inf)
    assert "5.0e-01 against 0." in difference_text(compared(zero), width=120)


def test_settings_findings_and_columns_are_listed() -> None:
    shown = difference_text(
        compared(
            settings=(Setting(name="AdamW eps", a="1e-08", b="1e-06"),),
            losses=(0.42, None),
            findings=((), ("GRF102 vanishing-gradient",)),
            columns=((), ("gradient: head.weight", "update: head.weight")),
        )
    )
    for part in ("AdamW eps", "1e-08", "1e-06", "0.42", "n/a", "GRF102 vanishing-gradient"):
        assert part in shown
    assert shown.count("head.weight") == 1


def test_names_that_are_the_same_are_told_apart() -> None:
    shown = difference_text(compared(parting()), ("x", "x"))
    assert shown.startswith("x (first) and x (second) part")


def test_shell_words() -> None:
    assert run_words.shell_word("runs/x-1") == "runs/x-1"
    assert run_words.shell_word("my runs") == "'my runs'"
    assert run_words.shell_word("it's") == "'it'\\''s'"
