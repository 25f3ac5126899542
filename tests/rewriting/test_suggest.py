"""The changed source does what the prescription does, and changes nothing else."""

from dataclasses import replace

import pytest
import torch
from scripts import FILE, changes, facts_of, run, same, suggested
from torch import nn

from gradmend.records.prescription import Edit, Prescription
from gradmend.rewriting import suggest

HEAD = """# My training. é
import torch
from torch import nn

"""
LOOP = """
loss_fn = nn.CrossEntropyLoss()
x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))
losses = []
for step in range(30):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    losses.append(loss.item())
    loss.backward()
    optimizer.step()
"""
SCRIPT = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self, depth=4):
        super().__init__()
        layers = []
        for _ in range(depth):
            layers += [nn.Linear(8, 8), nn.Sigmoid()]  # the body
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


model = Net().to("cpu")  # small
optimizer = torch.optim.Adam(
    model.parameters(),
    lr=1e-2,  # as ever
)
"""
    + LOOP
)
ACTS = tuple(f"body.{i}" for i in (1, 3, 5, 7))
LAYERS = tuple(f"body.{i}" for i in (0, 2, 4, 6))


def swap(module: str, *targets: str, **options: float) -> Edit:
    args = {"module": module, "everywhere": True, **options}
    return Edit(kind="replace_module", targets=targets, args=args)


def drawn(layers: tuple[str, ...], gain: float, scheme: str = "normal") -> Edit:
    edit = Edit.initialise([(f"{p}.weight", f"{p}.bias") for p in layers], [gain] * len(layers))
    return replace(edit, args={**edit.args, "scheme": scheme})


RATE = Edit(kind="scale_learning_rate", args={"factor": 0.1})
CLIP = Edit(kind="clip_gradients", args={"method": "norm", "limit": 0.1})
CUT = Edit(kind="clip_gradients", args={"method": "value", "lower": -0.01, "upper": 0.01})
EPS = Edit(kind="set_epsilon", args={"eps": 1e-4})
WARM = Edit(kind="warm_up", args={"steps": 20})
NORM = Edit(
    kind="insert_norm",
    targets=("head",),
    args={"norm": "LayerNorm", "features": [3], "dims": [0], "groups": [1]},
)


class TestActivations:
    def test_all_modules_of_a_line_are_exchanged_in_it(self) -> None:
        found = same(SCRIPT, swap("ReLU", *ACTS))
        assert changes(found) == [
            "-            layers += [nn.Linear(8, 8), nn.Sigmoid()]  # the body",
            "+            layers += [nn.Linear(8, 8), nn.ReLU()]  # the body",
        ]

    def test_options_are_given(self) -> None:
        found = same(SCRIPT, swap("LeakyReLU", *ACTS, negative_slope=0.1))
        assert "nn.LeakyReLU(negative_slope=0.1)" in found.diff

    def test_some_of_a_lines_modules_cannot_be_named_in_it(self) -> None:
        found = suggested(SCRIPT, swap("ReLU", *ACTS[:2]))
        assert not found.plain
        assert "also builds 'body.5'" in found.why
        assert "gradmend.apply" in found.diff

    def test_a_line_that_another_model_was_built_by_is_left_alone(self) -> None:
        facts = facts_of(SCRIPT)
        place = facts.modules["body.1"]
        facts = replace(facts, shared=frozenset({(place.file, place.line)}))
        found = suggest({FILE: SCRIPT}, Prescription(edits=(swap("ReLU", *ACTS),)), facts)
        assert not found.plain
        assert "modules of another model" in found.why

    def test_a_copy_without_a_line_stops_the_change(self) -> None:
        facts = facts_of(SCRIPT)
        known = {path: place for path, place in facts.modules.items() if path != "body.7"}
        facts = replace(facts, modules=known)
        found = suggest({FILE: SCRIPT}, Prescription(edits=(swap("ReLU", *ACTS[:3]),)), facts)
        assert "may be a copy" in found.why

    def test_a_class_handed_over_under_another_name_is_not_guessed(self) -> None:
        source = SCRIPT.replace("depth=4):", "depth=4, act=nn.Sigmoid):")
        source = source.replace("nn.Linear(8, 8), nn.Sigmoid()", "nn.Linear(8, 8), act()")
        found = suggested(source, swap("ReLU", *ACTS))
        assert not found.plain
        assert "calls no Sigmoid by its name" in found.why

    def test_the_last_of_a_sequential_goes_and_others_become_the_identity(self) -> None:
        source = (
            HEAD
            + """
