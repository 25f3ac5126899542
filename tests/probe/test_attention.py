"""Attention's facts against naive loops over rows, and in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmend.probe import attention
from gradmend.probe.attention import (
    Attention,
    looks_like_attention,
    of_module,
    of_queries,
    of_scores,
)


def twin(scores: Tensor) -> Attention:
    """Row by row, in plain Python."""
    entropies, shares, logits, masked, rows = [], [], [], 0, 0
    for row in scores.reshape(-1, scores.shape[-1]).tolist():
        rows += 1
        seen = [s for s in row if s > -9000]
        logits += [abs(s) for s in seen]
        masked += not seen
        if len(seen) < 2:
            continue
        top = max(seen)
        total = math.fsum(math.exp(s - top) for s in seen)
        p = [math.exp(s - top) / total for s in seen]
        entropies.append(-math.fsum(v * math.log(v) for v in p if v) / math.log(len(seen)))
        shares.append(max(p))
    return Attention(
        entropy=math.fsum(entropies) / len(entropies) if entropies else math.nan,
        largest_share=math.fsum(shares) / len(shares) if shares else math.nan,
        largest_logit=max(logits) if logits else math.nan,
        masked_rows=masked / rows,
    )


def same(found: Attention, want: Attention, rel: float = 1e-6) -> bool:
    return all(
        getattr(found, name) == pytest.approx(getattr(want, name), rel=rel, abs=1e-9, nan_ok=True)
        for name in ("entropy", "largest_share", "largest_logit", "masked_rows")
    )


@pytest.mark.parametrize("blank", [-math.inf, -1e4, -1e9, torch.finfo(torch.float32).min])
def test_scores_agree_with_rows_in_python(blank: float) -> None:
    scores = 3 * torch.randn(2, 3, 5, 7)
    scores = scores.masked_fill(torch.rand(2, 3, 5, 7) < 0.4, blank)
    scores[0, 0, 0] = blank
    found = of_scores(scores)
    assert same(found, twin(scores))
    assert found.masked_rows >= 1 / 30


def test_even_scores_have_entropy_one() -> None:
    assert same(
        of_scores(torch.full((2, 4, 8), 2.5)),
        Attention(entropy=1.0, largest_share=1 / 8, largest_logit=2.5, masked_rows=0.0),
    )


def test_a_single_winner_has_entropy_zero() -> None:
    scores = torch.zeros(1, 3, 5)
    scores[..., 2] = 800.0
    assert same(
        of_scores(scores),
        Attention(entropy=0.0, largest_share=1.0, largest_logit=800.0, masked_rows=0.0),
    )


def test_one_key_has_no_entropy() -> None:
    found = of_scores(torch.zeros(2, 3, 1))
    assert math.isnan(found.entropy) and math.isnan(found.largest_share)
    assert found.masked_rows == 0.0


def test_rows_that_see_nothing_are_counted_and_left_out() -> None:
    scores = torch.zeros(1, 4, 6)
    scores[0, 1] = -math.inf
    found = of_scores(scores)
    assert (found.entropy, found.masked_rows) == (pytest.approx(1.0), 0.25)
    found = of_scores(torch.full((1, 4, 6), -1e9))
    assert found.masked_rows == 1.0 and math.isnan(found.entropy)
    assert math.isnan(found.largest_logit)


def test_exploding_logits_are_not_taken_for_masks() -> None:
    scores = torch.tensor([[[2e4, -2e4, 0.0], [0.0, 2e4, -2e4]]])
    found = of_scores(scores)
    assert found.largest_logit == 2e4 and found.masked_rows == 0.0
    # Near miss: the same low number beside ordinary logits is how a mask is written.
    assert of_scores(torch.tensor([[[0.0, 1.0, -2e4]]])).largest_logit == 1.0


def test_nan_is_data() -> None:
    assert same(of_scores(torch.full((1, 2, 2), math.nan)), Attention())


def plain_scores(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    return q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_queries_and_keys(scale: float | None) -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4)
    assert same(of_queries(q, k, scale=scale), twin(plain_scores(q, k, scale)), 1e-5)
    assert same(of_queries(q[0, 0], k[0, 0]), twin(plain_scores(q[0, 0], k[0, 0])), 1e-5)


def test_masks_of_both_kinds_and_causal() -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4)
    s = plain_scores(q, k)
    keep = torch.rand(2, 1, 5, 6) < 0.5
    assert same(of_queries(q, k, keep), twin(s.masked_fill(~keep, -math.inf)), 1e-5)
    add = torch.randn(5, 6)
    assert same(of_queries(q, k, add), twin(s + add), 1e-5)
    lower = torch.ones(5, 6, dtype=torch.bool).tril()
    want = twin(s.masked_fill(~lower, -math.inf))
    assert same(of_queries(q, k, is_causal=True), want, 1e-5)


def test_grouped_queries_share_keys() -> None:
    q, k = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 7, 4)
    want = twin(plain_scores(q, k.repeat_interleave(3, dim=-3)))
    assert same(of_queries(q, k, enable_gqa=True), want, 1e-5)


def test_a_big_call_is_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "PAIRS", 96)
    monkeypatch.setattr(attention, "GROUPS", 3)
    scores = torch.randn(5, 2, 17, 8)
    few = scores.reshape(10, 17, 8)[[0, 4, 9]][:, [0, 5, 10, 16]]
    assert same(of_scores(scores), twin(few))
    assert of_scores(scores) == of_scores(scores)


class Spy:
    """Logits by way of the probabilities that torch's own module reports."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        self.module = module

    def entropy_and_share(self, *args: Tensor, **kwargs: Any) -> tuple[float, float]:
        p = self.module(*args, **kwargs, need_weights=True, average_attn_weights=False)[1]
        p = p.detach().double()
        seen = (p > 0).sum(-1)
        keep = seen >= 2
        h = -(p * p.clamp(min=1e-300).log()).sum(-1)[keep] / seen[keep].double().log()
        return float(h.mean()), float(p.amax(-1)[keep].mean())


