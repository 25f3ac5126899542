from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gradmend.records.ledger import Entry
from gradmend.renderers.grouping import LONGEST_PERIOD, depth_rows, fold, group_entries

entries = st.builds(
    Entry,
    name=st.sampled_from("abcd"),
    kind=st.sampled_from(["module", "operation"]),
    label=st.sampled_from(["Linear", "ReLU", "Norm"]),
    cause=st.sampled_from(["weights", "joins", None]),
    decades=st.floats(-5, 5),
    predicted=st.none() | st.floats(-5, 5),
)
runs = st.lists(entries, max_size=60)
repeated = st.builds(
    lambda head, body, times, tail: [*head, *(body * times), *tail],
    st.lists(entries, max_size=3),
    st.lists(entries, min_size=1, max_size=6),
    st.integers(1, 20),
    st.lists(entries, max_size=3),
)


def chain(*labels: str) -> list[Entry]:
    causes = {"L": "weights"}
    return [
        Entry(name=str(k), kind="module", label=label, cause=causes.get(label[0]), decades=-1.0)
        for k, label in enumerate(labels)
    ]


@given(runs | repeated)
def test_groups_put_end_to_end_are_the_entries(found: list[Entry]) -> None:
    groups = group_entries(found)
    assert [entry for group in groups for entry in group.entries] == found


@given(runs | repeated)
def test_decades_add_up(found: list[Entry]) -> None:
    groups = group_entries(found)
    total = math.fsum(entry.decades for entry in found)
    assert math.isclose(math.fsum(g.decades for g in groups), total, abs_tol=1e-9)
    for group in groups:
        assert math.isclose(group.per_repeat * group.repeats, group.decades, abs_tol=1e-9)


@given(runs | repeated)
def test_every_repeat_looks_like_the_first(found: list[Entry]) -> None:
    for group in group_entries(found):
        assert group.period <= LONGEST_PERIOD
        keys = [(entry.label, entry.kind) for entry in group.entries]
        assert keys == keys[: group.period] * group.repeats


@given(runs | repeated, st.integers(1, 12))
def test_folding_keeps_order_and_limit(found: list[Entry], limit: int) -> None:
    groups = fold(group_entries(found), limit)
    assert len(groups) <= limit
    assert [entry for group in groups for entry in group.entries] == found


def trees() -> st.SearchStrategy[Entry]:
    def parent(children: list[Entry]) -> Entry:
        total = math.fsum(child.decades for child in children)
        return Entry(
            name="p", kind="module", label="Block", decades=total, children=tuple(children)
        )

    return st.recursive(entries, lambda inner: st.builds(parent, st.lists(inner, min_size=1)))


@settings(max_examples=60)
@given(trees(), st.integers(4, 30))
def test_depth_rows_add_up_at_the_top_and_inside(root: Entry, limit: int) -> None:
    rows = depth_rows(root, limit=limit)
    assert len(rows) <= limit
    top = math.fsum(row.group.decades for row in rows if row.level == 0)
    assert math.isclose(top, root.decades, abs_tol=1e-9)
    for index, row in enumerate(rows):
        if not row.opened:
            continue
        inside = []
        for other in rows[index + 1 :]:
            if other.level <= row.level:
                break
            if other.level == row.level + 1:
                inside.append(other.group.decades)
        assert math.isclose(math.fsum(inside), row.group.decades, abs_tol=1e-9)


def test_a_plain_net_is_linear_and_activation_times_depth() -> None:
    groups = group_entries(chain("L32", "S", *["L64", "S"] * 99, "Lout"))
    shapes = [([e.label for e in g.pattern], g.repeats, g.first.name, g.last.name) for g in groups]
    assert shapes == [
        (["L32"], 1, "0", "0"),
        (["S"], 1, "1", "1"),
        (["L64", "S"], 99, "2", "199"),
        (["Lout"], 1, "200", "200"),
    ]


def test_the_shortest_pattern_wins() -> None:
    (group,) = group_entries(chain(*["A"] * 12))
    assert (group.period, group.repeats) == (1, 12)


def test_containers_open_and_pool_like_children() -> None:
    def block(k: int) -> Entry:
        inner = tuple(
            Entry(name=f"{k}.{n}", kind="module", label=n, decades=d)
            for n, d in (("norm", 0.1), ("up", -0.3))
        )
        return Entry(name=str(k), kind="module", label="Block", decades=-0.2, children=inner)

    blocks = tuple(block(k) for k in range(8))
    root = Entry(name="", kind="module", label="Net", decades=-1.6, children=blocks)
    rows = depth_rows(root)
    assert [(row.level, len(row.group.entries)) for row in rows] == [(0, 8), (1, 8), (1, 8)]
