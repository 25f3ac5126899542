"""Repairs: planted and published faults, fixed, built anew, trained again, judged on unseen data.

``python3 dev.py bench repair`` hands sick trainings to ``gradmend.fix``, applies what it prescribes
to freshly built models with three other seeds, trains them for exactly as long as the original, and
compares with the healthy twin, with the original given the steps that finding the repair took, and,
with ``--random``, with a random search over the same edits and steps. ``--healthy`` does the same
to healthy trainings, which ``fix`` must leave alone or not make worse. Remedies may be tuned on
``--split fit``; the figures to quote are those of ``--split report``.

Each subject is a line of ``--out`` (JSON), and a line that is there is not measured again: the
command can be cut short and repeated. ``--minutes`` stops in time; any beginning of the list is a
fair sample of it. ``--summary`` only prints the tables.

A fault counts where an edit of model, loss, data or optimizer can mend it (``_repair_subjects``
says which can not, and why), and where the sick training ends measurably worse than its twin.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _repair_judge import Row
from _repair_measure import measure
from _repair_subjects import Subject, subjects
from _repair_tables import healthy as healthy_table
from _repair_tables import summary


def main() -> None:
    """Measure what is not yet measured, and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--split", choices=("fit", "report"), default="report")
    parser.add_argument("--set", choices=("planted", "published", "both"), default="both")
    parser.add_argument("--healthy", action="store_true", help="healthy trainings, no faults")
    parser.add_argument("--mendable", action="store_true", help="only what an edit can mend")
    parser.add_argument("--random", action="store_true", help="random search beside it")
    parser.add_argument("--per", type=int, default=1, help="settings for each planted pair")
    parser.add_argument("--only", help="causes, faults or architectures, with commas")
    parser.add_argument("--limit", type=int, help="subjects at most")
    parser.add_argument("--minutes", type=float, help="stop after so many")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/repair.jsonl"))
    parser.add_argument("--summary", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = read(arguments.out)
    if not arguments.summary:
        done = {row["case"] for row in kept if not arguments.random or compared(row)}
        listed = subjects(arguments.set, arguments.split, arguments.healthy, arguments.per)
        listed = (s for s in listed if not (arguments.mendable and s.advice))
        chosen = [s for s in listed if asked_for(s, arguments.only)][: arguments.limit]
        until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("a") as file:
            missing = [s for s in chosen if s.name not in done]
            for row in measured(missing, arguments, until):
                file.write(json.dumps(row) + "\n")
                file.flush()
                kept.append(row)
    latest = {row["case"]: row for row in kept}
    mine = [
        row
        for row in latest.values()
        if row["split"] == arguments.split
        and arguments.set in ("both", row["set"])
        and row["planted"] != arguments.healthy
        and (
            not arguments.only
            or {row["cause"], row["what"], row["arch"]} & {*arguments.only.split(",")}
        )
    ]
    print(healthy_table(mine) if arguments.healthy else summary(mine))


def read(path: Path) -> list[Row]:
    """The rows of a file; a line cut short is left out."""
    rows = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return rows


def compared(row: Row) -> bool:
    """Whether random search stands beside a row, where it belongs there."""
    return "random" in row or row["harm"] != "worse" or bool(row["not_by_edit"])


def asked_for(subject: Subject, only: str | None) -> bool:
    """Whether one of a subject's names is on a list, where there is one."""
    return not only or bool({subject.cause, subject.what, subject.arch} & {*only.split(",")})


def measured(work: Sequence[Subject], arguments: argparse.Namespace, until: float) -> Iterator[Row]:
    """Rows as they come."""
    began = time.monotonic()
    if arguments.jobs == 1:
        for number, subject in enumerate(work):
            if time.monotonic() > until:
                break
            yield from safely(subject, arguments.random)
            tell(number + 1, len(work), began)
        return
    jobs = arguments.jobs
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for at in range(0, len(work), 4 * jobs):
            if time.monotonic() > until:
                break
            group = work[at : at + 4 * jobs]
            for rows in pool.map(safely, group, [arguments.random] * len(group)):
                yield from rows
            tell(min(at + 4 * jobs, len(work)), len(work), began)


def safely(subject: Subject, random: bool) -> list[Row]:
    """Measure, or say why that failed: a benchmark's own error, which is in no figure."""
    torch.set_num_threads(1)
    try:
        return [measure(subject, random)]
    except Exception as error:
        print(f"{subject.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return []


def tell(done: int, of: int, began: float) -> None:
    """How far it is, on stderr."""
    if done % 10 == 0 or done == of:
        pace = (time.monotonic() - began) / done
        print(
            f"{done} of {of} subjects, {pace:.1f} s each, {pace * (of - done) / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


if __name__ == "__main__":
    main()
