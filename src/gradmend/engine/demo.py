"""The demo: a network that cannot learn goes in, a proven repair comes out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name everybody uses
from torch import Tensor, nn

from gradmend.engine.budget import deadline_of
from gradmend.engine.examine import with_optimizer
from gradmend.engine.files import write_prescription
from gradmend.engine.prescribe import forbidden_changes, prescribe
from gradmend.engine.repaired import Fix
from gradmend.engine.session import apply, check, fix
from gradmend.errors import BadInput
from gradmend.probe.source import remember_construction
from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.zoo.digits import Digits, load_digits, plain_network
from gradmend.zoo.networks import ACTIVATIONS

BATCH = 64
LEARNING_RATE = 1e-3
"""Adam's default: what the original is trained with."""
MOST_STEPS = 600
"""Steps of the two full trainings, the original's and the repaired one's."""
FULL_TRAINING_SECONDS = 20.0
"""Each full training is cut to about this long (twice that in deep networks); both have
the same number of steps."""
DEEP = 300
"""Layers from which on steps are so slow that trial and trainings get more time."""
SWEEP = (2, 5, 10, 20, 50, 100)

Tell = Callable[[str, float | None], None]
"""Called with what is going on and how much of it is done, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the demo is asked to do."""

    depth: int = 100
    width: int = 64
    activation: str = "sigmoid"
    keep: tuple[str, ...] | None = None
    """What must not change; where not given, see :attr:`kept`."""
    seed: int = 0
    budget: str | None = None
    """Of the trial; 100 s where not given, 150 s in deep networks."""
    folder: Path = Path("gradmend-demo")

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BadInput(
                f"no activation is called '{self.activation}'",
                "",
                f"use one of {', '.join(ACTIVATIONS)}",
            )
        if self.depth < 1 or self.width < 1:
            raise BadInput(
                f"depth {self.depth} and width {self.width} make no network",
                "",
                "both must be at least 1",
            )
        forbidden_changes(self.kept)
        deadline_of(self.budget or "1 s")

    @property
    def kept(self) -> tuple[str, ...]:
        """What must not change: a sigmoid network comes out as plain as it went in.

        Of the others only a residual makes networks of a hundred layers train well.
        """
        if self.keep is not None:
            return self.keep
        plain = ("activations", "architecture")
        return plain if self.activation == "sigmoid" else ("activations",)

    def make_folder(self) -> None:
        """Make the folder that everything is written to, before any work is done.

        Raises:
            BadInput: If it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, "permission denied")
        except OSError as error:
            raise BadInput(
                f"{self.folder} cannot be written ({error.strerror})",
                "the report and the repaired weights go there",
                "choose another folder with --out",
            ) from None


@dataclass(frozen=True, slots=True)
class Training:
    """One full training: losses by step, and accuracy on unseen digits, a fraction."""

    steps: int
    losses: list[tuple[int, float]]
    accuracy: float
    seconds: float


@dataclass(slots=True)
class Demo:
    """What each stage of the demo left behind, for those who show it."""

    setting: Setting
    before: Training
    report: Report
    fixed: Fix
    after: Training
    sweep: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    seconds: float = 0.0


def build(setting: Setting, seed: int) -> nn.Sequential:
    """The network of the demo, its modules known by the lines that built them."""
    with remember_construction():
        return plain_network(setting.depth, setting.width, setting.activation, seed=seed)


@contextmanager
def calm_torch() -> Iterator[None]:
    """Make torch fast at what the demo does, for the length of a block.

    One thread: layers of 64 units are too small to share, and threads that wait for each other
    on a busy machine cost a factor of ten. Denormals to zero: gradients that vanish pass through
    them, and they are many times slower on a CPU. Both change last bits, so nothing but the
    demo's own command uses this.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def run_demo(
    setting: Setting,
    tell: Tell,
    show: Callable[[str, Any], None],
    render: Callable[[Report], str],
    *,
    sweep: bool = False,
) -> Demo:
    """Run the whole story.

    Args:
        setting: What to do.
        tell: Progress.
        show: Called with the name of each finished stage (``before``, ``report``, ``racing``,
            ``fixed``,
            ``after``, ``sweep``) and what it gave.
        render: Turns the report into the page that is written.
        sweep: Also train and repair at several depths.
    """
    began = time.perf_counter()
    setting.make_folder()
    tell("loading 5,000 handwritten digits", None)
    data = load_digits()
    batches = data.batches(BATCH, setting.seed)
    model = build(setting, setting.seed)
    steps = _steps(setting, batches)
    before = train(build(setting, setting.seed), batches, steps, data, setting.seed, tell,
                   "training it as it is")  # fmt: skip
    show("before", before)
    tell("booking the gradient", None)
    report = check(model, batches[0], F.cross_entropy)
    show("report", report)
    show("racing", report)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    fixed = fix(
        model, batches, F.cross_entropy, optimizer=optimizer, val=[data.val], keep=setting.kept,
        budget=setting.budget or ("150 s" if setting.depth >= DEEP else "100 s"),
        seed=setting.seed, tell=tell,
    )  # fmt: skip
    show("fixed", fixed.report)
    demo = Demo(setting=setting, before=before, report=fixed.report, fixed=fixed, after=before)
    plain: nn.Module = model
    if fixed.prescription:
        plain, demo.after = train_repaired(setting, fixed.prescription, batches, steps, data, tell)
    show("after", demo)
    if sweep:
        demo.sweep = _sweep(setting, fixed.prescription, steps, batches, data, tell)
        show("sweep", demo)
    demo.seconds = time.perf_counter() - began
    _write_files(demo, plain, render)
    return demo