model = nn.Sequential(
    nn.Linear(8, 8),
    nn.Softmax(dim=1),  # inside
    nn.Linear(8, 3),
    nn.Softmax(dim=1),  # outside
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
            + LOOP
        )
        found = same(source, swap("Identity", "3"))
        assert changes(found) == ["-    nn.Softmax(dim=1),  # outside"]
        # an element that is counted from the end keeps its place
        counted = source + "\nlast = model[-1]\n"
        assert changes(same(counted, swap("Identity", "3")))[1:] == [
            "+    nn.Identity(),  # outside"
        ]
        assert "+    nn.Identity(),  # inside" in changes(same(source, swap("Identity", "1")))

    def test_a_function_on_the_output_is_left_out_where_its_inverse_was_to_follow(self) -> None:
        source = SCRIPT.replace("self.head(self.body(x))", "torch.sigmoid(self.head(self.body(x)))")
        edit = Edit(kind="follow_module", targets=("head",), args={"module": "Logit"})
        found = suggested(source, edit)
        assert found.plain
        assert changes(found)[1] == "+        return self.head(self.body(x))"
        assert run(found.sources[FILE]).space["losses"][-1] < 1.2


class TestDrawing:
    @pytest.mark.parametrize(
        ("scheme", "gain", "call"),
        [
            ("normal", 2**0.5, 'kaiming_normal_(module.weight, nonlinearity="relu")'),
            ("normal", 1.0, 'kaiming_normal_(module.weight, nonlinearity="linear")'),
            ("normal", (2 / 1.01) ** 0.5, "kaiming_normal_(module.weight, a=0.1)"),
            ("uniform", 1.0, 'kaiming_uniform_(module.weight, nonlinearity="linear")'),
            ("uniform", 3**-0.5, "kaiming_uniform_(module.weight, a=5 ** 0.5)"),
            ("orthogonal", 1.0, "orthogonal_(module.weight)"),
            ("orthogonal", 1.5, "orthogonal_(module.weight, gain=1.5)"),
            ("normal", 0.37, "normal_(module.weight, std=0.130815)"),
            ("uniform", 0.37, "uniform_(module.weight, -0.226578, 0.226578)"),
        ],
    )
    def test_the_same_distribution(self, scheme: str, gain: float, call: str) -> None:
        # GIVEN one wide body, so that one draw shows its distribution
        source = SCRIPT.replace("Linear(8, 8)", "Linear(8, 8)")
        edit = drawn(LAYERS, gain, scheme)
        found = suggested(source, edit)
        assert found.plain, found.why
        assert f"nn.init.{call}" in found.diff
        # THEN the weights drawn, over seeds, have the same size, and biases are zero
        sizes = []
        for chosen, given in ((found.sources[FILE], None), (source, Prescription(edits=(edit,)))):
            quick = chosen.replace("range(30)", "range(0)")
            rows = []
            for _ in range(1 if given else 8):
                model = run(quick, given).model
                rows += [model.get_submodule(p).weight.detach().flatten() for p in LAYERS]
                assert all(not model.get_submodule(p).bias.any() for p in LAYERS)
            sizes.append(float(torch.cat(rows).square().mean().sqrt()))
        # 256 numbers or more: four deviations of the estimate of a normal's scale
        assert sizes[0] == pytest.approx(sizes[1], rel=4 / (2 * 256) ** 0.5)
        assert sizes[0] == pytest.approx(gain / 8**0.5, rel=0.2)

    def test_all_but_the_head(self) -> None:
        found = suggested(SCRIPT, drawn(LAYERS, 2**0.5))
        assert changes(found) == [
            "+for name, module in model.named_modules():",
            '+    if isinstance(module, nn.Linear) and name != "head":',
            '+        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")',
            "+        nn.init.zeros_(module.bias)",
        ]

    def test_all_layers(self) -> None:
        found = suggested(SCRIPT, drawn((*LAYERS, "head"), 1.0))
        assert changes(found)[:2] == [
            "+for module in model.modules():",
            "+    if isinstance(module, nn.Linear):",
        ]

    def test_two_of_many(self) -> None:
        found = suggested(SCRIPT, drawn(LAYERS[:2], 1.0, "orthogonal"))
        assert changes(found)[0] == '+for name in ("body.0", "body.2"):'
        model = run(found.sources[FILE].replace("range(30)", "range(0)")).model
        weight = model.get_submodule("body.2").weight
        assert torch.allclose(weight @ weight.T, torch.eye(8), atol=1e-5)

    def test_a_taller_layer_keeps_the_variance_of_every_output(self) -> None:
        source = SCRIPT.replace("self.head = nn.Linear(8, 3)", "self.head = nn.Linear(8, 32)")
        edit = drawn(("head",), 1.0, "orthogonal")
        found = suggested(source, edit)
        weights = []
        for chosen, given in ((found.sources[FILE], None), (source, Prescription(edits=(edit,)))):
            weights.append(run(chosen.replace("range(30)", "range(0)"), given).model.head.weight)
        ours, theirs = (torch.linalg.svdvals(w.detach()) for w in weights)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def test_behind_what_the_script_draws_itself(self) -> None:
        own = "    optimizer"
        source = SCRIPT.replace(
            "optimizer = torch",
            "for p in model.parameters():\n    nn.init.normal_(p)\noptimizer = torch",
        )
        del own
        found = suggested(source, drawn(LAYERS, 2**0.5))
        lines = found.sources[FILE].splitlines()
        assert (
            lines.index("    nn.init.normal_(p)")
            < lines.index("for name, module in model.named_modules():")
            < lines.index("optimizer = torch.optim.Adam(")
        )

    def test_a_mean_taken_back_by_biases_has_no_words_in_torch(self) -> None:
        edit = drawn(LAYERS, 1.0)
        edit = replace(edit, args={**edit.args, "centres": [0.5] * 4})
        found = suggested(SCRIPT, edit)
        assert not found.plain
        assert 'gradmend.apply("prescription.json", model, optimizer=optimizer)' in found.diff

    def test_parameters_scaled(self) -> None:
        edit = Edit(
            kind="scale_weights",
            targets=("head.weight", "body.0.weight", "body.2.weight"),
            args={"factors": [0.0, 0.5, 0.5]},
        )
        found = same(SCRIPT, edit)
        assert '+    model.get_parameter("head.weight").zero_()' in changes(found)

    def test_the_class_prior(self) -> None:
        edit = Edit(
            kind="class_prior_bias", targets=("head.bias",), args={"shares": [0.5, 0.25, 0.25]}
        )
        same(SCRIPT, edit, exactly=False)

    def test_forget_gates(self) -> None:
        source = (
            HEAD
            + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x[:, None])[0][:, -1])


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
            + LOOP
        )
        edit = Edit(
            kind="set_gates", targets=("lstm",), args={"steps": [50], "spread": "same", "seed": 0}
        )
        same(source, edit, exactly=False)


