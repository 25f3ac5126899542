"""``benchmarks/repair.py``: its subjects, its judgement, its rival, and that it goes on."""

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
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "repair.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("repair_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    ours = ("planted", "published")
    for name in [n for n in sys.modules if n.split(".")[0] in ours or n.startswith("_repair_")]:
        del sys.modules[name]


def part(name: str) -> Any:
    return sys.modules[name]


def row(**changed: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "case": "fault/zeros/mlp/fit", "set": "planted", "split": "fit", "planted": True,
        "what": "zeros", "arch": "mlp", "cause": "zero-initialisation", "harm": "worse",
        "not_by_edit": "", "steps": 100, "before": 2.0, "healthy": [0.2, 0.25, 0.3],
        "sick": [2.0, 2.0, 2.0], "fixed": [0.3, 0.3, 0.3], "longer": [1.9, 2.0, 1.9],
        "remedies": ["xavier-init"], "error": "", "crashed": False, "advice": [], "named": [],
        "cause_found": True, "one_guilty": False, "touched": [1, 3], "spent": 250, "seconds": 1.0,
        "agree": 3, "predictions_held": True, "outcome": "repaired", "reason": "",
    }  # fmt: skip
    return usual | changed


def published(name: str, sick: bool = True) -> Any:
    where = part("_repair_subjects")
    for split in ("fit", "report"):
        for subject in where.subjects("published", split, not sick, 1):
            if subject.what == name:
                return subject
    raise AssertionError(name)


def test_outcomes_follow_from_the_losses(bench: ModuleType) -> None:
    verdict = part("_repair_judge").verdict
    assert verdict(row()) == "repaired"
    # Nine tenths of the way from 2.0 to 0.25 is 0.425.
    assert verdict(row(fixed=[0.42] * 3)) == "repaired"
    assert verdict(row(fixed=[0.45] * 3)) == "improved"
    assert verdict(row(fixed=[1.99] * 3)) == "no better"
    assert verdict(row(fixed=[2.2] * 3)) == "worse"
    # What diverged knows no less than nothing: its gap is not easier to close for that.
    assert verdict(row(sick=[math.inf] * 3, fixed=[0.6] * 3)) == "improved"
    assert verdict(row(sick=[1e6] * 3, fixed=[100.0] * 3)) == "no better"
    # A repair that breaks a seed is worse than a training that ends.
    assert verdict(row(fixed=[0.3, 0.3, math.inf])) == "worse"
    nothing: dict[str, Any] = {"remedies": [], "fixed": []}
    assert verdict(row(**nothing)) == "unchanged"
    assert verdict(row(**nothing, advice=["zero-initialisation"])) == "advised"
    assert verdict(row(**nothing, error="BadInput: no")) == "refused"
    assert verdict(row(**nothing, error="KeyError: 3", crashed=True)) == "crashed"


def test_probabilities_are_read_both_ways(bench: ModuleType) -> None:
    judge, training = part("_repair_judge"), part("planted.training").Training
    x, y = torch.randn(64, 3), torch.randint(3, (64,))
    net = nn.Linear(3, 3)
    plain = training("mlp", "classify", net, lambda: (x, y), nn.functional.cross_entropy)
    with torch.no_grad():
        net.weight.mul_(5.0)
        y = net(x).argmax(dim=1)  # it is right, so that to read shares as logits costs something
    as_logits = judge.judged(net, [(x, y)], plain)
    as_shares = judge.judged(nn.Sequential(net, nn.Softmax(1)), [(x, y)], plain)
    assert as_shares == pytest.approx(as_logits, rel=1e-3)


def test_a_regression_is_judged_in_units_of_its_targets(bench: ModuleType) -> None:
    judge, training = part("_repair_judge"), part("planted.training").Training
    x = torch.randn(256, 1)
    double = nn.Linear(1, 1)
    plain = training("mlp", "regress", double, lambda: (x, x), nn.functional.mse_loss)
    small = judge.judged(double, [(x, x)], plain)
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.mul_(1000.0)
    assert judge.judged(double, [(x, 1000 * x)], plain) == pytest.approx(small, rel=1e-3)