MODULES: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False},
    {"kdim": 5, "vdim": 3},
    {"add_bias_kv": True, "add_zero_attn": True},
]


@pytest.mark.parametrize("options", MODULES)
@pytest.mark.parametrize("masked", [False, True])
def test_modules_agree_with_the_weights_that_torch_reports(
    options: dict[str, Any], masked: bool
) -> None:
    module = nn.MultiheadAttention(8, 2, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p))
    q, k = torch.randn(3, 5, 8), torch.randn(3, 6, options.get("kdim", 8))
    v = torch.randn(3, 6, options.get("vdim", 8))
    if not options.get("batch_first"):
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    kwargs: dict[str, Any] = {}
    if masked:
        padding = torch.zeros(3, 6, dtype=torch.bool)
        padding[1, 4:] = True
        kwargs = {"key_padding_mask": padding}
        kwargs["attn_mask"] = torch.ones(5, 6, dtype=torch.bool).triu(2).repeat(6, 1, 1)
    found = of_module(module, (q, k, v), kwargs)
    entropy, share = Spy(module).entropy_and_share(q, k, v, **kwargs)
    assert found.entropy == pytest.approx(entropy, rel=1e-4)
    assert found.largest_share == pytest.approx(share, rel=1e-4)
    assert found.masked_rows == 0.0 and found.largest_logit > 0


def test_a_module_without_a_batch() -> None:
    module = nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 8)
    assert same(of_module(module, (x, x), {"value": x}), of_module(module, (x[:, None],) * 3, {}))


def test_autocast_does_not_reach_the_logits() -> None:
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert of_queries(q, k) == of_queries(q.clone(), k)
        assert torch.is_autocast_enabled("cpu")
        found = of_queries(q, k)
    assert same(found, of_queries(q, k))


@pytest.mark.parametrize(
    ("shape", "dim", "module", "expected"),
    [
        ((2, 4, 5, 6), -1, "", True),
        ((2, 4, 5, 6), 3, "", True),
        ((2, 5, 5), -1, "", True),
        ((2, 5, 6), -1, "decoder.cross_attention Foo", True),
        ((2, 5, 6), -1, "head Linear", False),  # classes of a sequence
        ((2, 5, 5), 1, "", False),
        ((5, 5), -1, "attention", False),
        ((2, 4, 5, 1), -1, "", False),
        ((2, 4, 5, 6), None, "", False),
    ],
)
def test_which_softmax_is_attention(
    shape: tuple[int, ...], dim: int | None, module: str, expected: bool
) -> None:
    assert looks_like_attention(torch.zeros(shape), dim, module) is expected


def test_changes_nothing() -> None:
    module = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = torch.randn(5, 3, 8, requires_grad=True)
    state, version = torch.get_rng_state(), x._version
    of_module(module, (x, x, x), {})
    of_queries(x, x)
    of_scores(F.relu(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert x._version == version and x.grad is None
    assert all(p.grad is None for p in module.parameters())
