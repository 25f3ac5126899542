"""What is written is read, whatever the flushes; every figure against what was appended."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builder import FEW, names, walk, writing

from gradmend.errors import UnknownName
from gradmend.records.exponents import Exponents
from gradmend.records.history import Column, Event, RunFacts
from gradmend.store.layout import ON_DISK
from gradmend.store.reader import RunReader, open_run
from gradmend.store.writer import RunWriter


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "run" if request.param == "disk" else None


def test_rows_come_back(folder: Path | None) -> None:
    values = walk(300, 150)
    with writing(folder) as writer:
        writer.columns("gradient", names(150), at=0)
        for step, row in enumerate(values):
            writer.append("gradient", 10 * step, {"log10_rms": row})
            if step % 37 == 0:
                writer.flush()
        writer.flush()
        reader = writer.reader()
        for column in (0, 127, 128, 149):  # at the borders of the chunks
            steps, line = reader.series("gradient", "log10_rms", column)
            assert steps.tolist() == list(range(0, 3000, 10))
            assert line.tolist() == values[:, column].tolist()
        assert reader.series("gradient", "log10_rms", "p149")[1].tolist() == line.tolist()
        for step, row in ((0, 0), (5, 0), (10, 1), (999, 99), (2990, 299), (10**9, 299)):
            profile = reader.profile("gradient", "log10_rms", step)
            assert profile.tolist() == values[row].tolist()
        assert np.isnan(reader.profile("gradient", "log10_rms", -1)).all()
        steps, matrix = reader.matrix("gradient", "log10_rms", 1000)
        assert np.array_equal(matrix, values)
        steps, low, mean, high = reader.band("gradient", "log10_rms", 3)
        assert low.tolist() == mean.tolist() == high.tolist() == values[:, 3].tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("-ab"), st.booleans(), st.booleans()),
        max_size=200,
    )
)
def test_any_order_of_rows_columns_and_flushes(moves: list[tuple[int, str, bool, bool]]) -> None:
    """Steps that repeat or jump, quantities that come and go, columns that come mid-run."""
    with writing(None, caps=ON_DISK) as writer:
        writer.columns("t", names(1), at=0)
        step, known, twin = 0, 1, []
        for number, (ahead, quantity, grow, flush) in enumerate(moves):
            step += ahead
            if grow and known < 140:
                writer.columns("t", names(known + 13)[known:], at=known)
                known += 13
            row = {} if quantity == "-" else {quantity: np.arange(known) + number}
            writer.append("t", step, row)
            twin.append((step, row))
            if flush:
                writer.flush()
        writer.flush()
        table = writer.reader().history(most_rows=1000)["t"]
        assert table.steps.tolist() == [step for step, _ in twin]
        for quantity in "ab":
            for cells, (_, row) in zip(table[quantity], twin, strict=True):
                expected = np.full(known, np.nan)
                some = row.get(quantity, np.zeros(0))
                expected[: len(some)] = some
                assert np.array_equal(cells, expected, equal_nan=True)


def test_what_was_not_measured_is_nan(tmp_path: Path) -> None:
    with writing(tmp_path / "run") as writer:
        writer.columns("t", names(3), at=0)
        writer.append("t", 0, {"a": [1.0, 2.0]})
        writer.append("t", 1, {"b": [np.nan, -np.inf, 1e300]})
        writer.flush()
        table = writer.reader().history()["t"]
        assert table["a"].tolist()[0][:2] == [1, 2]
        assert np.isnan(table["a"]).tolist() == [[False, False, True], [True, True, True]]
        assert table["b"][1, 1:].tolist() == [-np.inf, np.inf]  # beyond float32
        assert table.series("a", "p0")[0].tolist() == [0]
        reader = writer.reader()
        assert reader.series("t", "a", 0)[0].tolist() == [0]
        assert reader.series("t", "unheard", 0)[0].tolist() == []
        assert reader.table_columns("nowhere") == ()
        assert len(reader.matrix("nowhere", "a", 10)[0]) == 0
        for column in (3, -1, "p3"):
            with pytest.raises(UnknownName):
                reader.series("t", "a", column)


def test_appended_arrays_are_copied() -> None:
    with writing(None) as writer:
        writer.columns("t", names(2), at=0)
        row = np.array([1, 2], dtype=np.float32)
        writer.append("t", 0, {"a": row})
        row[:] = 9
        writer.flush()
        assert writer.reader().profile("t", "a", 0).tolist() == [1, 2]


def test_mistakes_of_the_caller_leave_the_run_as_it_was() -> None:
    with writing(None) as writer:
        writer.columns("t", names(2), at=0)
        writer.append("t", 5, {"a": [1, 2]})
        with pytest.raises(ValueError, match="ascend"):
            writer.append("t", 4, {"a": [7, 7]})
        with pytest.raises(ValueError, match="3 a for 2 columns"):
            writer.append("t", 6, {"a": [7, 7, 7]})
        with pytest.raises(ValueError, match="columns from 3"):
            writer.columns("t", names(1), at=3)
        writer.append("t", 5, {"b": [3, 4]})
        writer.flush()
        table = writer.reader().history()["t"]
        assert table.steps.tolist() == [5, 5]
        assert np.isnan(table["a"][1]).all() and table["b"][1].tolist() == [3, 4]
        for step in range(6, 70):
            writer.append("t", step, {})
        writer.flush()
        with pytest.raises(ValueError, match="ascend"):  # also over a sealed block
            writer.append("t", 68, {})


def test_columns_are_kept_in_full_and_updated(folder: Path | None) -> None:
    column = Column(
        name="a.\udcff",
        module="a",
        kind="weight",
        order=3,
        shape=(2, 3),
        dtype="float32",
        source="train.py:1  x",
        since=7,
        facts={"betas": (np.float32(0.5), 0.25), "nan": np.nan, "odd": Path("x"), "3": {3: True}},
    )
    with writing(folder) as writer:
        writer.columns("t", names(2), at=0)
        writer.columns("t", [column], at=1)
        writer.flush()
        first, second = writer.reader().table_columns("t")
        assert first == names(1)[0]
        assert second.facts == {"betas": [0.5, 0.25], "nan": None, "odd": "x", "3": {"3": True}}
        assert second.shape == (2, 3) and second.name == column.name and second.since == 7
        writer.append("t", 0, {"a": [1, 2]})
        writer.flush()
        assert writer.reader().series("t", "a", column.name)[1].tolist() == [2]


def test_a_long_run_keeps_ends_means_and_envelopes(folder: Path | None) -> None:
    """Against means over the same rows of what was appended."""
    rows = 64 * 40 + 17
    values = walk(rows, 3)
    values[1000, 1], values[1500, 1] = -np.inf, np.nan
    with writing(folder, caps=FEW) as writer:
        writer.columns("t", names(3), at=0)
        for step in range(rows):
            writer.append("t", step, {"a": values[step]})
            if writer.due():
                writer.flush()
        writer.flush()
        reader = writer.reader()
        for column in range(3):
            steps, low, mean, high = reader.band("t", "a", column)
            assert len(steps) < 64 + 8 + 128 + 64 + 1
            whole = values[np.isfinite(values[:, column]), column]
            assert high.max() == pytest.approx(whole.max(), rel=1e-3)
            known = values[~np.isnan(values[:, column]), column]
            assert low.min() == pytest.approx(known.min(), rel=1e-3)
            assert np.all((low <= mean) & (mean <= high))
            fine = low == high
            assert steps[:64].tolist() == list(range(64))
            assert steps[-128:].tolist() == list(range(rows - 128, rows))
            exact = values[steps[fine], column]
            assert np.allclose(mean[fine], exact, rtol=1e-4)
        buckets = bucket_spans(reader)
        assert len(buckets) <= FEW.buckets
        assert sorted(buckets)[0][0] == 0
        for (_, end), (begin, _) in pairwise(buckets):
            assert begin == end + 1  # no gap, no overlap
        assert buckets[-1][1] == 64 * 40 - 1
        widths = [(end + 1 - begin) // 64 for begin, end in buckets]
        assert widths == sorted(widths, reverse=True)  # the older, the coarser...
        assert widths[0] <= 8  # ... but evenly: 40 blocks in 8 buckets are 5 in each


def bucket_spans(reader: RunReader) -> list[tuple[int, int]]:
    with reader._reading() as db:
        return db.execute(
            "SELECT first_step, last_step FROM bucket ORDER BY first_block"
        ).fetchall()


def test_a_bucket_is_the_mean_of_its_rows(tmp_path: Path) -> None:
    values = walk(64 * 30, 2)
    with writing(tmp_path / "run", caps=FEW) as writer:
        writer.columns("t", names(2), at=0)
        for step, row in enumerate(values):
            writer.append("t", step, {"a": row})
        writer.flush()
        reader = writer.reader()
        spans = bucket_spans(reader)
        steps, low, mean, high = reader.band("t", "a", 1)
        checked = 0
        for first, last in spans:
            at = np.flatnonzero(steps == first + (last - first) // 2)
            rows = values[first : last + 1, 1]
            if len(at) == 1 and low[at[0]] < high[at[0]]:
                assert mean[at[0]] == pytest.approx(rows.mean(), abs=1e-3)
                assert low[at[0]] == pytest.approx(rows.min(), rel=1e-3)
                assert high[at[0]] == pytest.approx(rows.max(), rel=1e-3)
                checked += 1
        assert checked >= 4


def test_size_does_not_grow_with_length(tmp_path: Path) -> None:
    sizes = []
    with writing(tmp_path / "run", caps=FEW) as writer:
        writer.columns("t", names(40), at=0)
        draw = np.random.default_rng(0)
        for step in range(64 * 120):
            writer.append("t", step, {"a": draw.normal(size=40)})
            if step % 5 == 0:
                writer.histogram("t", step, {0: Exponents(counts={-step: step})})
                writer.event(Event(step=step, kind="note", text=str(step)))
            if step % (64 * 40) == 64 * 40 - 1:
                writer.flush()
                with writer.reader()._reading() as db:
                    counts = [
                        db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
                        for name in ("piece", "part", "bucket", "summary", "histogram", "event")
                    ]
                sizes.append(counts)
    for pieces, parts, buckets, summaries, histograms, events in sizes:
        assert [pieces, parts, buckets, summaries, events] == [3, 3, 8, 8, 10]
        assert histograms <= 9


def test_blocks_with_an_event_of_weight_are_kept(tmp_path: Path) -> None:
    with writing(tmp_path / "run", caps=FEW) as writer:
        writer.columns("t", names(1), at=0)
        for step in range(64 * 30):
            writer.append("t", step, {"a": [step]})
            if step in (64 * 4 + 9, 64 * 12, 64 * 20 + 63, 64 * 21):
                writer.event(Event(step=step, kind="non-finite"))
            if step == 64 * 9:
                writer.event(Event(step=step, kind="note"))
            if step == 64 * 17 + 1:
                writer.event(Event(step=step - 64, kind="finding-begins"))  # told afterwards
            if writer.due():
                writer.flush()
        writer.flush()
        steps, _ = writer.reader().series("t", "a", 0)
        blocks = (set(range(at, at + 64)) for at in range(0, 64 * 30, 64))
        full = {number for number, block in enumerate(blocks) if block <= set(steps)}
        # Of the five, the cap of two keeps the first and the last.
        assert full == {0, 4, 21, 28, 29}
        assert np.all(np.diff(steps) >= 0)


def test_a_code_is_never_a_mean(tmp_path: Path) -> None:
    with writing(tmp_path / "run", caps=FEW) as writer:
        writer.columns("gradient", names(1), at=0)
        for step in range(64 * 20):
            state = 3 if step == 600 else 2
            writer.append("gradient", step, {"state": [state], "log10_rms": [state]})
        writer.flush()
        reader = writer.reader()
        assert set(reader.series("gradient", "state", 0)[1]) == {2, 3}
        assert set(reader.history(60)["gradient"]["state"][:, 0]) <= {2, 3}
        assert set(reader.matrix("gradient", "state", 200)[1][:, 0]) == {2, 3}
        assert not set(reader.series("gradient", "log10_rms", 0)[1]) <= {2, 3}


def test_history_keeps_the_ends_and_thins_between(tmp_path: Path) -> None:
    with writing(tmp_path / "run", name="r", steps=3000) as writer:
        writer.columns("t", names(2), at=0)
        for step in range(2500):
            writer.append("t", step, {"a": [step, -step]})
        writer.event(Event(step=4, kind="look"))
        writer.flush()
        history = writer.reader().history()
        steps = history["t"].steps
        assert len(steps) <= 512
        assert steps[:64].tolist() == list(range(64))
        assert steps[-256:].tolist() == list(range(2500 - 256, 2500))
        gaps = np.diff(steps[63:-255])
        assert gaps.max() <= 64 and gaps.min() >= 1
        assert np.allclose(history["t"]["a"][:, 1], -steps, atol=0.5)
        assert history.run.name == "r" and [e.kind for e in history.events] == ["look"]
        assert len(writer.reader().history(most_rows=1)["t"]) == 1


def test_histograms_keep_the_ends_and_some_between(folder: Path | None) -> None:
    with writing(folder, caps=FEW) as writer:
        writer.columns("t", names(300), at=0)
        for step in range(100):
            counts = {3: Exponents(counts={-5: step + 1}), 299: Exponents(counts={2: 7}, stride=8)}
            writer.histogram("t", step, counts)
            if step % 7 == 0:
                writer.flush()
        writer.flush()
        reader = writer.reader()
        steps = [step for step, _ in reader.histograms("t", "p3")]
        # The first 2, the last 3, and every 32nd: at every 16th there were five.
        assert steps == [0, 1, 32, 64, 96, 97, 98, 99]
        assert all(h.counts == {-5: step + 1} for step, h in reader.histograms("t", 3))
        assert reader.histograms("t", 299)[0][1] == Exponents(counts={2: 7}, stride=8)
        assert reader.histograms("t", 4) == [] == reader.histograms("t", 200)


def test_events_are_followed_and_capped(folder: Path | None) -> None:
    with writing(folder, caps=FEW) as writer:
        seen: list[Event] = []
        cursor = 0
        for step in range(60):
            facts = {"loss": np.float64(2.5), "bad": np.nan, "who": ("a", np.int64(3))}
            writer.event(Event(step=step, kind="input", where="m", text="té\udcff", facts=facts))
            if step % 9 == 0:
                writer.event(Event(step=step, kind="note"))
            if step % 4 == 3:
                writer.flush()
                events, cursor = writer.reader().events_after(cursor)
                seen += events
        assert writer.reader().events_after(cursor) == ((), cursor)
        assert [e.step for e in seen if e.kind == "input"] == list(range(60))
        kept = writer.reader().events(kinds=["input"])
        assert [e.step for e in kept] == [0, 1, 2, 3, 4, 55, 56, 57, 58, 59]
        assert kept[0].facts == {"loss": 2.5, "bad": None, "who": ["a", 3]}
        assert kept[0].where == "m" and kept[0].text == "té\udcff"
        assert writer.reader().dropped_events() == {"input": 50}
        assert len(writer.reader().events()) == 17


def test_nothing_waits_without_bound() -> None:
    with writing(None) as writer:
        writer.columns("t", names(1), at=0)
        for step in range(1000):
            writer.append("t", step, {"a": [step]})
            writer.event(Event(step=step, kind="note"))
            writer.event(Event(step=step, kind="note"))
        assert len(writer._buffers["t"]) <= 128
        assert len(writer._new_events) <= 1000
        assert len(writer.reader().series("t", "a", 0)[0]) > 300


def test_due() -> None:
    with writing(None) as writer:
        writer.columns("t", names(1), at=0)
        assert not writer.due()
        for step in range(64):
            assert not writer.due() or step > 60  # unless a second has passed
            writer.append("t", step, {})
        assert writer.due()
        writer.flush()
        assert not writer.due()
        writer._flushed_at -= 1
        assert writer.due()


def test_states(tmp_path: Path) -> None:
    with writing(tmp_path / "run", name="n", models=("A", "B"), planned_steps=9) as writer:
        reader = open_run(tmp_path / "run")
        assert reader.run == writer.run == RunFacts(name="n", models=("A", "B"), planned_steps=9)
        done = RunFacts(name="n", status="finished", steps=5, seconds=1.5)
        writer.state(done)
        assert reader.run.status == "running"
        writer.flush()
        assert reader.run == done == reader.history().run


def test_memory_can_be_read_after_closing() -> None:
    writer = RunWriter.create(None, RunFacts(name="m"))
    writer.columns("t", names(1), at=0)
    writer.append("t", 0, {"a": [4]})
    reader = writer.reader()
    writer.close()
    writer.append("t", 1, {"a": [5]})  # nothing, and no error
    del writer
    assert reader.series("t", "a", 0)[1].tolist() == [4]
    assert reader.run.name == "m"
