"""Weights on disk: read without running anything, matched by name, written whole or not at all."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.errors import BadInput

_NESTED = (
    "model", "state_dict", "model_state_dict", "net", "network", "module", "weights",
    "model_state", "params", "ema",
)  # fmt: skip
"""Keys under which people save a model's weights beside other things."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers put in front of every name; only where the model's own names have none."""
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
]
"""Classes that people's checkpoints hold beside tensors, and whose making runs no code."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, wherever in it they are.

    Nothing in the file is run: it is read as tensors and plain values only.

    Raises:
        BadInput: If it is no checkpoint, or holds no tensors by name.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error})", "", "") from None
    except pickle.UnpicklingError as error:
        if re.search(r"(?i)unsupported (global|class)", str(error)):
            raise BadInput(
                f"{path} holds objects beside its tensors",
                "reading them would run code of the file",
                "save model.state_dict() alone and pass that",
            ) from None
        raise _no_checkpoint(path) from None
    except Exception as error:  # zip, EOF, and whatever else a file that is none can raise
        raise _no_checkpoint(path) from error
    for found in _candidates(content):
        return {str(name): value for name, value in found.items()}
    raise BadInput(
        f"{path} holds no state dict, but a {type(content).__name__}",
        "weights are found by their names",
        "save model.state_dict(), alone or under 'model' or 'state_dict'",
    )


def _no_checkpoint(path: Path) -> BadInput:
    return BadInput(
        f"{path} is no checkpoint", "torch.load cannot read it", "pass what torch.save wrote"
    )


def _candidates(content: Any) -> Iterator[Mapping[Any, Tensor]]:
    """State dicts in what was loaded: itself, or the first under a usual name."""
    if not isinstance(content, Mapping) or not content:
        return
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    others = [v for k, v in content.items() if k not in tensors]
    if tensors and not any(isinstance(v, Mapping) and _is_state(v) for v in others):
        yield tensors
    for key in _NESTED:
        yield from _candidates(content.get(key))


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(v, Tensor) for v in value.values())


def load_weights(
    model: nn.Module,
    found: dict[str, Tensor],
    path: Path,
    before: Mapping[str, torch.Size],
) -> None:
    """Give a model a checkpoint's weights; all of them, and no others.

    Args:
        model: As edited.
        found: What the checkpoint holds.
        path: Of the checkpoint.
        before: Shapes in the model as it was before the edits.

    Raises:
        BadInput: If they are another model's.
    """
    own = model.state_dict()
    found = _without_prefixes(found, set(own))
    missing = [name for name in own if name not in found]
    unexpected = [name for name in found if name not in own]
    if missing or unexpected:
        if {name: value.shape for name, value in found.items()} == dict(before):
            raise BadInput(
                f"{path} is of the model without the prescription's edits",
                "there is nothing in it to fold",
                "pass a checkpoint of the model that was trained with them",
            )
        raise BadInput(
            f"{path} is of another model: {_listed('misses', missing)}"
            f"{' and ' if missing and unexpected else ''}{_listed('has', unexpected)}",
            "its weights belong to other layers",
            "pass the factory and the prescription that it was trained with",
        )
    for name, value in own.items():
        if found[name].shape != value.shape:
            raise BadInput(
                f"{path} is of another model: '{name}' is {list(found[name].shape)}, and the"
                f" model's is {list(value.shape)}",
                "its weights belong to other layers",
                "pass the factory and the prescription that it was trained with",
            )
    model.load_state_dict(found)


def _listed(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"it {verb} {shown}{more}"


def _without_prefixes(found: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Names as the model has them, where a wrapper put something in front of every one."""
    for _ in range(3):  # DistributedDataParallel around torch.compile around a LightningModule
        if own & found.keys():
            break
        for prefix in _PREFIXES:
            within = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
            if len(within) == len(found):
                found = within
                break
            if own <= within.keys():  # a LightningModule has its loss's buffers beside the model
                return {name: within[name] for name in own}
        else:
            break
    return found


def save_weights(state: Mapping[str, Any], out: Path) -> None:
    """Write a state dict whole or not at all."""
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        try:
            with part.open("wb") as file:
                torch.save(dict(state), file)
            part.replace(out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadInput(
            f"{out} cannot be written ({error.strerror})", "", "choose another path"
        ) from None
