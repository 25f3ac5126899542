"""Remedies of recurrent layers: what is prescribed, what is refused, and that it helps."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from cases_recurrence import SUBJECTS, WIDTH, Recall, sequences, subject
from subjects import Subject
from torch import Tensor, nn

import gradmend
from gradmend.edits import Bench, apply_edits
from gradmend.engine.examine import with_optimizer
from gradmend.engine.predictions import check_predictions
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import Remedy, find
from gradmend.theory.gates import memory_rate

LOST, GROWN, SHUT = (
    "gradient-lost-through-time",
    "gradient-grown-through-time",
    "forget-gate-closed",
)


def finding(name: str, *modules: str) -> Finding:
    return Finding(
        code="REC221", name=name, severity=Severity.ERROR, modules=modules, summary="planted"
    )


def looked(of: Subject) -> Trace:
    trace = look(of.model, of.batches[0], Feeder(loss_fn=of.loss_fn))
    return with_optimizer(trace, of.optimizer, of.model)


@cache
def look_at(case: str) -> Trace:
    return looked(SUBJECTS[case](0))


def ask(remedy: str, trace: Trace, *findings: Finding) -> list[object]:
    found = find(remedy)
    assert isinstance(found, Remedy)
    return list(found(findings, trace))


def answers(remedy: str, case: str, cause: str = LOST) -> list[object]:
    return ask(remedy, look_at(case), finding(cause, "layer"))


def refusal(remedy: str, case: str, cause: str = LOST) -> str:
    (answer,) = answers(remedy, case, cause)
    assert isinstance(answer, Refusal)
    return answer.reason


def of(model: nn.Module, length: int = 20) -> Subject:
    """The first 20 steps are enough to lose a gradient."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    return Subject(model, sequences(length, 0), nn.functional.cross_entropy, optimizer)


# -- what the causes are, and who answers


@pytest.mark.parametrize(
    ("case", "cause"),
    [("LSTM that forgets", SHUT), ("ReLU that echoes", GROWN)],
)
def test_the_cause_is_found_and_answered(case: str, cause: str) -> None:
    # GIVEN a training that one batch cannot be learned by heart in
    made = SUBJECTS[case](0)
    report = gradmend.check(
        made.model, made.batches[0], made.loss_fn, optimizer=made.optimizer, steps=50
    )
    # THEN the rule names the layer, and the look knows its steps
    blamed = [f for f in report.findings if f.name == cause]
    assert blamed
    assert "layer" in blamed[0].modules
    assert report.trace.recurrences[0].steps == made.batches[0][0].shape[1]


def test_each_layer_gets_what_its_kind_can_use() -> None:
    def who(case: str, cause: str) -> set[str]:
        return {
            name
            for name in (
                "open-gates", "orthogonal-recurrence", "identity-recurrence", "bound-recurrence",
                "replace-cell",
            )
            if isinstance(r := find(name), Remedy) and cause in r.treats
            and any(isinstance(a, Prescription) for a in answers(name, case, cause))
        }  # fmt: skip

    assert who("tanh over 60 steps", LOST) == {
        "orthogonal-recurrence", "replace-cell",
    }  # fmt: skip
    assert who("GRU over 80 steps", LOST) == {"open-gates", "replace-cell"}
    assert who("LSTM over 60 steps", SHUT) == {"open-gates"}
    assert who("ReLU over 60 steps", LOST) == {
        "identity-recurrence", "replace-cell",
    }  # fmt: skip
    assert who("ReLU that echoes", GROWN) == {"identity-recurrence", "bound-recurrence"}


def test_the_numbers_come_from_the_length_of_the_sequence() -> None:
    first, second = answers("open-gates", "LSTM over 60 steps", SHUT)
    assert isinstance(first, Prescription)
    assert isinstance(second, Prescription)
    assert first.edits[0].args["steps"] == [60]
    assert first.edits[0].args["admit"] == "chrono"
    assert [edit.kind for edit in second.edits] == ["draw_recurrence", "set_gates"]
    (soft,) = answers("orthogonal-recurrence", "tanh over 60 steps")
    assert isinstance(soft, Prescription)
    assert soft.edits[0].args["inputs"] == [pytest.approx(60**-0.5)]
    # of time first and of packed sequences too
    for model, batch in (
        (TimeFirst(), torch.randn(17, 3, 4)),
        (Packed(), torch.randn(3, 17, 4)),
    ):
        trace = look(model, (batch, torch.tensor([0, 1, 2])),
                     Feeder(loss_fn=nn.functional.cross_entropy))  # fmt: skip
        gates, _ = ask("open-gates", trace, finding(SHUT, "layer"))
        assert isinstance(gates, Prescription)
        assert gates.edits[0].args["steps"] == [17]


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][-1])  # type: ignore[no-any-return]


class Packed(TimeFirst):
    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, [17, 11, 5], batch_first=True)
        return self.head(self.layer(packed)[1][0][-1])  # type: ignore[no-any-return]


