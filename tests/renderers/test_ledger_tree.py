from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradmend.records.ledger import CAUSES, Entry, Ledger, sum_by_cause
from gradmend.renderers import ledger_tree
from gradmend.renderers.ledger_tree import Books
from gradmend.renderers.page.encoding import decoded
from gradmend.renderers.visible import json_for_script

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)


def leaf(name: str, decades: float, cause: str = "weights", **more: Any) -> Entry:
    return Entry(name=name, kind="module", decades=decades, cause=cause, label="Linear", **more)


def inside(name: str, *children: Entry) -> Entry:
    total = sum(child.decades for child in children)
    return Entry(name=name, kind="module", label="Block", decades=total, children=children)


def books_of(root: Entry) -> dict[str, Any]:
    ledger = Ledger(
        cotangent="loss", total_decades=root.decades, unexplained_decades=0.0, root=root
    )
    return Books(ledger=ledger).plain()


def tree_of(plain: dict[str, Any]) -> list[dict[str, Any]]:
    """A naive reader of the arrays: every entry with its full name, level and numbers."""
    name, form = decoded(plain["name"]), decoded(plain["form"])
    size, decades = decoded(plain["size"]), decoded(plain["decades"])
    found: list[dict[str, Any]] = []
    at = 0

    def read(above: str, level: int) -> None:
        nonlocal at
        here, word = at, plain["names"][name[at]]
        full = word[1:] if word[0] == "=" else above + word
        kind, label, cause, _ = plain["forms"][form[here]]
        found.append(
            {"name": full, "level": level, "decades": float(decades[here]), "kind": kind,
             "label": label, "cause": CAUSES[cause], "size": int(size[here])}
        )  # fmt: skip
        at += 1
        for _ in range(int(size[here])):
            read(full if kind == "module" else above, level + 1)

    read("", 0)
    assert at == len(name)
    return found


def sums_of(plain: dict[str, Any]) -> dict[str, float]:
    """Decades by cause, added up leaf by leaf."""
    amounts = {at for at, _ in plain["amount"]}
    found: dict[str, float] = {}
    for at, entry in enumerate(tree_of(plain)):
        if not entry["size"] and at not in amounts and math.isfinite(entry["decades"]):
            found[entry["cause"]] = found.get(entry["cause"], 0.0) + entry["decades"]
    rows = zip(*(decoded(plain[key]) for key in ("partCause", "partDecades")), strict=True)
    for cause, value in rows:
        found[CAUSES[cause]] = found.get(CAUSES[cause], 0.0) + float(value)
    return found


entries = st.recursive(
    st.builds(
        leaf,
        name=st.sampled_from(["a", "a.b", "b.c", "x", "", "sigmoid", ".d"]),
        decades=st.floats(-5, 5),
        cause=st.sampled_from(["weights", "joins"]),
    ),
    lambda inner: st.builds(
        lambda name, kids: inside(name, *kids),
        st.sampled_from(["a", "a.b", "", "c"]),
        st.lists(inner, min_size=1, max_size=5),
    ),
    max_leaves=30,
)


@given(entries)
def test_every_entry_comes_back_with_its_name_and_place(root: Entry) -> None:
    read = tree_of(books_of(root))
    assert [entry["name"] for entry in read] == [entry.name for entry in root.walk()]
    assert [e["size"] for e in read] == [len(e.children) for e in root.walk()]
    assert np.allclose([e["decades"] for e in read], [e.decades for e in root.walk()], atol=1e-5)


@given(entries, st.integers(1, 12))
@settings(max_examples=60)
def test_what_is_added_up_keeps_the_sums_by_cause(root: Entry, most: int) -> None:
    # given less room than the tree needs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_tree, "MOST_ENTRIES", most * 4)
        patch.setattr(ledger_tree, "FINE", most)
        plain = books_of(root)
    # then no decade is lost
    for cause, value in sum_by_cause(root).items():
        assert math.isclose(sums_of(plain).get(cause, 0.0), value, abs_tol=1e-4)


def test_ten_thousand_layers_are_less_than_a_megabyte_and_a_half() -> None:
    ledger = reports.book(
        tuple(reports.layer(k, -0.24, -0.25, name=f"layers.{k}") for k in range(20_001))
    )
    assert len(json_for_script(Books(ledger=ledger).plain())) < 1_500_000


def test_more_entries_than_a_page_carries_are_added_up() -> None:
    # given 200,000 layers in a row
    ledger = reports.book(tuple(reports.layer(k, -0.25, -0.25) for k in range(200_000)))
    # when they are written
    plain = Books(ledger=ledger).plain()
    # then neighbours are one entry, which says of how many, and nothing is lost
    assert len(json_for_script(plain)) < 1_700_000
    read = tree_of(plain)
    assert read[1]["name"] == "0 .. 19" and read[1]["kind"] == "pooled"
    assert sum(amount for _, amount in plain["amount"]) == 200_000
    assert math.isclose(sum(sums_of(plain).values()), -50_000.0, rel_tol=1e-5)


def test_inner_levels_give_way_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # given 30 blocks of three, and room for blocks but not for what is inside
    blocks = [inside(f"b.{k}", *(leaf(f"b.{k}.{j}", -1.0) for j in range(3))) for k in range(30)]
    monkeypatch.setattr(ledger_tree, "MOST_ENTRIES", 50)
    monkeypatch.setattr(ledger_tree, "FINE", 20)
    plain = books_of(inside("", *blocks))
    assert len(tree_of(plain)) == 31
    assert dict(plain["amount"]) == dict.fromkeys(range(1, 31), 3)


def test_like_siblings_are_said_to_be_alike() -> None:
    plain = books_of(inside("", *(leaf(str(k), -1.0) for k in range(12)), leaf("head", -2.0)))
    assert plain["groups"] == [(0, [[0, 13, 1]])]
    few = books_of(inside("", *(leaf(str(k), -1.0) for k in range(8))))
    assert few["groups"] == []


def test_an_entry_alone_and_numbers_that_are_none() -> None:
    alone = tree_of(books_of(leaf("only", -1.0)))
    assert [entry["name"] for entry in alone] == ["only"]
    report = reports.nothing_is_a_number()
    plain = Books(ledger=report.ledger).plain()
    json.dumps(plain, allow_nan=False)
    assert not math.isfinite(tree_of(plain)[1]["decades"])


def test_shares_and_calls_are_kept_where_they_say_something() -> None:
    root = inside("", leaf("a", -1.0), replace(leaf("a", -2.0), call=1, share=0.25))
    plain = books_of(root)
    assert plain["calls"] == [(2, 1)]
    assert decoded(plain["share"])[2] == 0.25
    assert books_of(inside("", leaf("a", -1.0)))["share"] is None


@pytest.mark.parametrize("text", reports.HOSTILE)
def test_foreign_names_leave_as_visible_text(text: str) -> None:
    plain = Books(ledger=reports.hostile(text).ledger).plain()
    shown = json_for_script(plain)
    assert "<" not in shown and "\\u202e" not in shown.replace("\\\\u202e", "")
    shown.encode("utf-8")