def _write_files(demo: Demo, plain: nn.Module, render: Callable[[Report], str]) -> None:
    """Everything a person takes home: report, prescription, lines of Python, weights."""
    names = {
        "report": "report.html",
        "prescription": "prescription.json",
        "python": "repaired.py",
        "model": "model.pt",
    }
    demo.files = {name: demo.setting.folder / file for name, file in names.items()}
    lines = lines_of_python(demo)
    demo.report = replace(
        demo.report,
        facts={
            "accuracy_before": demo.before.accuracy,
            "accuracy_after": demo.after.accuracy,
            "steps": float(demo.after.steps),
            "lines_of_python": lines,
        },
    )
    demo.files["report"].write_text(render(demo.report), encoding="utf-8")
    write_prescription(demo.fixed.prescription, demo.files["prescription"])
    demo.files["python"].write_text(lines, encoding="utf-8")
    torch.save(plain.state_dict(), demo.files["model"])


def lines_of_python(demo: Demo) -> str:
    """A script that builds the network anew, applies the prescription, and trains it."""
    setting = demo.setting
    wrapped = any(edit.kind == "wrap_residual" for edit in demo.fixed.prescription.edits)
    network = f"{setting.depth}, {setting.width}, {setting.activation!r}"
    return f'''"""The demo's repair, applied to a freshly built network."""

from pathlib import Path

import torch
import torch.nn.functional as F

import gradmend
from gradmend.zoo.digits import load_digits, plain_network

torch.set_num_threads(1)  # as the demo ran, so that the figures agree
torch.set_flush_denormal(True)

digits = load_digits()
batches = digits.batches({BATCH}, seed={setting.seed})
model = plain_network({network}, seed={setting.seed + 1})
optimizer = torch.optim.Adam(model.parameters(), lr={LEARNING_RATE})

repaired = gradmend.apply(
    Path(__file__).with_name({demo.files["prescription"].name!r}), model,
    optimizer=optimizer, batches=batches, loss_fn=F.cross_entropy,
)

generator, order = torch.Generator().manual_seed({setting.seed}), []
for step in range({demo.after.steps}):
    order = order or torch.randperm(len(batches), generator=generator).tolist()
    x, y = batches[order.pop()]
    optimizer.zero_grad()
    F.cross_entropy(repaired.model(x), y).backward()
    optimizer.step()

plain = repaired.export()  # {"with its residuals" if wrapped else "the plain architecture"}
right = plain(digits.test[0]).argmax(dim=1) == digits.test[1]
print(f"accuracy on unseen digits: {{right.float().mean():.1%}}")
'''


