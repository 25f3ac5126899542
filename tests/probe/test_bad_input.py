"""What cannot be looked at is said in one clear line, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from probe_models import Written, mlp_part, xy
from torch import Tensor, nn

import gradmend
from gradmend.errors import BadInput


def frozen() -> nn.Module:
    model = mlp_part()
    return model.requires_grad_(False)


def raising(_: Any, x: Tensor) -> Tensor:
    raise KeyError("no such head")


PAIR = (torch.ones(5, 6), torch.ones(5, 6))
WITH_NAN = (torch.ones(5, 6).index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), PAIR[1])  # fmt: skip  # noqa: E501

CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, list[str]]] = {
    "model raises": (
        lambda: Written(raising, a=nn.Linear(2, 2)), PAIR, F.mse_loss,
        ["Written", "KeyError", "no such head", "loss_fn(model(x), y)"],
    ),
    "batch does not fit": (
        mlp_part, (torch.ones(5, 7), PAIR[1]), F.mse_loss, ["Sequential", "RuntimeError", "5x7"],
    ),
    "loss is a vector": (
        mlp_part, PAIR, lambda o, y: (o - y).square(), ["[5, 6]", "one number", "mean"],
    ),
    "loss is a float": (
        mlp_part, PAIR, lambda o, y: F.mse_loss(o, y).item(), ["float", "tensor", "item()"],
    ),
    "loss is a dict": (
        mlp_part, PAIR, lambda o, y: {"loss": F.mse_loss(o, y)}, ["dict", "tensor"],
    ),
    "loss is complex": (
        mlp_part, PAIR, lambda o, y: (o * (1 + 1j)).sum(), ["complex", "real"],
    ),
    "everything frozen": (frozen, PAIR, F.mse_loss, ["no trainable", "4 frozen", "requires_grad"]),
    "no parameter": (nn.Tanh, PAIR, F.mse_loss, ["Tanh", "no trainable", "ModuleList"]),
    "batch is a tensor": (mlp_part, PAIR[0], F.mse_loss, ["Tensor", "(x, y)", "forward="]),
    "batch is a triple": (mlp_part, (*PAIR, PAIR[0]), F.mse_loss, ["tuple", "(x, y)", "forward="]),
    "batch is nothing": (mlp_part, None, F.mse_loss, ["NoneType", "(x, y)"]),
    "keys that the model does not take": (
        mlp_part, {"pixels": PAIR[0]}, F.mse_loss, ["TypeError", "pixels"],
    ),
    "model on meta": (
        lambda: mlp_part().to("meta"), PAIR, F.mse_loss, ["meta device", "no values", "to_empty"],
    ),
    "model and batch on meta": (
        lambda: mlp_part().to("meta"), tuple(t.to("meta") for t in PAIR), F.mse_loss,
        ["meta device", "no values"],
    ),
    "batch on another device": (
        mlp_part, tuple(t.to("meta") for t in PAIR), F.mse_loss, ["cpu", "meta", "one device"],
    ),
    "empty batch": (
        mlp_part, (torch.ones(0, 6), torch.ones(0, 6)), F.mse_loss, ["empty", "[0, 6]", "sample"],
    ),
    "lazy layers": (
        lambda: nn.Sequential(nn.LazyLinear(6)), PAIR, F.mse_loss, ["lazy", "run the model once"],
    ),
    "lazy buffers": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.LazyBatchNorm1d(affine=False)), PAIR, F.mse_loss,
        ["lazy", "run the model once"],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_one_line(name: str) -> None:
    build, batch, loss_fn, words = CASES[name]
    model = build()
    state = torch.get_rng_state()
    before = {k: (id(v), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    with pytest.raises(BadInput) as caught:
        gradmend.check(model, batch, loss_fn)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    for word in words:
        assert word.lower() in text.lower()
    assert caught.value.found
    assert caught.value.why
    assert caught.value.todo
    # AND nothing was changed
    after = {k: (id(v), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_no_loss_at_all_is_said_so() -> None:
    with pytest.raises(BadInput, match="neither loss_fn nor forward"):
        gradmend.check(mlp_part(), PAIR)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_is_refused() -> None:
    model = torch.jit.script(mlp_part())
    with pytest.raises(BadInput, match=r"TorchScript.*scripted"):
        gradmend.check(model, PAIR, F.mse_loss)


def test_an_additive_attention_mask_is_no_bad_data() -> None:
    # GIVEN a mask of 0 and -inf among the inputs, as torch's own attention takes it
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    batch = ((torch.randn(3, 5, 8), mask), torch.randn(3, 5, 8))
    report = gradmend.check(layer, batch, F.mse_loss)
    assert report.trace.total_decades is not None
    assert report.ledger is not None
    assert report.ledger.unexplained_decades == pytest.approx(0, abs=1e-9)


def test_a_loss_of_one_entry_is_as_good_as_a_scalar() -> None:
    report = gradmend.check(mlp_part(), PAIR, lambda o, y: F.mse_loss(o, y).reshape(1, 1))
    assert report.trace.total_decades is not None


def test_a_raising_model_keeps_its_own_error_as_the_cause() -> None:
    with pytest.raises(BadInput) as caught:
        gradmend.check(Written(raising, a=nn.Linear(2, 2)), xy(), F.cross_entropy)
    assert isinstance(caught.value.__cause__, KeyError)
