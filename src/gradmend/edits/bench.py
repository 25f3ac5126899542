"""What edits work on, the primitives they are made of, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.controls import Control, hang
from gradmend.errors import CannotApply
from gradmend.layers import Wrapped

RunBatch = Callable[[nn.Module], Any]
"""Runs one forward pass of a model on a batch of data, for edits that look at data."""
ChangeLoss = Callable[[Tensor], Tensor]
"""The loss of a batch, one number, to the loss that is trained on."""
ChangeBatch = Callable[[Any], Any]
"""A batch as the data has it to the batch that is trained on; ``None`` if nothing is left of it."""


@dataclass(slots=True)
class Bench:
    """What edits work on, and the way back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None = None
    run_batch: RunBatch | None = None
    """Given where edits may look at data; edits that must, refuse without it."""
    seed: int = 0
    """Added to every edit's own seed, so that trials can draw anew."""
    loss_changes: list[ChangeLoss] = field(default_factory=list)
    """What edits do to the loss, in order."""
    batch_changes: list[ChangeBatch] = field(default_factory=list)
    """What edits do to every batch, in order."""
    undo_steps: list[Callable[[], None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def loss(self, value: Tensor) -> Tensor:
        """The loss as edited."""
        for change in self.loss_changes:
            value = change(value)
        return value

    def batch(self, batch: Any) -> Any:
        """A batch as edited; ``None`` where nothing is left of it."""
        for change in self.batch_changes:
            batch = change(batch) if batch is not None else None
        return batch

    def undo(self) -> None:
        """Take every edit back, last first, bit for bit."""
        while self.undo_steps:
            self.undo_steps.pop()()

    # -- the primitives that every kind of edit is made of

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter by name.

        Raises:
            CannotApply: If the model has none of that name.
        """
        path, _, leaf = name.rpartition(".")
        found = inside(self.module(path))._parameters.get(leaf)
        if found is None:
            raise _of_another_model(f"the model has no parameter '{name}'")
        return found

    def module(self, path: str) -> nn.Module:
        """A module by path.

        Paths are those of the model as it was prescribed for: a :class:`Wrapped` that an earlier
        edit put in does not count, or no other edit could be combined with it.
        """
        found = find(self.model, path)
        if found is None:
            raise _of_another_model(f"the model has no module '{path}'")
        return found

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Overwrite a tensor in place; its identity, and the optimizer's state for it, stay."""
        if values.shape != parameter.shape:
            raise _of_another_model(
                f"a value of shape {list(values.shape)} does not fit one of {list(parameter.shape)}"
            )
        saved = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(values)

        def back() -> None:
            with torch.no_grad():
                parameter.copy_(saved)

        self.undo_steps.append(back)

    def put(self, path: str, module: nn.Module) -> None:
        """Set a module into its parent's place for ``path``; the root where that is empty."""
        old = self.module(path)
        # Not .train(): that would reach into wrapped modules, which keep the flags they have.
        module.training = old.training
        parent_path, _, name = path.rpartition(".")
        table = inside(self.module(parent_path))._modules if path else None
        while isinstance(old, Wrapped):
            table, name, old = old._modules, "inner", old.inner
        if table is None:
            self.model = module
            self.undo_steps.append(lambda: setattr(self, "model", old))
            return
        table[name] = module

        def back() -> None:
            table[name] = old

        self.undo_steps.append(back)

    def adopt(self, path: str, name: str, modules: nn.Module) -> None:
        """Set a plain attribute of a module to a registered container of the modules it held."""
        # Training an adopted parameter is undone like the adopting: nobody else keeps its bits.
        for parameter in modules.parameters():
            self.write(parameter, parameter.detach().clone())
            self.undo_steps.append(_grad_back(parameter))
        self.set_attribute(inside(self.module(path)), name, modules)

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Set a plain attribute of a module, or put a module where it has none (``None``)."""
        own, table = vars(module), module._modules
        where: dict[str, Any] = own if name in own else table
        if name not in where or isinstance(where[name], nn.Module):
            raise _of_another_model(f"{type(module).__name__} has no plain attribute '{name}'")
        saved = where.pop(name)
        into: dict[str, Any] = table if isinstance(value, nn.Module) else own
        into[name] = value

        def back() -> None:
            del into[name]
            where[name] = saved

        self.undo_steps.append(back)

    def change_loss(self, change: ChangeLoss) -> None:
        """Let the training descend on something else than the loss itself."""
        self.loss_changes.append(change)
        self.undo_steps.append(lambda: self.loss_changes.remove(change))

    def change_batch(self, change: ChangeBatch) -> None:
        """Let the training see the data otherwise."""
        self.batch_changes.append(change)
        self.undo_steps.append(lambda: self.batch_changes.remove(change))

    def set_option(self, key: str, value: Any, group: int | None = None) -> None:
        """Set an option of the optimizer's parameter groups, or of one of them."""
        if self.optimizer is None:
            raise no_optimizer(f"'{key}' belongs to an optimizer")
        groups = self.optimizer.param_groups
        for number, options in enumerate(groups):
            if group is not None and number != group:
                continue
            if key not in options:
                raise CannotApply(
                    f"{type(self.optimizer).__name__} has no option '{key}'",
                    "it would be ignored",
                    "prescribe anew with gradmend.fix",
                )
            saved = options[key]
            options[key] = value

            def back(options: dict[str, Any] = options, saved: Any = saved) -> None:
                options[key] = saved

            self.undo_steps.append(back)

    def control(self, control: Control) -> None:
        """Hang something onto the optimizer that acts at each of its steps."""
        optimizer = self.optimizer
        if optimizer is None:
            raise no_optimizer("gradients are changed just before an optimizer uses them")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise CannotApply(
                "LBFGS computes its gradients inside its own step",
                "nothing can act on them in between",
                "use another optimizer, or keep=['optimizer']",
            )
        self.undo_steps.append(hang(control, optimizer))

    def join(self, name: str, group: int) -> None:
        """Let a group of the optimizer also train a parameter of the model, by name.

        Into a group that there is: a scheduler holds one base rate for each.
        """
        optimizer, new = self.optimizer, self.parameter(name)
        if optimizer is None:
            raise no_optimizer(f"'{name}' is to be trained by one")
        refuse_fixed_parameters(optimizer, "another", "optimizer")
        if any(new is held for each in optimizer.param_groups for held in each["params"]):
            return
        options = optimizer.param_groups[group]
        saved: dict[str, Any] = {
            key: options[key] for key in ("params", "param_names") if key in options
        }
        options["params"] = [*options["params"], new]
        if "param_names" in options:
            options["param_names"] = [*options["param_names"], name]

        def back() -> None:
            options.update(saved)
            optimizer.state.pop(new, None)

        self.undo_steps.append(back)

    def unfreeze(self, name: str) -> None:
        """Let a parameter have a gradient."""
        parameter = self.parameter(name)
        if parameter.requires_grad:
            return
        grad = parameter.grad
        parameter.requires_grad_(True)

        def back() -> None:
            parameter.requires_grad_(False)
            parameter.grad = grad

        self.undo_steps.append(back)

    def register(self, parameters: Iterable[nn.Parameter]) -> None:
        """Let a live optimizer train new parameters, in a group with its first group's options."""
        new = list(parameters)
        optimizer = self.optimizer
        if optimizer is None or not new:
            return
        refuse_fixed_parameters(optimizer, "the new ones", "architecture")
        groups = optimizer.param_groups
        options = {k: v for k, v in groups[0].items() if k not in ("params", "param_names")}
        params: list[Any] = list(new)
        if "param_names" in groups[0]:  # built from named_parameters(): it wants names for all
            named = {id(p): name for name, p in self.model.named_parameters()}
            params = [(named.get(id(p), f"new.{i}"), p) for i, p in enumerate(new)]
        optimizer.add_param_group({**options, "params": params})
        group = groups[-1]
        self.notes.append(
            f"{len(new)} new parameter(s) joined the optimizer in a group of their own"
        )

        if "initial_lr" in groups[0]:
            self.notes.append(
                "a scheduler is attached: build it anew, it does not know the new group"
            )

        def back() -> None:
            # By identity: list.remove compares dicts, and so tensors, which have no truth value.
            groups[:] = [other for other in groups if other is not group]
            for parameter in new:
                optimizer.state.pop(parameter, None)

        self.undo_steps.append(back)


def _grad_back(parameter: nn.Parameter) -> Callable[[], None]:
    """What gives a parameter its gradient back: the same tensor with the same bits."""
    grad = parameter.grad
    saved = None if grad is None else grad.detach().clone()

    def back() -> None:
        if grad is not None and saved is not None:
            with torch.no_grad():
                grad.copy_(saved)
        parameter.grad = grad

    return back


def refuse_fixed_parameters(optimizer: torch.optim.Optimizer, what: str, keep: str) -> None:
    """Refuse an optimizer that cannot be given other parameters than it was built with.

    Raises:
        CannotApply: If it is LBFGS.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise CannotApply(
            "LBFGS trains the one group of parameters it was built with",
            f"it would never move {what}",
            f"use another optimizer, or keep=['{keep}']",
        )


def no_optimizer(why: str) -> CannotApply:
    """What an edit of the optimizer says where there is none."""
    return CannotApply("there is no optimizer to edit", why, "pass optimizer= to gradmend.apply")


def _of_another_model(found: str) -> CannotApply:
    return CannotApply(
        found, "the prescription was written for another model", "prescribe anew with gradmend.fix"
    )


def inside(module: nn.Module) -> nn.Module:
    """What a :class:`Wrapped` or ``torch.compile`` wraps; any other module itself."""
    while True:
        wrapped = module._modules.get("_orig_mod")
        if isinstance(module, Wrapped):
            module = module.inner
        elif wrapped is not None:
            module = wrapped
        else:
            return module


def find(model: nn.Module, path: str) -> nn.Module | None:
    """A registered module by its path, which does not count wrappers on the way."""
    for name in path.split(".") if path else ():
        found = inside(model)._modules.get(name)
        if found is None:
            return None
        model = found
    return model
