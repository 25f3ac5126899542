"""The confusion matrix: planted faults against all rules, and silence on healthy trainings.

``python3 dev.py bench confusion`` plants each fault into each architecture it can live in, trains
under ``gradmend.watch``, looks with ``gradmend.check`` at one batch and after fifty steps, and
compares what is named first with what was planted. ``--healthy`` runs what a healthy training may
do instead. Limits may be fitted on ``--split fit``; the figures to quote are those of ``--split
report``, whose architectures, sizes, optimizers and seeds are others.

Each measured cell is a line of ``--out`` (JSON), and a line that is there is not measured again:
the command can be cut short and repeated. ``--minutes`` stops in time, ``--limit`` after so many
trainings; any beginning of the list is a fair sample of it. ``--summary`` only prints the tables.

A fault counts where it is a plain mistake (an exact one), or where the sick training ends
measurably worse than its healthy twin; the others are told apart as harmless.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from planted.cells import Case, cases, measure
from planted.plants import LOOK, PLANTS
from planted.score import confusion, counts, mentioned, share, silence, table

Row = dict[str, Any]


def main() -> None:
    """Measure what is not yet measured, and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--split", choices=("fit", "report"), default="report")
    parser.add_argument("--healthy", action="store_true", help="healthy trainings, no faults")
    parser.add_argument("--per", type=int, default=1, help="settings for each pair (default 1)")
    parser.add_argument("--only", help="causes, plants or architectures, with commas")
    parser.add_argument("--entry", help=f"of {','.join(LOOK)}; default: all")
    parser.add_argument("--limit", type=int, help="trainings at most")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/confusion.jsonl"))
    parser.add_argument("--again", type=int, help="measure so many anew, and compare")
    parser.add_argument("--summary", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    entries = tuple(arguments.entry.split(",")) if arguments.entry else LOOK
    for unknown in {*entries} - {*LOOK}:
        parser.error(f"there is no entry {unknown}")
    torch.set_num_threads(1)
    kept = read(arguments.out)
    if not arguments.summary:
        chosen = [
            case
            for case in cases(arguments.split, not arguments.healthy, arguments.per)
            if asked_for(names_of(case), arguments.only)
        ][: arguments.limit]
        if arguments.again:
            print(again(chosen, entries, kept, arguments.again))
            return
        until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            for row in measured(missing(chosen, entries, kept), arguments.jobs, until):
                file.write(json.dumps(row) + "\n")
                file.flush()
                kept.append(row)
    mine = [
        row
        for row in kept
        if row["case"].endswith(f"/{arguments.split}")
        and row["entry"] in entries
        and row["planted"] != arguments.healthy
        and asked_for({row["cause"], row["what"], row["arch"]}, arguments.only)
    ]
    print(summary(mine) if not arguments.healthy else silence(mine))


def read(path: Path) -> list[Row]:
    """The rows of a file; a line cut short is left out."""
    rows = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return rows


def names_of(case: Case) -> set[str]:
    """By which a case can be asked for: cause, plant or architecture."""
    return {PLANTS[case.what].cause if case.planted else "", case.what, case.arch}


def asked_for(names: set[str], only: str | None) -> bool:
    """Whether one of the names is on a list, where there is one."""
    return not only or bool(names & {*only.split(",")})


def missing(
    chosen: Sequence[Case], entries: Sequence[str], kept: Sequence[Row]
) -> list[tuple[Case, tuple[str, ...]]]:
    """Cases with the entries that no row has; the watch with them, as it says what the harm is."""
    done = {(row["case"], row["entry"]) for row in kept}
    found = []
    for case in chosen:
        open_ = [e for e in case.entries if e in entries and (case.name, e) not in done]
        if open_:
            found.append((case, tuple(dict.fromkeys([*open_, "watch"]))))
    return found


def measured(
    work: Sequence[tuple[Case, tuple[str, ...]]], jobs: int, until: float
) -> Iterator[Row]:
    """Rows as they come."""
    began, done = time.monotonic(), 0
    if jobs == 1:
        for case, entries in work:
            if time.monotonic() > until:
                break
            yield from safely(case, entries)
            done += 1
            tell(done, len(work), began)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for at in range(0, len(work), 4 * jobs):
            if time.monotonic() > until:
                break
            for rows in pool.map(safely, *zip(*work[at : at + 4 * jobs], strict=True)):
                yield from rows
                done += 1
            tell(done, len(work), began)


def safely(case: Case, entries: tuple[str, ...]) -> list[Row]:
    """Measure, or say why that failed: a benchmark's own error, which is in no figure."""
    try:
        return measure(case, entries)
    except Exception as error:
        print(f"{case.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return []


def tell(done: int, of: int, began: float) -> None:
    """How far it is, on stderr."""
    if done % 10 == 0 or done == of:
        pace = (time.monotonic() - began) / done
        print(
            f"{done} of {of} trainings, {pace:.1f} s each, {pace * (of - done) / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def again(chosen: Sequence[Case], entries: Sequence[str], kept: Sequence[Row], number: int) -> str:
    """Measure cells that are there once more: how many give the same findings."""
    before = {(row["case"], row["entry"]): row for row in kept}
    same: Counter[str] = Counter()
    of: Counter[str] = Counter()
    lines = []
    there = [case for case in chosen if any((case.name, e) in before for e in entries)]
    for case in there[:number]:
        for row in measure(case, tuple({*case.entries} & {*entries} | {"watch"})):
            old = before.get((row["case"], row["entry"]))
            if old is None or row["entry"] not in entries:
                continue
            of[row["entry"]] += 1
            if (old["first"], old["named"][:1]) == (row["first"], row["named"][:1]):
                same[row["entry"]] += 1
            else:
                lines.append(f"{row['case']} {row['entry']}: {old['first']} -> {row['first']}")
    head = [f"{entry}: {same[entry]} of {of[entry]} the same first finding" for entry in of]
    return "\n".join([*head, *lines])


def summary(rows: Sequence[Row]) -> str:
    """All tables of planted faults."""
    scored = [row for row in rows if counts(row)]
    cells = {row["case"] for row in rows}
    states = Counter(
        {r["case"]: r["harm"] + ", a plain mistake" * r["exact"] for r in rows}.values()
    )
    parts = [
        f"{len(cells)} sick trainings: " + ", ".join(f"{n} {k}" for k, n in states.items())
        + f"; {len(scored)} cells scored, {len({r['cause'] for r in scored})} causes,"
        f" {len({r['arch'] for r in scored})} architectures.",
        table(scored, "entry", "by entry"),
        table(scored, "arch", "by architecture"),
        table(scored, "cause", "by cause"),
        confusion(scored),
    ]  # fmt: skip
    mild = [row for row in scored if row["harm"] == "harmless"]
    if mild:
        known = sum(map(mentioned, mild))
        parts.append(
            f"Of these, {len(mild)} cells are plain mistakes that cost nothing measurable; there,"
            f" the cause is named first, be it as a note, in {share(known, len(mild))}."
        )
    errors = Counter(row["error"] for row in scored if row["error"])
    parts += [f"raised {n} times: {text}" for text, n in errors.most_common(10)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
