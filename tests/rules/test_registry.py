"""The registry: pages are whole, names are unique, plug-ins take the same road."""

import importlib.metadata
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gradmend.errors import BadInput, UnknownName
from gradmend.records.prescription import Change
from gradmend.registry import (
    FAMILIES,
    REMEDY_SECTIONS,
    RULE_SECTIONS,
    Case,
    Remedy,
    Rule,
    find,
    limit,
    read_page,
    remedies,
    remedy,
    rule,
    rules,
)  # fmt: skip

RULE_PAGE = "Summary.\n\n    " + "\n\n    ".join(f"{s}:\n        Text." for s in RULE_SECTIONS)
REMEDY_PAGE = "Summary.\n\n    " + "\n\n    ".join(f"{s}:\n        Text." for s in REMEDY_SECTIONS)


def make_rule(
    code: str = "ACT999", name: str = "my_rule", page: str = RULE_PAGE, **more: Any
) -> Rule:
    def function(trace: Any, limits: Any) -> Iterator[Any]:
        del trace, limits
        yield from ()

    function.__name__, function.__doc__ = name, page
    return rule(code=code, fires_on=[], silent_on=[], **more)(function)


def make_remedy(name: str = "my_remedy", page: str = REMEDY_PAGE) -> Remedy:
    def function(findings: Any, trace: Any) -> Iterator[Any]:
        del findings, trace
        yield from ()

    function.__name__, function.__doc__ = name, page
    return remedy(treats=["dead-relu"], changes=[Change.CELL, Change.DATA_SCALE])(function)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """Entry points that a test fills: group -> objects that loading gives."""
    groups: dict[str, list[Any]] = {}

    class Entry:
        name, value = "my-plugin", "my_package.rules"

        def __init__(self, what: Any) -> None:
            self.what = what

        def load(self) -> Any:
            if isinstance(self.what, Exception):
                raise self.what
            return self.what

    def entry_points(*, group: str) -> list[Entry]:
        return [Entry(what) for what in groups.get(group, [])]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    rules.cache_clear()
    remedies.cache_clear()
    yield groups
    monkeypatch.undo()
    rules.cache_clear()
    remedies.cache_clear()


@pytest.mark.parametrize("found", [*rules(), *remedies()], ids=lambda r: r.name)
def test_every_page_has_all_its_sections(found: Rule | Remedy) -> None:
    wanted = RULE_SECTIONS if isinstance(found, Rule) else REMEDY_SECTIONS
    assert set(found.sections) == set(wanted)
    assert all(found.sections.values())
    assert found.summary
    assert "\n" not in found.summary
    assert found.name == found.name.lower()
    assert "_" not in found.name


@pytest.mark.parametrize("found", rules(), ids=lambda r: r.name)
def test_every_limit_of_a_rule_has_a_value_a_unit_and_a_source(found: Rule) -> None:
    for name, default, unit, source in found.limit_rows():
        assert isinstance(default, int | float), name
        assert unit
        assert len(source) > 10, "a source is a reference or a reason"
    assert found.code[:3] in FAMILIES
    assert found.code[3:].isdigit()


def test_what_remedies_treat_are_rules() -> None:
    names = {r.name for r in rules()}
    for found in remedies():
        assert found.treats
        assert set(found.treats) <= names, found.name
        assert found.changes == tuple(sorted(found.changes))


def test_remedies_come_in_the_order_of_how_much_they_change() -> None:
    # A learning rate that comes with another change does not count.
    own = [set(r.changes) - {Change.OPTIMIZER} or set(r.changes) for r in remedies()]
    largest = [max(changes) for changes in own]
    assert largest == sorted(largest)


@pytest.mark.parametrize("missing", RULE_SECTIONS)
def test_a_page_without_a_section_is_refused_at_import(missing: str) -> None:
    with pytest.raises(ValueError, match=f"my_rule lacks: {missing}"):
        make_rule(page=RULE_PAGE.replace(f"{missing}:", "Something:"))
    with pytest.raises(ValueError, match=missing):
        make_rule(page=RULE_PAGE.replace(f"{missing}:\n        Text.", f"{missing}:\n"))


def test_a_function_without_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        read_page(lambda: None, RULE_SECTIONS)


def test_a_rule_of_no_family_is_refused() -> None:
    with pytest.raises(ValueError, match="no known family"):
        make_rule(code="XYZ101")


def test_a_limit_needs_a_unit_and_a_source() -> None:
    @dataclass(frozen=True)
    class Bare:
        share: float = 0.5

    @dataclass(frozen=True)
    class NoSource:
        share: float = field(default=0.5, metadata={"unit": "1"})

    @dataclass(frozen=True)
    class Empty:
        share: float = limit(0.5, unit="1", source="")

    for limits in (Bare, NoSource, Empty):
        with pytest.raises(ValueError, match="needs a unit and a source"):
            make_rule(limits=limits)


def test_twins_are_refused(plugged: dict[str, list[Any]]) -> None:
    plugged["gradmend.rules"] = [make_rule(code="ACT101")]
    with pytest.raises(ValueError, match="ACT101"):
        rules()
    plugged["gradmend.rules"] = [make_rule(name="dead_relu")]
    with pytest.raises(ValueError, match="dead-relu"):
        rules()
    plugged["gradmend.remedies"] = [make_remedy(name="critical_init")]
    with pytest.raises(ValueError, match="critical-init"):
        remedies()


def test_plug_ins_are_found_like_our_own(plugged: dict[str, list[Any]]) -> None:
    # GIVEN an entry point that names a module, and one that names a rule itself
    module = types.ModuleType("my_package.rules")
    module.my_rule = make_rule()  # type: ignore[attr-defined]
    module.same_again = module.my_rule  # type: ignore[attr-defined]
    plugged["gradmend.rules"] = [module, make_rule(code="GRF999", name="other_rule")]
    plugged["gradmend.remedies"] = [make_remedy()]
    # WHEN the catalogue is asked THEN both are in it, once, in order
    assert [r.name for r in rules() if r.code.endswith("999")] == ["my-rule", "other-rule"]
    assert [r.code for r in rules()] == sorted(r.code for r in rules())
    assert find("act999").name == find("MY_RULE").name == "my-rule"
    assert find("my-remedy").summary == "Summary."


def test_a_plug_in_that_cannot_be_loaded_is_named_in_one_line(
    plugged: dict[str, list[Any]],
) -> None:
    plugged["gradmend.rules"] = [ImportError("no module named 'torchx'")]
    with pytest.raises(BadInput, match=r"'my-plugin' \(my_package.rules\).*torchx"):
        rules()


@pytest.mark.parametrize("word", ["ACT101", "act101", " Act101 ", "attenuating-activation",
                                  "ATTENUATING_ACTIVATION"])  # fmt: skip
def test_rules_are_found_by_code_or_name_in_any_case(word: str) -> None:
    assert find(word).name == "attenuating-activation"


def test_unknown_names_come_with_the_closest_known_ones() -> None:
    with pytest.raises(UnknownName, match="dead-relu"):
        find("dead-rellu")
    with pytest.raises(UnknownName, match=r"(?i)did you mean .*act101"):
        find("ACT1O1")
    for word in ("", "qqqqqqqqq", "%s{}"):
        with pytest.raises(UnknownName, match="gradmend explain"):
            find(word)


def test_a_case_is_told_as_the_call_it_is() -> None:
    case = Case.of("mlp", depth=3, activation="tanh")
    assert str(case) == "mlp(depth=3, activation='tanh')"


def test_discovery_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from gradmend.registry import rules, remedies\n"
        "print(len(rules()), len(remedies()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(rules())), str(len(remedies()))]
