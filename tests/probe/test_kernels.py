"""Both backends against naive arithmetic in Python, over formats, layouts and hostile numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradmend.probe import kernels
from gradmend.probe.kernels import _backend, _rows

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NONE = [0, 0, 0, 0, math.inf, 0, 0]


@pytest.fixture(params=["numba", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GRADMEND_KERNELS", request.param)
    _backend._installed.cache_clear()
    assert kernels.backend() == request.param
    yield request.param
    _backend._installed.cache_clear()


# ---- naive twins ---------------------------------------------------------------------------------


def numbers(x: Tensor) -> list[float]:
    """All entries as Python floats, in the order of indices, complex ones as pairs."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_complex():
        x = torch.view_as_real(x)
    return [float(v) for v in x.reshape(-1).to(torch.float64).tolist()]


def naive(values: list[float]) -> list[float]:
    """A row of ``STATS``."""
    finite = [v for v in values if math.isfinite(v)]
    sizes = [abs(v) for v in finite]
    most = max(sizes, default=0.0)
    return [
        len(finite),
        math.fsum(finite) if sum(s / 4 for s in sizes) < 1e307 else sum(finite),
        math.fsum((s / most) ** 2 for s in sizes) if most else 0.0,
        most,
        min((s for s in sizes if s), default=math.inf),
        sum(s == 0 for s in sizes),
        len(values) - len(finite),
    ]


def agree(row: Any, values: list[float]) -> None:
    expected = naive(values)
    assert row[[0, 3, 4, 5, 6]].tolist() == [expected[i] for i in (0, 3, 4, 5, 6)]
    slack = 1e-13 * sum(abs(v) for v in values if math.isfinite(v))
    assert row[1] == expected[1] or abs(row[1] - expected[1]) <= slack
    assert row[2] == pytest.approx(expected[2], rel=1e-12)


