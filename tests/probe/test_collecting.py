"""Garbage collection is put off, and comes back as it was."""

from __future__ import annotations

import gc

import pytest

from gradmend.probe.collecting import collecting_later


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_it_is_as_before(on: bool, raises: bool) -> None:
    # GIVEN a process that collects, or whose owner wants it not to
    was = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        # WHEN a block puts it off, and perhaps raises
        try:
            with collecting_later():
                assert not gc.isenabled()
                if raises:
                    raise ValueError
        except ValueError:
            pass
        # THEN it is as it was
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


def test_one_function_in_another() -> None:
    assert gc.isenabled()

    @collecting_later()
    def inner() -> bool:
        return gc.isenabled()

    with collecting_later():
        assert not inner()
        assert not gc.isenabled()
    assert gc.isenabled()
