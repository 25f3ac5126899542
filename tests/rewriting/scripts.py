"""Scripts to rewrite: run as they are, with a prescription injected, or as rewritten."""

import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import gradmend
from gradmend.probe.layout import modules_of, optimizer_of
from gradmend.records.prescription import Edit, Prescription
from gradmend.records.script import Place
from gradmend.rewriting import SourceFacts, Suggestion, suggest

FILE = "/somewhere/project/train.py"


@dataclass
class Ran:
    """What a script left behind."""

    space: dict[str, Any]
    built: dict[Any, Place] = field(default_factory=dict)
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)
    model: Any = None


@contextlib.contextmanager
def watched(ran: Ran, file: str, then: Callable[[Any], None] | None) -> Iterator[None]:
    """Note which line of a file builds each module and optimizer."""

    def note(made: Any) -> None:
        frame: Any = sys._getframe(2)
        while frame is not None and (
            frame.f_code.co_filename != file
            or (frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is made)
        ):
            frame = frame.f_back
        if frame is not None:
            text = linecache.getline(file, frame.f_lineno).strip()
            ran.built[made] = Place(file=file, line=frame.f_lineno, text=text)

    module_init, inits, depth = nn.Module.__init__, {}, [0]

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        module_init(self, *args, **kwargs)
        note(self)

    def wrapped(original: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            depth[0] += 1
            try:
                original(self, *args, **kwargs)
            finally:
                depth[0] -= 1
            if not depth[0]:
                note(self)
                ran.optimizers.append(self)
                if then is not None:
                    then(self)

        return init

    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
        inits[kind] = kind.__init__
        kind.__init__ = wrapped(kind.__init__)  # type: ignore[method-assign]
    nn.Module.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = module_init  # type: ignore[method-assign]
        for kind, original in inits.items():
            kind.__init__ = original  # type: ignore[method-assign]


def root_of(ran: Ran, optimizer: torch.optim.Optimizer) -> nn.Module:
    """The largest module built of which an optimizer trains something."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    models = [m for m in ran.built if isinstance(m, nn.Module)]
    fitting = [m for m in models if any(id(p) in held for p in m.parameters())]
    losses = (nn.modules.loss._Loss,)
    fitting = [m for m in fitting if not isinstance(m, losses)]
    return max(fitting, key=lambda m: len(list(m.modules())))


def run(source: str, prescription: Prescription | None = None, file: str = FILE) -> Ran:
    """Run a script; with a prescription, applied as the first optimizer is built."""
    ran = Ran({"__name__": "__main__", "__file__": file})

    def inject(optimizer: torch.optim.Optimizer) -> None:
        if ran.model is None:
            ran.model = root_of(ran, optimizer)
            if prescription is not None:
                gradmend.apply(prescription, ran.model, optimizer=optimizer)

    torch.manual_seed(0)
    with watched(ran, file, inject):
        exec(compile(source, file, "exec", dont_inherit=True), ran.space)
    return ran


def facts_of(source: str, file: str = FILE) -> SourceFacts:
    """What the first steps of a script teach about its source."""
    ran = run(source, file=file)
    model, optimizer = ran.model, ran.optimizers[0]
    return SourceFacts(
        script=file,
        model=type(model).__name__,
        model_place=ran.built.get(model),
        optimizer_place=ran.built.get(optimizer),
        modules={p: ran.built[m] for p, m in model.named_modules() if m in ran.built},
        layout=modules_of(model),
        optimizer=optimizer_of(optimizer, model),
    )


def suggested(source: str, *edits: Edit, file: str = FILE) -> Suggestion:
    """The suggestion for some edits of a script."""
    return suggest({file: source}, Prescription(edits=edits), facts_of(source, file))


def same(source: str, *edits: Edit, exactly: bool = True) -> Suggestion:
    """The suggestion, run: its weights are those of the prescription injected."""
    found = suggested(source, *edits)
    assert found.plain, found.why
    ours = run(found.sources[FILE]).model.state_dict()
    theirs = run(source, Prescription(edits=edits)).model.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        if exactly:
            assert torch.equal(ours[name], value), name
        else:
            torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
    return found


def changes(suggestion: Suggestion) -> list[str]:
    """The changed lines of a diff."""
    lines = suggestion.diff.splitlines()
    return [x for x in lines if x[:1] in "+-" and not x.startswith(("+++", "---"))]
