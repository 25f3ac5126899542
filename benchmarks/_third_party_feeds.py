"""Inputs and losses that may fit a model of ``transformers``: words, pictures, films, sounds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from _third_party_shrink import VOCABULARY
from _third_party_subjects import (
    Headed,
    Subject,
    classes,
    cross_entropy,
    generator,
    pooled,
    waves,
    words,
)
from torch import Tensor, nn

LABELS = {"CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM"}


def ways_to_feed(model: nn.Module, config: Any, head: str) -> Iterator[Subject]:
    """Inputs and losses that may fit, the likeliest first."""
    wanted = getattr(model, "main_input_name", "input_ids")
    takes = inspect.signature(model.forward).parameters
    names = [wanted, *(n for n in ("input_ids", "pixel_values") if n in takes and n != wanted)]
    for name in names:
        if name == "input_ids":
            yield from texts(model, config, head, takes)
        elif name in ("pixel_values", "pixel_values_videos"):
            yield from pictures(model, config, head, name, takes)
        elif name in ("input_values", "input_features", "audio_values"):
            yield from sounds(model, config, head, name, takes)
        elif name == "past_values":
            yield from series(model, config)


def own_loss(output: Any, batch: Any) -> Tensor:
    """The loss that the model itself put out."""
    loss = output["loss"] if isinstance(output, Mapping) else output.loss
    if loss is None:
        raise ValueError("no loss of its own")
    return loss if loss.dim() == 0 else loss.mean()


def texts(model: nn.Module, config: Any, head: str, takes: Mapping[str, Any]) -> Iterator[Subject]:
    """Lines of words."""
    for rows, length in ((8, 32), (4, 128)):

        def batch(n: int, rows: int = rows, length: int = length) -> dict[str, Tensor]:
            ids = words(n, rows, length, VOCABULARY)
            made = {"input_ids": ids}
            if "attention_mask" in takes:
                made["attention_mask"] = torch.ones_like(ids)
            if head == "MASKED_LM":
                hidden = torch.rand(ids.shape, generator=generator(n)) < 0.15
                hidden[:, 1] = True
                made["input_ids"] = torch.where(hidden, 3, ids)
                made["labels"] = torch.where(hidden, ids, -100)
            elif head in LABELS:
                made["labels"] = ids
            elif head == "SEQUENCE_CLASSIFICATION":
                made["labels"] = classes(n, rows)
                made["input_ids"] = ids.clone()
                made["input_ids"][:, 1::4] = (FIRST_CLASS_WORD + made["labels"])[:, None]
            return made

        if head in {*LABELS, "MASKED_LM", "SEQUENCE_CLASSIFICATION"}:
            yield Subject(model, batch, own_loss)
        elif head == "":
            yield from headed(model, config, "input_ids", text_batch(rows, length, takes))


FIRST_CLASS_WORD = 40


def text_batch(rows: int, length: int, takes: Mapping[str, Any]) -> Any:
    """Lines whose class is told by a word that comes up again and again."""

    def batch(n: int) -> tuple[dict[str, Tensor], Tensor]:
        label = classes(n, rows)
        ids = words(n, rows, length, VOCABULARY)
        ids[:, 1::4] = (FIRST_CLASS_WORD + label)[:, None]
        made = {"input_ids": ids}
        if "attention_mask" in takes:
            made["attention_mask"] = torch.ones_like(ids)
        if "decoder_input_ids" in takes:
            made["decoder_input_ids"] = ids
        return made, label

    return batch


def headed(model: nn.Module, config: Any, name: str, pair: Any) -> Iterator[Subject]:
    """A body with our head; its width is read off its output."""
    inputs, _ = pair(0)
    with torch.no_grad():
        try:
            width = pooled(model(**inputs)).shape[-1]
        except Exception as error:
            failed = error

            def fails(output: Any, batch: Any) -> Tensor:
                raise failed

            yield Subject(model, lambda n: pair(n)[0], fails)
            return
    whole = Headed(model, width)

    def batch(n: int) -> dict[str, Tensor]:
        return dict(pair(n)[0])

    def loss(scores: Any, given: Any) -> Tensor:
        return cross_entropy(scores, label_of(given))

    def label_of(given: Any) -> Tensor:
        if name == "input_ids":
            return given["input_ids"][:, 1] - FIRST_CLASS_WORD
        raise KeyError(name)

    if name == "input_ids":
        yield Subject(whole, batch, loss)
    else:

        class Keyword(Headed):
            def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
                return super().forward(**{name: x})

        keyword = Keyword(model, width)
        yield Subject(keyword, lambda n: (pair(n)[0][name], pair(n)[1]), cross_entropy)


def pictures(
    model: nn.Module, config: Any, head: str, name: str, takes: Mapping[str, Any]
) -> Iterator[Subject]:
    """Pictures or films of waves."""
    size = getattr(config, "image_size", None) or getattr(config, "img_size", 64)
    size = size[0] if isinstance(size, list | tuple) else size
    channels = getattr(config, "num_channels", 3)
    channels = channels if type(channels) is int else 3
    for side in dict.fromkeys((size, 64, 224)):
        if type(side) is not int or side > 256:
            continue
        film = name == "pixel_values_videos" or head == "VIDEO_CLASSIFICATION"
        frames = int(getattr(config, "num_frames", 4) or 4)
        shape = (channels, side, side)
        rows = 8 if not film and side <= 64 else 4

        def plane(
            n: int, shape: Any = shape, rows: int = rows, film: Any = film, frames: int = frames
        ) -> Tensor:
            x = waves(n, rows, shape)
            return x[:, None].expand(rows, frames, *shape).contiguous() if film else x

        if head in ("IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION"):
            yield Subject(
                model,
                lambda n, plane=plane, rows=rows: {name: plane(n), "labels": classes(n, rows)},
                own_loss,
            )
        elif head == "SEMANTIC_SEGMENTATION":
            yield Subject(
                model,
                lambda n, plane=plane, rows=rows, side=side: {
                    name: plane(n),
                    "labels": classes(n, rows)[:, None, None].expand(rows, side, side).contiguous(),
                },
                own_loss,
            )
        elif head == "":
            yield from headed(
                model,
                config,
                name,
                lambda n, plane=plane, rows=rows: ({name: plane(n)}, classes(n, rows)),
            )


def sounds(
    model: nn.Module, config: Any, head: str, name: str, takes: Mapping[str, Any]
) -> Iterator[Subject]:
    """Tones: samples, or spectra over time in either layout."""
    bins = next(
        (
            getattr(config, n)
            for n in ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels")
            if getattr(config, n, None)
        ),
        80,
    )
    shapes: list[tuple[int, ...]] = [(4000,)] if name != "input_features" else []
    shapes += [(bins, 128), (128, bins), (bins, 3000)]
    for shape in shapes:

        def tone(n: int, shape: Any = shape) -> Tensor:
            return waves(n, 8, (1, *shape)).squeeze(1)

        if head == "AUDIO_CLASSIFICATION":
            yield Subject(
                model, lambda n, tone=tone: {name: tone(n), "labels": classes(n, 8)}, own_loss
            )
        elif head in ("CTC", "SPEECH_SEQ_2_SEQ"):
            yield Subject(
                model,
                lambda n, tone=tone: {
                    name: tone(n),
                    "labels": (FIRST_CLASS_WORD + classes(n, 8))[:, None].repeat(1, 3),
                },
                own_loss,
            )
        elif head == "":
            yield from headed(
                model, config, name, lambda n, tone=tone: ({name: tone(n)}, classes(n, 8))
            )


def series(model: nn.Module, config: Any) -> Iterator[Subject]:
    """A wave and how it goes on."""
    past = getattr(config, "context_length", 32) or 32
    future = getattr(config, "prediction_length", 8) or 8
    lags = max(getattr(config, "lags_sequence", None) or [0])

    def batch(n: int, deep: bool = True) -> dict[str, Tensor]:
        line = waves(n, 16, (1, past + lags + future), noise=0.1)
        line = line.squeeze(1) if not deep else line.transpose(1, 2)
        return {"past_values": line[:, : past + lags], "future_values": line[:, past + lags :]}

    yield Subject(model, batch, own_loss)
    yield Subject(model, lambda n: batch(n, False), own_loss)
