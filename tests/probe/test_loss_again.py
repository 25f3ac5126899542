"""Making a heard loss call again."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from gradmend.probe.loss_again import Again, again
from gradmend.probe.loss_calls import Ear, arguments, hearing
from gradmend.records.loss_call import LossCall

TARGET = torch.tensor([0, 2, 1, 2])


def heard(make: Any) -> Again:
    """What makes the one loss call of a block again."""
    found: list[Again | None] = []

    def tell(name: str, args: Any, kwargs: Any) -> None:
        given = arguments(name, args, kwargs)
        found.append(None if given is None else again(name, args, kwargs, given[0]))

    ear = Ear(tell)
    ear.open()
    try:
        make()
    finally:
        ear.close()
    (call,) = found
    assert call is not None
    return call


def output(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize(
    ("shape", "loss"),
    [
        ((4, 3), lambda o: functional.cross_entropy(o, TARGET)),
        (
            (4, 3),
            lambda o: functional.cross_entropy(
                o, TARGET, weight=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1
            ),
        ),
        ((4, 1), lambda o: functional.mse_loss(o.squeeze(1), TARGET.float())),
        ((2, 2, 3), lambda o: functional.cross_entropy(o.view(-1, 3), TARGET)),
        ((2, 2, 3), lambda o: functional.cross_entropy(o.transpose(1, 2), TARGET.view(2, 2))),
        ((4,), lambda o: functional.binary_cross_entropy_with_logits(o, (TARGET > 0).float())),
        ((4,), lambda o: functional.huber_loss(o, TARGET.float(), reduction="sum")),
    ],
)
def test_it_is_the_same_loss_of_the_same_output(shape: tuple[int, ...], loss: Any) -> None:
    # given a loss, heard once
    first = output(*shape)
    expected: list[Tensor] = []
    call = heard(lambda: expected.append(loss(first)))
    # when it is made again on the output, in float64
    made = call(first.detach().double().requires_grad_())
    # then it is the same number, and leads back to the output
    assert made is not None and made.requires_grad and made.dtype == torch.float64
    assert float(made.detach()) == pytest.approx(float(expected[0].detach()), rel=1e-5)


def test_an_output_of_another_size_is_refused() -> None:
    call = heard(lambda: functional.cross_entropy(output(4, 3), TARGET))
    assert call(output(5, 3)) is None


def test_what_was_cut_out_of_an_output_is_refused() -> None:
    whole = output(6, 3)
    call = heard(lambda: functional.cross_entropy(whole[:4], TARGET))
    assert call(whole) is None


def test_a_function_mode_hears_one_call_by_its_public_name() -> None:
    class Mode(TorchFunctionMode):
        names: list[str] = []  # noqa: RUF012

        @override
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    call = heard(lambda: functional.cross_entropy(output(4, 3), TARGET))
    calls: list[LossCall] = []
    with hearing(calls), Mode():
        call(output(4, 3))
    assert "cross_entropy" in Mode.names
    assert [each.function for each in calls] == ["cross_entropy"]