def test_a_training_is_built_alike_from_a_seed_and_otherwise_from_another(
    bench: ModuleType,
) -> None:
    subject = published("small-uniform")
    same, again, other = (subject.make(seed, True).model for seed in (0, 0, 1))
    first = [next(iter(m.parameters())) for m in (same, again, other)]
    assert bool((first[0] == first[1]).all())
    assert not bool((first[0] == first[2]).all())
    protocol = part("_repair_protocol")
    one, two = (protocol.collected(subject, True, 4) for _ in range(2))
    pairs = zip(one.train + one.unseen, two.train + two.unseen, strict=True)
    assert all(bool((a[0] == b[0]).all()) for a, b in pairs)


def test_the_published_faults_are_many_and_halved(bench: ModuleType) -> None:
    from gradmend.registry import rules

    faults = part("published.material").FAULTS
    assert len(faults) >= 40
    halves = [sum(f.split == split for f in faults.values()) for split in ("fit", "report")]
    assert abs(halves[0] - halves[1]) <= 1
    known = {rule.name for rule in rules()}
    assert not [f.name for f in faults.values() if not {f.cause, *f.also} & known]
    assert all(f.source and f.make.__doc__ for f in faults.values())


def test_no_subject_is_in_the_users_loop(bench: ModuleType) -> None:
    subjects, cells = part("_repair_subjects"), part("planted.cells")
    case = cells.Case("fit", "mlp", "narrow", "Adam", 0, "never-cleared", True)
    made = cells.build(case)
    assert made is not None
    assert subjects.in_loop(made[0])
    assert not subjects.in_loop(published("rate-of-nothing").make(0, True))
    assert {*subjects.ADVICE} <= {*part("planted.plants").PLANTS}


def test_layers_that_edits_name_are_counted(bench: ModuleType) -> None:
    from gradmend.records.prescription import Edit, Prescription

    protocol = part("_repair_measure")
    training = published("xor-from-zero").make(0, True)
    one = Prescription(edits=(Edit(kind="initialise", targets=("0.weight",)),))
    assert protocol.touched(one, training) == (1, 2)
    optimizer = Prescription(edits=(Edit(kind="set_option"),))
    assert protocol.touched(optimizer, training) == (0, 2)


def test_a_duel_needs_a_difference(bench: ModuleType) -> None:
    duel = part("_repair_tables").duel
    assert duel(row(random=[0.9] * 3)) == "win"
    assert duel(row(random=[0.31] * 3)) == "tie"
    assert duel(row(random=[0.05] * 3)) == "loss"
    assert duel(row(random=[])) == "win"
    assert duel(row(random=[0.3] * 3, fixed=[])) == "loss"


def test_random_search_draws_without_looking(bench: ModuleType) -> None:
    import random

    import gradmend

    bench_random = importlib.import_module("_repair_random")
    t = published("small-uniform").make(0, True)
    t.begin()
    trace = gradmend.check(t.model, t.draw(), t.loss_fn, optimizer=t.optimizers[0], steps=3).trace
    draws = bench_random.drawn(trace, random.Random(0))
    found = [p for p in (next(draws) for _ in range(600)) if p]
    assert len({p.remedies for p in found}) > 5
    assert any(len(p.remedies) == 2 for p in found)


def test_tables_count_what_an_edit_can_mend(bench: ModuleType) -> None:
    tables = part("_repair_tables")
    rows = [row(), row(case="b", outcome="improved"), row(case="c", harm="harmless")]
    rows.append(row(case="d", not_by_edit="the loop", outcome="advised"))
    text = tables.summary(rows)
    assert "2 can be mended by an edit, 1 only by their author" in text
    assert "| repaired to the healthy twin's level | 50 % (9-91) of 2 |" in text
    assert "- b (zero-initialisation): improved" in text
    well = tables.healthy([row(planted=False, remedies=[], outcome="unchanged")])
    assert "1 healthy trainings: 1 left as they were, 0 changed, 0 made worse" in well


@pytest.mark.slow
def test_it_prints_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), "--split", "fit", "--set", "published", "--random"]
    command += ["--only", "softmax-before-cross-entropy", "--out", str(out)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "1 sick trainings: 1 worse" in done.stdout
        assert "Against random search" in done.stdout
    (kept,) = (json.loads(line) for line in out.read_text().splitlines())
    assert kept["cause_found"]
    assert len(kept["fixed"]) == len(kept["healthy"]) == len(kept["longer"]) == 3
