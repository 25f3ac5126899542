"""Every configuration class of ``transformers``, shrunk by one generic rule."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from _third_party_feeds import ways_to_feed
from _third_party_shrink import shrunk
from _third_party_subjects import Build, Headed, Subject, let_torchvision_in

MOST_PARAMETERS = 30e6
HEADS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION",
    "CTC",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "TIME_SERIES_PREDICTION",
    "SEQUENCE_CLASSIFICATION",
    "QUESTION_ANSWERING",
)


def source() -> Iterator[tuple[str, Build]]:
    """Each model type that has a model."""
    let_torchvision_in()
    import transformers
    from transformers.models.auto import configuration_auto

    transformers.logging.set_verbosity_error()
    for kind in sorted(configuration_auto.CONFIG_MAPPING_NAMES):
        yield f"transformers/{kind}", lambda kind=kind: build(kind)


def build(kind: str) -> Subject:
    """The first head, with the first inputs, that gives a finite loss with a gradient."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[kind])
    errors: list[str] = []
    pairs = bool(getattr(config, "is_encoder_decoder", False))
    heads = sorted(HEADS, key=lambda head: head != "SEQ_TO_SEQ_CAUSAL_LM" or not pairs)
    for head in (*heads, ""):
        mapping = getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING" if head else "MODEL_MAPPING")
        if type(config) not in mapping:
            continue
        made = mapping[type(config)]
        made = made[0] if isinstance(made, tuple) else made
        try:
            with torch.device("meta"):
                count = sum(p.numel() for p in made(copy.deepcopy(config)).parameters())
        except Exception:  # not every model can be built without numbers
            count = 0
        if count > MOST_PARAMETERS:
            errors.append(f"{made.__name__}: {count / 1e6:.0f} M parameters")
            continue
        try:
            torch.manual_seed(0)
            model = made(copy.deepcopy(config)).train()
        except Exception as error:
            errors.append(f"{made.__name__}: {type(error).__name__}: {error}")
            continue
        for subject in ways_to_feed(model.float(), config, head):
            try:
                loss = subject.loss(subject.batch(0))
                loss.backward()
                if not bool(torch.isfinite(loss)):
                    raise ValueError(f"a loss of {float(loss)}")
                if not any(p.grad is not None for p in model.parameters()):
                    raise ValueError("no gradient")
            except Exception as error:
                errors.append(f"{made.__name__}: {type(error).__name__}: {error}")
                continue
            torch.manual_seed(0)  # as it was before the trial: no gradients, no running mean
            fresh = made(copy.deepcopy(config)).train().float()
            body = subject.model
            if isinstance(body, Headed):
                fresh = Headed(fresh, body.head.in_features)
            return Subject(fresh, subject.batch, subject.loss_fn, note=made.__name__)
    raise ValueError(" | ".join(e.replace("\n", " ")[:160] for e in errors[-6:]) or "no head")
