"""gradmend export: a plain state dict, what is told of it, and one-line errors."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import gradmend
from gradmend.cli import main
from gradmend.engine.files import write_prescription
from gradmend.records.prescription import Edit, Prescription

FACTORY = """
import os
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, width=6):
        super().__init__(nn.Linear(4, width), nn.Sigmoid(), nn.Linear(width, width), nn.Sigmoid(),
                         nn.Linear(width, 3))


def make():
    print("a factory that talks")
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    return Net(), [(x, y)], nn.CrossEntropyLoss()


def wider():
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    return Net(7), [(x, y)], nn.CrossEntropyLoss()
"""

CENTRED = Edit(
    kind="centre_sigmoids",
    targets=("1", "3"),
    args={"feeds": ["0", "2"], "readers": [["2"], ["4"]]},
)
SCALED = Edit(kind="standardise_input", targets=("0",), args={"mean": [0.5], "std": [2.0]})
CLIPPED = Edit(kind="clip_gradients", args={"method": "norm", "limit": 1.0})
NORMED = Edit(
    kind="insert_norm",
    targets=("2",),
    args={"norm": "LayerNorm", "features": [6], "dims": [0], "groups": [1]},
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "exported_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("exported_factory", None)
    yield tmp_path
    sys.modules.pop("exported_factory", None)


def trained(folder: Path, *edits: Edit, prefix: str = "", under: str = "") -> nn.Module:
    """Files of a prescription and of a checkpoint of a model that was trained with it."""
    from exported_factory import Net  # type: ignore[import-not-found]

    torch.manual_seed(1)
    prescription = Prescription(edits=edits)
    write_prescription(prescription, folder / "p.json")
    model: nn.Module = gradmend.apply(
        prescription, Net(), optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    ).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({under: state, "epoch": 3} if under else state, folder / "trained.pt")
    return model


def export(*more: str, target: str = "exported_factory:make") -> int:
    return main(["export", "p.json", target, "trained.pt", "--out", "plain.pt", *more])


@pytest.mark.parametrize(
    ("prefix", "under"),
    [("", ""), ("module.", "model_state_dict"), ("module._orig_mod.", "net"),
     ("model.", "state_dict")],
)  # fmt: skip
def test_a_trained_model_becomes_one_that_the_users_own_code_loads(
    folder: Path, capsys: pytest.CaptureFixture[str], prefix: str, under: str
) -> None:
    # GIVEN a checkpoint of a model in centred coordinates on standardised input
    model = trained(folder, CENTRED, SCALED, CLIPPED, prefix=prefix, under=under)
    # WHEN it is exported
    assert export("--json") == 0
    told = json.loads(capsys.readouterr().out)
    # THEN the plain model loads it and computes the same
    from exported_factory import Net

    plain = Net()
    plain.load_state_dict(torch.load(folder / "plain.pt", weights_only=True))
    x = torch.randn(9, 4)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-4)
    # AND that is told
    assert told["plain"] is True
    assert told["folded"] == {"centre_sigmoids": 2, "standardise_input": 1}
    assert told["training_only"] == ["clip_gradients"]
    assert told["stays"] == {}
    assert told["difference"] < 1e-3 * told["largest"]


def test_what_cannot_fold_stays_and_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(folder, CENTRED, NORMED)
    assert export() == 0
    out = capsys.readouterr().out
    # the norm stands between a layer and its sigmoid: neither can be part of a plain layer
    assert "stays in the architecture: centre_sigmoids (1 place), insert_norm (1 place)" in out
    assert "gradmend.apply" in out
    state = torch.load(folder / "plain.pt", weights_only=True)
    assert "2.then.weight" in state
    assert state["0.weight"].shape == model.state_dict()["0.weight"].shape


def test_the_same_bits_where_nothing_is_to_fold(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(folder, CLIPPED)
    assert export() == 0
    assert "largest difference of an output on the factory's batch: 0 " in capsys.readouterr().out
    state = torch.load(folder / "plain.pt", weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def refused(capsys: pytest.CaptureFixture[str], *more: str, **named: str) -> str:
    assert export(*more, **named) == 2
    said = capsys.readouterr().err
    line = said.splitlines()[-1]
    assert line.startswith("gradmend: ")
    return line


def test_a_checkpoint_of_another_model_is_refused_with_at_most_three_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(folder, CENTRED)
    torch.save({f"layers.{i}.weight": torch.zeros(2) for i in range(9)}, folder / "trained.pt")
    line = refused(capsys)
    assert "it misses '0.weight', '0.bias', '2.weight' and 3 more" in line
    assert "it has 'layers.0.weight', 'layers.1.weight', 'layers.2.weight' and 6 more" in line
    assert not (folder / "plain.pt").exists()
    trained(folder, CENTRED)
    assert "'0.weight' is [6, 4], and the model's is [7, 4]" in refused(
        capsys, target="exported_factory:wider"
    )


def test_a_checkpoint_from_before_the_edits_is_told_as_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(folder, CLIPPED)
    write_prescription(Prescription(edits=(SCALED,)), folder / "p.json")
    assert "of the model without the prescription's edits" in refused(capsys)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def test_what_is_no_checkpoint_is_refused_and_nothing_in_it_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(folder, CENTRED)
    torch.save({"model": Evil()}, folder / "trained.pt")
    assert "holds objects beside its tensors" in refused(capsys)
    assert not (folder / "owned").exists()
    (folder / "trained.pt").write_bytes(b"not one at all")
    assert "is no checkpoint" in refused(capsys)
    (folder / "trained.pt").write_bytes(b"")
    assert "is no checkpoint" in refused(capsys)
    torch.save(torch.zeros(3), folder / "trained.pt")
    assert "holds no state dict, but a Tensor" in refused(capsys)
    (folder / "trained.pt").unlink()
    assert "cannot be read (No such file" in refused(capsys)


def test_a_file_that_is_there_is_overwritten_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(folder, CENTRED)
    (folder / "plain.pt").write_text("precious")
    assert "plain.pt is there already" in refused(capsys)
    assert (folder / "plain.pt").read_text() == "precious"
    assert export("--force") == 0
    assert torch.load(folder / "plain.pt", weights_only=True)
    line = main(["export", "p.json", "exported_factory:make", "trained.pt", "--out", "no/dir.pt"])
    assert line == 2
    assert "cannot be written" in capsys.readouterr().err


def test_arguments_saved_beside_the_weights_are_no_objects_to_fear(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    model = trained(folder, CENTRED)
    args = argparse.Namespace(lr=0.1, folder=Path("runs"))
    torch.save({"args": args, "model": model.state_dict()}, folder / "trained.pt")
    assert export() == 0
    assert "loads into the model as your own code builds it" in capsys.readouterr().out


def test_it_runs_as_a_command(folder: Path) -> None:
    trained(folder, CENTRED)
    home = {**os.environ, "PYTHONPATH": str(Path(gradmend.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "gradmend", "export", "p.json", "exported_factory:make",
         "trained.pt", "--out", "plain.pt"],
        cwd=folder, env=home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a factory that talks" in done.stderr
    assert done.stdout.startswith("plain.pt: 6 tensors of Net")
