"""The command line: parses, calls the session, prints. No logic of its own, no torch up front."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradmend.engine.progress import shown_progress
from gradmend.errors import BadInput, GradmendError
from gradmend.integrations.ending import Outcome, finish
from gradmend.records.codec import to_plain
from gradmend.records.finding import Severity

if TYPE_CHECKING:
    from gradmend.engine.demo import Demo
    from gradmend.engine.script.repair import ScriptFix
    from gradmend.engine.script.results import Results

app = typer.Typer(
    name="gradmend",
    help="Finds where the gradients of a network vanish or explode, says why, proves the fix.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# Newer typer carries click inside it and older typer depends on it, so click itself may be missing
# or be another one than the one that raises. typer's own names are right with both.
_UsageError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")]
Script = Annotated[str, typer.Argument(metavar="SCRIPT", help="The training script.")]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="The script's own.")]
AsModule = Annotated[bool, typer.Option("-m", help="SCRIPT is a module, as after python -m.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; the process's own where not given.

    Returns:
        The exit status: 0 done, 1 findings at or above ``--fail-on``, 2 bad usage or input.
    """
    arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    command = typer.main.get_command(app)
    try:
        status = command.main(args=arguments, prog_name="gradmend", standalone_mode=False)
    except GradmendError as error:
        if "--traceback" in arguments:
            raise
        return _refuse(str(error))
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        return _refuse("stopped. See: gradmend --help")
    except _UsageError as error:
        said = getattr(error, "format_message", error.__str__)().rstrip(".")
        return _refuse(f"{said}{_given(error)}. See: gradmend --help")
    except KeyboardInterrupt:
        _refuse("stopped; nothing was left half-done")
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(status, Outcome):  # a script was run: end as Python would have with it
        finish(status)
    return int(status) if isinstance(status, int) else 0


def _given(error: Exception) -> str:
    """The value that was refused, where typer's own message leaves it out."""
    listed = getattr(error.__cause__ or error.__context__, "errors", None)  # pydantic's
    found = listed()[0].get("input") if listed is not None else None
    return f", and it is '{found}'" if found is not None and str(found) not in str(error) else ""


