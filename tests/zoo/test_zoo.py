"""The zoo: the same name, arguments and seed give the same bits; every specimen can be trained."""

from typing import Any

import pytest
import torch

from gradmend.errors import UnknownName
from gradmend.zoo.networks import ACTIVATIONS
from gradmend.zoo.specimen import build, names

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in names()],
    *[("mlp", {"activation": name}) for name in ACTIVATIONS],
    *[("mlp", {"init": init}) for init in ("default", "orthogonal", "normal", "constant")],
    ("mlp", {"norm": "batch"}),
    ("mlp", {"norm": "layer"}),
    ("mlp", {"bad_layer": 1, "bad_gain": 3.0, "bad_bias": 2.0}),
    ("functional_mlp", {"in_place": True}),
    ("functional_mlp", {"detach_at": 1}),
    ("recurrent", {"cell": "gru"}),
    ("transformer", {"norm_first": False}),
]


@pytest.mark.parametrize(("name", "args"), VARIANTS, ids=str)
def test_the_same_seed_gives_the_same_bits_and_a_loss_that_can_be_followed(
    name: str, args: dict[str, Any]
) -> None:
    state = torch.get_rng_state()
    first, again, other = build(name, **args), build(name, **args), build(name, seed=1, **args)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state stays"
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert args.get("init") == "constant" or any(
        not torch.equal(a, b)
        for a, b in zip(first.model.parameters(), other.model.parameters(), strict=True)
    )
    for (x, y), (u, v) in zip(first.batches, again.batches, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    x, y = first.batch
    loss = first.loss_fn(first.model(x), y)
    assert loss.dim() == 0
    assert bool(torch.isfinite(loss))
    loss.backward()
    assert any(p.grad is not None for p in first.model.parameters())


def test_unknown_specimens_and_arguments_come_with_what_there_is() -> None:
    with pytest.raises(UnknownName, match=r"(?i)did you mean 'transformer'"):
        build("transfomer")
    with pytest.raises(UnknownName, match=r"(?i)it has .*\bcnn\b"):
        build("zzz")
    with pytest.raises(UnknownName, match=r"takes no 'layers'.*depth"):
        build("mlp", layers=3)
    with pytest.raises(ValueError, match="no initialisation 'odd'"):
        build("mlp", init="odd")


def test_the_planted_fault_is_in_the_named_layer_alone() -> None:
    good, bad = build("mlp"), build("mlp", bad_layer=1, bad_gain=5.0, bad_bias=2.0)
    pairs = list(zip(good.model.parameters(), bad.model.parameters(), strict=True))
    changed = [number for number, (a, b) in enumerate(pairs) if not torch.equal(a, b)]
    assert changed == [2, 3]
    assert torch.equal(pairs[2][1], pairs[2][0] * 5.0)
    assert torch.equal(pairs[3][1], pairs[3][0] + 2.0)
