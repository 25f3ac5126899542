"""The batches of a trial: buffered once, so that every arm sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradmend.edits.finite import without_bad_samples
from gradmend.engine.state import randomness, set_randomness
from gradmend.errors import BadInput
from gradmend.probe.batch import Batch, batch_size, map_tensors

Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]

UNSEEN_SHARE = 0.2
"""Share of the data kept out of training to judge on, where no validation data is given."""
MOST_BATCHES = 2000
"""Batches buffered at most; a trial is a few hundred steps long."""


@dataclass(frozen=True, slots=True)
class TrialData:
    """Training batches, and batches to judge on that no arm trains on."""

    train: list[Batch]
    unseen: list[Batch]
    note: str = ""

    def order(self, seed: int) -> Callable[[int], Batch]:
        """Step -> batch; passes over the data in an order drawn anew each time, from ``seed``."""
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn: list[int] = []

        def batch(step: int) -> Batch:
            while len(drawn) <= step:
                drawn.extend(
                    torch.randperm(len(self.train), generator=generator, device="cpu").tolist()
                )
            return self.train[drawn[step]]

        return batch


def trial_data(batches: Batches, val: Batches | None) -> TrialData:
    """Buffer the user's batches and keep some of them unseen.

    Args:
        batches: Re-iterable, a zero-argument callable that gives an iterable, or a one-shot
            iterator.
        val: Batches to judge on, in the same forms; split off where not given.

    Raises:
        BadInput: If there is nothing to iterate, or too little to keep anything unseen.
    """
    train = _buffer(batches, "batches")
    if val is not None:
        return _judgeable(TrialData(train=train, unseen=_buffer(val, "val")))
    if len(train) >= 3:
        kept = max(1, round(len(train) * UNSEEN_SHARE))
        return _judgeable(
            TrialData(
                train=train[:-kept],
                unseen=train[-kept:],
                note=f"no val= given: judged on the last {kept} of {len(train)} batches,"
                " kept unseen",
            )
        )
    return _judgeable(_split_samples(train))


def _judgeable(data: TrialData) -> TrialData:
    """Unseen data without the samples that hold NaN or infinity: no model can be judged by them.

    In the training data they stay: whether they are to blame is for the trial to show.
    """
    unseen, dropped = [], 0
    for batch in data.unseen:
        kept = without_bad_samples(batch)
        dropped += batch_size(batch) - (batch_size(kept) if kept is not None else 0)
        if kept is not None:
            unseen.append(kept)
    if not unseen:
        raise BadInput(
            "every sample kept for judging holds NaN or infinity",
            "no training could be told from another by it",
            "clean the data, or pass finite val=",
        )
    if not dropped:
        return data
    note = f"{dropped} unseen sample(s) hold NaN or infinity and judge nobody"
    return replace(data, unseen=unseen, note="; ".join(filter(None, (data.note, note))))


def _buffer(batches: Batches, name: str) -> list[Batch]:
    source = batches() if callable(batches) else batches
    if isinstance(source, Tensor | Mapping | str) or not isinstance(source, Iterable):
        raise BadInput(
            f"{name} is a {type(source).__name__}, not an iterable of batches",
            "a trial trains on several batches",
            "pass a DataLoader, a list of (x, y), or a function that returns one",
        )
    # A DataLoader draws its order from the process's generators: they stay as they were.
    noise = randomness()
    try:
        found = list(islice(source, MOST_BATCHES))
    finally:
        set_randomness(noise)
    if not found:
        raise BadInput(
            f"{name} holds no batch",
            "there is nothing to train or judge on",
            "pass a re-iterable or a zero-argument callable; an iterator may be used up",
        )
    if len(found) == 2 and all(isinstance(item, Tensor) for item in found):
        raise BadInput(
            f"{name} is one (x, y) pair, not an iterable of pairs",
            "a trial trains on several batches",
            f"pass {name}=[(x, y)]",
        )
    return found


def _split_samples(batches: list[Batch]) -> TrialData:
    """Keep the last fifth of the samples of each batch, where batches are too few to spare."""
    train, unseen = [], []
    for batch in batches:
        size = batch_size(batch)
        kept = max(1, round(size * UNSEEN_SHARE))
        if size - kept < 1:
            raise BadInput(
                f"{len(batches)} batch(es) of {size} sample(s) leave nothing to keep unseen",
                "a repair is judged on data it was not trained on",
                "pass more batches, or val=",
            )
        train.append(_rows(batch, size, slice(0, size - kept)))
        unseen.append(_rows(batch, size, slice(size - kept, size)))
    return TrialData(
        train=train,
        unseen=unseen,
        note="no val= given: judged on a fifth of each batch's samples, kept unseen",
    )


def _rows(batch: Batch, size: int, rows: slice) -> Any:
    def cut(tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.dim() and tensor.shape[0] == size else tensor

    return map_tensors(batch, cut)
