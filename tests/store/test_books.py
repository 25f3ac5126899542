"""The gradient ledgers of a run's looks: kept in full, bounded, and read with suspicion."""

from __future__ import annotations

import math
import random
import sqlite3
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from run_builder import writing

from gradmend.errors import BadInput
from gradmend.records.history import RunFacts
from gradmend.records.ledger import CAUSES, Booked, Entry, Ledger, changed, renamed, sum_by_cause
from gradmend.store import books
from gradmend.store.errors import Damaged
from gradmend.store.layout import database
from gradmend.store.reader import open_run
from gradmend.store.writer import RunWriter


def tree(depth: int, width: int, seed: int = 0) -> Entry:
    """A nested book whose containers are the sums of what they hold."""
    draw = random.Random(seed)

    def grow(name: str, level: int) -> Entry:
        if level == depth:
            return Entry(
                name=draw.choice(["sigmoid", "linear", "add"]),
                kind="operation",
                label="op",
                cause=draw.choice(CAUSES),
                decades=draw.gauss(0, 1),
                own_decades=draw.choice([None, 0.5]),
                predicted=draw.choice([None, 0.25]),
                share=draw.choice([1.0, 0.5]),
                source=draw.choice([None, "net.py:3  nn.Linear(3, 3)"]),
            )
        inside = tuple(grow(f"{name}.{k}".lstrip("."), level + 1) for k in range(width))
        total = math.fsum(child.decades for child in inside)
        return Entry(name=name, kind="module", label="Block", decades=total, children=inside)

    return grow("", 0)


def ledger(root: Entry | None, **more: object) -> Ledger:
    known = {"cotangent": "loss", "total_decades": -3.5, "unexplained_decades": 1e-15}
    sums = sum_by_cause(root) if root is not None else {}
    return Ledger(root=root, **{**known, "by_cause": sums, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        ledger(None, notes=("the gradient is not finite",)),
        ledger(Entry(name="", kind="module", decades=0.0)),
        ledger(tree(3, 4), log10_cotangent=-1.0, imbalance=1e-16, predicted_by_cause={"other": 1}),
        ledger(replace(tree(2, 2), decades=math.nan), total_decades=None, blocked_by="a.b"),
        ledger(replace(tree(1, 2), decades=-math.inf), start="emb\ud800edding"),
        ledger(replace(tree(1, 2), own_decades=1e300)),
    ],
)
def test_what_is_kept_is_what_was_measured(given: Ledger) -> None:
    # When books are packed and unpacked,
    size, blob = books.pack(given)
    read = books.unpack(blob, size)
    # then everything is there: decades to the last bit, the rest in single precision.
    assert read.by_cause == given.by_cause and read.notes == given.notes
    assert (read.total_decades, read.blocked_by) == (given.total_decades, given.blocked_by)
    one, other = (list(x.root.walk()) if x.root else [] for x in (given, read))
    assert len(one) == len(other)
    for before, after in zip(one, other, strict=True):
        assert repr(before.decades) == repr(after.decades)
        assert (before.name, before.kind, before.label) == (after.name, after.kind, after.label)
        assert (before.cause, before.source, before.call) == (after.cause, after.source, after.call)
        assert len(before.children) == len(after.children) and before.share == after.share
        for a, b in ((before.predicted, after.predicted), (before.own_decades, after.own_decades)):
            assert a == b or (a is not None and b in (pytest.approx(a), math.inf))


@pytest.mark.parametrize("most", [12, 30, 60, 150, 700, 100_000])
def test_too_many_entries_are_added_up_and_no_sum_changes(most: int) -> None:
    # Given a book of some 1,400 entries, when fewer may be kept,
    root = tree(5, 4)
    kept = books.bounded(root, most)
    # then there are no more, and the whole, each cause and each container say what they said.
    assert sum(1 for _ in kept.walk()) <= max(most, 1 + len(CAUSES))
    assert kept.decades == root.decades
    sums, before = sum_by_cause(kept), sum_by_cause(root)
    assert sums.keys() == before.keys()
    assert all(sums[cause] == pytest.approx(before[cause]) for cause in before)
    for entry in kept.walk():
        if entry.children:
            inside = math.fsum(child.decades for child in entry.children)
            assert inside == pytest.approx(entry.decades)


def test_a_sum_with_a_part_that_nobody_predicts_has_no_prediction() -> None:
    known = Entry(name="a", kind="operation", decades=1.0, cause="weights", predicted=2.0)
    unknown = Entry(name="b", kind="operation", decades=1.0, cause="weights")
    root = Entry(name="", kind="module", decades=2.0, children=(known, unknown))
    assert books._added_up(root).predicted is None and books._added_up(root).cause == "weights"
    other = replace(known, cause="joins")
    both = books._added_up(replace(root, children=(known, unknown, other)))
    assert {e.cause: e.predicted for e in both.children} == {"weights": None, "joins": 2.0}


