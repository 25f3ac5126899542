"""A picture of a run in a few points, against means of what was appended."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from run_builder import FEW, names, walk, writing

from gradmend.errors import BadInput
from gradmend.records.exponents import Exponents
from gradmend.records.history import Event
from gradmend.store.layout import Caps
from gradmend.store.overview import WIDE
from gradmend.store.reader import open_run


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "run" if request.param == "disk" else None


def test_rows_that_are_few_stay_as_they_are(folder: Path | None) -> None:
    # given fewer rows than points, over several chunks of columns
    values = walk(150, 300)
    with writing(folder) as writer:
        writer.columns("gradient", names(300), at=0)
        for step, row in enumerate(values):
            writer.append("gradient", 7 * step, {"log10_rms": row})
        writer.flush()
        reader = writer.reader()
        # when it is pictured
        seen = reader.overview("gradient", ["log10_rms"], 150, spread=["log10_rms"])
        # then every number is the one appended, and the one that profile tells
        assert not seen.pooled
        assert seen.steps.tolist() == list(range(0, 1050, 7))
        assert np.array_equal(seen.mean["log10_rms"], values)
        assert np.array_equal(seen.low["log10_rms"], values)
        assert np.array_equal(seen.high["log10_rms"], values)
        for at in (0, 70, 149):
            told = reader.profile("gradient", "log10_rms", int(seen.steps[at]))
            assert np.array_equal(seen.mean["log10_rms"][at], told)


@pytest.mark.parametrize("most", [1, 2, 7, 40])
def test_many_rows_are_pooled_evenly_over_steps(folder: Path | None, most: int) -> None:
    # given 200 rows with holes and infinities, all of which are kept
    values = walk(200, 5).astype(np.float64)
    values[::3, 1] = np.nan
    values[10:60, 2] = -np.inf
    values[:, 3] = np.nan
    with writing(folder, caps=Caps()) as writer:
        writer.columns("t", names(5), at=0)
        for step, row in enumerate(values):
            writer.append("t", step, {"a": row})
        writer.flush()
        seen = writer.reader().overview("t", ["a"], most, spread=["a"])
    # then each point is mean, lowest and highest of the rows in its share of the steps
    assert seen.pooled
    assert most / WIDE <= len(seen.steps) <= most
    values = values.astype(np.float32).astype(np.float64)
    if most == 40:  # too narrow for buckets of 64 rows: made of rows
        bins = np.arange(200) * most // 200
        for at in range(most):
            rows = values[bins == at]
            finite = np.where(np.isfinite(rows), rows, np.nan)
            for column in (0, 1, 2):
                mine = finite[:, column][~np.isnan(finite[:, column])]
                expected = mine.mean() if len(mine) else -np.inf
                assert seen.mean["a"][at, column] == pytest.approx(expected, rel=1e-6)
                known = rows[:, column][~np.isnan(rows[:, column])]
                assert seen.low["a"][at, column] == known.min()
                assert seen.high["a"][at, column] == known.max()
        assert seen.steps[0] == 0 and seen.steps[-1] == 199
    if most == 1:
        assert seen.mean["a"][0, 0] == pytest.approx(values[:, 0].mean(), rel=1e-4, abs=1e-5)
    assert np.isnan(seen.mean["a"][:, 3]).all()


def test_buckets_stand_for_rows_and_their_ends_stay_true(folder: Path | None) -> None:
    # given a run far longer than what is kept in full
    values = walk(6400, 3, seed=2)
    values[3000] = 50.0
    with writing(folder, caps=FEW) as writer:
        writer.columns("t", names(3), at=0)
        for step, row in enumerate(values):
            writer.append("t", step, {"a": row})
            if step % 64 == 63:
                writer.flush()
        writer.flush()
        seen = writer.reader().overview("t", ["a"], 8, spread=["a"])
    # then the spike is within the ends, and the means weigh all rows
    assert 1 < len(seen.steps) <= 8
    assert np.nanmax(seen.high["a"]) == pytest.approx(50.0, rel=1e-3)
    assert (seen.low["a"] <= seen.mean["a"]).all() and (seen.mean["a"] <= seen.high["a"]).all()
    assert np.nanmin(seen.low["a"]) == pytest.approx(values.min(), rel=1e-3)
    assert (np.diff(seen.steps) > 0).all()


def test_codes_are_never_averaged(folder: Path | None) -> None:
    # given a state that is 2 but once
    with writing(folder, caps=FEW) as writer:
        writer.columns("gradient", names(1), at=0)
        for step in range(1000):
            writer.append("gradient", step, {"state": [3.0 if step == 500 else 2.0]})
            if step % 64 == 63:
                writer.flush()
        writer.flush()
        seen = writer.reader().overview("gradient", ["state"], 5)
    assert set(seen.mean["state"].ravel()) == {2.0, 3.0}


def test_rows_of_other_quantities_are_left_out(folder: Path | None) -> None:
    # given rows that alternate, as an update and what changed it afterwards do
    with writing(folder) as writer:
        writer.columns("update", names(2), at=0)
        for step in range(20):
            row = {"log10_ratio": [step, step]} if step % 2 else {"outside_share": [0.0, 0.0]}
            writer.append("update", step, row)
        writer.flush()
        reader = writer.reader()
        seen = reader.overview("update", ["log10_ratio"], 100)
        steps, last = reader.newest("update", ["log10_ratio", "outside_share"])
        first_steps, first = reader.newest("update", ["log10_ratio"], oldest=True)
    assert seen.steps.tolist() == list(range(1, 20, 2))
    assert steps.tolist() == [19, 19] and last["log10_ratio"].tolist() == [19.0, 19.0]
    assert np.isnan(last["outside_share"]).all()
    assert first_steps.tolist() == [1, 1] and first["log10_ratio"].tolist() == [1.0, 1.0]


def test_rows_with_the_same_step_share_a_point(folder: Path | None) -> None:
    with writing(folder) as writer:
        writer.columns("t", names(1), at=0)
        for step, value in ((3, 1.0), (3, 2.0), (5, 7.0)):
            writer.append("t", step, {"a": [value]})
        writer.flush()
        seen = writer.reader().overview("t", ["a"], 10)
    assert seen.steps.tolist() == [3, 5]
    assert seen.mean["a"].tolist() == [[1.5], [7.0]]


def test_newest_of_columns_that_are_measured_in_turns(folder: Path | None) -> None:
    # given two optimizers that step in turns over more than a block, and one silent column
    with writing(folder) as writer:
        writer.columns("gradient", names(3), at=0)
        for step in range(150):
            row = [step, np.nan, np.nan] if step % 2 else [np.nan, -step, np.nan]
            writer.append("gradient", step, {"log10_rms": row, "log10_max": np.array(row) + 0.5})
        writer.flush()
        steps, found = writer.reader().newest("gradient", ["log10_rms", "log10_max"])
    assert steps.tolist() == [149, 148, -1]
    assert found["log10_rms"][:2].tolist() == [149.0, -148.0]
    assert found["log10_max"][:2].tolist() == [149.5, -147.5]
    assert np.isnan(found["log10_rms"][2])


def test_nothing_at_all(folder: Path | None) -> None:
    with writing(folder) as writer:
        writer.columns("gradient", names(2), at=0)
        writer.flush()
        reader = writer.reader()
        for table in ("gradient", "nowhere"):
            seen = reader.overview(table, ["log10_rms"], 10)
            assert len(seen.steps) == 0 and len(seen.mean["log10_rms"]) == 0
            steps, found = reader.newest(table, ["log10_rms"])
            assert (steps == -1).all() and np.isnan(found["log10_rms"]).all()
            assert reader.last_histograms(table) == {}
        assert reader.measured() == {}


def test_what_was_measured(folder: Path | None) -> None:
    # given a quantity that is always NaN, one of the beginning only, and histograms
    with writing(folder, caps=FEW) as writer:
        writer.columns("gradient", names(2), at=0)
        for step in range(2000):
            row = {"log10_rms": [1, 2], "log10_raw": [np.nan, np.nan]}
            if step == 3:
                row["log10_max"] = [1, 1]
            writer.append("gradient", step, row)
            if step % 64 == 63:
                writer.flush()
        writer.histogram("gradient", 10, {0: Exponents(counts={-3: 2})})
        writer.event(Event(step=1, kind="look"))
        writer.flush()
        found = writer.reader().measured()
    assert found == {"gradient": {"log10_rms", "log10_max", "histogram"}}


def test_newest_histogram_of_each_column(folder: Path | None) -> None:
    # given two optimizers that tell their parameters' histograms apart
    with writing(folder, caps=FEW) as writer:
        writer.columns("gradient", names(200), at=0)
        for step in range(10):
            writer.histogram("gradient", step, {0: Exponents(counts={-step: 1})})
            writer.histogram("gradient", step, {199: Exponents(counts={step: 2}, stride=8)})
        writer.flush()
        found = writer.reader().last_histograms("gradient")
    assert found == {
        0: (9, Exponents(counts={-9: 1})),
        199: (9, Exponents(counts={9: 2}, stride=8)),
    }


def test_a_damaged_run_is_told_in_one_line(tmp_path: Path) -> None:
    # given buckets and parts of which the numbers were cut off
    with writing(tmp_path / "run", caps=FEW) as writer:
        writer.columns("t", names(3), at=0)
        for step in range(1000):
            writer.append("t", step, {"a": [1, 2, step]})
            if step % 64 == 63:
                writer.flush()
    reader = open_run(tmp_path / "run")
    for change in (
        "UPDATE summary SET mean = x'00'",
        "UPDATE part SET cells = x'01'",
        "UPDATE summary SET chunk = 9",
        "UPDATE part SET columns = 900",
    ):
        with sqlite3.connect(tmp_path / "run" / "rank-0.db", isolation_level=None) as db:
            db.execute("BEGIN")
            db.execute(change)
            db.execute("COMMIT")
        db.close()
        with pytest.raises(BadInput):
            reader.overview("t", ["a"], 4)
            reader.overview("t", ["a"], 10_000)
