import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradmend.records.exponents import Exponents
from gradmend.store.encoding import (
    pack,
    pack_histograms,
    pack_steps,
    rounded,
    unpack,
    unpack_histograms,
    unpack_steps,
)
from gradmend.store.errors import Damaged

FLOATS = arrays.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.floats(width=32) | st.sampled_from([0.0, 2.0, -0.0, np.inf, -np.inf, np.nan]),
)


@given(FLOATS)
def test_numbers_come_back_bit_for_bit(values: np.ndarray) -> None:
    back = unpack(pack(values), len(values))
    assert back.view(np.uint32).tolist() == values.view(np.uint32).tolist()


def test_both_forms_are_used() -> None:
    noise = np.random.default_rng(0).normal(size=8192).astype(np.float32)
    constant = np.full(8192, 2, dtype=np.float32)
    assert (pack(noise)[0], pack(constant)[0]) == (1, 0)
    assert len(pack(constant)) < constant.nbytes / 100
    assert len(pack(noise)) < 0.95 * noise.nbytes


@given(FLOATS, st.integers(8, 16))
def test_rounding_is_near_and_monotone(values: np.ndarray, bits: int) -> None:
    near = rounded(values, bits)
    assert np.array_equal(np.isnan(near), np.isnan(values))
    normal = np.isfinite(values) & (np.abs(values) > 1e-37)
    assert np.all(np.abs(near[normal] / values[normal] - 1) <= 2.0**-bits)
    special = ~np.isfinite(values)
    assert np.array_equal(near[special], values[special], equal_nan=True)
    order = np.argsort(values[~np.isnan(values)])
    assert np.all(near[~np.isnan(values)][order][1:] >= near[~np.isnan(values)][order][:-1])


def test_small_integers_survive_rounding() -> None:
    integers = np.arange(4096, dtype=np.float32)
    assert np.array_equal(rounded(integers, 12), integers)


@pytest.mark.parametrize(
    "blob",
    [
        None,
        "text",
        7,
        b"",
        b"\x00",
        b"\x01",
        b"\x02" + bytes(100),
        b"\x00" + zlib.compress(bytes(39)),
        b"\x00" + zlib.compress(bytes(41)),
        b"\x00" + zlib.compress(bytes(40)) + b"tail",
        b"\x00" + zlib.compress(bytes(40))[:-1],
        b"\x01" + bytes(19),
        b"\x01" + bytes(20) + b"no zlib",
        pack(np.zeros(11, np.float32)),
    ],
)
def test_other_bytes_are_refused(blob: object) -> None:
    with pytest.raises(Damaged):
        unpack(blob, 10)


def test_a_bomb_is_not_blown_up() -> None:
    bomb = b"\x00" + zlib.compress(bytes(1 << 26), 9)
    tracemalloc.start()
    with pytest.raises(Damaged):
        unpack(bomb, 10)
    with pytest.raises(Damaged):
        unpack_histograms(bomb[1:], 10, 128)
    with pytest.raises(Damaged):
        unpack_histograms(bomb[1:], 1 << 40, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_steps_come_back() -> None:
    steps = np.array([-1, 0, 0, 7, 1 << 40])
    assert unpack_steps(pack_steps(steps), 5).tolist() == steps.tolist()
    for blob in (None, b"", pack_steps(steps)[:-1]):
        with pytest.raises(Damaged):
            unpack_steps(blob, 5)


HISTOGRAMS = st.builds(
    Exponents,
    counts=st.dictionaries(st.integers(-1074, 1023), st.integers(0, 1 << 60), max_size=20),
    stride=st.integers(1, 64),
)


@given(st.dictionaries(st.integers(0, 127), HISTOGRAMS, max_size=6))
def test_histograms_come_back(histograms: dict[int, Exponents]) -> None:
    count, blob = pack_histograms(histograms)
    assert unpack_histograms(blob, count, 128) == histograms


@pytest.mark.parametrize(
    "numbers", [[0], [0, 1], [0, 1, 1], [0, 1, 1, 5], [0, 0, 0], [0, 1, -1], [0, 1, 1 << 60]]
)
def test_histograms_cut_off_are_refused(numbers: list[int]) -> None:
    planes = np.array(numbers, dtype="<i8").view(np.uint8).reshape(-1, 8).T
    with pytest.raises(Damaged):
        unpack_histograms(zlib.compress(planes.tobytes()), len(numbers), 128)
