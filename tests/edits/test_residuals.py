"""Edits of the residual topology: arithmetic, names, undo, hostile arguments."""

import copy

import pytest
import torch
from edit_subjects import Record, batch, edits_for, loss_of, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits
from gradmend.errors import CannotApply
from gradmend.layers.deep_norm import DeepNormDecoderLayer, DeepNormEncoderLayer
from gradmend.layers.residuals import Moved, ReZero, ScaledResidual
from gradmend.records.prescription import Edit


class Stack(nn.Module):
    """Post-norm layers of torch's own, a head, a user's hook on the first."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder(x).mean(1))
        return result


LAYERS = tuple(f"encoder.layers.{i}" for i in range(3))
DEEP = Edit(kind="deep_norm", targets=LAYERS, args={"alpha": 1.5})
WRAP = Edit(kind="wrap_residual", targets=("0", "2"), args={"parts": [["1"], ["3"]], "factor": 0.5})


def in_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Stack()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    step(model, optimizer)
    model.encoder.layers[0].register_forward_hook(lambda *_: None)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 5, 8, generator=generator)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


@pytest.mark.parametrize("alpha", [1.5, 1.0])
def test_deep_norm_is_undone_bit_for_bit_after_training(alpha: float) -> None:
    # GIVEN a transformer in training
    model, optimizer = in_training()
    before, saved = Record(model, optimizer), copy.deepcopy(model.state_dict())
    # WHEN it becomes DeepNorm's and is trained on THEN names and parameter objects are the same
    edit = Edit(kind="deep_norm", targets=LAYERS, args={"alpha": alpha})
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert list(bench.model.state_dict()) == list(saved)
    assert {id(p) for p in bench.model.parameters()} == {p[1] for p in before.parameters}
    assert isinstance(bench.model.get_submodule(LAYERS[0]), DeepNormEncoderLayer)
    # WHEN it is taken back THEN all is what it was
    bench.undo()
    before.assert_same()


def test_deep_norm_is_alpha_on_the_skips_and_nothing_else() -> None:
    # GIVEN torch's own layers and their copies with alpha = 1 and alpha = 2
    torch.manual_seed(0)
    plain = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    x = torch.randn(3, 5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
    one, two = DeepNormEncoderLayer.of(plain, 1.0), DeepNormEncoderLayer.of(plain, 2.0)
    # THEN 1 is the layer itself, whatever the masks, in training and for inference
    for keys in ({}, {"src_mask": mask, "is_causal": True}, {"src_key_padding_mask": padding}):
        assert torch.allclose(one(x, **keys), plain(x, **keys), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(one.eval()(x), plain.eval()(x), atol=1e-6)
    # THEN 2 is the closed form
    attended = plain.self_attn(x, x, x, need_weights=False)[0]
    h = plain.norm1(2.0 * x + attended)
    fed = plain.linear2(torch.relu(plain.linear1(h)))
    assert torch.allclose(two(x), plain.norm2(2.0 * h + fed), atol=1e-6)


def test_deep_norm_of_a_decoder_with_alpha_one_is_the_decoder() -> None:
    torch.manual_seed(0)
    plain = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True)
    x, memory = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    same = DeepNormDecoderLayer.of(plain, 1.0)
    assert torch.allclose(same(x, memory), plain(x, memory), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_of_deep_norm_layers_reads_padded_batches_for_inference() -> None:
    # GIVEN torch's encoder, which packs padded batches into nested tensors for its own layers
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    edit = Edit(kind="deep_norm", targets=("layers.0", "layers.1"), args={"alpha": 2.0})
    apply_edits(Bench(model=encoder), [edit])
    x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False, False, True, True]])
    # THEN inference gives what training gives
    with torch.no_grad():
        fast = encoder(x, src_key_padding_mask=padding)
    slow = encoder.train()(x, src_key_padding_mask=padding)
    assert torch.allclose(fast[~padding], slow[~padding], atol=1e-5)


@given(st.floats(-3.0, 3.0), st.integers(1, 3), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_scaled_residual_is_h_plus_factor_times_f(factor: float, parts: int, width: int) -> None:
    modules = [nn.Linear(width, width) for _ in range(parts)]
    h = torch.randn(2, width)
    f = h
    for module in modules:
        f = module(f)
    assert torch.allclose(ScaledResidual(*modules, factor=factor)(h), h + factor * f, atol=1e-5)
    assert torch.equal(ReZero(*modules)(h), h), "alpha begins at zero"


def test_names_of_what_was_moved_into_a_block_still_resolve() -> None:
    # GIVEN layers and activations in blocks
    model, optimizer = trained("sequential")
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    # THEN the old names give the old objects, and each parameter is saved once
    assert isinstance(bench.module("1"), Moved)
    assert bench.parameter("0.weight") is dict(bench.model.named_parameters())["0.inner.weight"]
    assert len(bench.model.state_dict()) == len(list(model.parameters())) + 2, "and two factors"
    assert bench.model[0].weight is bench.parameter("0.weight"), "for code that reads it"
    with pytest.raises(AttributeError):
        _ = bench.model[0].nothing_of_this_name
    # THEN a copy and a saved copy are whole
    x, _ = batch()
    copied = copy.deepcopy(bench.model)
    assert torch.equal(copied(x), bench.model(x))
    copied.load_state_dict(bench.model.state_dict())


def test_a_scaled_residual_adds_no_parameter_and_is_undone() -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [WRAP])
    assert len(optimizer.param_groups) == len(before.groups)
    loss_of(bench.model).backward()
    for parameter in model.parameters():
        parameter.grad = None
    bench.undo()
    assert bench.model is model


def test_rows_are_scaled_and_the_rest_is_left() -> None:
    # GIVEN a weight of three units
    model, optimizer = trained("sequential")
    was, before = model[4].weight.detach().clone(), Record(model, optimizer)
    edit = Edit(kind="scale_rows", targets=("4.weight", "4.bias"),
                args={"factors": [0.5, 2.0], "rows": [[0, 2], []]})  # fmt: skip
    # WHEN two rows are halved THEN the third is what it was, and undoing restores all
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert torch.equal(model[4].weight[:2], was[:2] * 0.5)
    assert torch.equal(model[4].weight[2], was[2])
    bench.undo()
    before.assert_same()


@pytest.mark.parametrize("learned", [False, True])
def test_a_factor_behind_a_module_is_undone_after_training(learned: bool) -> None:
    model, optimizer = trained("sequential")
    before = Record(model, optimizer)
    x, _ = batch()
    plain = model(x)
    edit = Edit(
        kind="multiply_output", targets=("4",), args={"factors": [0.25], "learned": learned}
    )
    bench = apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    assert torch.allclose(bench.model(x), 0.25 * plain)
    assert len(optimizer.param_groups) == len(before.groups) + learned
    assert bench.parameter("4.weight") is model.get_parameter("4.inner.weight")
    bench.undo()
    before.assert_same()


HOSTILE: dict[str, tuple[str, Edit]] = {
    "no alpha": ("stack", Edit(kind="deep_norm", targets=LAYERS)),
    "alpha zero": ("stack", Edit(kind="deep_norm", targets=LAYERS, args={"alpha": 0})),
    "alpha a word": ("stack", Edit(kind="deep_norm", targets=LAYERS, args={"alpha": "2"})),
    "no layer": ("stack", Edit(kind="deep_norm", targets=("head",), args={"alpha": 2.0})),
    "unknown layer": ("stack", Edit(kind="deep_norm", targets=("x.y",), args={"alpha": 2.0})),
    "factor NaN": ("plain", Edit(kind="wrap_residual", targets=("0",),
                                 args={"parts": [["1"]], "factor": float("nan")})),
    "a module twice": ("plain", Edit(kind="wrap_residual", targets=("0",),
                                     args={"parts": [["1", "1"]]})),
    "the root": ("plain", Edit(kind="wrap_residual", targets=("",), args={"parts": [["1"]]})),
    "rows beyond": ("plain", Edit(kind="scale_rows", targets=("0.weight",),
                                  args={"factors": [1.0], "rows": [[0, 99]]})),
    "rows of words": ("plain", Edit(kind="scale_rows", targets=("0.weight",),
                                    args={"factors": [1.0], "rows": [["a", "b"]]})),
    "too few factors": ("plain", Edit(kind="multiply_output", targets=("0", "2"),
                                      args={"factors": [1.0]})),
    "no module": ("plain", Edit(kind="multiply_output", targets=("9",), args={"factors": [1.0]})),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_refused_and_leaves_no_mark(name: str) -> None:
    kind, edit = HOSTILE[name]
    model, optimizer = in_training() if kind == "stack" else trained("sequential")
    before = Record(model, optimizer)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model, optimizer=optimizer), [edit])
    before.assert_same()


def test_pre_norm_layers_and_classes_of_ones_own_are_refused() -> None:
    class Own(nn.TransformerEncoderLayer):
        pass

    for layer in (nn.TransformerEncoderLayer(8, 2, norm_first=True), Own(8, 2)):
        with pytest.raises(CannotApply):
            apply_edits(Bench(model=nn.Sequential(layer)),
                        [Edit(kind="deep_norm", targets=("0",), args={"alpha": 2.0})])  # fmt: skip


def test_an_edit_fits_a_fresh_model_of_another_seed() -> None:
    torch.manual_seed(77)
    fresh = Stack()
    apply_edits(Bench(model=fresh), [DEEP])
    other, _ = trained("sequential")
    apply_edits(Bench(model=other), [edits_for("sequential")["wrap_residual"]])
