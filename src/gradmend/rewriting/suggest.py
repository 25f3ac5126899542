"""From a prescription and a script's sources to the diff that a person reviews."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath

from gradmend.records.prescription import Edit, Prescription
from gradmend.rewriting.drawing import initialise
from gradmend.rewriting.facts import SourceFacts, Suggestion, Unclear
from gradmend.rewriting.general import apply_whole
from gradmend.rewriting.options import (
    maximise,
    scale_learning_rate,
    scale_weight_decay,
    set_epsilon,
    set_learning_rate,
)
from gradmend.rewriting.script import Script
from gradmend.rewriting.stepping import clip_gradients, warm_up
from gradmend.rewriting.swapping import follow_module, replace_module, set_dropout
from gradmend.rewriting.verify import check
from gradmend.rewriting.weights import class_prior_bias, scale_weights, set_gates

_PLAIN: dict[str, Callable[[Script, Edit], None]] = {
    "class_prior_bias": class_prior_bias,
    "clip_gradients": clip_gradients,
    "follow_module": follow_module,
    "initialise": initialise,
    "maximise": maximise,
    "replace_module": replace_module,
    "scale_learning_rate": scale_learning_rate,
    "scale_output": scale_weights,
    "scale_weight_decay": scale_weight_decay,
    "scale_weights": scale_weights,
    "set_dropout": set_dropout,
    "set_epsilon": set_epsilon,
    "set_gates": set_gates,
    "set_learning_rate": set_learning_rate,
    "warm_up": warm_up,
}
"""Edits that PyTorch's own words can say, and who says them."""


def suggest(
    sources: Mapping[str, str],
    prescription: Prescription,
    facts: SourceFacts,
    *,
    path: str = "prescription.json",
) -> Suggestion:
    """Change a script's source so that it does what a prescription does.

    In PyTorch's own words where all of its edits can be said in them; else by one line that calls
    ``gradmend.apply`` for the whole. Nothing is written anywhere.

    Args:
        sources: Text of the script's own files by path, as ``facts`` names them.
        prescription: The edits.
        facts: Where the script built its model and its optimizer.
        path: Of the prescription's file, as the changed script will open it.

    Returns:
        The change; where the source does not show where it belongs, ``why`` says so.
    """
    if not prescription.edits:
        return Suggestion(why="nothing is to be changed")
    reason = ""
    for plain in (True, False):
        script = Script(sources, facts)
        try:
            if plain:
                for edit in prescription.edits:
                    if edit.kind not in _PLAIN:
                        raise Unclear(f"PyTorch has no words of its own for '{edit.kind}'")
                    _PLAIN[edit.kind](script, edit)
            else:
                apply_whole(script, prescription, path)
            return _suggestion(script, plain, reason)
        except Unclear as unclear:
            reason = f"{reason}; {unclear}" if reason and str(unclear) != reason else str(unclear)
    return Suggestion(why=f"no change of the source can be shown: {reason}")


def _suggestion(script: Script, plain: bool, reason: str) -> Suggestion:
    changed = {}
    for page in script.pages:
        if page.changed:
            new = page.render()
            check(page.source, new, page.touched)
            changed[page.name] = new
    if not changed:
        raise Unclear("the source says what the edits do already")
    folder = PurePath(script.facts.script).parent
    diff = "".join(
        _unified(script.sources[name], new, _relative(name, folder))
        for name, new in sorted(changed.items(), key=lambda item: item[0] != script.facts.script)
    )
    return Suggestion(
        diff=diff,
        sources=changed,
        plain=plain,
        why="" if plain else reason,
        notes=tuple(dict.fromkeys(script.notes)) if plain else (),
    )


def _relative(name: str, folder: PurePath) -> str:
    """A file's path in the script's folder; its name alone where it lies elsewhere."""
    path = PurePath(name)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _unified(old: str, new: str, name: str) -> str:
    """A unified diff as ``git apply`` and ``patch`` read it."""
    before, after = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old, new))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