def _refuse(text: str) -> int:
    from gradmend.renderers.visible import visible

    print(f"gradmend: {visible(' '.join(text.split()))}", file=sys.stderr)
    return 2


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(help="module:factory; the factory returns (model, batches, loss_fn)."),
    ],
    steps: Annotated[
        int, typer.Option(min=0, help="Also try this many steps on a copy of the weights.")
    ] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.")] = None,
    fail_on: Annotated[
        Severity, typer.Option(help="Exit with 1 on findings this bad or worse.")
    ] = Severity.ERROR,
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """Look at a model once, before training."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.factory import load_specimen
    from gradmend.engine.session import check as look

    # What the user's own code prints is no result of ours: stdout holds the report alone.
    with redirect_stdout(sys.stderr), shown_progress() as tell:
        tell(f"building {target}", None)
        model, batch, loss_fn = load_specimen(target)
        report = look(model, batch, loss_fn, steps=steps, tell=tell)
    if html is not None:
        from gradmend.renderers.html import render

        _write(html, render(report))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        from gradmend.renderers.paper import screen
        from gradmend.renderers.text import print_report

        print_report(report, screen())
    if html is not None:
        print(f"report: {html}", file=sys.stderr)
    return 1 if report.at_least(fail_on) else 0


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(
    target: Script,
    arguments: Arguments = None,
    as_module: AsModule = False,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Folder of the run; a new one if not given.")
    ] = None,
    record: Annotated[bool, typer.Option(help="Write the run to disk.")] = True,
    budget: Annotated[
        str, typer.Option(help='Share of the time that watching may take, or "all".')
    ] = "2%",
    looks: Annotated[
        bool, typer.Option(help="Also look at the model in full, on copies, when it matters.")
    ] = True,
    stop_when_dead: Annotated[
        bool, typer.Option("--stop-when-dead", help="End a run that cannot recover (status 3).")
    ] = False,
    fail_on: Annotated[
        Severity | None, typer.Option(help="Exit with 1 on findings this bad or worse.")
    ] = None,
    prescription: Annotated[
        Path | None,
        typer.Option("--with", help="Prescription to apply to the script's model as it is built."),
    ] = None,
    traceback: Traceback = False,
) -> Any:
    """Watch an unmodified training script; options of gradmend's own come before it."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.integrations.watched_script import RunOptions, run_watched

    options = RunOptions(
        run=folder,
        record=record,
        budget=budget,
        looks=looks,
        stop_when_dead=stop_when_dead,
        fail_on=fail_on,
        prescription=prescription,
    )
    return run_watched(target, arguments or [], options, as_module=as_module)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def fix(
    target: Script,
    arguments: Arguments = None,
    as_module: AsModule = False,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of a training; if not given as the budget allows, at most 300."),
    ] = None,
    budget: Annotated[
        str, typer.Option(help='Of everything: "10 min", "90 s" or "5000 steps".')
    ] = "10 min",
    keep: Annotated[
        str,
        typer.Option(help="What must not change: words of activations, architecture, parameters,"
                     " optimizer, data; with commas."),
    ] = "",
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings of original and winner that must agree.")
    ] = 3,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; one per core if not given.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for prescription, change of the source and report.")
    ] = Path("gradmend-fix"),
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:  # fmt: skip
    """Find what keeps a script from training, race the remedies on it, write the winner."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.budget import DEFAULT_STEPS
    from gradmend.engine.script.plan import Command, plan_of
    from gradmend.engine.script.repair import Wishes, fix_script, jobs_of
    from gradmend.engine.script.results import check_folder, write_results
    from gradmend.renderers.html import render
    from gradmend.renderers.paper import screen
    from gradmend.renderers.script_story import ScriptStory

    command = Command(
        target=target,
        arguments=tuple(arguments or ()),
        as_module=as_module,
        home=Path.cwd().resolve(),
    )
    words = tuple(word.strip() for word in keep.split(",") if word.strip())
    wishes = Wishes(steps=steps, keep=words, budget=budget, seeds=seeds, jobs=jobs_of(jobs))
    story = ScriptStory(screen(stderr=as_json))
    plan = plan_of(command)
    check_folder(out)
    story.plan(
        plan, steps=steps or DEFAULT_STEPS, jobs=wishes.jobs, seeds=wishes.seeds, budget=budget
    )
    with shown_progress() as tell:
        fixed = fix_script(plan, wishes, tell=tell, show=story.show)
    done = write_results(fixed, out, render, name=str(out / "prescription.json"))
    again = " ".join(([] if not as_module else ["-m"]) + [target, *command.arguments])
    story.close(fixed, done.files, done.suggestion, again)
    if as_json:
        print(json.dumps(_fix_line(fixed, done)))
    return 0


def _fix_line(fixed: ScriptFix, done: Results) -> dict[str, Any]:
    """The repair of a script, for machines."""
    verdict, report = fixed.verdict, fixed.report
    plain: dict[str, Any] = to_plain(
        {
            "kept": bool(fixed.prescription),
            "reason": verdict.reason,
            "causes": [finding.name for finding in report.findings if not finding.symptom],
            "remedies": fixed.prescription.remedies,
            "prescription": fixed.prescription if fixed.prescription else None,
            "verdict": verdict,
            "findings": report.findings,
            "refusals": report.refusals,
            "advice": report.advice,
            "reproducible": fixed.reproducible,
            "steps": fixed.steps,
            "diff": done.suggestion.diff,
            "files": {name: str(path) for name, path in done.files.items()},
        }
    )
    return plain


RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


@app.command()
def report(
    folder: RunFolder,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A short block for a forum, without private paths.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write the report and its figures as one HTML page.")
    ] = None,
    rank: Annotated[
        int, typer.Option(min=0, help="Which process of a distributed training to tell of.")
    ] = 0,
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """Say what a run shows, while it grows or afterwards."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.watching.summary import report_of
    from gradmend.renderers.paper import screen
    from gradmend.renderers.run_markdown import markdown as as_markdown
    from gradmend.renderers.run_text import print_run
    from gradmend.store.reader import open_run

    with shown_progress() as tell:
        tell("reading the run", None)
        reader = open_run(folder, rank=rank)
        history = reader.history()
        tell("asking the rules", None)
        found = report_of(history)
        if html is not None:
            from gradmend.renderers.run_page import render_run_page

            tell("drawing the page", None)
            page = render_run_page(found, reader)
    if html is not None:
        _write(html, page)
    if as_json:
        print(json.dumps(found.to_dict()))
    elif markdown:
        print(as_markdown(found, history), end="")
    else:
        print_run(found, history, screen())
    return 0