class TestOptions:
    def test_a_number_is_multiplied_out_and_its_comment_kept(self) -> None:
        found = same(SCRIPT, RATE, EPS)
        assert changes(found) == [
            "-    lr=1e-2,  # as ever",
            "+    lr=0.001,  # as ever",
            "+    eps=1e-4,",
        ]

    @pytest.mark.parametrize(
        ("call", "becomes"),
        [
            ("SGD(model.parameters(), 0.1)", "SGD(model.parameters(), 0.01)"),
            ("SGD(model.parameters(), lr=rate)", "SGD(model.parameters(), lr=rate * 0.1)"),
            ("SGD(model.parameters(), lr=(rate))", "SGD(model.parameters(), lr=(rate) * 0.1)"),
            (
                "SGD(model.parameters(), lr=rate + 0)",
                "SGD(model.parameters(), lr=(rate + 0) * 0.1)",
            ),
            ("Adam(model.parameters())", "Adam(model.parameters(), lr=1e-4)"),
            (
                "Adam([{'params': model.body.parameters(), 'lr': 0.01},"
                " {'params': model.head.parameters()}], lr=0.1)",
                "Adam([{'params': model.body.parameters(), 'lr': 0.001},"
                " {'params': model.head.parameters()}], lr=0.01)",
            ),
            (
                "Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)",
                "Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)",
            ),
        ],
    )
    def test_the_argument_is_changed_where_it_stands(self, call: str, becomes: str) -> None:
        begin, end = SCRIPT.index("optimizer = torch"), SCRIPT.index("\nloss_fn")
        source = f"{SCRIPT[:begin]}rate = 0.1\noptimizer = torch.optim.{call}\n{SCRIPT[end:]}"
        found = same(source, RATE)
        assert changes(found)[1] == f"+optimizer = torch.optim.{becomes}"

    @pytest.mark.parametrize(
        "call",
        ["SGD(groups(), lr=0.1)", "SGD(model.parameters(), **given)", "Adam(groups())"],
    )
    def test_else_a_loop_over_the_groups_says_it(self, call: str) -> None:
        begin, end = SCRIPT.index("optimizer = torch"), SCRIPT.index("\nloss_fn")
        helper = (
            "given = {'lr': 0.1}\n\ndef groups():\n"
            "    return [{'params': model.body.parameters(), 'lr': 0.3},"
            " {'params': model.head.parameters()}]\n\n"
        )
        source = f"{SCRIPT[:begin]}{helper}optimizer = torch.optim.{call}\n{SCRIPT[end:]}"
        found = same(source, RATE)
        assert [line[1:] for line in changes(found)] == [
            "for group in optimizer.param_groups:",
            "    group['lr'] *= 0.1",
        ]

    def test_a_rate_of_zero_and_a_decay(self) -> None:
        zero = SCRIPT.replace("lr=1e-2", "lr=0.0, weight_decay=0.2")
        found = same(
            zero,
            Edit(kind="set_learning_rate", args={"rate": 3e-3}),
            Edit(kind="scale_weight_decay", args={"factor": 0.0}),
        )
        assert "+    lr=0.003, weight_decay=0.0,  # as ever" in changes(found)

    def test_a_turned_sign(self) -> None:
        found = same(SCRIPT.replace("loss.backward", "(-loss).backward"), Edit(kind="maximise"))
        assert "+    maximize=True," in changes(found)
        assert "leave maximize=True out" in found.notes[0]