def _sweep(
    setting: Setting,
    prescription: Prescription,
    steps: int,
    batches: list[tuple[Tensor, Tensor]],
    data: Digits,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Accuracy against depth, as it is and repaired by the remedies that won at full depth.

    Where nothing is found wrong, nothing is repaired: the shallow network is left alone.
    """
    rows = []
    for depth in sorted({d for d in SWEEP if d < setting.depth} | {setting.depth}):
        here = replace(setting, depth=depth)
        model = build(here, setting.seed)
        report = check(model, batches[0], F.cross_entropy)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        offers = prescribe(
            report.findings, with_optimizer(report.trace, optimizer, model), setting.kept
        )
        chosen = _like(prescription, offers.prescriptions) if not report.healthy else None
        text = f"depth {depth}"
        before = train(model, batches, steps, data, setting.seed, tell, f"{text}, as it is")
        after = before
        if chosen is not None:
            _, after = train_repaired(here, chosen, batches, steps, data, tell, f"{text}, repaired")
        rows.append(
            {
                "depth": depth,
                "total_decades": report.trace.total_decades,
                "accuracy_before": before.accuracy,
                "accuracy_after": after.accuracy,
                "remedies": list(chosen.remedies) if chosen is not None else [],
            }
        )
    return rows


def _like(wanted: Prescription, offers: tuple[Prescription, ...]) -> Prescription | None:
    """The offer that shares most remedies with the one that won, the smaller of two."""

    def shared(offer: Prescription) -> int:
        return len(set(offer.remedies) & set(wanted.remedies))

    best = max(offers, key=shared, default=None)
    return best if best is not None and shared(best) else None


def _steps(setting: Setting, batches: list[tuple[Tensor, Tensor]]) -> int:
    """Steps of a full training that take about as long as they may, from a few timed ones."""
    model = build(setting, setting.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    times = []
    for batch in batches[:4]:
        began = time.perf_counter()
        _step(model, optimizer, batch)
        times.append(time.perf_counter() - began)
    pace = min(times)  # the fastest: the first steps, and busy machines, are slower
    seconds = FULL_TRAINING_SECONDS * (2 if setting.depth >= DEEP else 1)
    return max(20, min(MOST_STEPS, int(seconds / pace)))


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def train(
    model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    steps: int,
    data: Digits,
    seed: int,
    tell: Tell,
    text: str,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    judged: Callable[[], nn.Module] | None = None,
) -> Training:
    """Train for ``steps`` and judge on the digits nobody has seen.

    Args:
        model: What is trained.
        batches: Drawn from in an order that ``seed`` decides, anew for each pass.
        steps: Optimizer steps.
        data: Holds the unseen digits.
        seed: Of the order.
        tell: Progress.
        text: What to tell.
        optimizer: Adam at its default rate where not given.
        judged: Gives the model to judge after training, where it is not the trained one.
    """
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    losses: list[tuple[int, float]] = []
    order: list[int] = []
    for step in range(steps):
        if step % 5 == 0:
            tell(text, step / steps)
        if not order:
            order = torch.randperm(len(batches), generator=generator).tolist()
        losses.append((step + 1, _step(model, optimizer, batches[order.pop()])))
        if not math.isfinite(losses[-1][1]):
            break
    final = judged() if judged else model
    with torch.no_grad():
        right = final(data.test[0]).argmax(dim=1) == data.test[1]
    return Training(steps, losses, float(right.double().mean()), time.perf_counter() - began)


def train_repaired(
    setting: Setting,
    prescription: Prescription,
    batches: list[tuple[Tensor, Tensor]],
    steps: int,
    data: Digits,
    tell: Tell,
    text: str = "training it repaired, afresh",
) -> tuple[nn.Module, Training]:
    """A fresh network of the next seed, repaired, trained as long as the original, and exported.

    Judged is the export: the plain network a user would deploy.
    """
    model = build(setting, setting.seed + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    repaired = apply(
        prescription, model, optimizer=optimizer, batches=batches, loss_fn=F.cross_entropy
    )
    training = train(
        repaired.model, batches, steps, data, setting.seed, tell, text,
        optimizer=optimizer, judged=repaired.export,
    )  # fmt: skip
    return repaired.export(), training
