"""Edits that fold away leave a plain network that computes the same function."""

from itertools import pairwise

import pytest
import torch
from edit_subjects import edits_for, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradmend.edits import Bench, apply_edits, export_plain
from gradmend.errors import CannotApply
from gradmend.layers import CentredSigmoid, ReZero, Standardised
from gradmend.records.prescription import Edit

SAME = 1e-10  # float64 rounding over some layers; a wrong fold is off by 0.01 or more


def sigmoid_net(widths: list[int], bias: float = 0.3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.Sigmoid()]
    net = nn.Sequential(*layers[:-1]).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, bias, 1.0)
    return net


def centring(net: nn.Sequential) -> Edit:
    acts = [str(i) for i, layer in enumerate(net) if isinstance(layer, nn.Sigmoid)]
    return Edit(
        kind="centre_sigmoids",
        targets=tuple(acts),
        args={
            "feeds": [str(int(a) - 1) for a in acts],
            "readers": [[str(int(a) + 1)] for a in acts],
        },
    )


def scaling(target: str, mean: list[float], std: list[float]) -> Edit:
    return Edit(
        kind="standardise_input", targets=(target,), args={"mean": list(mean), "std": list(std)}
    )


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), min_size=3, max_size=7),
    seed=st.integers(0, 10_000),
    scaled=st.sampled_from(["no", "one", "each"]),
    scale_first=st.booleans(),
)
def test_what_is_exported_computes_the_same_with_plain_layers_only(
    widths: list[int], seed: int, scaled: str, scale_first: bool
) -> None:
    # GIVEN a sigmoid net of any shape, in centred coordinates, on standardised input
    torch.manual_seed(seed)
    net = sigmoid_net(widths)
    edits = [centring(net)]
    if scaled != "no":
        figures = widths[0] if scaled == "each" else 1
        scale = scaling("0", torch.randn(figures).tolist(), (torch.rand(figures) + 0.5).tolist())
        edits.insert(0 if scale_first else 1, scale)
    bench = apply_edits(Bench(model=net), edits)
    x = torch.randn(11, widths[0], dtype=torch.float64) * 3 + 1
    # WHEN it is exported
    edited = {k: v.clone() for k, v in bench.model.state_dict().items()}
    y = bench.model(x).detach()
    exported = export_plain(bench.model, edits)
    # THEN it is a plain network, of the same function
    assert {type(m) for m in exported.modules()} == {nn.Sequential, nn.Linear, nn.Sigmoid}
    assert [type(m) for m in exported] == [nn.Linear, nn.Sigmoid] * (len(widths) - 2) + [nn.Linear]
    largest = max(1.0, float(y.abs().max()))
    assert float((exported(x) - y).detach().abs().max()) < SAME * largest
    # AND the edited one was left alone
    assert any(isinstance(m, CentredSigmoid) for m in bench.model.modules())
    assert all(torch.equal(v, bench.model.state_dict()[k]) for k, v in edited.items())
    assert torch.equal(bench.model(x).detach(), y)


def test_an_export_of_a_sick_twist_would_be_noticed() -> None:
    # the tolerance means something: forgetting the offset of one layer is seen
    net = sigmoid_net([4, 5, 3])
    edits = [centring(net)]
    bench = apply_edits(Bench(model=net), edits)
    exported = export_plain(bench.model, edits)
    with torch.no_grad():
        exported.get_submodule("2").bias.add_(1e-6)
    x = torch.randn(7, 4, dtype=torch.float64)
    assert float((exported(x) - bench.model(x)).detach().abs().max()) > SAME


def test_centring_folds_where_the_whole_model_was_wrapped() -> None:
    net = sigmoid_net([4, 5, 3])
    edits = [scaling("", [1.0], [2.0]), centring(net)]
    bench = apply_edits(Bench(model=net), edits)
    x = torch.randn(7, 4, dtype=torch.float64)
    exported = export_plain(bench.model, edits)
    assert isinstance(exported, Standardised), "a whole model has no weight to fold into: it stays"
    assert not any(isinstance(m, CentredSigmoid) for m in exported.modules())
    assert float((exported(x) - bench.model(x)).detach().abs().max()) < SAME


def test_a_layer_read_by_several_is_folded_into_all_of_them() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.act = nn.Linear(4, 5), nn.Sigmoid()
            self.left, self.right = nn.Linear(5, 2), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.act(self.inp(x))
            return torch.cat([self.left(h), self.right(h)], dim=1)

    net = Fork().double()
    edit = Edit(
        kind="centre_sigmoids",
        targets=("act",),
        args={"feeds": ["inp"], "readers": [["left", "right"]]},
    )
    bench = apply_edits(Bench(model=net), [edit])
    x = torch.randn(7, 4, dtype=torch.float64)
    exported = export_plain(bench.model, [edit])
    assert type(exported.get_submodule("act")) is nn.Sigmoid
    assert float((exported(x) - bench.model(x)).detach().abs().max()) < SAME


def test_what_cannot_be_folded_stays_or_is_refused() -> None:
    # a residual stays
    edits = [edits_for("sequential")["wrap_residual"]]
    bench = apply_edits(Bench(model=plain()), edits)
    exported = export_plain(bench.model, edits)
    assert any(isinstance(m, ReZero) for m in exported.modules())
    # a convolution's padding is a zero of other coordinates: its standardised input stays
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    scale = scaling("0", [1.0], [2.0])
    bench = apply_edits(Bench(model=net), [scale])
    assert isinstance(export_plain(bench.model, [scale]).get_submodule("0"), Standardised)
    # a reader or a feed that another edit wrapped is refused, not folded into the wrong thing
    net2 = sigmoid_net([5, 5, 5])
    centre = centring(net2)
    both = [centre, scaling("2", [1.0], [2.0])]
    bench = apply_edits(Bench(model=net2), both)
    x = torch.randn(3, 5, dtype=torch.float64)
    folded = export_plain(bench.model, both[:1] + both[1:])
    assert float((folded(x) - bench.model(x)).detach().abs().max()) < SAME
    bench = apply_edits(
        bench, [Edit(kind="wrap_residual", targets=("0",), args={"parts": [["1"]]})]
    )
    with pytest.raises(CannotApply, match="wrapped by another edit"):
        export_plain(bench.model, [centre])


def test_export_of_no_edits_is_a_copy() -> None:
    net = plain()
    exported = export_plain(net, [])
    assert exported is not net
    assert all(
        torch.equal(a, b) and a is not b
        for a, b in zip(net.parameters(), exported.parameters(), strict=True)
    )
