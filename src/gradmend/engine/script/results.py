"""What a repair of a script leaves behind: prescription, change of the source, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradmend.engine.files import write_prescription
from gradmend.engine.script.repair import ScriptFix
from gradmend.errors import BadInput
from gradmend.records.report import Report
from gradmend.rewriting import SourceFacts, Suggestion, suggest


@dataclass(frozen=True, slots=True)
class Results:
    """Files that were written, by what they are."""

    files: dict[str, Path]
    suggestion: Suggestion


def check_folder(folder: Path) -> None:
    """Refuse, before anything runs, a folder that results cannot be written to.

    Raises:
        BadInput: If it is a file, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be a folder ({error.strerror})",
            "the prescription and the report are written there",
            "choose another --out",
        ) from None


def write_results(
    fixed: ScriptFix, folder: Path, render: Callable[[Report], str], *, name: str
) -> Results:
    """Write report, prescription and the change to the source; the last two where there is one.

    Args:
        fixed: The outcome.
        folder: Where to.
        render: Draws the report as a page.
        name: Of the prescription's file, as the changed source should name it.

    Raises:
        BadInput: If a file cannot be written.
    """
    suggestion = Suggestion()
    files: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files["report"] = folder / "report.html"
        files["report"].write_text(render(fixed.report), encoding="utf-8")
        if fixed.prescription:
            files["prescription"] = folder / "prescription.json"
            write_prescription(fixed.prescription, files["prescription"])
            suggestion = suggested(fixed, name)
        if suggestion.diff:
            files["diff"] = folder / "change.diff"
            files["diff"].write_text(suggestion.diff, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be written ({error.strerror})",
            "",
            "choose another --out",
        ) from None
    return Results(files, suggestion)


def suggested(fixed: ScriptFix, name: str) -> Suggestion:
    """The prescription as a change of the script's own source."""
    script, facts = fixed.plan.command.script, fixed.report.script
    if script is None or facts is None:
        return Suggestion(why="the script's own source is not at hand")
    home = fixed.plan.command.home
    named = {place.file for place in facts.modules.values()}
    named |= {place.file for place in (facts.model_place, facts.optimizer_place) if place}
    own = str(script.resolve().relative_to(home.resolve()))
    sources: dict[str, str] = {}
    for file in sorted({own, *named}):
        try:
            sources[file] = (home / file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # built by a library, or in a file of another encoding: it says so itself
    trace = fixed.report.trace
    found = SourceFacts.of(own, facts, trace.modules, trace.optimizer)
    return suggest(sources, fixed.prescription, found, path=name)