def naive_exponents(values: list[float]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for v in values:
        if v and math.isfinite(v):
            e = math.frexp(v)[1] - 1
            counts[e] = counts.get(e, 0) + 1
    return counts


def places(entries: int, block: int, most: int | None, turn: int) -> list[int]:
    """The entries that are looked at, from the definition."""
    if most is None:
        return list(range(entries))
    there = math.ceil(entries / block)
    period = max(math.ceil(there / max(most // block, 1)), 1)
    return [i for i in range(entries) if (i // block) % period == turn % period]


# ---- sweep ---------------------------------------------------------------------------------------


def layouts() -> dict[str, Tensor]:
    x = torch.randn(6, 5, 4, 3)
    grad = torch.randn(7, 3, requires_grad=True)
    with torch.inference_mode():
        inference = torch.randn(9)
    return {
        "plain": x,
        "transposed": x[0, 0].t(),
        "permuted": x.permute(2, 0, 3, 1),
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "gaps": x[:, ::2, 1:3],
        "offset": x.view(-1)[3:50],
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "requires grad": grad,
        "of autograd": grad * 2,
        "inference": inference,
        "expanded": torch.randn(3, 1).expand(3, 50),
        "complex": torch.randn(5, 7, dtype=torch.complex64).t(),
        "complex128": torch.randn(5, dtype=torch.complex128),
        "conjugate": torch.randn(5, 7, dtype=torch.complex64).conj(),
        "negative bit": torch.randn(5, dtype=torch.complex64).conj().imag,
        "parameter": torch.nn.Parameter(torch.randn(30)),
        "zeros": torch.zeros(2000),
        "negative zero": torch.tensor([-0.0, 1.0]),
        "nan": torch.full((1500,), math.nan),
        "infinite": torch.tensor([math.inf, -math.inf, 3.0, math.nan]),
        **{str(d): torch.randn(3000).to(d) for d in DTYPES},
        "float8": torch.randn(40).to(torch.float8_e4m3fn),
    }


def test_layouts_and_formats(engine: str) -> None:
    cases = layouts()
    rows = kernels.sweep(list(cases.values()))
    assert rows.shape == (len(cases), 7) and rows.dtype == np.float64
    for row, x in zip(rows, cases.values(), strict=True):
        agree(row, numbers(x))
    histograms = kernels.exponents(list(cases.values()))
    for histogram, x in zip(histograms, cases.values(), strict=True):
        assert dict(histogram.counts) == naive_exponents(numbers(x)) and histogram.stride == 1


def test_what_has_no_numbers(engine: str) -> None:
    class Wrapper(Tensor):
        @classmethod
        def __torch_dispatch__(cls, *args: Any) -> Any:
            raise AssertionError("asked")

    wrapped = Tensor._make_wrapper_subclass(Wrapper, (3,))  # type: ignore[attr-defined]
    cases = [None, torch.arange(5), torch.tensor([True]), torch.empty(3, device="meta"), wrapped]
    cases.append(torch.nn.UninitializedParameter())
    assert kernels.sweep(cases).tolist() == [NONE] * len(cases)
    assert [e.counts for e in kernels.exponents(cases)] == [{}] * len(cases)
    assert not kernels.compare(kernels.sample(cases, 9), cases, cases)[:, :5].any()
    assert kernels.sweep([]).shape == (0, 7)
    assert kernels.exponents([]) == []
    assert kernels.compare(kernels.sample([], 9), []).shape == (0, 7)


def test_sparse_counts_what_is_stored(engine: str) -> None:
    indices, values = torch.tensor([[1, 1, 4]]), torch.tensor([2.0, 3.0, -4.0])
    loose = torch.sparse_coo_tensor(indices, values, (9,), check_invariants=True)
    rows = kernels.sweep([loose, loose.coalesce()])
    agree(rows[0], [2.0, 3.0, -4.0])
    agree(rows[1], [5.0, -4.0])


def test_shards_are_looked_at_themselves(engine: str) -> None:
    class Sharded(Tensor):
        _local_tensor: Tensor

    shard = torch.randn(5)
    whole = torch.zeros(2).as_subclass(Sharded)
    whole._local_tensor = shard
    agree(kernels.sweep([whole])[0], numbers(shard))


def test_under_functorch_and_modes(engine: str) -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    met: list[object] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            met.append(func)
            return func(*args, **(kwargs or {}))

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            met.append(func)
            return func(*args, **(kwargs or {}))

    tensors = [torch.randn(4, 6).t(), torch.randn(3000), torch.randn(5).to(torch.float8_e5m2)]
    expected = kernels.sweep(tensors)
    with Functions(), Operations(), torch.device("meta"), torch.autocast("cpu"):
        met.clear()
        rows = kernels.sweep(tensors)
        kernels.exponents(tensors)
        kernels.compare(kernels.sample(tensors, 300), tensors, tensors)
        kernels.channels(tensors[0], 0, 0.0, 1.0)
    assert not met
    assert rows.tolist() == expected.tolist()
    seen: list[Any] = []
    torch.func.vmap(lambda v: seen.append(kernels.sweep([v])) or v)(torch.randn(3, 2))
    assert seen[0].tolist() == [NONE]


def by_bits(bits: int, dtype: torch.dtype) -> float:
    return torch.tensor(bits, dtype=torch.int16).view(dtype).item()


FLOATS = {
    torch.float32: st.floats(width=32),
    torch.float64: st.floats(),
    torch.float16: st.integers(-(2**15), 2**15 - 1).map(lambda b: by_bits(b, torch.float16)),
    torch.bfloat16: st.integers(-(2**15), 2**15 - 1).map(lambda b: by_bits(b, torch.bfloat16)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_numbers(engine: str, dtype: torch.dtype, data: st.DataObject) -> None:
    lists = data.draw(st.lists(st.lists(FLOATS[dtype], max_size=20), max_size=4))
    repeats = data.draw(st.sampled_from([1, 1, 70]))  # over more than one block
    tensors = [torch.tensor(v * repeats, dtype=torch.float64).to(dtype) for v in lists]
    rows = kernels.sweep(tensors)
    for row, histogram, x in zip(rows, kernels.exponents(tensors), tensors, strict=True):
        values = numbers(x)
        total = sum(v for v in values if math.isfinite(v))
        if math.isfinite(total) and max(map(abs, values), default=0) < 1e300:
            agree(row, values)
        assert dict(histogram.counts) == naive_exponents(values)
    if tensors:
        together = [v for x in tensors for v in numbers(x)]
        joined = kernels.combine(rows, [0] * len(rows), 1)[0]
        if max((abs(v) for v in together if math.isfinite(v)), default=0) < 1e300:
            agree(joined, together)


@pytest.mark.parametrize("exponent", [-1074, -1060, -700, -401, -399, 0, 399, 401, 700, 1000])
def test_squares_of_any_magnitude(engine: str, exponent: int) -> None:
    x = torch.ldexp(torch.tensor([1.0, -3.0, 0.0] * 1000, dtype=torch.float64), torch.tensor(0))
    x = x * 2.0 ** max(exponent, -1022) * 2.0 ** min(exponent + 1022, 0)
    (row,) = kernels.sweep([x])
    assert row[2] == pytest.approx(1000 * (1 + 1 / 9), rel=1e-13)
    rms = math.log10(2) * exponent + math.log10(10 / 3) / 2
    assert kernels.log10_rms(row[None])[0] == pytest.approx(rms, abs=1e-9)
    assert kernels.log10_norm(row[None]) == pytest.approx(rms + math.log10(3000) / 2, abs=1e-9)


def test_squares_across_the_bounds_of_scaling(engine: str) -> None:
    for edge in (-400, 400):
        sizes = [2.0 ** (edge + d) for d in (-1, 0, 1)]  # one a block
        x = torch.tensor(sizes, dtype=torch.float64).repeat_interleave(1024)
        assert kernels.sweep([x])[0, 2] == pytest.approx(1024 * (1 + 1 / 4 + 1 / 16), rel=1e-13)


def test_tiny_float32_is_not_lost(engine: str) -> None:
    x = torch.tensor([1e-30, 1e-45, -1e-40] * 500)  # squares below float32, entries subnormal
    agree(kernels.sweep([x])[0], numbers(x))
    least = torch.full((700,), 2.0**-149)
    assert kernels.exponents([least])[0].counts == {-149: 700}
    assert kernels.log10_rms(kernels.sweep([least]))[0] == pytest.approx(-149 * math.log10(2))


def test_sums_of_float32_are_exact(engine: str) -> None:
    x = torch.full((1_000_003,), 0.1)  # rounding in float32 would add up to 1e-3
    (row,) = kernels.sweep([x])
    assert row[1] == pytest.approx(1_000_003 * float(x[0]), rel=1e-12)
    assert row[2] == pytest.approx(1_000_003, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_exponent(engine: str, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    low = round(math.log2(info.smallest_normal)) + round(math.log2(info.eps))
    high = math.frexp(info.max)[1] - 1
    for step in (range(low, high + 1), [high]):
        values = [math.ldexp(1.0, e) for e in step] * 2
        x = torch.tensor(values, dtype=torch.float64).to(dtype)
        assert dict(kernels.exponents([x])[0].counts) == dict.fromkeys(step, 2)
    edges = torch.tensor([info.max, -info.max, info.smallest_normal, 0.0, math.inf], dtype=dtype)
    normal = round(math.log2(info.smallest_normal))
    assert dict(kernels.exponents([edges])[0].counts) == {normal: 1, high: 2}


# ---- which entries are looked at -----------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 255, 256, 257, 5000, 40_000])
@pytest.mark.parametrize("most", [1, 100, 1024, 5000, 100_000])
def test_looks_at_the_chosen_entries(engine: str, entries: int, most: int) -> None:
    x = torch.arange(1, entries + 1, dtype=torch.float64)
    block = min(1024, most)
    for turn in (0, 1, 7):
        wanted = places(entries, block, most, turn)
        assert len(wanted) <= max(most, block)
        agree(kernels.sweep([x], most=most, turn=turn)[0], [i + 1.0 for i in wanted])
        before = kernels.sample([x], most, turn=turn)
        wanted = places(entries, 256, most, turn)
        assert kernels.compare(before, [x + 1])[0].tolist()[:4] == [
            len(wanted),
            len(wanted),
            pytest.approx(sum((i + 1) ** 2 for i in wanted), rel=1e-12),
            len(wanted),
        ]


def test_turns_meet_everything(engine: str) -> None:
    x = torch.zeros(40_000)
    spots = torch.randperm(40_000)[:200]
    x[spots] = 1.0
    met = [kernels.sweep([x], most=4096, turn=turn)[0, 1] for turn in range(10)]
    assert sum(met) == 200 and max(met) < 100
    counted = [kernels.exponents([x], stride=8, turn=turn)[0] for turn in range(8)]
    assert sum(e.total for e in counted) == 200 and {e.stride for e in counted} == {8}
    assert kernels.exponents([x[:2000]], stride=8)[0].stride == 2


# ---- comparing -----------------------------------------------------------------------------------


def naive_moves(before: Tensor, after: Tensor, gradient: Tensor | None) -> list[float]:
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64, 1: torch.uint8}[before.element_size()]
    same = (before.reshape(-1).view(kind) == after.reshape(-1).view(kind)).tolist()
    old, new = numbers(before), numbers(after)
    both = [(a, b) for a, b in zip(old, new, strict=True) if math.isfinite(a) and math.isfinite(b)]
    lost = math.nan
    if gradient is not None:
        moving = [g != 0 and math.isfinite(g) for g in numbers(gradient)]
        lost = sum(s and m for s, m in zip(same, moving, strict=True))
    return [
        len(old),
        len(both),
        math.fsum(a * a for a, _ in both),
        math.fsum((b - a) ** 2 for a, b in both),
        sum(same),
        lost,
        sum(not math.isfinite(b) for b in new),
    ]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn], ids=str)
def test_compares(engine: str, dtype: torch.dtype) -> None:
    rows = []
    for size in (1, 300, 3000):
        before = torch.randn(size).to(dtype)
        change = torch.randn(size) * (torch.rand(size) < 0.5) * 10 ** -(torch.rand(size) * 9)
        after = (before.float() + change).to(dtype)
        gradient = change.to(torch.bfloat16)
        rows.append((before, after, gradient))
    befores, afters, gradients = map(list, zip(*rows, strict=True))
    sampled = kernels.sample(befores, None)
    for known in (gradients, None, [gradients[0], None, gradients[2]]):
        moved = kernels.compare(sampled, afters, known)
        for i, row in enumerate(moved):
            expected = naive_moves(befores[i], afters[i], known[i] if known else None)
            assert row == pytest.approx(np.array(expected), rel=1e-12, nan_ok=True)


def test_compares_bits_and_leaves_out_what_is_not_finite(engine: str) -> None:
    before = torch.tensor([math.nan, 0.0, 1.0, math.inf, 2.0, 1.0])
    after = torch.tensor([math.nan, -0.0, math.nan, 1.0, 2.0, 4.0])
    gradient = torch.tensor([1.0, 1.0, 1.0, 1.0, math.nan, 1.0])
    row = kernels.compare(kernels.sample([before], 99), [after], [gradient])[0]
    assert row.tolist() == [6, 3, 5, 9, 2, 1, 2]
    assert row == pytest.approx(np.array(naive_moves(before, after, gradient)))


def test_compares_in_any_layout(engine: str) -> None:
    for before in (
        torch.randn(8, 6, 5, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(30, 40).t(),
        torch.randn(5, 7, dtype=torch.complex64).t(),
        torch.randn(6, 8)[:, ::2],
    ):
        after = before.clone(memory_format=torch.preserve_format)
        spot, other = (1, 2, 0, 0)[: before.dim()], (2, 1, 0, 0)[: before.dim()]
        after[spot] += 1
        gradient = torch.zeros(before.shape, dtype=before.dtype)  # in the order of indices
        gradient[spot], gradient[other] = 1, 1
        row = kernels.compare(kernels.sample([before], None), [after], [gradient])[0]
        entries = len(numbers(before))
        assert row[[0, 3, 4, 5]].tolist() == [entries, pytest.approx(1), entries - 1, 1]
        elsewhere = after.contiguous()  # moved to another layout meanwhile
        row = kernels.compare(kernels.sample([before], None), [elsewhere], [gradient])[0]
        assert row[[0, 3, 4, 5]].tolist() == [entries, pytest.approx(1), entries - 1, 1]


def test_does_not_compare_what_became_another(engine: str) -> None:
    x = [torch.ones(5), torch.ones(5), torch.ones(5), torch.ones(5)]
    before = kernels.sample(x, 9)
    rows = kernels.compare(before, [torch.ones(6), x[1].half(), None, x[3]], [x[0]] * 4)
    assert rows[:, 0].tolist() == [0, 0, 0, 5] and np.isnan(rows[:3, 5]).all()
    rows = kernels.compare(before, x, [None, torch.ones(3), torch.ones(5).to_sparse(), x[3]])
    assert rows[:, 0].tolist() == [5] * 4
    assert np.isnan(rows[:2, 5]).all() and rows[3, 5] == 5
    with pytest.raises(ValueError, match="sampled 4 tensors and got 1"):
        kernels.compare(before, x[:1])


def test_a_sample_is_a_copy(engine: str) -> None:
    x = [torch.ones(5), torch.ones(5, dtype=torch.float64).to(torch.float8_e4m3fn)]
    before = kernels.sample(x, 9)
    for tensor in x:
        tensor.fill_(2.0)
    assert kernels.compare(before, x)[:, 3].tolist() == [5, 5]


# ---- per channel ---------------------------------------------------------------------------------


def test_channels() -> None:
    x = torch.tensor([[[0.0, 0.0], [0.0, 2.0]], [[0.0, -1.0], [math.nan, math.inf]]])
    rows = kernels.channels(x, 1, 0.0, math.inf)
    assert rows is not None and rows.tolist() == [[4, 0, 1, 0], [2, 1, 2, 2]]
    assert kernels.channels(torch.arange(3), 0, 0.0, 1.0) is None
    assert kernels.channels(torch.tensor(1.0), 0, 0.0, 1.0) is None
    empty = kernels.channels(torch.empty(0, 3), 1, 0.0, 1.0)
    assert empty is not None and empty.tolist() == [[0] * 4] * 3
    y = torch.randn(20, 5, 3).half()
    rows = kernels.channels(y, -1, -0.5, 0.25)
    assert rows is not None
    assert rows[:, 1].tolist() == [
        sum(-0.5 < v < 0.25 for v in numbers(y[..., c])) for c in range(3)
    ]


# ---- summaries -----------------------------------------------------------------------------------


def test_summaries() -> None:
    rows = kernels.sweep([torch.tensor([3.0, -4.0]), torch.zeros(3), None, torch.tensor([5.0])])
    norms = kernels.log10_rms(rows)
    assert norms[0] == pytest.approx(math.log10(math.sqrt(12.5)))
    assert norms[1] == -math.inf and math.isnan(norms[2])
    assert kernels.log10_norm(rows) == pytest.approx(math.log10(math.sqrt(50)))
    assert kernels.log10_norm(rows[1:2]) == -math.inf and math.isnan(kernels.log10_norm(rows[2:3]))
    assert math.isnan(kernels.log10_norm(rows[:0]))
    assert kernels.log10_max(rows)[[0, 3]] == pytest.approx([math.log10(4), math.log10(5)])
    assert kernels.log10_max(rows)[1] == -math.inf
    assert kernels.log10_min(rows)[0] == pytest.approx(math.log10(3))
    assert np.isnan(kernels.log10_min(rows)[1:3]).all()
    assert kernels.mean_share(rows)[0] == pytest.approx(-0.5 / math.sqrt(12.5))
    assert np.isnan(kernels.mean_share(rows)[1:3]).all() and kernels.mean_share(rows)[3] == 1
    assert kernels.zero_share(rows)[[0, 1]].tolist() == [0, 1]


def test_looked_counts_what_blocks_choose() -> None:
    for entries in (0, 1, 255, 256, 257, 1000, 5000):
        for most in (None, 1, 300, 1024):
            for turn in (0, 3):
                sizes = np.array([entries])
                period, offset = _rows.blocks(sizes, 256, most, turn)
                count = _rows.looked(sizes, 256, period, offset)
                assert count.tolist() == [len(places(entries, 256, most, turn))]


# ---- nothing is changed --------------------------------------------------------------------------


def everything(tensors: list[Any]) -> None:
    kernels.sweep(tensors)
    kernels.sweep(tensors, most=300, turn=2)
    kernels.exponents(tensors, stride=2)
    kernels.compare(kernels.sample(tensors, 300), tensors, tensors)
    kernels.channels(tensors[0], 0, 0.0, 1.0)


def test_changes_nothing(engine: str) -> None:
    tensors = list(layouts().values())

    def state() -> list[object]:
        return [
            *(numbers(t).__repr__() for t in tensors),
            *(t._version for t in tensors if not t.is_inference()),
            *(t.grad is None for t in tensors if t.is_leaf),
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[union-attr, index]
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            (torch.tensor(1e-40) * 1).item(),
            np.geterr(),
            threading.active_count(),
            warnings.filters[:],
        ]

    before = state()
    everything(tensors)
    assert state() == before


def test_works_anywhere(engine: str) -> None:
    tensors = [torch.randn(500), torch.randn(4, 5).t(), torch.randn(9).to(torch.float8_e4m3fn)]
    expected = kernels.sweep(tensors)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(kernels.sweep(tensors)))
    thread.start()
    thread.join()
    with torch.inference_mode():
        found.append(kernels.sweep(tensors))
        sampled = kernels.sample(tensors, 100)
    assert kernels.compare(sampled, tensors)[:, 3].tolist() == [0, 0, 0]
    x = torch.randn(3, requires_grad=True)
    x.register_hook(lambda g: found.append(kernels.sweep([*tensors, g])[:3]))
    (x * 2).sum().backward()
    torch._C._set_deterministic_algorithms(True)  # without the import of a compiler
    try:
        found.append(kernels.sweep(tensors))
        everything(tensors)
    finally:
        torch._C._set_deterministic_algorithms(False)
    assert len(found) == 4 and all(rows.tolist() == expected.tolist() for rows in found)


def test_works_where_subnormals_are_flushed(engine: str) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        x = torch.tensor([1e-40, 1.0])
        row = kernels.sweep([x])[0]
        assert row[0] == 2 and row[3] == 1.0
        assert (torch.tensor(1e-40) * 1).item() == 0  # still flushed
    finally:
        torch.set_flush_denormal(False)


# ---- devices and backends ------------------------------------------------------------------------


def test_pending_waits_only_when_asked() -> None:
    asked: list[str] = []
    event = SimpleNamespace(
        query=lambda: bool(asked), synchronize=lambda: asked.append("synchronize")
    )
    pending = kernels.launch([torch.ones(3), None])
    assert pending.ready()
    row = torch.tensor([[2.0, 2, 2, 1, 1, 0, 0]], dtype=torch.float64)
    from gradmend.probe.kernels._pending import Part

    pending.parts.append(Part(np.array([1]), row, event))
    assert not pending.ready() and not asked
    assert pending.result().tolist() == [[3, 3, 3, 1, 1, 0, 0], [2, 2, 2, 1, 1, 0, 0]]
    assert pending.ready() and asked == ["synchronize"]
    assert pending.result().tolist() == pending.result().tolist()


def test_backends_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(n).to(d) for d in DTYPES for n in (1, 77, 1024, 100_000)]
    results = []
    for name in ("numba", "torch"):
        monkeypatch.setenv("GRADMEND_KERNELS", name)
        _backend._installed.cache_clear()
        part = kernels.sweep(tensors, most=4096, turn=5)
        results.append((kernels.sweep(tensors), part, kernels.exponents(tensors)))
    _backend._installed.cache_clear()
    for one, other in zip(*results, strict=True):
        if isinstance(one, list):
            assert one == other
        else:
            assert one == pytest.approx(other, rel=1e-11, abs=1e-10)


def run(code: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_numba_is_loaded_only_when_used() -> None:
    code = (
        "import sys, torch; from gradmend.probe import kernels; a = 'numba' in sys.modules;"
        "kernels.sweep([torch.ones(3)]); print(a, 'numba' in sys.modules, kernels.backend())"
    )
    assert run(code, GRADMEND_KERNELS="torch") == "False False torch"
    assert run(code, GRADMEND_KERNELS="") == "False True numba"


@pytest.mark.slow
def test_without_numba() -> None:
    code = (
        "import sys, torch; sys.modules['numba'] = None; from gradmend.probe import kernels;"
        "print(kernels.backend(), kernels.sweep([torch.ones(3)])[0, 0])"
    )
    assert run(code, GRADMEND_KERNELS="") == "torch 3.0"
