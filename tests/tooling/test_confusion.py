"""``benchmarks/confusion.py``: its arithmetic, its splits, and that it goes on where it was cut."""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "confusion.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("confusion_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "planted"]:
        del sys.modules[name]


def score() -> ModuleType:
    return sys.modules["planted.score"]


def row(**changed: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "case": "fault/zeros/mlp/narrow/Adam/seed0/fit",
        "entry": "check",
        "planted": True,
        "what": "zeros",
        "arch": "mlp",
        "cause": "zero-initialisation",
        "accepted": ["zero-initialisation"],
        "guilty": ["0"],
        "exact": False,
        "harm": "worse",
        "first": "zero-initialisation",
        "module_right": True,
        "named": [{"name": "zero-initialisation", "severity": "error", "modules": ["0"]}],
        "notes": [],
        "error": "",
        "seconds": 0.1,
    }
    return usual | changed


def test_intervals_are_those_of_the_tables(bench: ModuleType) -> None:
    """Wilson's against Newcombe 1998, table I; Clopper and Pearson's against the rule of three."""
    low, high = score().wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = score().wilson(0, 20)
    assert (low, round(high, 4)) == (0.0, 0.1611)
    assert score().wilson(20, 20)[1] == 1.0
    assert score().wilson(0, 0) == (0.0, 1.0)
    assert math.isclose(score().at_most(0, 400), 1 - 0.05 ** (1 / 400), rel_tol=1e-6)
    assert round(score().at_most(0, 400), 4) == 0.0075
    assert round(score().at_most(1, 10), 4) == 0.3942
    assert score().at_most(3, 3) == 1.0


def test_only_what_does_harm_or_is_a_mistake_counts(bench: ModuleType) -> None:
    assert score().counts(row())
    assert score().counts(row(exact=True, harm="harmless"))
    assert not score().counts(row(harm="harmless"))
    assert not score().counts(row(harm="twin idle"))
    assert not score().counts(row(planted=False, harm="learns"))


def test_a_share_of_modules_is_of_those_with_a_guilty_one(bench: ModuleType) -> None:
    rows = [row(), row(guilty=[], module_right=False), row(first="dead-relu", module_right=False)]
    cells = score().line("all", rows).split(" | ")
    assert [cell.split(" of ")[1].strip(" |") for cell in cells[1:]] == ["3", "3", "2"]
    assert cells[3].startswith("50 %")


def test_the_matrix_names_the_right_cause_first(bench: ModuleType) -> None:
    rows = [row(first="dead-relu"), row(first="dead-relu"), row(), row(first="")]
    text = score().confusion(rows)
    assert "| zero-initialisation | **zero-initialisation** 1, dead-relu 2, nothing 1 |" in text


def test_alarms_count_over_healthy_trainings_that_learned(bench: ModuleType) -> None:
    healthy = {"planted": False, "harm": "learns", "named": [], "first": ""}
    rows = [row(case=f"healthy/{n}", **healthy) for n in range(99)]
    rows += [row(case="healthy/99", **(healthy | {"named": [{}], "first": "dead-relu"}))]
    rows += [row(case="healthy/idle", **(healthy | {"harm": "idle"}))]
    text = score().silence(rows)
    assert "| check | 100 | 1 | 4.66 % |" in text
    assert "Alarms: dead-relu 1." in text


def test_the_splits_share_no_architecture_size_optimizer_or_seed(bench: ModuleType) -> None:
    fitted, held_out = (sys.modules[f"planted.{name}"] for name in ("fitted", "held_out"))
    assert not {f.__name__ for f in fitted.FACTORIES} & {f.__name__ for f in held_out.FACTORIES}
    assert not {*fitted.SIZES.values()} & {*held_out.SIZES.values()}
    assert not {*fitted.SEEDS} & {*held_out.SEEDS}
    both = {*fitted.OPTIMIZERS, *fitted.ADAPTIVE} & {*held_out.OPTIMIZERS, *held_out.ADAPTIVE}
    assert not both


def test_every_plant_can_be_named_by_a_rule(bench: ModuleType) -> None:
    from gradmend.registry import rules

    known = {rule.name for rule in rules()}
    unknown = [p for p in bench.PLANTS.values() if not {p.cause, *p.also} & known]
    assert not unknown


def test_there_are_causes_and_architectures_enough(bench: ModuleType) -> None:
    fitted, held_out = (sys.modules[f"planted.{name}"] for name in ("fitted", "held_out"))
    assert len({plant.cause for plant in bench.PLANTS.values()}) >= 45
    assert len(fitted.FACTORIES) + len(held_out.FACTORIES) >= 9


def test_a_training_is_built_alike_each_time(bench: ModuleType) -> None:
    cells = sys.modules["planted.cells"]
    case = bench.Case("fit", "mlp", "narrow", "Adam", 0, "one-small-gain", True)
    first, second = cells.build(case), cells.build(case)
    assert first is not None
    assert second is not None
    assert first[1] == second[1] == ("2", "3")
    for ours, theirs in zip(first[0].model.parameters(), second[0].model.parameters(), strict=True):
        assert bool((ours == theirs).all())
    twin = cells.bare(case)
    largest = [float(each.at("2").weight.detach().abs().max()) for each in (twin, first[0])]
    assert largest[0] > 1000 * largest[1]


def test_what_is_measured_is_not_measured_again(bench: ModuleType, tmp_path: Path) -> None:
    cases = [bench.Case("fit", "mlp", "narrow", "Adam", seed, "zeros", True) for seed in (0, 1, 2)]
    entries = ("check", "steps", "watch")
    kept = [row(case=cases[0].name, entry=entry) for entry in entries]
    kept.append(row(case=cases[1].name, entry="watch"))
    # A watch says what harm is done, so it is made again with what is missing.
    wanted = [(cases[1], ("check", "steps", "watch")), (cases[2], entries)]
    assert bench.missing(cases, entries, kept) == wanted
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in kept) + '\n{"case": "cut sho')
    assert bench.read(file) == kept
    assert bench.read(tmp_path / "none") == []
    # A fault of the loop has no look to be made.
    late = dataclasses.replace(cases[0], what="rate-too-high")
    assert bench.missing([late], ("check",), []) == []


@pytest.mark.slow
def test_it_prints_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), "--split", "fit", "--out", str(out)]
    command += ["--only", "softmax-in-model", "--entry", "check", "--limit", "1"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "| **all** | 100 %" in done.stdout
    assert len(out.read_text().splitlines()) == 2  # the check, and the watch that judges the harm
