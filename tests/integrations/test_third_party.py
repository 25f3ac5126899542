"""A few of other people's architectures, small, as their authors initialise them: not a word.

The whole collection, with how often what rings, is ``python3 dev.py bench third_party``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gradmend
from gradmend.records.finding import Severity

FOLDER = Path(__file__).parents[2] / "benchmarks"
SOURCES = {
    "transformers": ("_third_party_transformers", "source"),
    "timm": ("_third_party_pictures", "timm_source"),
    "vit-pytorch": ("_third_party_pictures", "vit_pytorch_source"),
    "x-transformers": ("_third_party_others", "x_transformers_source"),
    "pyg": ("_third_party_graphs", "graph_source"),
    "zuko": ("_third_party_others", "density_source"),
    "odd": ("_third_party_others", "odd_source"),
}
PACKAGES = {
    "transformers": "transformers", "timm": "timm", "vit-pytorch": "vit_pytorch",
    "x-transformers": "x_transformers", "pyg": "torch_geometric", "zuko": "zuko",
    "snntorch": "snntorch", "mambapy": "mambapy", "torchdiffeq": "torchdiffeq", "torch": "torch",
}  # fmt: skip
LOOKED_AT = [
    "torch/Transformer", "torch/LSTM", "mambapy/Mamba", "snntorch/Leaky", "snntorch/Alpha",
    "torchdiffeq/odeint", "pyg/GCN", "pyg/SuperGATConv", "zuko/MAF", "x-transformers/pre-norm",
    "x-transformers/post-norm", "x-transformers/encoder-decoder", "vit-pytorch/cait",
    "timm/byobnet", "timm/mobilenetv3", "transformers/gpt2", "transformers/bert",
    "transformers/t5", "transformers/llama", "transformers/llama4_text",
    "transformers/clip_vision_model", "transformers/canine", "transformers/dinov2",
    "transformers/mixtral", "transformers/flava",
]  # fmt: skip
"""Some of them for what once rang on them: see the tests of those rules."""
TRAINED = [
    "torch/LSTM", "x-transformers/pre-norm", "x-transformers/qk-norm", "pyg/GIN",
    "transformers/gpt2", "transformers/clip_vision_model",
]  # fmt: skip


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's
        yield
    for name in [name for name in sys.modules if name.startswith("_third_party_")]:
        del sys.modules[name]


def subject_of(name: str) -> Any:
    package = name.partition("/")[0]
    if importlib.util.find_spec(PACKAGES[package]) is None:
        pytest.skip(f"{package} is not installed")
    module, function = SOURCES.get(package, SOURCES["odd"])
    return dict(getattr(importlib.import_module(module), function)())[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_look_is_silent(name: str) -> None:
    if name == "transformers/flava":
        pytest.xfail("fed with pictures alone, it computes a projection of words for nothing")
    subject = subject_of(name)
    report = gradmend.check(subject.model, subject.batch(0), subject.loss_fn)
    assert [f.summary for f in report.at_least(Severity.WARNING)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_is_silent(name: str) -> None:
    subject = subject_of(name)
    optimizer = torch.optim.AdamW(subject.model.parameters(), lr=subject.rate)
    losses = []
    with gradmend.watch(subject.model, optimizer, budget="all") as watch:
        for number in range(40):
            optimizer.zero_grad()
            loss = subject.loss(subject.batch(1 + number))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert min(losses) < losses[0]
    assert [f.summary for f in watch.report().at_least(Severity.WARNING)] == []
