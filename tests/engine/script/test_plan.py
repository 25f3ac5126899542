"""What is known of a script before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradmend.engine.script.plan import Command, plan_of
from gradmend.errors import BadInput


def _command(home: Path, text: str, *arguments: str) -> Command:
    (home / "train.py").write_text(text)
    return Command(target="train.py", arguments=arguments, home=home)


def test_a_plain_script_has_nothing_to_beware_of(tmp_path: Path) -> None:
    plan = plan_of(_command(tmp_path, "import torch\nopen('out.txt', 'w')\n"))
    assert plan.warnings == () and plan.trackers == ()
    assert str(plan.command) == "python train.py"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = input('which? ')\n", "input()"),
        ("torch.save(m, '/var/lib/model.pt')\n", "/var/lib/model.pt"),
        ("out = '../results'\n", "../results"),
        ("import comet_ml\n", "comet_ml"),
    ],
)
def test_what_can_be_known_is_said(tmp_path: Path, text: str, said: str) -> None:
    home = tmp_path / "proj"
    home.mkdir()
    assert any(said in warning for warning in plan_of(_command(home, text)).warnings)


def test_an_argument_outside_is_said_and_one_inside_is_not(tmp_path: Path) -> None:
    home = tmp_path / "proj"
    home.mkdir()
    plan = plan_of(_command(home, "pass\n", "--out=/var/lib/x", f"--log={home}/logs"))
    assert len(plan.warnings) == 1 and "/var/lib/x" in plan.warnings[0]


def test_near_misses_are_not_said(tmp_path: Path) -> None:
    home = tmp_path / "proj"
    home.mkdir()
    text = "a = '/'\nb = '/api/v1/x'\nc = 'a/../b'\nd = '~'\ne = '/dev/null'\ninput_ids = 1\n"
    assert plan_of(_command(home, text)).warnings == ()


def test_trackers_are_named(tmp_path: Path) -> None:
    plan = plan_of(_command(tmp_path, "import wandb\nfrom mlflow import log_metric\n"))
    assert plan.trackers == ("mlflow", "wandb")


@pytest.mark.parametrize("text", ["def (:\n", "\0", "x = 'ä'"])
def test_what_does_not_parse_is_left_to_its_own_run(tmp_path: Path, text: str) -> None:
    plan_of(_command(tmp_path, text))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file 'nope"):
        plan_of(Command(target="nope.py", home=tmp_path))
    with pytest.raises(BadInput, match="no module 'nope_nope'"):
        plan_of(Command(target="nope_nope", as_module=True, home=tmp_path))


def test_a_script_elsewhere_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "here"
    home.mkdir()
    (tmp_path / "train.py").write_text("pass\n")
    with pytest.raises(BadInput, match="outside of the working folder"):
        plan_of(Command(target="../train.py", home=home))


def test_a_module_is_found_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "train.py").write_text("import wandb\n")
    plan = plan_of(Command(target="pkg.train", as_module=True, home=tmp_path))
    assert plan.trackers == ("wandb",)
