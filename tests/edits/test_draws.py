"""What edits draw and measure, against closed forms and naive twins."""

import math

import pytest
import torch
from edit_subjects import draw
from torch import Tensor, nn

from gradmend.edits import Bench, apply_edits, draw_weight
from gradmend.records.prescription import Edit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7), (4, 3, 3, 3), (40, 2, 3), (1, 9)])
@pytest.mark.parametrize("gain", [0.1, 1.0, 4.0])
def test_orthogonal_weights_have_equal_singular_values_and_the_gain(
    shape: tuple[int, ...], gain: float
) -> None:
    # WHEN a weight is drawn
    weight = draw_weight(shape, "orthogonal", gain, generator()).double()
    out, fan_in = shape[0], math.prod(shape[1:])
    flat = weight.reshape(out, fan_in)
    # THEN Q^T Q = g^2 max(1, out / in) 1 on the smaller side (float32: eps * 40 entries)
    gram = flat.T @ flat if out >= fan_in else flat @ flat.T
    expected = gain**2 * max(1.0, out / fan_in) * torch.eye(len(gram), dtype=torch.float64)
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-5 * gain**2 * max(1.0, out / fan_in))
    # AND its gain sqrt(fan_in E[w^2]) is g: ||Q||_F^2 = min(out, in) * s^2
    rms_gain = math.sqrt(fan_in * float(flat.square().mean()))
    # wide: s = g, E[w^2] = out g^2 / (out in) so the gain is g exactly; tall the same
    assert rms_gain == pytest.approx(gain, rel=1e-5)


def test_normal_weights_have_the_gain_up_to_sampling_noise() -> None:
    weight = draw_weight((400, 250), "normal", 1.7, generator())
    # relative error of a second moment over n entries: 1/sqrt(2 n) = 0.22 %; four sigma
    assert math.sqrt(250 * float(weight.square().mean())) == pytest.approx(1.7, rel=0.01)
    assert abs(float(weight.mean())) < 4 * 1.7 / math.sqrt(250) / math.sqrt(weight.numel())


@pytest.mark.parametrize("scheme", ["orthogonal", "normal"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(scheme: str) -> None:
    def drawn(edit_seed: int, bench_seed: int) -> Tensor:
        model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6))
        edit = draw(["0", "2"], scheme=scheme, seed=edit_seed)
        apply_edits(Bench(model=model, seed=bench_seed), [edit])
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = drawn(3, 0)
    assert torch.equal(first, drawn(3, 0))
    assert not torch.equal(first, drawn(4, 0))
    assert not torch.equal(first, drawn(3, 1))
    assert not torch.equal(first[:36], first[42:78]), "layers are not copies of one another"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_type_does_not_change_what_is_drawn(dtype: torch.dtype) -> None:
    expected = draw_weight((5, 4), "orthogonal", 1.0, generator())
    was = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(draw_weight((5, 4), "orthogonal", 1.0, generator()), expected)
    finally:
        torch.set_default_dtype(was)


def test_biases_remove_the_mean_of_what_the_layer_reads() -> None:
    # b = -centre W 1, so a constant input of value centre gives exactly nothing
    model = nn.Sequential(nn.Linear(8, 5))
    apply_edits(Bench(model=model), [draw(["0"], centres=[0.5], bias_stds=[0.0], gains=[4.0])])
    # float32: eps * gain * a few terms
    torch.testing.assert_close(model(torch.full((1, 8), 0.5)), torch.zeros(1, 5), rtol=0, atol=1e-5)


def test_the_random_part_of_a_bias_has_its_standard_deviation() -> None:
    model = nn.Sequential(nn.Linear(2, 20_000))
    apply_edits(Bench(model=model), [draw(["0"], centres=[0.0], bias_stds=[0.3])])
    assert float(model[0].bias.detach().std()) == pytest.approx(0.3, rel=0.02)  # 4/sqrt(2 n)


def test_a_layer_without_a_bias_is_drawn_without_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    apply_edits(Bench(model=model), [draw(["0"], biases=[None])])
    gram = model[0].weight.detach().T @ model[0].weight.detach()
    torch.testing.assert_close(gram, 2.25 * torch.eye(4), rtol=0, atol=1e-5)


# -- rescale_by_data


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(16, 3)
    )


def naive_rescale(model: nn.Sequential, x: Tensor, std: float) -> None:
    """Layer by layer, each on the output of those already corrected."""
    for number, layer in enumerate(model):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        with torch.no_grad():
            z = model[: number + 1](x)
            dims = [d for d in range(z.dim()) if d != 1]
            mean = z.mean(dim=dims)
            centred = z - mean.view([1, -1] + [1] * (z.dim() - 2))
            scale = std / centred.square().mean().sqrt()
            layer.weight.mul_(scale)
            layer.bias.sub_(mean).mul_(scale)


@pytest.mark.parametrize(
    ("build", "shape", "layers"),
    [(mlp, (64, 6), ["0", "2", "4"]), (convnet, (32, 2, 6, 6), ["0", "2", "4"])],
)
@pytest.mark.parametrize("std", [1.0, 0.3])
def test_rescaled_layers_are_centred_per_unit_and_have_the_asked_rms(
    build: type[nn.Sequential], shape: tuple[int, ...], layers: list[str], std: float
) -> None:
    # GIVEN a network with a batch far from standard
    model = build().double()
    x = torch.randn(shape, dtype=torch.float64) * 3 + 2
    twin = build().double()
    edit = Edit(
        kind="rescale_by_data", targets=tuple(layers), args={"std": std, "orthogonal": False}
    )
    twin.load_state_dict(model.state_dict())
    # WHEN it is rescaled on the batch
    apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [edit])
    # THEN on that batch every unit has mean 0 and every layer the rms asked for
    outputs: dict[str, Tensor] = {}
    for name in layers:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: outputs.__setitem__(name, out.detach())
        )
    model(x)
    for name in layers:
        units = outputs[name].movedim(1, -1).reshape(-1, outputs[name].shape[1])
        assert float(units.mean(dim=0).abs().max()) < 1e-12
        assert float(units.square().mean().sqrt()) == pytest.approx(std, rel=1e-12)
    # AND it is what doing it layer by layer gives
    naive_rescale(twin, x, std)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_rescaling_also_knows_sequences_whose_channels_are_last() -> None:
    model = nn.Sequential(nn.Linear(4, 5))
    x = torch.randn(8, 7, 4) + 3  # [B, L, D]
    edit = Edit(kind="rescale_by_data", targets=("0",), args={"std": 1.0})
    apply_edits(Bench(model=model, run_batch=lambda m: m(x)), [edit])
    units = model(x).detach().reshape(-1, 5)
    assert float(units.mean(dim=0).abs().max()) < 1e-5
    assert float(units.square().mean().sqrt()) == pytest.approx(1.0, rel=1e-5)


def test_rescaling_does_not_move_running_statistics_nor_leave_hooks() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    buffers = [b.clone() for b in model.buffers()]
    edit = Edit(kind="rescale_by_data", targets=("0", "3"))
    apply_edits(Bench(model=model, run_batch=lambda m: m(torch.randn(8, 4) + 5)), [edit])
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    assert not any(m._forward_hooks for m in model.modules())


def test_a_layer_that_answers_a_constant_is_centred_and_not_divided_by_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    edit = Edit(kind="rescale_by_data", targets=("0",))
    apply_edits(Bench(model=model, run_batch=lambda m: m(torch.zeros(5, 3))), [edit])
    assert torch.equal(model(torch.zeros(5, 3)).detach(), torch.zeros(5, 2))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
