"""``pkg.module:factory`` to a model, a batch and a loss."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gradmend.errors import BadInput, GradmendError
from gradmend.probe.batch import Batch, LossFn
from gradmend.probe.source import remember_construction

_FORM = "write pkg.module:factory; the factory returns (model, batches, loss_fn)"


def load_specimen(target: str) -> tuple[nn.Module, Batch, LossFn]:
    """Call a user's factory and take its first batch.

    The working folder is importable, as with ``python -m``. Modules built meanwhile are known by
    the line that built them.

    Args:
        target: ``pkg.module:factory``.

    Returns:
        Model, first batch, loss.

    Raises:
        BadInput: If the module, the factory or what it returns is not what it should be.
    """
    module_name, _, factory_name = target.partition(":")
    if not module_name or not factory_name:
        raise BadInput(f"'{target}' names no factory", "", _FORM)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    with remember_construction():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise BadInput(
                f"there is no module '{error.name}'", "", f"run where it can be imported; {_FORM}"
            ) from error
        except (Exception, SystemExit) as error:  # a script that reads its own command line
            raise _broken(f"importing {module_name}", error) from error
        factory = getattr(module, factory_name, None)
        if not callable(factory):
            raise BadInput(f"{module_name} has no function '{factory_name}'", "", _FORM)
        try:
            made = factory()
        except (Exception, SystemExit) as error:
            raise _broken(f"{target}()", error) from error
        try:
            return _unpack(target, made)
        except GradmendError:
            raise
        except Exception as error:  # a loader or generator of the user's own
            raise _broken(f"taking a batch from {target}", error) from error


def _broken(what: str, error: BaseException) -> BadInput:
    return BadInput(
        f"{what} raised {type(error).__name__}: {error}",
        "there is no model to look at",
        "see where with --traceback",
    )


def _unpack(target: str, made: Any) -> tuple[nn.Module, Batch, LossFn]:
    if isinstance(made, Mapping):
        made = tuple(made.get(key) for key in ("model", "batches", "loss_fn"))
    elif hasattr(made, "model") and hasattr(made, "batches") and hasattr(made, "loss_fn"):
        made = (made.model, made.batches, made.loss_fn)
    if not isinstance(made, tuple) or len(made) != 3:
        raise BadInput(f"{target} returned a {type(made).__name__}", "", _FORM)
    model, batches, loss_fn = made
    if not isinstance(model, nn.Module):
        raise BadInput(f"{target} returned a {type(model).__name__} as the model", "", _FORM)
    if not callable(loss_fn):
        raise BadInput(f"{target} returned a {type(loss_fn).__name__} as the loss", "", _FORM)
    return model, _first_batch(target, batches), loss_fn


def _first_batch(target: str, batches: Any) -> Batch:
    source = batches() if callable(batches) else batches
    if isinstance(source, Mapping):
        return source
    if isinstance(source, tuple) and len(source) == 2:
        return source  # one (x, y) pair is a batch by itself
    if isinstance(source, Iterable):
        for batch in source:
            return batch
    raise BadInput(f"{target} returned no batch", "there is nothing to run the model on", _FORM)
