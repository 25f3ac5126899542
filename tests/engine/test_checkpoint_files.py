"""Weights on disk: found wherever they are, matched by name, written whole or not at all."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradmend.engine.checkpoint import load_weights, read_weights, save_weights
from gradmend.errors import BadInput

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        OrderedDict(STATE),
        {"model": STATE, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
        {"state_dict": STATE, "loss": torch.tensor(0.5)},  # a tensor beside is no weight
        {"epoch": 1, "model": {"state_dict": STATE}},
        {"net": {f"module.{k}": v for k, v in STATE.items()}},
        {"state_dict": {"criterion.w": STATE["bias"]} | {f"model.{k}": STATE[k] for k in STATE}},
    ],
)  # fmt: skip
def test_weights_are_found_where_people_put_them(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    model = nn.Linear(3, 2)
    load_weights(model, read_weights(tmp_path / "c.pt"), tmp_path / "c.pt", {})
    assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())


def test_a_model_whose_own_names_begin_like_a_prefix_keeps_them(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(3, 2)})
    torch.save(model.state_dict(), tmp_path / "c.pt")
    load_weights(model, read_weights(tmp_path / "c.pt"), tmp_path / "c.pt", {})


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [STATE], 3])
def test_no_weights(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(BadInput, match="holds no state dict"):
        read_weights(tmp_path / "c.pt")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.pt"
    out.write_text("old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(BadInput, match="No space left"):
        save_weights(STATE, out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]
