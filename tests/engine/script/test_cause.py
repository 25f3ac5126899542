"""From a watched script to a diagnosis that remedies can work on."""

import itertools
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

import gradmend
from gradmend.engine.examine import examine
from gradmend.engine.measure import Measurer
from gradmend.engine.prescribe import prescribe
from gradmend.engine.script.cause import cause_of
from gradmend.engine.watching.script import ScriptWatch
from gradmend.probe.batch import Feeder
from gradmend.records.finding import Severity
from gradmend.records.report import Report

STEPS = 40


def watched(script: Callable[[], object]) -> Report:
    """The diagnosis of a script, once its own code has ended; as a parent process gets it."""
    with ScriptWatch(
        folder=None, budget="all", looks=True, stop_when_dead=False, name="script", command=""
    ) as watch:
        script()
    report = cause_of(watch)
    found: Report = pickle.loads(pickle.dumps(report))
    return found


def data(classes: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(128, 8, generator=draw)
    return x, (x[:, 0] > 0).long() % classes


def deep(depth: int = 16, width: int = 16) -> nn.Sequential:
    """Torch's default draw under ReLU: the gradient vanishes."""
    sizes = [8] + [width] * depth
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def shallow() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def train(model: Any, optimizer: Any, steps: int = STEPS, scale: float = 1.0) -> None:
    x, y = data()
    for step in range(steps):
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        optimizer.zero_grad()
        (scale * functional.cross_entropy(model(x[part]), y[part])).backward()
        optimizer.step()


def different(a: Any, b: Any, where: str = "") -> list[str]:
    """Places at which two records differ by more than rounding."""
    if is_dataclass(a) and type(a) is type(b):
        pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
        return [d for name, u, v in pairs for d in different(u, v, f"{where}.{name}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (u, v) in enumerate(zip(a, b, strict=True)) for d in
                different(u, v, f"{where}[{i}]")]  # fmt: skip
    if isinstance(a, float) and isinstance(b, float):
        return [] if a == pytest.approx(b, rel=1e-6, abs=1e-12, nan_ok=True) else [where]
    return [] if a == b else [where]


def test_the_trace_is_the_one_that_fix_gets() -> None:
    # given a script, and the same model, batch, loss and optimizer in hand
    x, y = data()

    def script() -> None:
        torch.manual_seed(0)
        model = deep()
        train(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

    torch.manual_seed(0)
    model = deep()
    wanted = examine(
        Measurer(
            model=model,
            batch=(x[:32], y[:32]),
            feeder=Feeder(loss_fn=functional.cross_entropy),
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
            seconds=0.0,
        )
    )
    # when the script is watched
    report = watched(script)
    # then a remedy finds the same, but for where the lines are, what it took and the run's losses
    own = {".run.seconds", ".rehearsed", ".answers"}
    found = different(wanted.trace, report.trace)
    assert {d for d in found if not d.endswith(".source")} == own
    assert report.trace.rehearsed is not None
    assert len(report.trace.rehearsed.losses) == len(report.trace.rehearsed.log10_norms) == STEPS
    assert report.trace.rehearsed.own_optimizer


def test_a_cause_comes_with_candidates_that_can_be_applied_and_with_its_places() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model = deep()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        train(model, optimizer)

    report = watched(script)
    assert report.findings[0].name == "init-gain-too-small"
    candidates = prescribe(report.at_least(Severity.WARNING), report.trace)
    assert candidates.prescriptions
    fixed = gradmend.apply(candidates.prescriptions[0], deep(), batches=[data()])
    assert fixed.prescription.model == "Sequential"
    facts = report.script
    assert facts is not None and facts.model_place is not None
    assert facts.optimizer_place is not None
    assert "nn.Sequential(" in facts.model_place.text
    assert facts.optimizer == "SGD" and "SGD(" in facts.optimizer_place.text
    assert "nn.Linear" in facts.modules["0"].text and facts.steps == STEPS


def test_a_script_that_learns_is_healthy() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model = shallow()
        train(model, torch.optim.Adam(model.parameters(), lr=0.02))

    report = watched(script)
    assert report.healthy, report.findings


def test_of_several_models_the_sick_one_is_treated_in_its_own_names() -> None:
    # given two models in dictionaries, each with its own optimizer
    def script() -> None:
        torch.manual_seed(0)
        models = {"well": shallow(), "sick": deep()}
        for model in models.values():
            model.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        x, y = data()
        for _ in range(STEPS):
            for model in models.values():
                model.optimizer.zero_grad()
                functional.cross_entropy(model(x), y).backward()
                model.optimizer.step()

    report = watched(script)
    # then the deep one is treated, and its modules are called as it calls them
    cause = report.findings[0]
    paths = {facts.path for facts in report.trace.modules}
    assert cause.severity is not Severity.NOTE and len(paths) > 30
    assert cause.modules and set(cause.modules) <= paths
    assert prescribe(report.at_least(Severity.WARNING), report.trace).prescriptions
    assert report.script is not None and report.script.others == ("Sequential",)


def test_a_generator_whose_optimizer_steps_an_iteration_later_is_seen() -> None:
    def script() -> None:
        torch.manual_seed(0)
        generator, critic = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), shallow()
        ours = torch.optim.Adam(generator.parameters(), lr=1e-3)
        theirs = torch.optim.Adam(critic.parameters(), lr=1e-3)
        x, _ = data()
        ones, zeros = torch.ones(32).long(), torch.zeros(32).long()
        for _ in range(10):
            critic.zero_grad()
            fake = generator(torch.randn(32, 4))
            functional.cross_entropy(critic(x[:32]), ones).backward()
            functional.cross_entropy(critic(fake.detach()), zeros).backward()
            theirs.step()
            generator.zero_grad()
            functional.cross_entropy(critic(fake), ones).backward()
            ours.step()

    report = watched(script)
    assert report.script is not None
    assert report.script.others == ("Sequential",)
    assert report.trace.optimizer is not None and not report.trace.optimizer.steps_taken
    assert not [f for f in report.findings if f.code.startswith("DAT")]


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = deep()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return logits, functional.cross_entropy(logits, y)


def test_a_model_that_computes_its_own_loss_is_looked_at_with_that() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model, (x, y) = OwnLoss(), data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(x, y)[1].backward()
            optimizer.step()

    report = watched(script)
    assert [call.function for call in report.trace.losses] == ["cross_entropy"]
    assert report.trace.run.loss == pytest.approx(0.69, abs=0.05)
    assert report.findings[0].name == "init-gain-too-small"


def test_where_something_stands_between_loss_and_backward_the_cotangent_stands_in() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model = deep()
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), scale=10.0)

    report = watched(script)
    assert report.trace.run.loss == pytest.approx(6.9, abs=0.5)
    assert report.findings[0].name == "init-gain-too-small"
    assert prescribe(report.at_least(Severity.WARNING), report.trace).prescriptions


