"""What gradmend says of other people's architectures: ``python3 dev.py bench third_party``.

Every architecture that can be built small from its configuration, with the authors' own initial
weights and made-up data that can be learnt (``_third_party_*.py``), is looked at once
(``gradmend.check``) and trained for some steps under ``gradmend.watch``. Whatever is said at or
above a warning is an alarm; the course of the loss beside it tells whether the net learns all the
same. Needs the extra ``zoo``; packages that are not installed are left out.

Results go to a file of JSON lines, one for each architecture and way; what is there already is not
done again. ``--tables`` prints the file. Half of the architectures, by a hash of their names, were
never looked at while limits were set: they are the column "unseen".
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import io
import json
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _third_party_subjects import Build, Subject
from _third_party_tables import tables

import gradmend

SOURCES: dict[str, tuple[str, str]] = {
    "transformers": ("_third_party_transformers", "source"),
    "timm": ("_third_party_pictures", "timm_source"),
    "x-transformers": ("_third_party_others", "x_transformers_source"),
    "vit-pytorch": ("_third_party_pictures", "vit_pytorch_source"),
    "torchvision": ("_third_party_pictures", "torchvision_source"),
    "pyg": ("_third_party_graphs", "graph_source"),
    "smp": ("_third_party_maps", "smp_source"),
    "monai": ("_third_party_maps", "monai_source"),
    "diffusion": ("_third_party_maps", "diffusion_source"),
    "zuko": ("_third_party_others", "density_source"),
    "rtdl": ("_third_party_others", "table_source"),
    "odd": ("_third_party_others", "odd_source"),
}


class TookTooLong(BaseException):
    """No ``Exception``: nobody but us shall catch it."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--sources", help=f"of {','.join(SOURCES)}; default: all")
    parser.add_argument("--only", default="", help="names that contain one of these, by commas")
    parser.add_argument("--ways", default="look,watch", help="look, watch, or both")
    parser.add_argument("--limit", type=int, help="stop after so many architectures")
    parser.add_argument("--seed", type=int, default=0, help="of the training's batches")
    parser.add_argument("--steps", type=int, default=60, help="of a training")
    parser.add_argument("--share", default="0/1", help="I/N: every Nth architecture, from the Ith")
    parser.add_argument("--seconds", type=int, default=60, help="for an architecture, at most")
    parser.add_argument("--results", type=Path, default=Path("third_party.jsonl"))
    parser.add_argument("--tables", action="store_true", help="print what is in the file, only")
    parser.add_argument(
        "--large", action="store_true", help="time a look at 100 M parameters, only"
    )
    parser.add_argument("--quick", action="store_true", help="a few that need no package")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sources, arguments.only, arguments.steps = "odd", "torch/", 10
    if arguments.large:
        print(large())
        return
    if not arguments.tables:
        for name, build in chosen(arguments):
            for way in arguments.ways.split(","):
                attempt(name, build, way, arguments)
    print(tables(read(arguments.results)))


def chosen(arguments: argparse.Namespace) -> Iterator[tuple[str, Build]]:
    """The architectures asked for that are not in the file yet."""
    sources = (arguments.sources or ",".join(SOURCES)).split(",")
    done = {(r["name"], r["way"]) for r in read(arguments.results)}
    part, parts = map(int, arguments.share.split("/"))
    number = taken = 0
    for source in sources:
        module, function = SOURCES[source]
        try:
            with quiet():
                every = list(getattr(importlib.import_module(module), function)())
        except ImportError as error:
            print(f"{source}: left out, {error}", file=sys.stderr)
            continue
        for name, build in every:
            if not any(part in name for part in arguments.only.split(",")):
                continue
            number += 1
            if number % parts != part:
                continue
            if all((name, way) in done for way in arguments.ways.split(",")):
                continue
            if taken == arguments.limit:
                return
            taken += 1
            yield name, build


def attempt(name: str, build: Build, way: str, arguments: argparse.Namespace) -> None:
    """One architecture in one way; the line is begun first, so a dead process is not repeated."""
    written = read(arguments.results)
    if any(r["name"] == name and r["way"] == way for r in written):
        return
    if any(r["name"] == name and "failed" in r for r in written):
        return
    line: dict[str, Any] = {"name": name, "way": way, "unseen": unseen(name)}
    began = time.perf_counter()
    say(f"{name} {way}")
    write(arguments.results, line | {"died": True})
    stage = "build"
    with limited(arguments.seconds), quiet() as silenced:
        try:
            subject = build()
            line["parameters"] = sum(p.numel() for p in subject.model.parameters())
            line["note"] = subject.note
            stage = way
            torch.manual_seed(arguments.seed)
            line |= {"look": looked_at, "watch": watched}[way](subject, arguments)
        except TookTooLong:
            line["late" if stage != "build" else "failed"] = (
                f"over {arguments.seconds} s in {stage}"
            )
        except gradmend.GradmendError as error:
            line["refused"] = str(error)
            try:
                subject.loss(subject.batch(0)).backward()
            except Exception as own:  # it is not gradmend's doing
                del line["refused"]
                line["failed"] = f"{type(own).__name__}: {own}"[:600]
        except Exception as error:
            text = f"{type(error).__name__}: {error}"[:600]
            if stage == "build" or isinstance(error, ImportError):
                line["failed"] = text
            else:
                line["crash"] = text
                line["traceback"] = traceback.format_exc()[-1500:]
    del silenced
    line["seconds"] = round(time.perf_counter() - began, 2)
    replace_last(arguments.results, line)
    gc.collect()