@app.command()
def diff(
    good: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    bad: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of another.")],
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """Say at which step and layer two runs part."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.watching.difference import difference
    from gradmend.renderers.difference_text import difference_text
    from gradmend.store.reader import open_run

    with shown_progress() as tell:
        tell("reading the runs", None)
        histories = [open_run(run).history(most_rows=4096) for run in (good, bad)]
        tell("comparing them", None)
        found = difference(*histories)
    if as_json:
        print(json.dumps(to_plain(found)))
    else:
        names = (str(good), str(bad))
        print(difference_text(found, names, **_as_screen()), end="")
    return 0


@app.command()
def ls(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where runs are.")] = Path(
        "gradmend-runs"
    ),
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """List the runs of a folder."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.renderers.run_list import run_list, run_list_plain
    from gradmend.store.folders import list_runs

    runs = list_runs(folder)
    if as_json:
        print(json.dumps(run_list_plain(runs)))
    else:
        print(run_list(runs, **_as_screen()), end="")
    return 0


@app.command()
def live(
    place: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", help="A run, or a folder of runs.")
    ] = Path("gradmend-runs"),
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Of the page; 0 for any that is free."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine's own open it.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page.")] = False,
    traceback: Traceback = False,
) -> int:
    """Show runs in a browser while they grow."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.live.server import serve

    serve(place, port=port, host=host, browser=browser)
    return 0


@app.command()
def export(
    prescription: Annotated[Path, typer.Argument(help="With which the model was trained.")],
    target: Annotated[str, typer.Argument(help="module:factory, as for check.")],
    checkpoint: Annotated[Path, typer.Argument(help="Weights of the edited model.")],
    out: Annotated[Path, typer.Option(help="Where to write the plain state dict.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """Fold a prescription's edits out of a checkpoint: weights of the plain architecture."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.exporting import export as fold

    # What the user's own code prints is no result of ours.
    with redirect_stdout(sys.stderr), shown_progress() as tell:
        tell("folding the edits out of the weights", None)
        done = fold(prescription, target, checkpoint, out, force=force)
    print(json.dumps(to_plain(done)) if as_json else done)
    return 0


