"""A prescription put into somebody's script as it builds its model and optimizer.

The script knows nothing of it. A prescription names parts of one model; the model is edited at the
first moment when it is complete: an optimizer holds most of it, and a scheduler is built, gradients
are cleared, a checkpoint is made or read, or the model is called to be trained. Edits that look at
data wait for the first batch of the training. What a script holds stays the same object.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradmend.edits.bench import find
from gradmend.errors import CannotApply, GradmendError
from gradmend.integrations.choosing import Choice
from gradmend.integrations.matching import MOST, missing, optimizer_of
from gradmend.integrations.patches import Patches
from gradmend.integrations.treating import (
    BY_DATA,
    OF_OPTIMIZERS,
    Applied,
    Call,
    edited_loss,
    names_after,
    treat,
    treat_again,
)
from gradmend.records.prescription import Prescription
from gradmend.records.script import Place


class NothingTrained(SystemExit):
    """Ends a script whose model the prescription does not fit, before it trains untreated."""


def _stop(reason: str) -> NoReturn:
    raise NothingTrained(2) from CannotApply(reason)


class Injection:
    """Edits the models of this process that a prescription is for, as they come.

    Args:
        prescription: Edits of one model. Its ``model`` names the class that is looked for; a model
            of another class that has all targets is taken if none of that class has been built by
            the time of its training.
        seed: Added to the seeds of what the edits draw.
        tell: Called with each model that got its edits.
        refuse: Called with a sentence where the prescription does not fit; must not return. Called
            again at every step that the script still tries to take.
        place: The line that built the model, where known: it tells two ``nn.Sequential`` apart.
    """

    def __init__(
        self,
        prescription: Prescription,
        *,
        seed: int = 0,
        tell: Callable[[Applied], None] = lambda applied: None,
        refuse: Callable[[str], NoReturn] = _stop,
        place: Place | None = None,
    ) -> None:
        self.prescription, self.seed = prescription, seed
        self._choice = Choice(prescription, place or _built_at(prescription))
        self.applied: list[Applied] = []
        self.refused: str | None = None
        self.deaf: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered while the edits run: whoever listens to the training must not hear them."""
        self._tell, self._refuse = tell, refuse
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._new: list[weakref.ref[Optimizer]] = []  # not known yet what they train
        self._scheduled: set[int] = set()
        self._eval_calls: dict[int, Call] = {}
        self._parts: dict[int, tuple[weakref.ref[nn.Module], str | None]] = {}
        self._patches, self._armed = Patches(), Patches()
        self._busy = False
        self._by_data = any(edit.kind in BY_DATA for edit in prescription.edits)

    # ---- where torch is listened to

    def open(self) -> None:
        """Begin; before the script builds anything."""

        def made(module: nn.Module, *_: Any, **__: Any) -> None:
            self._choice.models.add(module)

        self._patches.after(nn.Module, "__init__", made)
        # Copies and pickles are not built: torch's own way of filling them is heard instead.
        self._patches.after(nn.Module, "__setstate__", made)
        self._patches.after(Optimizer, "__init__", self._optimizer_made)
        self._patches.wrap(torch.autograd, "backward", self._backward)
        self._patches.add(register_optimizer_step_pre_hook(self._before_step).remove)

    def close(self) -> None:
        """Put everything back; edits stay."""
        self._disarm()
        self._patches.close()

    def _arm(self) -> None:
        """Somebody's optimizer is new: from here on any use of it or of its model counts."""
        armed = self._armed
        if armed:
            return

        def used(*_: Any, **__: Any) -> None:
            self._touch(late=False)

        def trains(*_: Any, **__: Any) -> None:
            self._touch(late=True)

        for scheduler in (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau):
            armed.before(scheduler, "__init__", self._scheduler_made)
        armed.before(torch, "compile", used)
        armed.before(Optimizer, "state_dict", used)
        armed.before(nn.Module, "state_dict", self._saved)
        armed.before(nn.Module, "load_state_dict", self._loaded)
        armed.before(Optimizer, "load_state_dict", self._optimizer_loaded)
        armed.before(Optimizer, "zero_grad", trains)
        # What every module's call looks up anew, whoever has wrapped or bound `__call__` before.
        armed.wrap(nn.Module, "_call_impl", self._called)

    def _disarm(self) -> None:
        self._armed.close()
        self._parts = {}
        self._eval_calls = {}

    def _optimizer_made(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        self._optimizers = [ref for ref in self._optimizers if ref() is not None]
        self._scheduled &= {id(ref()) for ref in self._optimizers}
        self._optimizers.append(weakref.ref(optimizer))
        self._new.append(weakref.ref(optimizer))
        self._choice.models.changed = True
        self._arm()

    def _scheduler_made(self, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        del scheduler  # unused: it is not built yet
        optimizer = args[0] if args else kwargs.get("optimizer")
        # Before the edits: a scheduler of some kinds has counted the groups by now.
        self._scheduled.add(id(optimizer))
        self._touch(late=False)

    def _saved(self, module: nn.Module, *_: Any, **__: Any) -> None:
        self._refresh_parts()
        if id(module) in self._parts:
            self._touch(late=False)

    def _loaded(self, module: nn.Module, state_dict: Any = None, *_: Any, **__: Any) -> None:
        """A checkpoint is read: one from before the edits must be in the model before they are."""
        self._refresh_parts()
        whole = self._parts.get(id(module), (None, None))[1] == ""
        if not whole or not self._names_change(module, state_dict):
            self._touch(late=False)

    def _names_change(self, root: nn.Module, state: Any) -> bool:
        """Whether a checkpoint fits the model as it is, and would not once it is edited.

        Where the edits change no name, a checkpoint may well be one of an edited model: then it is
        read into the edited one, and nothing that was trained is drawn anew.
        """
        if self._busy or not self._new:
            return False
        self._busy = True
        try:
            now = set(root.state_dict())
            after = names_after(root, self.prescription.edits)
        finally:
            self._busy = False
        fits = state is None or (isinstance(state, Mapping) and set(state) == now)
        return fits and after is not None and after != now

    def _optimizer_loaded(
        self, optimizer: Optimizer, state_dict: Any = None, *_: Any, **__: Any
    ) -> None:
        """The same for the state of an optimizer, which has numbers and no names."""
        groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
        if groups is not None and not self._busy and self._new:
            held = [len(group["params"]) for group in optimizer.param_groups]
            fits = [len(group.get("params", ())) for group in groups] == held
            candidates = self._choice.candidates(late=False) if fits else []
            mine = (root for root in candidates if optimizer_of(root, [optimizer])[1] > MOST)
            if any(self._names_change(root, None) for root in mine):
                return
        self._touch(late=False)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs  # unused: torch's signature
        if self.refused is not None:
            self._refuse(self.refused)
        if any(ref() is optimizer for ref in self._new):
            self._touch(late=True, stepping=optimizer)

    def _backward(self, original: Any) -> Any:
        def ours(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if any(each.loss_changes for each in self._choice.treated):
                several = (tensors,) if isinstance(tensors, Tensor) else tensors
                tensors = tuple(edited_loss(loss, self._choice.treated) for loss in several)
            return original(tensors, *args, **kwargs)

        return ours

    def _called(self, original: Any) -> Any:
        def ours(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if (
                torch.compiler.is_compiling()
                or not self._armed
                or self._busy
                or not torch.is_grad_enabled()
            ):
                return original(module, *args, **kwargs)
            self._refresh_parts()
            ref, path = self._parts.get(id(module), (None, None))
            root = ref() if ref is not None else None
            if root is None:
                return original(module, *args, **kwargs)
            whole = not path
            if whole and self._by_data and not root.training:
                # A look at data before the training, or a training in eval mode: the step decides.
                self._eval_calls[id(root)] = Call(args, kwargs)
            elif whole or not self._by_data:
                self._touch(late=True, calling=(root, Call(args, kwargs) if whole else None))
            if path:  # a part: perhaps another stands in its place now
                module = find(root, path) or module
            return original(module, *args, **kwargs)

        return ours

    def _refresh_parts(self) -> None:
        """Everything whose call tells that a model is being used."""
        if not self._choice.models.changed:
            return
        self._choice.models.changed = False
        self._parts = {}
        candidates = self._choice.candidates(late=True)
        for root in candidates:
            ref = weakref.ref(root)
            self._parts |= {id(m): (ref, path) for path, m in root.named_modules()}
        whole = {id(root): root for root in candidates}
        for wrapper in self._choice.models.compiled():  # it calls the model's code, not the model
            inner = whole.get(id(wrapper._modules["_orig_mod"]))
            if inner is not None:
                self._parts[id(wrapper)] = (weakref.ref(inner), None)

    # ---- who gets the edits, and when

    def _touch(
        self,
        *,
        late: bool,
        calling: tuple[nn.Module, Call | None] | None = None,
        stepping: Optimizer | None = None,
    ) -> None:
        """Something uses what may be complete now; at the latest, training begins with it."""
        if self._busy or not self._new:
            return
        if self.refused is not None:
            self._refuse(self.refused)
        self._busy = True
        try:
            with self.deaf():
                self._settle(late, calling, stepping)
        except GradmendError as error:
            self.refused = str(error)
        finally:
            self._busy = False
            self._choice.models.changed = True
        if self.refused is not None:
            self._refuse(self.refused)

    def _settle(
        self,
        late: bool,
        calling: tuple[nn.Module, Call | None] | None,
        stepping: Optimizer | None,
    ) -> None:
        optimizers = [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]
        begins = calling is not None or stepping is not None
        for root in self._choice.candidates(late=begins):
            # One that was treated just now may have decided who else is meant.
            if all(root is not other for other in self._choice.candidates(late=begins)):
                continue
            optimizer, share = optimizer_of(root, optimizers)
            if optimizer is None or (share <= MOST and not late):
                continue
            lacks = missing(root, self.prescription)
            if lacks is not None:
                if not late or (share <= MOST and stepping is not optimizer):
                    continue
                raise CannotApply(
                    f"{type(root).__name__} has no '{lacks}'",
                    f"the prescription was written for another {type(root).__name__}",
                    "prescribe anew with gradmend fix",
                )
            call = calling[1] if calling is not None and calling[0] is root else None
            if stepping is optimizer:
                call = call or self._eval_calls.get(id(root))
            if self._by_data and call is None and stepping is not optimizer:
                continue
            self._treat(root, optimizer, call)
        self._follow()
        if stepping is not None:
            self._choice.give_up(stepping)
            self._new = [ref for ref in self._new if ref() not in (None, stepping)]
        if not self._new:
            self._disarm()

    def _treat(self, root: nn.Module, optimizer: Optimizer, call: Call | None) -> None:
        edits = self.prescription.edits
        # An optimizer that trains two models is edited with the first.
        if any(each.optimizer() is optimizer for each in self._choice.treated):
            edits = tuple(edit for edit in edits if edit.kind not in OF_OPTIMIZERS)
        rivals = self._choice.rivals(root)
        treated, applied = treat(
            root,
            optimizer,
            edits,
            seed=self.seed,
            call=call,
            scheduled=id(optimizer) in self._scheduled,
        )
        self._choice.treated = [each for each in self._choice.treated if each.root() is not None]
        self._choice.treated.append(treated)
        if rivals is not None:
            applied = replace(applied, notes=(*applied.notes, rivals))
        self.applied.append(applied)
        self._new = [ref for ref in self._new if ref() not in (None, optimizer)]
        self._tell(applied)

    def _follow(self) -> None:
        """Optimizers that came after their model was edited."""
        for ref in list(self._new):
            optimizer = ref()
            for each in self._choice.treated:
                root = each.root()
                if root is None or optimizer is None or each.optimizer() is optimizer:
                    continue
                if optimizer_of(root, [optimizer])[1] > MOST:
                    treat_again(
                        each,
                        optimizer,
                        self.prescription.edits,
                        seed=self.seed,
                        scheduled=id(optimizer) in self._scheduled,
                    )
                    self._new.remove(ref)
                    break


def _built_at(prescription: Prescription) -> Place | None:
    """The line that built the model a prescription was written for, if it tells."""
    file, _, line = prescription.built_at.rpartition(":")
    return Place(file=file, line=int(line)) if file and line.isdigit() else None
