"""Sources as people write them, and sources that nobody should."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scripts import FILE, changes, facts_of, run, same, suggested

from gradmend.engine.files import write_prescription
from gradmend.records.prescription import Edit, Prescription
from gradmend.records.script import Place
from gradmend.rewriting import SourceFacts, Suggestion, suggest

RATE = Edit(kind="scale_learning_rate", args={"factor": 0.1})
CUT = Edit(kind="clip_gradients", args={"method": "value", "lower": -0.01, "upper": 0.01})
DATA = Edit(kind="standardise_input", targets=("0",), args={"mean": [0.5], "std": [2.0]})
ROOT = Edit(kind="standardise_input", targets=("",), args={"mean": [0.5], "std": [2.0]})
DRAW = Edit.initialise([("0.weight", "0.bias"), ("2.weight", "2.bias")], [1.0, 1.0])
SWAP = Edit(kind="replace_module", targets=("1",), args={"module": "Tanh"})

TOP = "import torch\nfrom torch import nn\n"
NET = "nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4))"
END = """
x = torch.randn(8, 4)
for step in range(5):
    optimizer.zero_grad()
    loss = (model(x) - x).square().mean()
    loss.backward()
    optimizer.step()
"""
SIMPLE = f"{TOP}\nmodel = {NET}\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n{END}"


def applied(source: str, *edits: Edit) -> list[str]:
    """The lines of the general form."""
    found = suggested(source, *edits)
    assert found, found.why
    assert not found.plain
    compile(found.sources[FILE], FILE, "exec")
    return [line[1:] for line in changes(found)]


def why_not(source: str, *edits: Edit) -> str:
    found = suggested(source, *edits)
    assert not found
    assert not found.sources
    return found.why


class TestText:
    @pytest.mark.parametrize("end", ["\r\n", "\n"])
    def test_line_ends_stay(self, end: str) -> None:
        source = SIMPLE.replace("\n", end)
        found = suggested(source, RATE, DRAW, CUT)
        assert found.plain, found.why
        new = found.sources[FILE]
        assert new.count(end) == len(new.splitlines())
        assert run(new).space["loss"] == run(found.sources[FILE].replace(end, "\n")).space["loss"]

    def test_line_ends_of_another_age_are_told(self) -> None:
        found = suggest({FILE: SIMPLE.replace("\n", "\r")}, Prescription(edits=(RATE,)),
                        facts_of(SIMPLE))  # fmt: skip
        assert "written back" in found.why

    def test_tabs_and_two_spaces_stay(self) -> None:
        for indent in ("\t", "  "):
            source = SIMPLE.replace("    ", indent)
            found = same(source, CUT)
            assert changes(found)[0].startswith(f"+{indent}nn.utils")
            drawn = suggested(source, replace(DRAW, targets=("0.weight", "2.weight")))
            assert f"+{indent}if isinstance" in drawn.diff

    def test_no_newline_at_the_end(self) -> None:
        source = SIMPLE.rstrip("\n")
        found = same(source, CUT)
        assert not found.sources[FILE].endswith("\n")
        assert "\\ No newline at end of file" in same(source.replace("\n    optimizer.step()",
            ";optimizer.step()"), CUT).diff  # fmt: skip

    def test_a_byte_order_mark_and_a_form_feed_stay(self) -> None:
        source = SIMPLE.replace("\nmodel", "\x0c\nmodel")
        assert "\x0c\nmodel" in same(source, CUT).sources[FILE]
        facts = facts_of(SIMPLE)
        found = suggest({FILE: "\ufeff" + SIMPLE}, Prescription(edits=(RATE,)), facts)
        assert found.sources[FILE].startswith("\ufeffimport torch")

    @pytest.mark.parametrize(
        "text", ["model = (", "def f(:\n", "", "\x00", "print 'hello'\n", "if 1:\nx = 2\n"]
    )
    def test_what_does_not_parse_is_told(self, text: str) -> None:
        found = suggest({FILE: text}, Prescription(edits=(RATE,)), facts_of(SIMPLE))
        assert not found
        assert found.why

    def test_a_source_nested_too_deeply_is_told(self) -> None:
        deep = f"{TOP}y = {'+'.join(['1'] * 5000)}\n" + SIMPLE[len(TOP) :]
        facts = facts_of(SIMPLE.replace("\nmodel", "y = 0\n\nmodel".replace("\n\n", "\n")))
        found = suggest({FILE: deep}, Prescription(edits=(RATE,)), facts)
        assert isinstance(found, Suggestion)  # a change or a reason, and no exception
        assert bool(found) != found.why.startswith("no change")

    def test_stale_lines_change_nothing_wrong(self) -> None:
        # the file was edited since it ran: the lines are not what they were
        facts = facts_of(SIMPLE)
        for shift in (1, 2, 3, 50):
            moved = "# new\n" * shift + SIMPLE
            found = suggest({FILE: moved}, Prescription(edits=(SWAP, RATE)), facts)
            assert not found.plain


class TestPlaces:
    def test_the_general_form_does_what_the_prescription_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = suggested(SIMPLE, DATA, RATE)
        assert not found.plain
        monkeypatch.chdir(tmp_path)
        prescription = Prescription(edits=(DATA, RATE))
        write_prescription(prescription, tmp_path / "prescription.json")
        ours = run(found.sources[FILE]).space["model"].state_dict()
        theirs = run(SIMPLE, prescription).space["model"].state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())

    def test_the_general_form_in_a_function(self) -> None:
        body = "".join(f"    {x}\n" for x in (SIMPLE[len(TOP) :]).splitlines())
        source = f"{TOP}\n\ndef main():\n{body}    return model\n\n\nmain()\n"
        assert applied(source, DATA) == [
            "import gradmend",
            '    gradmend.apply("prescription.json", model, optimizer=optimizer)',
        ]

    def test_a_model_that_is_replaced_is_assigned(self) -> None:
        assert applied(SIMPLE, ROOT)[1] == (
            'model = gradmend.apply("prescription.json", model, optimizer=optimizer).model'
        )
        # but not where the name is a parameter, whose caller would keep the old one
        source = SIMPLE.replace(
            "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
            "def make(model):\n    return torch.optim.SGD(model.parameters(), lr=0.1)\n\n"
            "made = make(model)\noptimizer = made",
        )
        assert "made = make(model)" in source
        body = suggested(source, ROOT)
        assert not body.plain

    def test_a_model_made_by_a_function(self) -> None:
        source = SIMPLE.replace(
            f"model = {NET}", f"def build():\n    return {NET}\n\nmodel = build().to('cpu')"
        )
        lines = suggested(source, DRAW).sources[FILE].splitlines()
        at = lines.index("model = build().to('cpu')")
        assert lines[at + 1] == "for module in model.modules():"

    def test_a_model_of_a_trainer(self) -> None:
        source = f"""{TOP}