@app.command()
def explain(
    word: Annotated[
        str | None, typer.Argument(help="A rule's code or name, or a remedy's name.")
    ] = None,
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:
    """List the catalogue, or print one rule's or remedy's page."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.registry import find, remedies, rules
    from gradmend.renderers.catalogue import list_text, page_text, plain_page

    if word is None:
        listed = (rules(), remedies())
        if as_json:
            print(json.dumps({"rules": [plain_page(r) for r in listed[0]],
                              "remedies": [plain_page(r) for r in listed[1]]}))  # fmt: skip
        else:
            print(_takeable(list_text(*listed)))
        return 0
    found = find(word)
    print(json.dumps(plain_page(found)) if as_json else _takeable(page_text(found)))
    return 0


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of the network, the batches and the trial.")] = 0,
    depth: Annotated[int, typer.Option(min=1, help="Hidden layers.")] = 100,
    width: Annotated[int, typer.Option(min=1, help="Units of each hidden layer.")] = 64,
    activation: Annotated[str, typer.Option(help="sigmoid, tanh, relu, gelu...")] = "sigmoid",
    keep: Annotated[
        str | None,
        typer.Option(help="What must not change: nothing, or words of activations, architecture,"
                     " parameters, optimizer, data; with commas. If not given: activations, and"
                     " of a sigmoid network the architecture too."),
    ] = None,
    depth_sweep: Annotated[
        bool, typer.Option("--depth-sweep", help="Also show accuracy against depth.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(help='Of the trial: "100 s" or "5000 steps".')
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report, prescription and weights.")] = Path(
        "gradmend-demo"
    ),
    as_json: Json = False,
    traceback: Traceback = False,
) -> int:  # fmt: skip
    """Repair a 100-layer sigmoid network on real handwritten digits, with proof."""
    del traceback  # unused: main reads it before anything can go wrong
    from gradmend.engine.demo import Setting, calm_torch, run_demo
    from gradmend.renderers.html import render
    from gradmend.renderers.paper import screen
    from gradmend.renderers.story import DemoStory

    words = tuple(word.strip() for word in (keep or "").split(",") if word.strip())
    setting = Setting(
        depth=depth,
        width=width,
        activation=activation,
        keep=None if keep is None else () if words in ((), ("nothing",)) else words,
        seed=seed,
        budget=budget,
        folder=out,
    )
    story = DemoStory(screen(stderr=as_json))
    story.open(setting.depth, setting.activation)
    with calm_torch(), shown_progress() as tell:
        done = run_demo(setting, tell, story.show, render, sweep=depth_sweep)
    story.close(done)
    if as_json:
        print(json.dumps(_demo_line(done)))
    return 0


def _demo_line(done: Demo) -> dict[str, Any]:
    """The demo's figures, for machines: accuracies are fractions."""
    ledger = done.report.ledger
    findings = [f for f in done.report.findings if not f.symptom]
    plain: dict[str, Any] = to_plain(
        {
            "accuracy_before": done.before.accuracy,
            "accuracy_after": done.after.accuracy,
            "steps": done.after.steps,
            "causes": [finding.name for finding in findings],
            "remedies": done.fixed.prescription.remedies,
            "edits": done.fixed.prescription.edits,
            "kept": bool(done.fixed.prescription),
            "reason": done.fixed.verdict.reason if done.fixed.verdict else "",
            "seconds": done.seconds,
            "ledger": {
                "total_decades": ledger.total_decades if ledger else None,
                "predicted_decades": ledger.predicted_decades if ledger else None,
                "unexplained_decades": ledger.unexplained_decades if ledger else None,
                "by_cause": ledger.by_cause if ledger else {},
            },
            "depth": done.setting.depth,
            "activation": done.setting.activation,
            "seed": done.setting.seed,
            "sweep": done.sweep,
        }
    )
    plain.update({name: str(path) for name, path in done.files.items()})
    return plain


def _as_screen() -> dict[str, Any]:
    """Width, colour and ASCII as suit this process's own output."""
    from gradmend.renderers.paper import screen, takes_colour
    from gradmend.renderers.tables import Look

    console = screen()
    look = Look.of(console)
    return {"width": console.width, "colour": takes_colour(console), "ascii": look.ascii}


def _takeable(text: str) -> str:
    """Text that stdout takes: ASCII where its encoding or the user's locale knows no more."""
    from gradmend.renderers.tables import wants_ascii
    from gradmend.renderers.visible import to_ascii

    unicode = "utf" in (getattr(sys.stdout, "encoding", "") or "").lower()
    return text if unicode and not wants_ascii() else to_ascii(text)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror})", "", "choose another path"
        ) from None


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"gradmend {version('gradmend')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Finds where the gradients of a network vanish or explode, says why, proves the fix."""
    del show_version  # unused: the callback has spoken
