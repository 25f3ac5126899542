"""Marks: the gravest stay when there are too many."""

import numpy as np

from gradmend.records.history import Event
from gradmend.renderers.run_figures.marks import MOST, fewest, of_events, of_skipped


def test_the_gravest_stay() -> None:
    events = [Event(step=step, kind="look") for step in range(500)]
    events += [Event(step=step, kind="non-finite") for step in range(150)]
    events += [Event(step=499, kind="crash", text="x")]
    marks = of_events(events)
    kinds = [mark.kind for mark in marks]
    assert len(marks) == MOST
    assert kinds.count("crash") == 1 and kinds.count("non-finite") == 150
    looks = [mark.x for mark in marks if mark.kind == "look"]
    assert looks[0] == 0 and looks[-1] == 499  # of what gives way, both ends stay
    assert [mark.x for mark in marks] == sorted(mark.x for mark in marks)


def test_more_crashes_than_room() -> None:
    marks = of_events([Event(step=step, kind="crash") for step in range(450)])
    assert len(marks) == MOST and marks[0].x == 0 and marks[-1].x == 449
    assert fewest(marks, 1) == [marks[0]] and fewest(marks, 0) == []


def test_texts_are_cut() -> None:
    (mark,) = of_events([Event(step=0, kind="crash", text="x" * 10_000)])
    assert len(mark.text) == 200 and mark.text.endswith("...")


def test_skipped_steps_run_together() -> None:
    steps = np.arange(0, 60, 10)
    marks = of_skipped(steps, np.array([0.5, 0.25, np.nan, 1.0, 0.0, 1.0]))
    assert [(mark.x, mark.text) for mark in marks] == [
        (0, "steps 0 to 10: 37.5 % skipped"),
        (30, "step 30 skipped"),
        (50, "step 50 skipped"),
    ]
    assert of_skipped(steps[:0], np.zeros(0)) == []
