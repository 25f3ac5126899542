"""Where torch is listened to: the few places every training loop passes, whoever wrote it.

Each tap passes the user's call on unchanged and tells the listener before or after it. Optimizer
steps are heard through torch's own global hooks; for backward, clipping, the gradient scaler and
the calls of root modules torch has none that see them all, so a function is wrapped for as long
as somebody listens. No hook is ever put on a user's module, tensor or optimizer: those would be
pickled and deep-copied with it, and would switch fast paths off.

A listener that raises is told of it (:meth:`Listener.failed`); the user's call never is.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from gradmend.probe import loss_calls


class StopTraining(SystemExit):
    """Ends a run that cannot recover. No ``except Exception`` of the user's swallows it."""


class Listener:
    """What can be heard of a training. Every method runs inside the user's own step."""

    stop: StopTraining | None = None
    """Raised into the user's loop after the next step that ends."""
    sleeps: int = 0
    """Set it and so many steps go by without a word; then :meth:`slept` is called."""

    def slept(self, steps: int) -> None:
        """The steps it asked for went by."""

    def optimizer_made(self, optimizer: Optimizer) -> None:
        """An optimizer was built."""

    def module_made(self, module: nn.Module) -> None:
        """A module was built, or is about to be."""

    def backward_begins(self, losses: tuple[Tensor, ...]) -> None:
        """``backward`` was called on these; their graph is whole."""

    def backward_ended(self) -> None:
        """Gradients are in ``.grad``, raw."""

    def step_begins(self, optimizer: Optimizer, has_closure: bool) -> None:
        """An optimizer is about to step."""

    def closure_ended(self, optimizer: Optimizer, loss: object) -> None:
        """A step's closure has computed loss and gradients."""

    def step_ended(self, optimizer: Optimizer) -> None:
        """The weights are new."""

    def scaled(self, scaler: GradScaler) -> None:
        """The scaler multiplied a loss by the loss scale."""

    def unscaled(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """The scaler divided the gradients by the loss scale."""

    def scaler_stepped(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """The scaler stepped, or left the step out."""

    def scaler_updated(self, scaler: GradScaler) -> None:
        """The loss scale may have changed."""

    def clipped(self, kind: str, limit: float, norm: Tensor | None) -> None:
        """Gradients were clipped by ``norm`` or ``value``."""

    def root_begins(
        self, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """A root module is about to be called."""

    def root_ended(self, root: nn.Module, output: object) -> None:
        """The call is over; ``output`` is ``None`` where it raised."""

    def loss_called(self, name: str, args: Any, kwargs: Any) -> None:
        """A loss function of ``torch.nn.functional`` has run."""

    def loss_made(self, name: str, value: Any) -> None:
        """What came out of it; told next."""

    def failed(self, error: Exception) -> None:
        """One of these methods raised."""


class Taps:
    """Listens for one :class:`Listener`, between :meth:`open` and :meth:`close`."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._undo: list[Callable[[], object]] = []
        self._busy = False
        self._depth = 0  # of backward passes: a reentrant checkpoint runs one inside another
        self._home = (0, 0)
        self._roots: dict[int, weakref.ref[nn.Module]] = {}
        self._called: dict[type, Any] = {}
        self._in_root = False
        self._sleeper: tuple[int, int, int] | None = None  # (optimizer, steps left, steps)

    def open(self, *, constructions: bool = False) -> None:
        """Begin to listen in this thread of this process.

        Args:
            constructions: Also tell of every module and optimizer that is built from now on.
        """
        self._home = (os.getpid(), threading.get_ident())
        self._hook(register_optimizer_step_pre_hook(self._before_step))
        self._hook(register_optimizer_step_post_hook(self._after_step))
        self._wrap(torch.autograd, "backward", self._backward)
        self._wrap(GradScaler, "scale", self._told_after("scaled", keeps=1))
        self._wrap(GradScaler, "unscale_", self._told_after("unscaled", keeps=2))
        self._wrap(GradScaler, "step", self._told_after("scaler_stepped", keeps=2))
        self._wrap(GradScaler, "update", self._told_after("scaler_updated", keeps=1))
        # `from torch.nn.utils import clip_grad_norm_` binds the function before we come; what it
        # calls inside is looked up anew each time.
        if hasattr(clip_grad, "_clip_grads_with_norm_"):
            self._wrap(clip_grad, "_clip_grads_with_norm_", self._clip_by_norm)
        for holder in (clip_grad, nn.utils):
            self._wrap(holder, "clip_grad_value_", self._clip_by_value)
        ear = loss_calls.Ear(self._loss_called, self._loss_made)
        ear.open()
        self._undo.append(ear.close)
        if constructions:
            self._wrap(Optimizer, "__init__", self._told_after("optimizer_made", keeps=1))
            self._wrap(nn.Module, "__init__", self._told_after("module_made", keeps=1))

    def close(self) -> None:
        """Put everything back."""
        if self._sleeper is not None:
            (_, left, steps), self._sleeper = self._sleeper, None
            self._tell("slept", steps - left)
        while self._undo:
            self._undo.pop()()
        for cls in list(self._called):
            self._release(cls)
        self._roots.clear()

    @property
    def away(self) -> bool:
        """Whether this is another process or thread than the one that listens."""
        return self._home != (os.getpid(), threading.get_ident())

    def follow_roots(self, roots: list[nn.Module]) -> None:
        """Tell of the calls of these modules, and no longer of others."""
        self._roots = {id(root): weakref.ref(root) for root in roots}
        classes = {type(root) for root in roots}
        for cls in classes - self._called.keys():
            self._seize(cls)
        for cls in self._called.keys() - classes:
            self._release(cls)

    def _seize(self, cls: type) -> None:
        original: Any = cls.__call__

        # A class's attribute: an instance's own would be pickled, a hook deep-copied.
        @functools.wraps(original)
        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or self._in_root:
                return original(module, *args, **kwargs)
            known = self._roots.get(id(module))
            if known is None or known() is not module:
                return original(module, *args, **kwargs)
            return self._root_call(original, module, args, kwargs)

        self._called[cls] = cls.__dict__.get(_CALL, _ABSENT)
        setattr(cls, _CALL, called)

    def _release(self, cls: type) -> None:
        before = self._called.pop(cls)
        if before is _ABSENT:
            delattr(cls, _CALL)
        else:
            setattr(cls, _CALL, before)

    def _root_call(
        self, original: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._busy or self._asleep() or self.away:
            return original(module, *args, **kwargs)
        self._in_root = True
        output = None
        self._tell("root_begins", module, args, kwargs)
        try:
            output = original(module, *args, **kwargs)
            return output
        finally:
            self._tell("root_ended", module, output)
            self._in_root = False

    def _asleep(self) -> bool:
        """Whether nothing is to be told now. Wakes up between steps, never within one."""
        if self._sleeper is None:
            return False
        _, left, steps = self._sleeper
        if left > 0:
            return True
        self._sleeper = None
        self._tell("slept", steps)
        return False

    def _tell(self, what: str, *args: Any) -> Any:
        if self._busy or self._sleeper is not None or self.away:
            return None
        self._busy = True
        try:
            return getattr(self.listener, what)(*args)
        except Exception as error:
            self.listener.failed(error)
            return None
        finally:
            self._busy = False

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Hear nothing for a while: what runs inside is ours and no training."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _hook(self, handle: RemovableHandle) -> None:
        self._undo.append(handle.remove)

    def _wrap(self, holder: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
        original = getattr(holder, name, None)
        if original is None:
            return
        ours = functools.wraps(original)(wrapper(original))
        setattr(holder, name, ours)
        self._undo.append(lambda: self._unwrap(holder, name, ours, original))

    @staticmethod
    def _unwrap(holder: Any, name: str, ours: Any, original: Any) -> None:
        # Somebody may have wrapped it after us: then theirs stays, and ours only passes on.
        if getattr(holder, name) is ours:
            setattr(holder, name, original)

    def _told_after(self, what: str, *, keeps: int) -> Callable[[Any], Any]:
        def wrapper(original: Any) -> Any:
            def ours(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if len(args) >= keeps and not torch.compiler.is_compiling():
                    self._tell(what, *args[:keeps])
                return result

            return ours

        return wrapper

    def _backward(self, original: Any) -> Any:
        def ours(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self._depth or self._busy or self._asleep() or self.away:
                return original(tensors, *args, **kwargs)
            losses = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
            self._tell("backward_begins", losses)
            self._depth += 1
            try:
                result = original(tensors, *args, **kwargs)
            finally:
                self._depth -= 1
            self._tell("backward_ended")
            return result

        return ours

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if self._sleeper is not None:
            return None
        self._tell("step_begins", optimizer, callable(closure))
        if not callable(closure) or self.away or self._busy:
            return None

        @functools.wraps(closure)
        def heard(*inner: Any, **named: Any) -> Any:
            loss = closure(*inner, **named)
            self._tell("closure_ended", optimizer, loss)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": heard}
        return (args[0], heard, *args[2:]), kwargs

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs  # unused: torch's signature
        if self._sleeper is not None:
            which, left, steps = self._sleeper
            if which == id(optimizer):
                self._sleeper = (which, left - 1, steps)
            return
        self._tell("step_ended", optimizer)
        if self.listener.sleeps and not self.away:
            steps, self.listener.sleeps = self.listener.sleeps, 0
            self._sleeper = (id(optimizer), steps, steps)
        if self.listener.stop is not None and not self.away:
            raise self.listener.stop

    def _loss_called(self, name: str, args: Any, kwargs: Any) -> None:
        self._tell("loss_called", name, args, kwargs)

    def _loss_made(self, name: str, value: Any) -> None:
        self._tell("loss_made", name, value)

    def _clip_by_norm(self, original: Any) -> Any:
        def ours(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(parameters, max_norm, total_norm, *args, **kwargs)
            self._tell("clipped", "norm", float(max_norm), total_norm)
            return result

        return ours

    def _clip_by_value(self, original: Any) -> Any:
        def ours(parameters: Any, clip_value: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(parameters, clip_value, *args, **kwargs)
            self._tell("clipped", "value", float(clip_value), None)
            return result

        return ours


_ABSENT = object()
_CALL = "__call__"