def test_a_deep_book_needs_no_deep_stack() -> None:
    root = Entry(name="leaf", kind="operation", decades=-1.0, cause="weights")
    for level in range(5000):
        root = Entry(name=f"m{level}", kind="module", decades=-1.0, children=(root,))
    size, blob = books.pack(ledger(root))
    read = books.unpack(blob, size)
    assert read.root is not None and sum(1 for _ in read.root.walk()) == 5001


def test_names_are_those_of_the_run() -> None:
    given = ledger(tree(2, 2))
    read = renamed(given, lambda name: f"generator.{name}".rstrip("."))
    assert read.root is not None and read.root.name == "generator"
    assert [child.name for child in read.root.children] == ["generator.0", "generator.1"]
    operations = [e.name for e in read.root.walk() if e.kind == "operation"]
    assert set(operations) <= {"sigmoid", "linear", "add"}
    assert renamed(replace(given, root=None), str).root is None
    with pytest.raises(ValueError, match="several trees"):
        changed([Entry(name="a", kind="module", decades=0.0)] * 2)


@pytest.mark.parametrize("harm", ["cut", "bits", "size", "numbers", "head", "names", "sizes"])
def test_bytes_from_elsewhere_are_measured_before_they_are_believed(harm: str) -> None:
    size, blob = books.pack(ledger(tree(2, 3)))
    whole = bytearray(zlib.decompress(blob))
    length = int.from_bytes(whole[:8], "little")
    if harm == "cut":
        blob = blob[:-5]
    elif harm == "bits":
        blob = bytes([blob[0], blob[1] ^ 255]) + blob[2:]
    elif harm == "size":
        size = 1 << 40
    else:
        if harm == "numbers":
            whole = whole[:-4]
        elif harm == "head":
            whole[8 : 8 + length] = b"[" * length
        elif harm == "names":
            whole[8 + length : 12 + length] = (10**6).to_bytes(4, "little")
        else:
            whole[8 + length + 2 * 4 * 13 :][:4] = b"\xff" * 4
            at = 8 + length + 2 * 4 * 13
            whole[at : at + 4] = (99).to_bytes(4, "little")
        size, blob = len(whole), zlib.compress(bytes(whole))
    with pytest.raises(Damaged):
        books.unpack(blob, size)


def test_a_small_blob_makes_no_large_memory() -> None:
    with pytest.raises(Damaged):
        books.unpack(zlib.compress(bytes(10_000_000)), 100)


def test_a_run_gives_its_books_back(tmp_path: Path) -> None:
    # Given a run with two looks, the newest of them twice,
    one, two = ledger(tree(2, 3, seed=1)), ledger(tree(2, 3, seed=2))
    with writing(tmp_path / "run") as writer:
        writer.books(books.FIRST, Booked(step=0, ledger=one))
        assert open_run(tmp_path / "run").history().books == ()  # nothing was flushed
        writer.flush()
        assert [b.step for b in open_run(tmp_path / "run").history().books] == [0]
        writer.books(books.NEWEST, Booked(step=200, ledger=one))
        writer.books(books.NEWEST, Booked(step=400, ledger=two))
    # then both are read, in their order.
    read = open_run(tmp_path / "run").history().books
    assert [b.step for b in read] == [0, 400]
    assert [b.ledger.by_cause for b in read] == [one.by_cause, two.by_cause]


def test_books_go_along_into_memory(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run", RunFacts())
    writer.books(books.FIRST, Booked(step=0, ledger=ledger(tree(1, 2))))
    writer.flush()
    writer.books(books.NEWEST, Booked(step=7, ledger=ledger(tree(1, 2))))
    memory = writer.into_memory()
    assert [b.step for b in memory.reader().history().books] == [0, 7]
    writer.close()


def test_a_run_of_before_has_no_such_table_and_opens(tmp_path: Path) -> None:
    with writing(tmp_path / "run", name="old"):
        pass
    db = sqlite3.connect(database(tmp_path / "run", 0))
    db.execute("DROP TABLE books")
    db.commit()
    db.close()
    assert open_run(tmp_path / "run").history().books == ()


@pytest.mark.parametrize("value", [b"", b"nothing", "text", None, 7])
def test_damaged_books_are_a_sentence(tmp_path: Path, value: object) -> None:
    with writing(tmp_path / "run") as writer:
        writer.books(books.FIRST, Booked(step=0, ledger=ledger(tree(1, 2))))
    db = sqlite3.connect(database(tmp_path / "run", 0))
    if value is None:
        db.execute("UPDATE books SET size = 'much'")
    else:
        db.execute("UPDATE books SET cells = ?", (value,))
    db.commit()
    db.close()
    with pytest.raises(BadInput, match="damaged"):
        open_run(tmp_path / "run").history()