class TestSteps:
    def test_clipping_stands_in_front_of_the_step(self) -> None:
        found = same(SCRIPT, CLIP, exactly=False)
        assert changes(found) == ["+    nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.1)"]
        same(SCRIPT, CUT)

    def test_two_statements_on_a_line(self) -> None:
        source = SCRIPT.replace("loss.backward()\n    opt", "loss.backward(); opt")
        same(source, CUT)

    def test_under_a_condition_and_in_every_place(self) -> None:
        source = SCRIPT.replace(
            "    optimizer.step()\n",
            "    if step % 2:\n        optimizer.step()\n    else:\n        optimizer.step()\n",
        )
        assert len(changes(same(source, CUT))) == 2

    def test_through_a_function_under_other_names(self) -> None:
        begin = SCRIPT.index("for step in range")
        body = SCRIPT[begin:].replace("optimizer", "opt").replace("model(", "net(")
        body = "".join(f"    {line}\n" for line in body.splitlines())
        source = f"{SCRIPT[:begin]}\ndef train(net, opt):\n{body}\n\ntrain(model, opt=optimizer)\n"
        found = same(source, CUT)
        assert "nn.utils.clip_grad_value_(net.parameters(), clip_value=0.01)" in found.diff

    def test_in_a_trainer(self) -> None:
        begin = SCRIPT.index("for step in range")
        body = SCRIPT[begin:].replace("optimizer", "self.optimizer").replace("model(", "self.net(")
        body = "".join(f"        {line}\n" for line in body.splitlines())
        source = (
            f"{SCRIPT[:begin]}\nclass Trainer:\n    def __init__(self, net, opt):\n"
            f"        self.net = net.to('cpu')\n        self.optimizer = opt\n\n"
            f"    def fit(self):\n{body}\n\nTrainer(model, optimizer).fit()\n"
        )
        found = same(source, CUT)
        assert "clip_grad_value_(self.net.parameters(), clip_value=0.01)" in found.diff

    def test_a_function_that_steps_two_optimizers_is_not_touched(self) -> None:
        source = SCRIPT.replace(
            "    loss.backward()\n    optimizer.step()\n",
            "    loss.backward()\n    go(optimizer)\n    go(other)\n",
        ).replace(
            "loss_fn =",
            "other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)\n\n"
            "def go(opt):\n    opt.step()\n\nloss_fn =",
        )
        found = suggested(source, CUT)
        assert not found.plain
        assert "gradmend.apply" in found.diff

    def test_gradients_are_unscaled_first(self) -> None:
        source = SCRIPT.replace("optimizer.step()", "scaler.step(optimizer)\n    scaler.update()")
        source = source.replace("loss.backward()", "scaler.scale(loss).backward()")
        source = source.replace(
            "loss_fn =", "scaler = torch.amp.GradScaler('cpu', init_scale=16.0)\nloss_fn ="
        )
        found = same(source, CUT)
        assert changes(found)[0] == "+    scaler.unscale_(optimizer)"
        twice = source.replace("    scaler.step", "    scaler.unscale_(optimizer)\n    scaler.step")
        assert len(changes(same(twice, CUT))) == 1

    def test_a_closure_makes_its_gradients_inside(self) -> None:
        source = SCRIPT.replace(
            "optimizer.step()", "optimizer.step(lambda: (loss_fn(model(x), y)))"
        )
        found = suggested(source, CUT)
        assert not found.plain
        assert "closure" in found.why

    def test_a_warm_up(self) -> None:
        found = same(SCRIPT, WARM)
        assert "+    warm_up.step()" in changes(found)

    def test_no_warm_up_beside_a_scheduler(self) -> None:
        source = SCRIPT.replace(
            "loss_fn =",
            "scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)\nloss_fn =",
        )
        assert not suggested(source, WARM).plain