def test_a_rate_that_relu_recurrences_cannot_bear_is_lowered_and_no_other() -> None:
    bound = 1 / (60 * WIDTH)
    for rate, expected in ((3e-3, bound / 3e-3), (1e-4, None)):
        made = subject(lambda: Recall(nn.RNN(4, WIDTH, batch_first=True, nonlinearity="relu")),
                       60, rate)(0)  # fmt: skip
        (answer,) = ask("identity-recurrence", looked(made), finding(LOST, "layer"))
        assert isinstance(answer, Prescription)
        factors = [e.args["factor"] for e in answer.edits if e.kind == "scale_learning_rate"]
        assert factors == ([pytest.approx(expected)] if expected else [])


def rates(answer: object) -> list[float]:
    assert isinstance(answer, Prescription)
    factors = [e.args["factor"] for e in answer.edits if e.kind == "scale_learning_rate"]
    assert all(isinstance(factor, float) for factor in factors)
    return [factor for factor in factors if isinstance(factor, float)]


def test_long_memories_are_learned_at_a_rate_for_their_width() -> None:
    # GIVEN an LSTM and an RNN over 120 steps, trained at 3e-3
    for make, remedy in ((nn.LSTM, "open-gates"), (nn.RNN, "replace-cell")):
        long = looked(of(Recall(make(4, WIDTH, batch_first=True)), 120))
        found = ask(remedy, long, finding(LOST, "layer"))
        raised = [answer for answer in found if rates(answer)]
        # THEN chrono gates come with a rate of 0.32 / H, and say so
        factor = memory_rate(WIDTH) / 3e-3
        assert raised
        for answer in raised:
            assert isinstance(answer, Prescription)
            assert rates(answer) == [pytest.approx(factor)]
            assert answer.changes[-1] is Change.OPTIMIZER
            assert answer.edits[0].args["spread"] == "uniform"
        # AND without it too, as the optimizer may have to stay as it is
        assert any(
            isinstance(a, Prescription)
            and a.edits[0].args.get("admit") == "chrono"
            and Change.OPTIMIZER not in a.changes
            for a in found
        )
        # AND short sequences, high rates and plain descent keep theirs
        short = looked(of(Recall(make(4, WIDTH, batch_first=True)), 60))
        fast = of(Recall(make(4, WIDTH, batch_first=True)), 120)
        fast.optimizer.param_groups[0]["lr"] = 0.01
        plain = of(Recall(make(4, WIDTH, batch_first=True)), 120)
        plain = replace(plain, optimizer=torch.optim.SGD(plain.model.parameters(), lr=3e-3))
        for trace in (short, looked(fast), looked(plain)):
            assert not any(rates(answer) for answer in ask(remedy, trace, finding(LOST, "layer")))


def test_a_prescribed_rate_is_the_optimizers_after_the_edits_and_goes_back_with_them() -> None:
    made = of(Recall(nn.RNN(4, WIDTH, batch_first=True)), 120)
    answer = ask("replace-cell", looked(made), finding(LOST, "layer"))[0]
    assert isinstance(answer, Prescription)
    bench = apply_edits(Bench(model=made.model, optimizer=made.optimizer), answer.edits)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(memory_rate(WIDTH))
    assert isinstance(made.model.get_submodule("layer"), nn.LSTM)
    bench.undo()
    assert made.optimizer.param_groups[0]["lr"] == 3e-3
    assert isinstance(made.model.get_submodule("layer"), nn.RNN)


def test_only_the_layer_to_blame_is_touched() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early = nn.RNN(4, WIDTH, batch_first=True)
            self.layer = nn.RNN(WIDTH, WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.early(x)[0])[0][:, -1])  # type: ignore[no-any-return]

    trace = looked(of(Two()))
    for remedy in ("orthogonal-recurrence", "replace-cell"):
        answer = ask(remedy, trace, finding(LOST, "layer"))[0]
        assert isinstance(answer, Prescription)
        assert {t for edit in answer.edits for t in edit.targets} == {"layer"}
    # AND where a finding names none, those that lose their gradient are meant
    answer = ask("replace-cell", trace, finding(LOST))[0]
    assert isinstance(answer, Prescription)
    assert answer.edits[0].targets == ("early", "layer")


# -- when they refuse


def test_what_does_not_fit_is_refused_with_the_reason() -> None:
    assert "no gates" in refusal("open-gates", "tanh over 60 steps")
    assert "has gates" in refusal("orthogonal-recurrence", "GRU over 80 steps")
    assert "ReLU" in refusal("orthogonal-recurrence", "ReLU over 60 steps")
    assert "no nn.RNN of ReLU" in refusal("identity-recurrence", "tanh over 60 steps")
    assert "class LSTM" in refusal("replace-cell", "LSTM over 60 steps")
    assert "known to grow" in refusal("bound-recurrence", "tanh over 60 steps", GROWN)
    (answer,) = ask("replace-cell", look_at("tanh cell in a loop"), finding(LOST, "cell"))
    assert isinstance(answer, Prescription), "of the two, a GRUCell fits into the same loop"
    assert answer.edits[0].args["cell"] == "GRU"


