"""The last check would notice a change that was not meant."""

import pytest

from gradmend.rewriting.facts import Unclear
from gradmend.rewriting.figures import figure
from gradmend.rewriting.page import Page
from gradmend.rewriting.verify import check

OLD = "a = 1\nb = 2  # two\nif a:\n    c = [\n        3,\n    ]\n    d = 4\n"


def test_meant_changes_and_insertions_pass() -> None:
    check(OLD, OLD, [])
    check(OLD, OLD.replace("b = 2", "b = 20"), [(2, 2)])
    check(OLD, OLD.replace("if a", "x = 9\nif a"), [])
    check(OLD, OLD.replace("        3,\n", ""), [(4, 6)])


@pytest.mark.parametrize(
    ("new", "touched"),
    [
        (OLD.replace("b = 2", "b = 20"), []),  # a line that was not meant
        (OLD.replace("b = 2", "b = 20"), [(1, 1)]),  # another one was
        (OLD.replace("# two", "# zwei"), []),  # a comment
        (OLD.replace("a = 1\n", ""), [(2, 7)]),  # a line that went
        (OLD.replace("if a", "'''\nif a") + "'''\n", []),  # lines that became a string
        (OLD.replace("if a:", "if a:\n  pass"), []),  # no Python
    ],
)
def test_near_misses_are_refused(new: str, touched: list[tuple[int, int]]) -> None:
    with pytest.raises(Unclear):
        check(OLD, new, touched)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 * 0.1, "0.01"), (1.0, "1.0"), (1e-5, "1e-5"), (3e-4, "3e-4"), (0.0, "0.0"),
     (2.5e7, "2.5e7"), (-0.25, "-0.25"), (1 / 3, "0.333333333333"), (1e300, "1e300")],
)  # fmt: skip
def test_numbers_are_written_as_people_write_them(value: float, text: str) -> None:
    assert figure(value) == text
    assert float(text) == pytest.approx(value, rel=1e-11)


def test_a_page_that_nothing_is_done_to_is_the_same_to_the_byte() -> None:
    source = "\ufeff# é\r\nx = (1 ,\\\r\n 2)\r\n\x0c\r\nif x :\r\n\ty=3 ; z = 4\r\n# end"
    page = Page("x.py", source)
    assert page.render() == source
    assert not page.changed