class TestTogether:
    def test_all_edits_or_none_are_said_in_plain_words(self) -> None:
        found = suggested(SCRIPT, swap("ReLU", *ACTS), RATE, NORM)
        assert not found.plain
        assert [line[1:] for line in changes(found)] == [
            "import gradmend",
            'gradmend.apply("prescription.json", model, optimizer=optimizer)',
        ]

    def test_losses_fall(self) -> None:
        def lost(losses: list[float]) -> float:
            return losses[0] - losses[-1]

        found = suggested(SCRIPT, swap("ReLU", *ACTS), drawn(LAYERS, 2**0.5), CLIP)
        assert found.plain
        before = run(SCRIPT).space["losses"]
        after = run(found.sources[FILE]).space["losses"]
        assert lost(after) > 2 * abs(lost(before))

    def test_nothing_to_change(self) -> None:
        found = suggested(SCRIPT)
        assert not found
        assert found.why == "nothing is to be changed"

    def test_the_diff_names_no_folder(self) -> None:
        found = suggested(SCRIPT, RATE)
        assert found.diff.startswith("--- a/train.py\n+++ b/train.py\n@@")
        assert "/somewhere" not in found.diff

    def test_modules_are_untouched_by_the_suggestion(self) -> None:
        sources = {FILE: SCRIPT}
        suggest(sources, Prescription(edits=(RATE,)), facts_of(SCRIPT))
        assert sources == {FILE: SCRIPT}
        assert isinstance(nn.Sigmoid(), nn.Module)
