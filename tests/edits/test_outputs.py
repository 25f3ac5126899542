"""Edits of what the model puts out: closed forms, and the way back."""

import copy
import math
from typing import Any

import pytest
import torch
from edit_subjects import Record, loss_of, trained
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.errors import CannotApply
from gradmend.layers import FOLLOWERS, FiniteGradient, Rescaled
from gradmend.records.prescription import Edit


def edit(kind: str, *targets: str, **args: Any) -> Edit:
    return Edit(kind=kind, targets=targets, args=args)


EDITS = {
    "target": edit("standardise_target", "4", mean=[5.0], std=[3.0], degree=2),
    "target, kept": edit("standardise_target", "4", mean=[5.0], std=[3.0], compensate=True),
    "root": edit("follow_module", "", module="LogSoftmax", dim=1),
    "guard": edit("follow_module", "2", module="FiniteGradient"),
    "prior": edit("class_prior_bias", "4.bias", shares=[0.9, 0.05, 0.05]),
    "quiet": edit("scale_output", "4.weight", "4.bias", factor=0.1),
}


@pytest.mark.parametrize("name", EDITS)
def test_undo_restores_every_bit(name: str) -> None:
    model, optimizer = trained("sequential")
    record = Record(model, optimizer)
    bench = Bench(model=model, optimizer=optimizer)
    apply_edits(bench, [EDITS[name]])
    assert bench.model(torch.randn(4, 6)).shape == (4, 3)
    bench.undo()
    assert bench.model is model
    record.assert_same()


@pytest.mark.parametrize(
    "made",
    [
        edit("follow_module", "4", module="Eval"),
        edit("follow_module", "4"),
        edit("follow_module", "9", module="Logit"),
        edit("follow_module", "4", module="Logit", dim=1),
        edit("follow_module", "4", module="LogSoftmax", dim="x"),
        edit("standardise_target", "4", mean=[1.0], std=[-1.0]),
        edit("standardise_target", "4", mean=[], std=[1.0]),
        edit("standardise_target", "4", mean=[1.0], std=[1.0], degree=7),
        edit("standardise_target", "1", mean=[1.0], std=[1.0], compensate=True),
        edit("class_prior_bias", "4.bias", shares=[0.5, 0.5]),
        edit("class_prior_bias", "4.bias", shares=[1.0, 0.0, 0.0]),
        edit("class_prior_bias", "4.nothing", shares=[0.5, 0.2, 0.3]),
        edit("scale_output", "4.weight", factor=0.0),
        edit("scale_output", "4.weight"),
    ],
    ids=str,
)
def test_hostile_arguments_are_refused_and_leave_no_trace(made: Edit) -> None:
    model, optimizer = trained("sequential")
    record = Record(model, optimizer)
    with pytest.raises(CannotApply):
        apply_edits(Bench(model=model, optimizer=optimizer), [made])
    record.assert_same()


LOSSES = {2: F.mse_loss, 1: F.l1_loss}


