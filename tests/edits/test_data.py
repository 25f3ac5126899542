"""Edits of what the model is fed: exact, undone bit for bit, robust against hostile arguments."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from edit_subjects import Record, loss_of, trained
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.edits.finite import without_bad_samples
from gradmend.errors import CannotApply
from gradmend.layers import Clamped, Imputed, Standardised
from gradmend.records.prescription import Edit

NAN, INF = torch.nan, torch.inf


def edit(kind: str, *targets: str, **args: Any) -> Edit:
    return Edit(kind=kind, targets=targets, args=args)


EDITS = {
    "standardise": edit("standardise_input", "0", mean=[2.0], std=[3.0]),
    "per feature": edit(
        "standardise_input", "0", mean=[1.0, 2, 3, 4, 5, 6], std=[1.0, 0, 1, 2, 3, 4], limit=5.0
    ),
    "compensated": edit("standardise_input", "0", mean=[2.0], std=[3.0], compensate=True),
    "impute": edit("impute_input", "0", value=[1.5]),
    "clamp": edit("clamp_input", "0", low=[-1.0], high=[1.0]),
    "drop": edit("drop_non_finite_samples"),
}


@pytest.mark.parametrize("name", EDITS)
def test_undo_restores_every_bit_also_after_training(name: str) -> None:
    # GIVEN a model in the middle of its training
    model, optimizer = trained("sequential")
    record = Record(model, optimizer)
    bench = Bench(model=model, optimizer=optimizer)
    # WHEN it is edited, and undone
    apply_edits(bench, [EDITS[name]])
    loss_of(bench.model).backward()
    bench.undo()
    model.zero_grad()
    # THEN everything is what and where it was
    for p, (_, grad) in zip(model.parameters(), record.grads, strict=True):
        p.grad = grad
    assert record.modules == [(n, id(m), m.training) for n, m in model.named_modules()]
    assert all(torch.equal(v, record.bits[k]) for k, v in model.state_dict().items())
    assert not bench.batch_changes


def test_a_compensated_input_keeps_the_function_and_folds_away() -> None:
    # GIVEN a model WHEN its first layer takes the scale in THEN it computes the same
    model, _ = trained("sequential")
    x = torch.randn(32, 6) * 50 + 100
    before = model.double()(x.double())
    made = edit(
        "standardise_input", "0", mean=[90.0, 100, 110, 95, 99, 101], std=[40.0, 50, 60, 0, 45, 55],
        compensate=True,
    )  # fmt: skip
    bench = apply_edits(Bench(model=model), [made])
    assert torch.allclose(bench.model(x.double()), before, atol=1e-9)
    # AND folded it has the architecture it had
    plain = export_plain(bench.model, [made])
    assert [type(m) for m in plain.children()] == [
        nn.Linear, nn.Sigmoid, nn.Linear, nn.Sigmoid, nn.Linear,
    ]  # fmt: skip
    assert torch.allclose(plain(x.double()), before, atol=1e-9)


def test_channels_are_scaled_each_by_itself_and_an_unpadded_convolution_takes_it_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).double()
    x = torch.randn(8, 3, 7, 7, dtype=torch.float64)
    mean, std = [1.0, 20.0, 300.0], [1.0, 10.0, 100.0]
    shape = (1, 3, 1, 1)
    raw = x * torch.tensor(std).double().view(shape) + torch.tensor(mean).double().view(shape)
    before = model(raw)
    made = edit("standardise_input", "0", mean=mean, std=std, trailing=2, compensate=True)
    bench = apply_edits(Bench(model=model), [made])
    assert torch.allclose(bench.model(raw), before)
    assert torch.allclose(bench.model[0].change(raw), x)  # type: ignore[index,operator]


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), {"mean": [1.0], "std": [2.0]}),
        (nn.Sequential(nn.Linear(6, 4, bias=False)), {"mean": [1.0], "std": [2.0]}),
        (nn.Sequential(nn.LSTM(6, 4)), {"mean": [1.0], "std": [2.0]}),
    ],
)
def test_a_layer_that_cannot_take_the_scale_in_is_refused(
    model: nn.Module, args: dict[str, Any]
) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model), [edit("standardise_input", "0", compensate=True, **args)])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


HOSTILE = [
    edit("standardise_input", "0", mean=[], std=[1.0]),
    edit("standardise_input", "0", mean=[float("nan")], std=[1.0]),
    edit("standardise_input", "0", mean=[1.0], std=["x"]),
    edit("standardise_input", "0", mean=[1.0], std=[1.0], limit=-1.0),
    edit("standardise_input", "0", mean=[1.0, 2.0], std=[1.0, 1.0], trailing=10**9),
    edit("standardise_input", "nowhere", mean=[1.0], std=[1.0]),
    edit("impute_input", "0", value="x"),
    edit("impute_input", "0"),
    edit("clamp_input", "0", low=[2.0], high=[1.0]),
    edit("clamp_input", "0", low=[True], high=[1.0]),
]


@pytest.mark.parametrize("made", HOSTILE, ids=str)
def test_hostile_arguments_are_refused_in_a_line_and_leave_no_trace(made: Edit) -> None:
    model, optimizer = trained("sequential")
    record = Record(model, optimizer)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model, optimizer=optimizer), [made])
    record.assert_same()


# -- what is read


def test_only_the_first_floating_tensor_is_changed_wherever_it_is_handed_in() -> None:
    class Two(nn.Module):
        def forward(self, ids: Tensor, x: Tensor, scale: Tensor) -> Tensor:
            return ids + x * scale

    ids, x, scale = torch.arange(3), torch.tensor([1.0, NAN, INF]), torch.tensor(2.0)
    filled = Imputed(Two(), torch.tensor([7.0]))
    assert filled(ids, x, scale).tolist() == [2.0, 15.0, 16.0]
    assert filled(ids, x=x, scale=scale).tolist() == [2.0, 15.0, 16.0]
    assert Imputed(nn.Embedding(3, 2), torch.tensor([7.0]))(ids).shape == (3, 2)


def test_gaps_are_filled_in_the_units_that_the_module_reads() -> None:
    # GIVEN a standardised input, and filling that comes after it, or before it
    scale = edit("standardise_input", "0", mean=[10.0], std=[5.0])
    fill = edit("impute_input", "0", value=[10.0])
    for order in ([scale, fill], [fill, scale]):
        model = nn.Sequential(nn.Identity(), nn.Linear(2, 2))
        bench = apply_edits(Bench(model=model), order)
        # WHEN a gap is read THEN it is the mean: zero, in standard deviations
        assert bench.model[0](torch.tensor([[NAN, 15.0]])).tolist() == [[0.0, 1.0]]  # type: ignore[index,operator]


def test_what_is_read_is_saved_with_the_model() -> None:
    first = Standardised(nn.Linear(2, 1), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0]))
    second = Standardised(nn.Linear(2, 1), torch.zeros(2), torch.ones(2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 2)
    assert torch.equal(first(x), second(x))
    held = Clamped(nn.Identity(), torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0]))
    assert held(torch.tensor([[9.0, -9.0]])).tolist() == [[1.0, -2.0]]
    assert {"low", "high"} <= set(held.state_dict())


# -- samples left out

Pair = namedtuple("Pair", "x y")


def test_bad_samples_are_left_out_of_any_nesting() -> None:
    x = torch.tensor([[1.0, 2.0], [NAN, 0.0], [3.0, 4.0]])
    y = torch.tensor([0.0, 1.0, INF])
    ids = torch.tensor([5, 6, 7])
    mask = torch.tensor([[0.0, -INF], [-INF, 0.0], [0.0, 0.0]])
    for batch in ((x, y), [x, y], Pair(x, y), {"a": x, "b": {"c": y}}):
        kept = without_bad_samples(batch)
        assert type(kept) is type(batch)
    (left, extra), right = without_bad_samples(((x, ids), y))
    assert left.tolist() == [[1.0, 2.0]]
    assert extra.tolist() == [5]
    assert right.tolist() == [0.0]
    # AND a mask of zeros and minus infinity is no fault, nor what has no samples
    sound = (x.nan_to_num(), mask, torch.tensor(NAN), "text", None)
    assert without_bad_samples(sound) is sound
    assert without_bad_samples({"text": "x"}) == {"text": "x"}
    # AND of a batch that is bad throughout nothing is left
    assert without_bad_samples((x * NAN, y)) is None


@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.5, -2.0, NAN, INF, 3.0]), min_size=2, max_size=2),
        min_size=1,
        max_size=12,
    )
)
def test_exactly_the_finite_samples_are_kept_in_order(rows: list[list[float]]) -> None:
    x = torch.tensor(rows)
    wanted = [at for at, row in enumerate(rows) if all(abs(v) < INF for v in row)]
    found = without_bad_samples((x, torch.arange(len(rows))))
    assert ([] if found is None else found[1].tolist()) == wanted
    if found is not None:
        assert without_bad_samples(found) is found, "nothing more to leave out"
