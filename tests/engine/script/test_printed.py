"""Figures that scripts print of their own evaluation."""

from __future__ import annotations

import math

import pytest

from gradmend.engine.script.printed import printed_figures
from gradmend.records.verdict import Figure


@pytest.mark.parametrize(
    ("line", "name", "value", "higher"),
    [
        ("test acc: 0.91", "test acc", 0.91, True),
        ("val_loss=0.34", "val loss", 0.34, False),
        ("{'eval_loss': 2.25, 'epoch': 1.0}", "eval loss", 2.25, False),
        ("epoch 3  train loss 0.51  test loss 0.62", "test loss", 0.62, False),
        ("Validation accuracy 87.5 %", "validation accuracy", 87.5, True),
        ("Test set: Average loss: 0.0563, Accuracy: 9812/10000 (98%)", "test accuracy", 9812, True),
        ("step 100 val ppl 1.2e+02", "val ppl", 120.0, False),
        ("eval distance 0.42", "eval distance", 0.42, False),
        ("  accuracy is 0.5", "accuracy", 0.5, True),
    ],
)
def test_an_evaluation_is_read_as_people_print_it(
    line: str, name: str, value: float, higher: bool
) -> None:
    found = printed_figures(line)
    assert found[name] == Figure(name, value, higher)


@pytest.mark.parametrize(
    "line",
    [
        "epoch 3 loss 0.51",  # of training, or of nobody knows what
        "train acc 0.99",
        "Training accuracy: 0.99",
        "learning rate 0.001",
        "saved to runs/test_3",
        "",
    ],
)
def test_what_is_no_evaluation_is_not_read(line: str) -> None:
    assert printed_figures(line) == {}


def test_the_last_figure_of_a_name_counts_and_nan_is_a_figure() -> None:
    found = printed_figures("val loss 2.3\nval loss 1.5\ntest loss nan\n")
    assert found["val loss"].value == 1.5
    assert math.isnan(found["test loss"].value)


def test_a_line_without_end_is_read_in_its_beginning_only() -> None:
    assert printed_figures("val loss 1.5 " + "x" * 10**6 + " val loss 9")["val loss"].value == 1.5