@pytest.mark.parametrize("degree", [1, 2])
@given(mean=st.floats(-1e4, 1e4), log_std=st.floats(-4.0, 6.0))
def test_the_network_gets_the_gradient_of_the_standardised_loss(
    degree: int, mean: float, log_std: float
) -> None:
    # GIVEN targets in any units
    std = 10.0**log_std
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(8, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    # WHEN the loss is taken on the outputs in those units
    LOSSES[degree](Rescaled(one * mean, one * std, degree)(z), t * std + mean).backward()
    in_units = z.grad
    z.grad = None
    # THEN the gradient is that of the loss on standardised targets
    LOSSES[degree](z, t).backward()
    assert in_units is not None
    assert z.grad is not None
    assert torch.allclose(in_units, z.grad, rtol=1e-5, atol=1e-6 + 1e-12 * abs(mean) / std)


def test_a_training_in_the_targets_units_is_that_on_standardised_targets() -> None:
    # GIVEN twins, one with targets of deviation 1000 and a rescaled output
    x, t = torch.randn(64, 6, dtype=torch.float64), torch.randn(64, 3, dtype=torch.float64)
    plain, _ = trained("sequential")
    plain = plain.double()
    edited = copy.deepcopy(plain)
    made = edit("standardise_target", "4", mean=[5000.0], std=[1000.0], degree=2)
    bench = apply_edits(Bench(model=edited), [made])
    # WHEN both are trained
    for model, target in ((plain, t), (bench.model, t * 1000 + 5000)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()
    # THEN they are the same network, in other units
    assert torch.allclose(bench.model(x), plain(x) * 1000 + 5000)
    # AND exported the unit is part of the last layer
    folded = export_plain(bench.model, [made])
    assert [type(m) for m in folded] == [type(m) for m in plain]  # type: ignore[attr-defined]
    assert torch.allclose(folded(x), bench.model(x))


def test_compensated_outputs_stay() -> None:
    model, _ = trained("sequential")
    x = torch.randn(16, 6)
    before = model(x)
    bench = apply_edits(Bench(model=model), [EDITS["target, kept"]])
    assert torch.allclose(bench.model(x), before, atol=1e-5)


def test_a_softmax_that_cannot_be_taken_out_is_taken_back() -> None:
    # GIVEN probabilities WHEN their logarithm goes to cross_entropy THEN it is that of the logits
    logits = torch.randn(32, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (32,))
    F.cross_entropy(FOLLOWERS["Logarithm"]()(logits.softmax(1)), y).backward()
    found, logits.grad = logits.grad, None
    F.cross_entropy(logits, y).backward()
    assert found is not None
    assert torch.allclose(found, logits.grad)  # type: ignore[arg-type]
    # AND the same of a sigmoid and its logit
    assert torch.allclose(FOLLOWERS["Logit"]()(torch.sigmoid(logits)), logits)
    assert bool(torch.isfinite(FOLLOWERS["Logit"]()(torch.tensor([0.0, 1.0]))).all())
    assert bool(torch.isfinite(FOLLOWERS["Logarithm"]()(torch.zeros(2))).all())


def test_a_missing_target_does_not_count() -> None:
    # GIVEN a target that is missing
    z = torch.randn(4, 1, requires_grad=True)
    t = torch.tensor([[1.0], [torch.nan], [2.0], [3.0]])
    # WHEN the loss goes back through the guard
    F.mse_loss(FiniteGradient()(z), t).backward()
    found, z.grad = z.grad, None
    # THEN its sample gets zero, and the others what they would
    keep = torch.tensor([0, 2, 3])
    (F.mse_loss(z[keep], t[keep], reduction="sum") / 4).backward()
    assert found is not None
    assert torch.allclose(found, z.grad)  # type: ignore[arg-type]


def test_the_branch_that_where_leaves_out_gets_its_exact_gradient() -> None:
    x = torch.tensor([4.0, 0.0, 9.0], requires_grad=True)
    h = FiniteGradient()(x)
    torch.where(h > 0, h.sqrt(), torch.zeros(())).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.25, 0.0, 1 / 6])
    # AND what it hands on may be changed in place
    nn.ReLU(inplace=True)(FiniteGradient()(x)).sum().backward()


def test_shapes_are_aligned_and_left_alone_where_they_are() -> None:
    squeezed, unsqueezed = FOLLOWERS["Squeezed"](), FOLLOWERS["Unsqueezed"]()
    assert squeezed(torch.zeros(4, 1)).shape == (4,)
    assert squeezed(torch.zeros(4)).shape == (4,)
    assert squeezed(torch.zeros(4, 2)).shape == (4, 2)
    assert unsqueezed(torch.zeros(4)).shape == (4, 1)
    assert unsqueezed(torch.zeros(4, 1)).shape == (4, 1)


def test_the_first_guess_is_the_classes_frequency() -> None:
    # GIVEN an output layer without weights WHEN it gets the prior THEN it guesses by frequency
    shares = [0.7, 0.2, 0.1]
    model = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(model[0].weight)
    apply_edits(Bench(model=model), [edit("class_prior_bias", "0.bias", shares=shares)])
    assert model(torch.randn(2, 4)).softmax(1)[0].tolist() == pytest.approx(shares)
    one = nn.Sequential(nn.Linear(4, 1))
    nn.init.zeros_(one[0].weight)
    apply_edits(Bench(model=one), [edit("class_prior_bias", "0.bias", shares=[0.01], sigmoid=True)])
    assert one(torch.randn(1, 4)).item() == pytest.approx(math.log(0.01 / 0.99))


def test_the_edited_model_can_be_saved_copied_and_followed_by_other_edits() -> None:
    model, _ = trained("sequential")
    bench = apply_edits(Bench(model=model), [EDITS["target"], EDITS["root"]])
    again = copy.deepcopy(bench.model)
    again.load_state_dict(bench.model.state_dict())
    x: Tensor = torch.randn(3, 6)
    assert torch.equal(again(x), bench.model(x))
    # AND names still are those of the original
    apply_edits(bench, [edit("scale_output", "4.weight", factor=2.0)])
    loss_of(bench.model).backward()


@pytest.mark.parametrize(
    ("called", "inverse"),
    [(torch.tanh, "InverseTanh"), (F.softplus, "InverseSoftplus"), (torch.sigmoid, "Logit")],
)
def test_an_inverse_takes_an_activation_back_with_its_gradient(called: Any, inverse: str) -> None:
    z = torch.linspace(-5.0, 5.0, 41, requires_grad=True)
    back = FOLLOWERS[inverse]()(called(z))
    back.sum().backward()
    assert torch.allclose(back, z, atol=1e-3)
    assert torch.allclose(z.grad, torch.ones_like(z), atol=1e-2)
    far = torch.tensor([-60.0, 60.0], requires_grad=True)
    FOLLOWERS[inverse]()(called(far)).sum().backward()
    assert bool(far.grad.isfinite().all())