def test_a_rate_that_changes_is_scheduled_and_the_first_one_is_kept() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model = shallow()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for step in range(12):
            optimizer.param_groups[0]["lr"] = 0.5 / (step + 1)
            train(model, optimizer, steps=1)

    optimizer = watched(script).trace.optimizer
    assert optimizer is not None and optimizer.scheduled and optimizer.learning_rate == 0.5


def test_a_schedule_that_ends_at_once_is_advised_on() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model, (x, y) = shallow(), data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = LambdaLR(optimizer, lambda step: 1.0 - min(1, step))
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()

    report = watched(script)
    assert report.findings[0].name == "learning-rate-zero"
    candidates = prescribe(report.at_least(Severity.WARNING), report.trace)
    assert [advice.remedy for advice in candidates.advice] == ["raise-learning-rate"]


def test_a_model_used_by_parts_has_no_look_and_says_why() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def script() -> None:
        torch.manual_seed(0)
        model, (x, y) = Parts(), data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(10):
            optimizer.zero_grad()
            functional.cross_entropy(model.head(model.body(x)), y).backward()
            optimizer.step()

    report = watched(script)
    assert not report.trace.operations
    assert report.script is not None and "as a whole" in report.script.unseen


def test_a_batch_that_was_changed_in_place_cannot_be_looked_at_and_says_so() -> None:
    def script() -> None:
        torch.manual_seed(0)
        model, (x, y) = deep(), data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            x.mul_(1.0)
            optimizer.step()

    report = watched(script)
    assert report.script is not None and "in place" in report.script.unseen
    assert any("in place" in note for note in report.trace.notes)
    assert report.trace.modules and report.trace.optimizer is not None


def test_nothing_of_the_script_is_changed() -> None:
    # given the same training, watched and not
    def weights(watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        kept: list[Tensor] = []

        def script() -> None:
            model = nn.Sequential(
                nn.Linear(8, 16), nn.Dropout(0.5), nn.BatchNorm1d(16), deep(2, 16)[2]
            )
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            train(nn.Sequential(model, nn.Linear(16, 2)), optimizer, steps=12)
            kept.extend(p.detach().clone() for p in model.parameters())
            kept.append(torch.rand(3))

        if watch:
            watched(script)
        else:
            script()
        return kept

    for seen, plain in zip(weights(watch=True), weights(watch=False), strict=True):
        assert torch.equal(seen, plain)


def test_layers_in_a_list_bear_the_names_of_the_model_that_holds_them() -> None:
    # given a model whose blocks are in a plain list, so that each is a root of its own
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(8, 16)
            self.blocks = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(2)]
            self.head = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.stem(x))
            for block in self.blocks:
                h = h + block(h)
            out: Tensor = self.head(h)
            return out

    def script() -> None:
        torch.manual_seed(0)
        model = Listed()
        train(model, torch.optim.SGD(model.parameters(), lr=0.05))

    # when the run is judged
    report = watched(script)
    # then the finding is about that model, and the edit fits a fresh one
    (finding,) = [f for f in report.findings if f.name == "unregistered-parameters"]
    assert finding.modules == ("blocks.0.0", "blocks.1.0")
    found = prescribe((finding,), report.trace)
    assert [e.targets for p in found.prescriptions for e in p.edits] == [("blocks",)]
    model = Listed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    repaired = gradmend.apply(found.prescriptions[0], model, optimizer=optimizer).model
    assert "blocks.1.0.weight" in repaired.state_dict()