def test_frozen_biasless_short_and_derived_layers_are_left_alone() -> None:
    class Own(nn.RNN):
        pass

    frozen = Recall(nn.RNN(4, WIDTH, batch_first=True))
    frozen.layer.requires_grad_(False)
    cases: list[tuple[Callable[[], Subject], str]] = [
        (lambda: of(frozen), "frozen or shared"),
        (lambda: of(Recall(nn.RNN(4, WIDTH, batch_first=True, bias=False))), "no biases"),
        (lambda: of(Recall(nn.RNN(4, WIDTH, batch_first=True)), 3), "3 steps"),
        (lambda: of(Recall(Own(4, WIDTH, batch_first=True))), "no recurrent layer"),
    ]
    for make, why in cases:
        (answer,) = ask("replace-cell", looked(make()), finding(LOST, "layer"))
        assert isinstance(answer, Refusal)
        assert why in answer.reason


def test_a_layer_whose_state_the_users_code_carries_gets_no_hidden_cell() -> None:
    class Halves(Recall):
        def forward(self, x: Tensor) -> Tensor:
            _, h = self.layer(x[:, :10])
            return self.head(self.layer(x[:, 10:], h)[0][:, -1])  # type: ignore[no-any-return]

    made = of(Halves(nn.RNN(4, WIDTH, batch_first=True)))
    (answer,) = ask("replace-cell", looked(made), finding(LOST, "layer"))
    assert isinstance(answer, Prescription)
    assert answer.edits[0].args["cell"] == "GRU", "which has one state, like the RNN"
    made = of(Halves(nn.GRU(4, WIDTH, batch_first=True)))
    (refused,) = ask("replace-cell", looked(made), finding(LOST, "layer"))
    assert isinstance(refused, Refusal)
    assert "called 2 times" in refused.reason


# -- that it holds what it promises, and helps


def losses(made: Subject, steps: int = 120) -> float:
    """Mean loss of the last ten of so many steps."""
    seen = []
    for number in range(steps):
        x, y = made.batches[number % len(made.batches)]
        made.optimizer.zero_grad()
        loss = made.loss_fn(made.model(x), y)
        loss.backward()
        made.optimizer.step()
        seen.append(float(loss.detach()))
    return sum(seen[-10:]) / 10


HELPS = [
    ("orthogonal-recurrence", "tanh over 60 steps", LOST, 0),
    ("replace-cell", "tanh over 60 steps", LOST, 0),
    pytest.param("replace-cell", "tanh over 60 steps", LOST, 1, marks=pytest.mark.slow),
    ("open-gates", "LSTM that forgets", SHUT, 0),
    pytest.param("open-gates", "LSTM that forgets", SHUT, 1, marks=pytest.mark.slow),
    pytest.param("open-gates", "GRU over 80 steps", LOST, 1, marks=pytest.mark.slow),
    ("identity-recurrence", "ReLU over 60 steps", LOST, 0),
]


@pytest.mark.parametrize(("remedy", "case", "cause", "turn"), HELPS)
def test_it_keeps_its_promise_and_the_model_learns(
    remedy: str, case: str, cause: str, turn: int
) -> None:
    # GIVEN a prescription for one model, and a fresh model of another seed
    answer = answers(remedy, case, cause)[turn]
    assert isinstance(answer, Prescription)
    sick, made = SUBJECTS[case](1), SUBJECTS[case](1)
    fixed = gradmend.apply(
        answer, made.model, optimizer=made.optimizer, batches=made.batches, loss_fn=made.loss_fn
    )
    made = replace(made, model=fixed.model)
    # THEN its prediction holds there too
    for checked in check_predictions(answer.predictions, looked(made)):
        assert checked.held, checked
    # AND it learns what the other does not
    assert losses(made) < 0.6 * losses(sick)


def test_a_recurrence_that_echoes_is_bound_to_what_it_can_bear() -> None:
    # GIVEN the growth per step, measured on one model
    (answer,) = answers("bound-recurrence", "ReLU that echoes", GROWN)
    assert isinstance(answer, Prescription)
    for seed in (0, 1):
        made = SUBJECTS["ReLU that echoes"](seed)
        assert looked(made).recurrences[0].log10_span > 4
        # WHEN it is applied to that and to another draw THEN most of the growth is gone
        gradmend.apply(answer, made.model, optimizer=made.optimizer)
        for checked in check_predictions(answer.predictions, looked(made)):
            assert checked.held, checked


def test_a_loop_by_hand_is_drawn_and_bound_as_well() -> None:
    from gradmend.zoo.specimen import build

    for gain, activation, cause, remedy in (
        (0.2, "tanh", LOST, "orthogonal-recurrence"),
        (3.0, "relu", GROWN, "bound-recurrence"),
    ):
        specimen = build("unrolled", seed=0, gain=gain, activation=activation)
        feeder = Feeder(loss_fn=specimen.loss_fn)
        trace = look(specimen.model, specimen.batch, feeder)
        (answer,) = ask(remedy, trace, finding(cause, "keeps"))
        assert isinstance(answer, Prescription)
        gradmend.apply(answer, specimen.model)
        after = look(specimen.model, specimen.batch, feeder)
        (checked,) = check_predictions(answer.predictions, after)
        assert checked.held, checked
