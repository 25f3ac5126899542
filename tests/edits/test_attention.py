"""Edits of attention: closed forms, masks, undo, hostile arguments."""

import math

import pytest
import torch
import torch.nn.functional as F
from edit_subjects import Record
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers.attention import HeadNorm, NormedAttention
from gradmend.records.prescription import Edit


class Reader(nn.Module):
    """Torch's attention and a hand-written one, in one model."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.packed = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mha(x, x, x)[0]
        x = x + F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        q, k, v = self.packed(x).chunk(3, -1)
        result: Tensor = self.head((x + F.scaled_dot_product_attention(q, k, v)).mean(1))
        return result


EDITS = {
    "torch's": Edit(kind="normalise_attention", targets=("mha",)),
    "by hand": Edit(kind="normalise_heads", targets=("q", "k"), args={"widths": [4, 4]}),
    "packed": Edit(kind="normalise_heads", targets=("packed",),
                   args={"widths": [8], "thirds": True}),
}  # fmt: skip


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, 8, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])


def in_training() -> tuple[Reader, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", EDITS)
def test_normalising_is_undone_bit_for_bit(name: str) -> None:
    # GIVEN attention in training
    model, optimizer = in_training()
    before = Record(model, optimizer)
    x, y = batch()
    plain, query = model(x), model.q.weight
    # WHEN its queries and keys are normalised THEN it computes something else, with the same
    # parameters and some more, which the optimizer trains
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [EDITS[name]])
    assert not torch.allclose(bench.model(x), plain)
    now = {id(p) for p in bench.model.parameters()}
    assert {p[1] for p in before.parameters} < now
    assert now == {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert bench.parameter("q.weight") is query
    loss = F.cross_entropy(bench.model(x), y)
    gains = [p for p in bench.model.parameters() if id(p) not in {q[1] for q in before.parameters}]
    assert all(bool(g.abs().sum() > 0) for g in torch.autograd.grad(loss, gains))
    # WHEN it is taken back THEN every bit is what it was
    bench.undo()
    assert torch.equal(model(x), plain)
    before.assert_same()


def naive(mha: nn.MultiheadAttention, gain: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Normalised attention, head by head in plain loops, over [T, E]."""
    w, b = mha.in_proj_weight, mha.in_proj_bias
    q, k, v = (F.linear(x, w[i * 8 : i * 8 + 8], b[i * 8 : i * 8 + 8]) for i in range(3))
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        qs = q[:, part] / (q[:, part].square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain[0]
        ks = k[:, part] / (k[:, part].square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain[1]
        scores = qs @ ks.T / math.sqrt(4)
        scores = scores if mask is None else scores.masked_fill(mask, -math.inf)
        heads.append(torch.softmax(scores, -1) @ v[:, part])
    return mha.out_proj(torch.cat(heads, -1))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_normed_attention_is_what_plain_loops_give(weights: bool, first: bool) -> None:
    # GIVEN torch's attention with gains that are not one
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, batch_first=first)
    normed = NormedAttention.of(plain)
    with torch.no_grad():
        normed.normed.gain.copy_(torch.randn(2, 4))
    x = torch.randn(3, 5, 8)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 5])
    given = x if first else x.transpose(0, 1)
    # WHEN it reads with every kind of mask THEN the loops agree
    for keys in (
        {}, {"attn_mask": causal}, {"attn_mask": causal.float() * -1e9},
        {"key_padding_mask": padding}, {"attn_mask": causal, "key_padding_mask": padding},
        {"attn_mask": causal.expand(6, 5, 5)},
    ):  # fmt: skip
        out, seen = normed(given, given, given, need_weights=weights, **keys)
        out = out if first else out.transpose(0, 1)
        assert (seen is not None) == weights
        for n in range(3):
            mask = causal if "attn_mask" in keys else torch.zeros(5, 5, dtype=torch.bool)
            mask = mask | padding[n] if "key_padding_mask" in keys else mask
            expected = naive(plain, normed.normed.gain, x[n], mask)
            assert torch.allclose(out[n], expected, atol=1e-5)
    # THEN one sequence alone is read as well
    assert torch.allclose(normed(x[0], x[0], x[0])[0], naive(plain, normed.normed.gain, x[0], None),
                          atol=1e-5)  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_no_fused_pass_of_torch_goes_past_the_norms_at_inference() -> None:
    # GIVEN torch's encoder with normalised attention, and a padded batch
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    paths = ("layers.0.self_attn", "layers.1.self_attn")
    apply_edits(Bench(model=encoder), [Edit(kind="normalise_attention", targets=paths)])
    x, padding = torch.randn(2, 4, 8) * 5, torch.tensor([[False] * 4, [False, False, True, True]])
    # THEN training and inference agree
    for keys in ({}, {"src_key_padding_mask": padding}):
        slow = encoder.train()(x, **keys)
        with torch.no_grad():
            fast = encoder.eval()(x, **keys)
        assert torch.allclose(slow[~padding], fast[~padding], atol=1e-5)


@given(st.floats(1e-2, 1e4), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_logits_are_bounded_however_large_the_weights(size: float, width: int) -> None:
    # GIVEN queries and keys of any size THEN |q k| / sqrt(d) <= sqrt(d): Cauchy and Schwarz
    like = torch.zeros((), dtype=torch.float64)
    norm = HeadNorm(width, like=like)
    q, k = (norm(torch.randn(7, width, dtype=torch.float64) * size) for _ in range(2))
    assert float((q @ k.T).detach().abs().max()) / math.sqrt(width) <= math.sqrt(width) * (1 + 1e-9)


def test_values_of_a_packed_projection_are_left_alone() -> None:
    x = torch.randn(2, 3, 24)
    packed = HeadNorm(4, thirds=True, like=x)(x)
    assert torch.equal(packed[..., 16:], x[..., 16:])
    energy = packed[..., :8].reshape(2, 3, 2, 4).square().mean(-1)
    assert torch.allclose(energy, torch.ones(2, 3, 2), atol=1e-3)


HOSTILE = {
    "no attention": Edit(kind="normalise_attention", targets=("head",)),
    "unknown": Edit(kind="normalise_attention", targets=("nothing",)),
    "no widths": Edit(kind="normalise_heads", targets=("q",)),
    "width that does not divide": Edit(
        kind="normalise_heads", targets=("q",), args={"widths": [3]}
    ),
    "width zero": Edit(kind="normalise_heads", targets=("q",), args={"widths": [0]}),
    "width a word": Edit(kind="normalise_heads", targets=("q",), args={"widths": ["4"]}),
    "no linear layer": Edit(kind="normalise_heads", targets=("mha",), args={"widths": [4]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_refused_and_leaves_no_mark(name: str) -> None:
    model, optimizer = in_training()
    before = Record(model, optimizer)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model, optimizer=optimizer), [HOSTILE[name]])
    before.assert_same()


def test_attention_with_keys_of_its_own_is_refused() -> None:
    for keys in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        model = nn.Sequential(nn.MultiheadAttention(8, 2, **keys))
        with pytest.raises(CannotApply):
            apply_edits(Bench(model=model), [Edit(kind="normalise_attention", targets=("0",))])
