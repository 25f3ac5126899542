"""The form that is always right: the prescription applied where model and optimizer are built."""

from __future__ import annotations

from typing import Any

from gradmend.records.prescription import Edit, Prescription
from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.page import Page, last_name
from gradmend.rewriting.places import Anchor, rebound
from gradmend.rewriting.script import Script, add_import

_IN_PLACE = frozenset(
    {"balance_layers", "bound_recurrence", "draw_recurrence", "initialise", "register_modules",
     "rescale_by_data", "revive_units", "scale_rows", "scale_to_gain", "scale_weights",
     "set_dropout", "set_gates", "train_mode", "unfreeze_parameters", "add_parameters"}
)  # fmt: skip
"""Edits that never put anything in the model's own place."""
_MEASURING = frozenset({"rescale_by_data", "revive_units"})
"""Edits that look at a batch."""
_ELSEWHERE = {
    "scale_loss": "the loss itself is scaled, which is a line of your training loop",
    "drop_non_finite_samples": "samples are left out of batches, which is a line of your data",
}
"""Edits that reach beyond model and optimizer, and what that means for the source."""


def apply_whole(script: Script, prescription: Prescription, path: str) -> None:
    """``gradmend.apply(...)`` behind the line that builds the optimizer.

    Args:
        script: To be changed.
        prescription: What is applied.
        path: Of its file, as the script will open it.

    Raises:
        Unclear: If the source does not show what model and optimizer are called there.
    """
    for edit in prescription.edits:
        if edit.kind in _ELSEWHERE:
            raise Unclear(_ELSEWHERE[edit.kind])
    if script.facts.optimizer_place is None:
        _behind_model(script, prescription, path)
        return
    found = script.optimizer
    page = found.page
    function = page.function(found.named)
    model = _model_beside(script, found, function)
    replaced = any(_replaces_root(edit) for edit in prescription.edits)
    if replaced and not _owns(script, page, function, model):
        raise Unclear("the model itself is replaced, where it is not held under its own name")
    add_import(page, "gradmend")
    name = found.name
    if not name:
        name = page.fresh("optimizer", "built_optimizer")
        _name_what_is_returned(page, found, name)
    given = [page.string(path), model, f"optimizer={name}", *_data(script, prescription, function)]
    call = f"gradmend.apply({', '.join(given)})"
    code = f"{model} = {call}.model" if replaced else call
    if len(code) > page.room(found.named):
        listed = "".join(f"    {part},\n" for part in given)
        code = code.replace(call, f"gradmend.apply(\n{listed})")
    if found.name:
        page.insert_after(found.named, code)
    else:
        page.insert_after(found.statement, f"{code}\nreturn {name}")


def _behind_model(script: Script, prescription: Prescription, path: str) -> None:
    """Where no optimizer of torch's trains the model."""
    found = script.model
    if not found.name:
        raise Unclear("the line that builds the model gives it no name")
    page = found.page
    add_import(page, "gradmend")
    replaced = any(_replaces_root(edit) for edit in prescription.edits)
    data = _data(script, prescription, page.function(found.named))
    call = f"gradmend.apply({', '.join([page.string(path), found.name, *data])})"
    page.insert_after(found.named, f"{found.name} = {call}.model" if replaced else call)


def _model_beside(script: Script, optimizer: Anchor, function: Any) -> str:
    """What the model is called where the optimizer is built."""
    page = optimizer.page
    try:
        model = script.model
    except Unclear as reason:
        named = _parameters_of(page, optimizer) if script.facts.trains_everything else None
        if named is None:
            raise reason from None
        return named
    if model.page is page:
        wrapped = rebound(page, model)
        if wrapped:
            line = page.span(wrapped[0])[0]
            raise Unclear(f"line {line} puts something else in the model's place")
        known = script.model_in(page, function)
        if known is not None and _comes_first(page, model, optimizer):
            return known
    named = _parameters_of(page, optimizer) if script.facts.trains_everything else None
    if named is None:
        raise Unclear("the source does not show what the model is called beside its optimizer")
    return named


def _comes_first(page: Page, model: Anchor, optimizer: Anchor) -> bool:
    """Whether the model has its name before the optimizer has its own, as far as lines tell."""
    if page.function(model.named) is not page.function(optimizer.named):
        return True
    return page.span(model.named)[0] <= page.span(optimizer.named)[0]


def _parameters_of(page: Page, optimizer: Anchor) -> str | None:
    """``model`` of ``Adam(model.parameters())``."""
    import libcst as cst

    if optimizer.named is not optimizer.statement:
        return None
    named = {
        page.code(call.func.value)
        for arg in optimizer.call.args
        for call in page.inside(arg, cst.Call)
        if isinstance(call.func, cst.Attribute)
        and last_name(call.func) in ("parameters", "named_parameters")
    }
    return named.pop() if len(named) == 1 else None


def _owns(script: Script, page: Page, function: Any, name: str) -> bool:
    """Whether a new model under the name is what the rest of the script goes on with."""
    try:
        model = script.model
    except Unclear:
        return False
    return model.page is page and page.function(model.named) is function and model.name == name


def _name_what_is_returned(page: Page, found: Anchor, name: str) -> None:
    """``return Adam(...)`` as ``optimizer = Adam(...)``."""
    import libcst as cst

    small = page.up(found.call, cst.Return)
    if not found.returned or small is None or page.parent(small) is not found.statement:
        raise Unclear("the line that builds the optimizer gives it no name")
    page.take(name)

    def change(old: Any) -> Any:
        space = old.whitespace_after_return
        del space
        return cst.Assign([cst.AssignTarget(cst.Name(name))], old.value, semicolon=old.semicolon)

    page.change(small, change)


def _replaces_root(edit: Edit) -> bool:
    return "" in edit.targets and edit.kind not in _IN_PLACE


def _data(script: Script, prescription: Prescription, function: Any) -> list[str]:
    """``batches=`` and ``loss_fn=`` for edits that measure."""
    import libcst as cst

    if not any(edit.kind in _MEASURING for edit in prescription.edits):
        return []
    page = script.optimizer.page if script.facts.optimizer_place else script.model.page
    loops = []
    for loop in page.inside(function, cst.For):
        calls = [last_name(call.func) for call in page.inside(loop, cst.Call)]
        inner = any(other is not loop for other in page.inside(loop.body, cst.For))
        if "backward" in calls and "step" in calls and not inner:
            loops.append(loop)
    reason = "an edit measures a batch, and the source does not show data and loss by name"
    if len(loops) != 1:
        raise Unclear(reason)
    (loop,) = loops
    moved = any(last_name(c.func) in ("to", "cuda") for c in page.inside(loop, cst.Call))
    losses = {
        page.code(call.func)
        for call in page.inside(loop, cst.Call)
        if len(call.args) == 2
        and isinstance(call.func, cst.Name | cst.Attribute)
        and isinstance(loop.target, cst.Tuple)
        and len(loop.target.elements) == 2
        and page.code(call.args[1].value) == page.code(loop.target.elements[1].value)
    }
    if moved or len(losses) != 1 or not isinstance(loop.iter, cst.Name):
        raise Unclear(reason)
    batches, loss = page.code(loop.iter), losses.pop()
    end = page.span(script.optimizer.named)[0]
    for name in (batches, loss.split(".")[0]):
        bound = [
            page.span(target)[0]
            for target in page.nodes((cst.AssignTarget, cst.ImportAlias, cst.FunctionDef))
            if name in page.code(target).split("(")[0].replace(",", " ").split()
        ]
        if not any(line < end for line in bound):
            raise Unclear(reason)
    return [f"batches={batches}", f"loss_fn={loss}"]