class Trainer:
    def __init__(self):
        self.model = {NET}
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self):
        x = torch.randn(8, 4)
        for step in range(5):
            self.opt.zero_grad()
            loss = (self.model(x) - x).square().mean()
            loss.backward()
            self.opt.step()


Trainer().fit()
"""
        found = same(source, CUT, RATE, SWAP)
        assert "clip_grad_value_(self.model.parameters(), clip_value=0.01)" in found.diff
        assert applied(source, DATA)[1].strip() == (
            'gradmend.apply("prescription.json", self.model, optimizer=self.opt)'
        )
        assert "self.model = gradmend.apply(" in "\n".join(applied(source, ROOT))

    def test_an_optimizer_that_a_method_returns(self) -> None:
        source = f"""{TOP}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = {NET}

    def forward(self, x):
        return self.body(x)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


net = Net()
for model, optimizer in [(net, net.configure_optimizers())]:
    pass
{END}"""
        assert changes(same(source, RATE))[1].endswith("lr=0.01)")
        inner = replace(DATA, targets=("body.0",))
        assert applied(source, inner)[1:] == [
            "        return torch.optim.SGD(self.parameters(), lr=0.1)",
            "        optimizer_2 = torch.optim.SGD(self.parameters(), lr=0.1)",
            '        gradmend.apply("prescription.json", self, optimizer=optimizer_2)',
            "        return optimizer_2",
        ] or "built_optimizer" in "\n".join(applied(source, inner))

    def test_a_lambda_is_no_place_for_lines(self) -> None:
        source = SIMPLE.replace(f"model = {NET}", f"make = lambda: {NET}\nmodel = make()")
        found = suggested(source, DRAW)
        assert not found.plain
        assert "lambda" in found.why
        # the optimizer's own line shows the model all the same
        assert "gradmend.apply(" in found.diff

    def test_wrapped_in_between(self) -> None:
        source = SIMPLE.replace(
            "optimizer = torch", "model = nn.DataParallel(model)\noptimizer = torch"
        )
        assert "puts something else in the model's place" in why_not(source, DATA)

    def test_built_by_name(self) -> None:
        source = SIMPLE.replace("torch.optim.SGD(", "getattr(torch.optim, 'SGD')(")
        assert "lr=0.01)" in changes(same(source, RATE))[1]

    def test_the_model_is_built_elsewhere(self) -> None:
        facts = facts_of(SIMPLE)
        assert facts.model_place is not None
        facts = replace(facts, model_place=Place(file="/usr/lib/zoo.py", line=3))
        found = suggest({FILE: SIMPLE}, Prescription(edits=(DRAW,)), facts)
        assert not found.plain
        assert "built in another file (zoo.py:3)" in found.why
        assert 'gradmend.apply("prescription.json", model, optimizer=optimizer)' in found.diff

    def test_nothing_is_known(self) -> None:
        found = suggest({FILE: SIMPLE}, Prescription(edits=(RATE, SWAP)), SourceFacts(script=FILE))
        assert not found
        assert "not known" in found.why

    def test_a_name_that_means_something_else(self) -> None:
        source = SIMPLE.replace("import torch\n", "import torch\ngradmend = 3\n", 1)
        assert "'gradmend' means something else" in why_not(source, DATA)

    def test_names_of_the_users_are_not_overwritten(self) -> None:
        source = SIMPLE.replace("\nmodel", "\nmodule = 'mine'\nmodel")
        found = suggested(source, DRAW)
        assert "+for layer in model.modules():" in changes(found)
        assert run(found.sources[FILE]).space["module"] == "mine"

    def test_an_import_stands_among_its_like(self) -> None:
        source = f'"""A script."""\n\nfrom __future__ import annotations\n\n{SIMPLE}'
        new = suggested(source, DATA).sources[FILE]
        assert "annotations\n\nimport gradmend\nimport torch\n" in new or (
            "from torch import nn\nimport gradmend\n" in new
        )
        compile(new, FILE, "exec")

    def test_a_module_of_its_own_file(self) -> None:
        other = FILE.replace("train.py", "nets/mlp.py")
        text = f"{TOP}\n\ndef act():\n    return nn.Sigmoid()  # here\n"
        facts = facts_of(SIMPLE)
        facts = replace(facts, modules={**facts.modules, "1": Place(file=other, line=6)})
        text = text.replace("\n\n\n", "\n\n")
        line = text.splitlines().index("    return nn.Sigmoid()  # here") + 1
        facts = replace(facts, modules={**facts.modules, "1": Place(file=other, line=line)})
        found = suggest({FILE: SIMPLE, other: text}, Prescription(edits=(SWAP, RATE)), facts)
        assert found.plain, found.why
        assert set(found.sources) == {FILE, other}
        assert "--- a/train.py" in found.diff
        assert "--- a/nets/mlp.py" in found.diff

    def test_what_reaches_the_loss_or_the_data_has_no_line(self) -> None:
        assert "loss" in why_not(SIMPLE, Edit(kind="scale_loss", args={"factor": 8.0}))
        assert "data" in why_not(SIMPLE, Edit(kind="drop_non_finite_samples"))

    def test_measuring_edits_are_handed_the_data_by_name(self) -> None:
        measure = Edit(kind="rescale_by_data", targets=("0",), args={"std": 1.0})
        assert "by name" in why_not(SIMPLE, measure)
        source = f"""{TOP}
loader = [(torch.randn(8, 4), torch.randn(8, 4))] * 3
criterion = nn.MSELoss()
model = {NET}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()
"""
        lines = applied(source, measure)
        assert " ".join("".join(lines[1:]).split()) == (
            'gradmend.apply( "prescription.json", model, optimizer=optimizer, batches=loader,'
            " loss_fn=criterion,)"
        )
