"""fix, apply and check: the whole flow on small sick and healthy networks."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from regression import batches as regression_batches
from test_state import Frozen, assert_noise
from torch import Tensor, nn

import gradmend
from gradmend.engine.data import trial_data
from gradmend.engine.files import read_prescription, write_prescription
from gradmend.engine.prescribe import prescribe
from gradmend.engine.state import randomness
from gradmend.errors import BadInput, CannotApply, GradmendError, UnknownName
from gradmend.records.codec import to_plain
from gradmend.records.prescription import Edit, Prescription
from gradmend.zoo.specimen import Specimen, build

SICK: dict[str, Any] = {
    "depth": 12,
    "activation": "sigmoid",
    "width": 16,
    "features": 8,
    "classes": 4,
}


def sick(seed: int = 0, **more: Any) -> Specimen:
    return build("mlp", seed=seed, **{**SICK, **more})


def adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)


def unseen_loss(model: nn.Module, specimen: Specimen) -> float:
    x, y = specimen.batches[-1]
    with torch.no_grad():
        return float(specimen.loss_fn(model(x), y))


def train(model: nn.Module, specimen: Specimen, steps: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        x, y = specimen.batches[step % (len(specimen.batches) - 2)]
        optimizer.zero_grad()
        specimen.loss_fn(model(x), y).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def fixed() -> tuple[Specimen, gradmend.Fix]:
    specimen = sick()
    fix = gradmend.fix(
        specimen.model, specimen.batches, specimen.loss_fn, optimizer=adam(specimen.model), steps=60
    )
    return specimen, fix


def test_a_sick_network_learns_after_its_repair(fixed: tuple[Specimen, gradmend.Fix]) -> None:
    # GIVEN a dozen sigmoid layers that learn nothing by themselves
    specimen, fix = fixed
    twin = sick()
    train(twin.model, twin, 60, 1e-3)
    assert unseen_loss(twin.model, twin) > 1.3  # ln 4 = 1.386 is guessing
    # WHEN it is fixed THEN the kept model is far better on data it has not seen
    assert fix.prescription
    assert fix.verdict is not None
    assert fix.verdict.kept
    assert fix.steps_trained == 60
    assert unseen_loss(fix.model, specimen) < 0.8
    # AND it goes on learning, with the same optimizer
    assert fix.model is specimen.model
    assert fix.verdict.predictions_held
    assert fix.report.after is not None
    assert fix.report.prescription == fix.prescription
    json.dumps(fix.to_dict(), allow_nan=False)
    assert fix.verdict.reason in str(fix)


def test_its_prescription_heals_a_fresh_model_of_another_seed(
    fixed: tuple[Specimen, gradmend.Fix], tmp_path: Path
) -> None:
    path = write_prescription(fixed[1].prescription, tmp_path / "prescription.json")
    other = sick(seed=7)
    untouched = sick(seed=7)
    applied = gradmend.apply(
        path, other.model, optimizer=adam(other.model), batches=other.batches,
        loss_fn=other.loss_fn,
    )  # fmt: skip
    assert applied.steps_trained == 0
    train(applied.model, other, 80, 2e-3)
    train(untouched.model, untouched, 80, 2e-3)
    assert unseen_loss(applied.model, other) < 0.7 * unseen_loss(untouched.model, untouched)


def test_what_folds_away_is_exported_as_the_plain_network_also_when_trained() -> None:
    # GIVEN the repair in centred coordinates, on a fresh model
    specimen = sick()
    report = gradmend.check(specimen.model, specimen.batch, specimen.loss_fn)
    found = prescribe(report.findings, report.trace).prescriptions
    centred = next(p for p in found if p.remedies == ("centre-coordinates",))
    fix = gradmend.apply(centred, specimen.model)
    train(fix.model, specimen, 40, 3e-3)
    # WHEN it is exported after its training THEN it is Linear and Sigmoid, and the same function
    exported = fix.export()
    assert {type(m) for m in exported.modules()} == {nn.Sequential, nn.Linear, nn.Sigmoid}
    x = specimen.batches[0][0]
    # float32 over 13 layers whose logits are of size one
    torch.testing.assert_close(exported(x), fix.model(x), rtol=1e-3, atol=1e-4)
    assert unseen_loss(exported, specimen) == pytest.approx(
        unseen_loss(fix.model, specimen), rel=1e-4
    )


def test_a_healthy_network_is_not_touched() -> None:
    specimen = build("mlp", depth=3, width=16)
    optimizer = adam(specimen.model)
    train(specimen.model, specimen, 1, 1e-3)
    before = Frozen(specimen.model, optimizer)
    fix = gradmend.fix(specimen.model, specimen.batches, specimen.loss_fn, optimizer=optimizer)
    assert not fix.prescription
    assert fix.verdict is not None
    assert not fix.verdict.kept
    assert fix.verdict.reason.startswith("healthy")
    assert fix.report.healthy
    before.assert_same()


def test_taking_batches_from_a_loader_draws_no_number_of_the_users() -> None:
    specimen = build("mlp", depth=3, width=16, features=5, classes=4)
    x = torch.randn(40, 5)
    data = torch.utils.data.TensorDataset(x, torch.arange(40) % 4)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    was = randomness()
    gradmend.fix(specimen.model, loader, specimen.loss_fn, optimizer=adam(specimen.model))
    assert_noise(was)


def test_a_sick_network_that_no_remedy_fits_is_left_alone() -> None:
    specimen = build("functional_mlp", depth=4, detach_at=1)
    optimizer = adam(specimen.model)
    before = Frozen(specimen.model, optimizer)
    fix = gradmend.fix(specimen.model, specimen.batches, specimen.loss_fn, optimizer=optimizer)
    assert not fix.prescription
    assert fix.verdict is not None
    # AND what to change in the source is said
    assert "only the source can be mended" in fix.verdict.reason
    assert "detach" in fix.report.advice[0].text
    before.assert_same()


@pytest.mark.parametrize("budget", ["1 steps", "0.01 s", "0 s", "0 steps", "30 steps"])
@pytest.mark.parametrize("steps", [None, 30])
def test_a_budget_too_small_says_so_and_changes_nothing(budget: str, steps: int | None) -> None:
    specimen = sick()
    optimizer = adam(specimen.model)
    before = Frozen(specimen.model, optimizer)
    fix = gradmend.fix(
        specimen.model, specimen.batches, specimen.loss_fn, optimizer=optimizer, budget=budget,
        steps=steps,
    )  # fmt: skip
    assert not fix.prescription
    assert fix.verdict is not None
    assert "budget" in fix.verdict.reason
    assert "nothing was changed" in fix.verdict.reason
    assert "-" not in fix.verdict.reason, "a negative number of steps"
    before.assert_same()


@pytest.mark.parametrize("bad", [
    {"budget": "soon"}, {"budget": ""}, {"budget": 120}, {"budget": None}, {"budget": "-5 s"},
    {"budget": "nan s"}, {"steps": 0}, {"steps": -5}, {"keep": ["weights"]}, {"keep": "activation"},
    {"optimizer": "adam"}, {"optimizer": torch.optim.Adam}, {"batches": []}, {"batches": "data"},
    {"batches": 5}, {"val": []}, {"loss_fn": None},
    {"batches": [(torch.zeros(0, 8), torch.zeros(0))]},
    {"batches": [(torch.full((8, 8), math.nan), torch.zeros(8, dtype=torch.long))] * 3},
], ids=lambda bad: str(bad)[:30])  # fmt: skip
def test_bad_input_is_told_in_one_line_and_changes_nothing(bad: dict[str, Any]) -> None:
    specimen = sick()
    arguments: dict[str, Any] = {
        "batches": specimen.batches, "loss_fn": specimen.loss_fn,
        "optimizer": adam(specimen.model), "steps": 20, **bad,
    }  # fmt: skip
    optimizer = adam(specimen.model)
    before = Frozen(specimen.model, optimizer)
    with pytest.raises(BadInput) as caught:
        gradmend.fix(
            specimen.model, arguments.pop("batches"), arguments.pop("loss_fn"), **arguments
        )
    assert "\n" not in str(caught.value)
    before.assert_same()


def test_an_optimizer_of_another_model_is_refused() -> None:
    specimen = sick()
    with pytest.raises(BadInput, match="none of the model's parameters"):
        gradmend.fix(
            specimen.model, specimen.batches, specimen.loss_fn, optimizer=adam(nn.Linear(2, 2))
        )


def test_keep_is_honoured_to_the_end() -> None:
    specimen = sick()
    fix = gradmend.fix(
        specimen.model, specimen.batches, specimen.loss_fn, optimizer=adam(specimen.model),
        steps=20, keep="parameters",
    )  # fmt: skip
    kinds = {edit.kind for edit in fix.prescription.edits}
    assert not kinds & {"initialise", "rescale_by_data"}
    assert any("keep=parameters" in r.reason for r in fix.report.refusals)


def test_a_model_with_dropout_batchnorm_and_frozen_parts_is_repaired_around_them() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1)]
    for _ in range(10):
        layers += [nn.Linear(16, 16), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(16, 4))
    model[3].requires_grad_(False)
    frozen = model[3].weight.detach().clone()
    specimen = sick()
    fix = gradmend.fix(
        model, specimen.batches, specimen.loss_fn, optimizer=adam(model), steps=30,
        keep=("architecture",),
    )  # fmt: skip
    assert fix.verdict is not None
    assert torch.equal(model[3].weight.detach(), frozen)
    assert not model[3].weight.requires_grad
    if not fix.prescription:
        assert int(model[1].num_batches_tracked) == 0


def test_ctrl_c_during_the_last_look_still_gives_the_model_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specimen = sick()
    optimizer = adam(specimen.model)
    before = Frozen(specimen.model, optimizer)
    from gradmend.engine import session

    real, calls = session.look, 0

    def look(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(session, "look", look)
    with pytest.raises(KeyboardInterrupt):
        gradmend.fix(
            specimen.model, specimen.batches, specimen.loss_fn, optimizer=optimizer, steps=20
        )
    assert calls == 2
    before.assert_same()


# -- the data of a trial


def rows(found: list[Any]) -> set[tuple[float, ...]]:
    return {tuple(row.tolist()) for x, _ in found for row in x}


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda data: data,
    "tuple": tuple,
    "iterator": iter,
    "callable": lambda data: lambda: data,
    "generator": lambda data: (pair for pair in data),
    "generator function": lambda data: lambda: (pair for pair in data),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_no_sample_is_both_trained_on_and_judged_by(form: str, count: int) -> None:
    given = regression_batches(count, size=10)
    data = trial_data(FORMS[form](given), None)
    assert data.train
    assert data.unseen
    assert not rows(data.train) & rows(data.unseen)
    assert rows(data.train) | rows(data.unseen) == rows(given)
    assert "no val= given" in data.note


@pytest.mark.parametrize("form", FORMS)
def test_validation_data_is_taken_as_it_is(form: str) -> None:
    given, val = regression_batches(2), regression_batches(5)[3:]
    data = trial_data(FORMS[form](given), FORMS[form](val))
    assert rows(data.train) == rows(given)
    assert rows(data.unseen) == rows(val)
    assert data.note == ""


def test_splitting_a_batch_cuts_every_tensor_of_the_batch_alike() -> None:
    x, y = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    data = trial_data([{"x": x, "labels": y, "scale": torch.ones(3), "name": "n"}], None)
    train, unseen = data.train[0], data.unseen[0]
    assert (len(train["x"]), len(unseen["x"])) == (8, 2)
    assert torch.equal(torch.cat([train["labels"], unseen["labels"]]), y)
    assert len(train["scale"]) == 3
    assert train["name"] == "n"


def test_what_cannot_be_split_or_is_no_set_of_batches_is_refused() -> None:
    x, y = torch.randn(8, 3), torch.arange(8)
    for bad, said in (
        ([], "no batch"), (iter([]), "no batch"), (lambda: [], "no batch"),
        ((x, y), "one \\(x, y\\) pair"), ([x, y], "pair"), (x, "Tensor"), ({"x": x}, "dict"),
        ([(x[:1], y[:1])], "nothing to keep unseen"), (3, "int"), (None, "NoneType"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            trial_data(bad, None)  # type: ignore[arg-type]


def test_the_order_of_batches_is_drawn_from_the_seed_in_whole_passes() -> None:
    data = trial_data(regression_batches(7), regression_batches(1))
    first, again, other = data.order(3), data.order(3), data.order(4)
    taken = [id(first(step)) for step in range(21)]
    assert taken == [id(again(step)) for step in range(21)]
    assert taken != [id(other(step)) for step in range(21)]
    for start in (0, 7, 14):
        assert len(set(taken[start : start + 7])) == 7
    assert taken[:7] != taken[7:14], "each pass in an order of its own"


# -- apply


GOOD = Prescription(
    edits=(Edit(kind="replace_module", targets=("1",), args={"module": "Tanh"}),), reason="test"
)


def fresh() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 2))


@pytest.mark.parametrize("form", ["record", "dict", "path", "word"])
def test_a_prescription_is_taken_as_record_dict_or_file(form: str, tmp_path: Path) -> None:
    path = write_prescription(GOOD, tmp_path / "p.json")
    given = {"record": GOOD, "dict": to_plain(GOOD), "path": path, "word": str(path)}[form]
    model = fresh()
    applied = gradmend.apply(given, model)
    assert isinstance(model[1], nn.Tanh)
    assert applied.model is model
    assert applied.prescription == GOOD
    assert "untried" in str(applied)


def plain(**changes: Any) -> dict[str, Any]:
    return {**to_plain(GOOD), **changes}


def edit_dict(**changes: Any) -> dict[str, Any]:
    return plain(edits=[{"kind": "replace_module", "targets": ["1"], "args": {}, **changes}])


HOSTILE: dict[str, Any] = {
    "nothing": {},
    "a report": {"trace": {}, "findings": []},
    "extra key": plain(extra=1),
    "extra key in an edit": edit_dict(code="import os"),
    "extra key in a prediction": plain(
        predictions=[{"quantity": "q", "low": 0, "high": 1, "x": 1}]
    ),
    "another schema": plain(schema=2),
    "schema as a word": plain(schema="1"),
    "schema null": plain(schema=None),
    "edits as a word": plain(edits="all"),
    "edits null": plain(edits=None),
    "an edit as a list": plain(edits=[["replace_module"]]),
    "kind missing": plain(edits=[{"targets": []}]),
    "kind as a number": edit_dict(kind=3),
    "targets as a word": edit_dict(targets="1"),
    "targets of numbers": edit_dict(targets=[1]),
    "args nested too deep": edit_dict(args={"module": {"a": 1}}),
    "changes unknown": plain(changes=[99]),
    "changes as words": plain(changes=["data"]),
    "a list": [],
    "a number": 5,
    "null": None,
    "a set inside": plain(edits={1, 2}),
    "an object inside": plain(reason=object()),
    "a module inside": plain(model=nn.Linear(1, 1)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_prescription_is_refused_in_one_line(what: str) -> None:
    model = fresh()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BadInput) as caught:
        gradmend.apply(HOSTILE[what], model)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert type(model[1]) is nn.Sigmoid
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "content", [b"", b"not json", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'"text"', b"NaN", b"{}"]
)
def test_a_file_that_is_no_prescription_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    for given in (path, str(path)):
        with pytest.raises(BadInput, match=r"p\.json") as caught:
            gradmend.apply(given, fresh())
        assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            read_prescription(path)


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "os.system", "targets": ["rm"]},
        {"kind": "replace_module", "targets": ["1"], "args": {"module": "__import__"}},
        {"kind": "replace_module", "targets": ["7"], "args": {"module": "Tanh"}},
        {"kind": "scale_learning_rate", "args": {"factor": True}},
        {"kind": "scale_learning_rate", "args": {"factor": "NaN"}},
        {"kind": "initialise", "targets": ["0.weight"], "args": {"gains": [1.0]}},
        {"kind": "__class__"},
    ],
)
def test_hostile_edits_are_refused_and_nothing_changes(edit: dict[str, Any]) -> None:
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = Frozen(model, optimizer)
    first = {"kind": "replace_module", "targets": ["1"], "args": {"module": "ReLU"}}
    with pytest.raises(CannotApply) as caught:
        gradmend.apply(plain(edits=[first, edit]), model, optimizer=optimizer)
    assert "\n" not in str(caught.value)
    assert type(model[1]) is nn.Sigmoid
    before.assert_same()


def test_apply_leaves_the_random_state_and_the_users_batch_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(3, 2), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.drop(self.layer(x.add_(1.0)))
            return result

    batch = (torch.randn(8, 3), torch.arange(8) % 2)
    kept = batch[0].clone()
    scale = Prescription(edits=(Edit(kind="rescale_by_data", targets=("layer",)),))
    model = InPlace()
    was = randomness()
    gradmend.apply(scale, model, batches=[batch], loss_fn=nn.functional.cross_entropy)
    assert torch.equal(batch[0], kept)
    assert_noise(was)

    def one() -> Iterator[Any]:
        yield batch

    gradmend.apply(scale, InPlace(), batches=one, loss_fn=nn.functional.cross_entropy)
    with pytest.raises(BadInput, match="no batch"):
        gradmend.apply(scale, InPlace(), batches=[], loss_fn=nn.functional.cross_entropy)


def test_the_seed_of_apply_draws_other_weights() -> None:
    draws = []
    for seed in (0, 0, 1):
        model = fresh()
        edit = Edit(kind="rescale_by_data", targets=("0",))
        gradmend.apply(
            Prescription(edits=(edit,)), model, seed=seed,
            batches=[(torch.ones(4, 3), torch.arange(4) % 2)], loss_fn=nn.functional.cross_entropy,
        )  # fmt: skip
        draws.append(model[0].weight.detach().clone())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# -- check


def test_check_looks_and_leaves_no_mark() -> None:
    specimen = sick()
    optimizer = adam(specimen.model)
    train(specimen.model, specimen, 1, 1e-3)
    before = Frozen(specimen.model, optimizer)
    report = gradmend.check(specimen.model, specimen.batch, specimen.loss_fn)
    assert not report.healthy
    assert report.after is None
    before.assert_same()


def test_check_with_steps_trains_a_copy_and_looks_again() -> None:
    # GIVEN a network whose trouble only shows after some steps at a mad rate
    specimen = build("mlp", depth=4, width=16, activation="tanh")
    optimizer = adam(specimen.model)
    before = Frozen(specimen.model, optimizer)
    report = gradmend.check(
        specimen.model, specimen.batch, specimen.loss_fn, steps=5, learning_rate=30.0
    )
    assert report.after is not None
    assert report.after.run.step == 5
    later = [f for f in report.findings if f.summary.startswith("after 5 steps: ")]
    assert later
    assert all(item.step == 5 for f in later for item in f.evidence)
    calm = gradmend.check(specimen.model, specimen.batch, specimen.loss_fn, steps=5)
    assert calm.healthy
    before.assert_same()


def test_errors_of_every_kind_are_of_one_family() -> None:
    for error in (BadInput, CannotApply, UnknownName):
        assert issubclass(error, GradmendError)


def test_a_later_batch_that_does_not_fit_is_one_line_and_nothing_is_changed() -> None:
    # GIVEN a sick model, and data whose third batch has another width
    specimen = build("mlp", depth=12, activation="sigmoid", width=16)
    batches = [*specimen.batches]
    batches[2] = (batches[2][0][:, :-1], batches[2][1])
    optimizer = torch.optim.Adam(specimen.model.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in specimen.model.state_dict().items()}
    # WHEN it is to be fixed THEN one line says so
    with pytest.raises(BadInput, match=r"raised RuntimeError while training.*nothing was changed"):
        gradmend.fix(specimen.model, batches, specimen.loss_fn, optimizer=optimizer, steps=20)
    # AND not a bit is different
    after = specimen.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in specimen.model.parameters())


def test_nan_in_validation_data_is_refused_like_nan_in_training_data() -> None:
    good, bad = (torch.ones(4, 2), torch.ones(4)), (torch.full((4, 2), math.nan), torch.ones(4))
    for batches, val in (([good, good, bad], None), ([good, good], [bad])):
        with pytest.raises(BadInput, match="NaN"):
            trial_data(batches, val)