def looked_at(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """One look with a batch, in train mode, and what it left behind."""
    batch = subject.batch(arguments.seed)
    before = fingerprint(subject)
    began, busy = time.perf_counter(), time.process_time()
    report = gradmend.check(subject.model, batch, subject.loss_fn)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    line = findings(report) | {"check": round(seconds, 3), "check_cpu": round(cpu, 3)}
    if fingerprint(subject) != before:
        line["marks"] = True
    loss = subject.loss(batch)  # the first is slower
    loss.backward()
    began, busy = time.perf_counter(), time.process_time()
    subject.loss(batch).backward()
    line["step"] = round(time.perf_counter() - began, 4)
    line["step_cpu"] = round(time.process_time() - busy, 4)
    line["losses"] = [round(float(loss), 4)]
    return line


def watched(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    """A training under watch."""
    parameters = [p for p in subject.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=subject.rate)
    losses = []
    with gradmend.watch(subject.model, optimizer, budget="all") as watch:
        for number in range(arguments.steps):
            optimizer.zero_grad()
            loss = subject.loss(subject.batch(1 + number + 1000 * arguments.seed))
            loss.backward()
            optimizer.step()
            losses.append(round(float(loss), 4))
    report = watch.report()
    notes = [e.text for e in watch.history().events if e.kind in ("note", "failed", "trouble")]
    return findings(report) | {"losses": losses, "notes": notes[:6]}


def large() -> str:
    """What a look takes beside a training step, on a GPT-2 of 110 M parameters."""
    from _third_party_subjects import let_torchvision_in, words

    let_torchvision_in()
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32000)).train()
    ids = words(0, 4, 128)
    batch = {"input_ids": ids, "labels": ids}
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    def look() -> None:
        told.append(str(gradmend.check(model, batch, lambda output, _: output.loss)))

    def timed(work: Callable[[], None]) -> tuple[float, float]:
        began, busy = time.perf_counter(), time.process_time()
        work()
        return time.perf_counter() - began, time.process_time() - busy

    told: list[str] = []
    step()
    with quiet():
        taken = {name: timed(work) for name, work in (("step", step), ("check", look))}
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    times = ", ".join(
        f"{name} {wall:.1f} s ({cpu:.1f} s of CPU)" for name, (wall, cpu) in taken.items()
    )
    return f"GPT-2, {parameters:.0f} M parameters, 4 x 128 words: {times}. {told[0]}"


def findings(report: gradmend.Report) -> dict[str, Any]:
    """What was said."""
    return {
        "findings": [
            {
                "name": f.name,
                "severity": f.severity.value,
                "modules": list(f.modules[:4]),
                "summary": f.summary,
                "explained": f.explained_by,
                "evidence": [
                    [e.quantity, e.observed, e.limit, e.module, e.step] for e in f.evidence[:6]
                ],
            }
            for f in report.findings
        ]
    }


def fingerprint(subject: Subject) -> str:
    """Of weights, buffers, flags, gradients and random state."""
    seen = hashlib.sha256()
    tensors = [*subject.model.parameters(), *subject.model.buffers(), torch.get_rng_state()]
    for tensor in tensors:
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        seen.update(whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
        seen.update(str(tensor.grad is None).encode())
    seen.update(str([m.training for m in subject.model.modules()]).encode())
    return seen.hexdigest()


def unseen(name: str) -> bool:
    """Whether an architecture is of the half that limits are not set by."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Other people's packages talk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise after some seconds, where the system has alarms."""

    def late(*_: Any) -> None:
        raise TookTooLong

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    except TookTooLong:  # it came while a failure was being written down
        pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def say(text: str) -> None:
    """To whoever sits there."""
    print(text, file=sys.__stderr__, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(path: Path, line: dict[str, Any]) -> None:
    """Add a line."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def replace_last(path: Path, line: dict[str, Any]) -> None:
    """Put a result where its beginning stands."""
    lines = path.read_text().splitlines()[:-1]
    scratch = path.with_suffix(".part")
    scratch.write_text("\n".join([*lines, json.dumps(line)]) + "\n")
    scratch.replace(path)


if __name__ == "__main__":
    main()
