"""The command line: exit codes, streams, one-line errors, and options frozen by a test."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import gradmend
from gradmend.cli import app, main
from gradmend.registry import remedies, rules

HOME = {**os.environ, "PYTHONPATH": str(Path(gradmend.__file__).parents[1])}
"""For processes that start in another folder: this very gradmend."""

MODULE = """
import torch
from gradmend.zoo.specimen import build

print("a module that talks while it is imported")


def healthy():
    print("and a factory, too")
    found = build("mlp", depth=3, width=16)
    return found.model, found.batches, found.loss_fn


def sick():
    return build("mlp", depth=12, width=16, activation="sigmoid")


def warned():
    return build("mlp", depth=3, width=16, scale=60.0, shift=128.0)


def mapping():
    found = build("mlp", depth=3, width=16)
    return {"model": found.model, "batches": found.batches, "loss_fn": found.loss_fn}


def pair():
    found = build("mlp", depth=3, width=16)
    return found.model, found.batch, found.loss_fn


def lazy():
    found = build("mlp", depth=3, width=16)
    return found.model, lambda: iter(found.batches), found.loss_fn


def raising():
    raise ZeroDivisionError("on\\npurpose")


def leaving():
    raise SystemExit(3)


def raising_batches():
    found = build("mlp", depth=3, width=16)

    def batches():
        raise OSError("the disk is gone")
        yield

    return found.model, batches, found.loss_fn


def junk():
    return 42


def nothing():
    return None


def junk_model():
    return "model", [], max


def junk_batches():
    found = build("mlp", depth=3, width=16)
    return found.model, 5, found.loss_fn


def no_batches():
    found = build("mlp", depth=3, width=16)
    return found.model, [], found.loss_fn


def junk_loss():
    found = build("mlp", depth=3, width=16)
    return found.model, found.batches, "mse"


def wrong_loss():
    found = build("mlp", depth=3, width=16)
    return found.model, found.batches, lambda output, y: output


def nan_data():
    found = build("mlp", depth=3, width=16)
    x, y = found.batch
    return found.model, [(x * float("nan"), y)], found.loss_fn


def misfit():
    found = build("mlp", depth=3, width=16)
    return found.model, [(torch.randn(8, 5), torch.arange(8))], found.loss_fn


class Model:
    not_a_function = 3
"""


@pytest.fixture(autouse=True)
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the working folder, under a name of its own."""
    name = f"users_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "syntax.py").write_text("def (:\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script FILE')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return name


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(list(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    return ran


def test_check_of_a_healthy_model_exits_with_zero(run: Run, factory: str) -> None:
    for name in ("healthy", "mapping", "pair", "lazy"):
        status, out, _ = run("check", f"{factory}:{name}")
        assert status == 0
        assert "healthy" in out.lower()


def test_check_of_a_sick_model_exits_with_one_and_names_the_cause(run: Run, factory: str) -> None:
    status, out, _ = run("check", f"{factory}:sick")
    assert status == 1
    assert "attenuating-activation" in out


@pytest.mark.parametrize(
    ("fail_on", "name", "status"),
    [("error", "warned", 0), ("warning", "warned", 1), ("note", "warned", 1),
     ("error", "sick", 1), ("note", "healthy", 0)],
)  # fmt: skip
def test_fail_on_sets_what_is_bad_enough(
    run: Run, factory: str, fail_on: str, name: str, status: int
) -> None:
    assert run("check", f"{factory}:{name}", "--fail-on", fail_on)[0] == status


def no_constant(word: str) -> Any:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize("name", ["healthy", "sick"])
def test_json_is_one_line_on_stdout_whatever_the_users_code_prints(
    run: Run, factory: str, name: str
) -> None:
    status, out, _ = run("check", f"{factory}:{name}", "--json")
    assert out.count("\n") == 1
    report = json.loads(out, parse_constant=no_constant)
    assert report["healthy"] == (status == 0)
    keys = {"code", "name", "severity", "modules", "source", "summary", "evidence", "remedies"}
    assert all(keys <= set(finding) for finding in report["findings"])


def test_check_writes_a_page_and_says_where_on_stderr(
    run: Run, factory: str, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    status, out, err = run("check", f"{factory}:sick", "--html", str(page), "--json")
    assert status == 1
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert str(page) in err
    json.loads(out)


def test_check_can_try_some_steps(run: Run, factory: str) -> None:
    status, out, _ = run("check", f"{factory}:healthy", "--steps", "3", "--json")
    assert status == 0
    assert json.loads(out)["after"]["run"]["step"] == 3


REFUSED = [
    "raising", "leaving", "raising_batches", "junk", "nothing", "junk_model", "junk_batches",
    "no_batches", "junk_loss", "wrong_loss", "misfit", "missing", "Model.nothing",
]  # fmt: skip


def refused(status: int, out: str, err: str) -> str:
    assert status == 2
    assert out == ""
    assert err.startswith("gradmend: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert len(err) > 40
    return err


def own_words(err: str) -> str:
    """stderr without what the user's own module prints there."""
    return "".join(
        line for line in err.splitlines(keepends=True)
        if line.strip() not in ("a module that talks while it is imported", "and a factory, too")
    )  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_factory_that_is_none_is_refused_in_one_line(run: Run, factory: str, name: str) -> None:
    status, out, err = run("check", f"{factory}:{name}")
    refused(status, out, own_words(err))


@pytest.mark.parametrize(
    "target", ["no_such_module:f", "broken:f", "syntax:f", "script:f", "nothing", ":f", "m:", "",
               ".x:f", "a..b:f"],
)  # fmt: skip
def test_a_target_that_cannot_be_imported_is_refused_in_one_line(run: Run, target: str) -> None:
    refused(*run("check", target))


@pytest.mark.parametrize(
    "arguments",
    [["chek"], ["check"], ["check", "m:f", "--no-such-option"], ["check", "m:f", "--steps", "many"],
     ["check", "m:f", "--steps", "-1"], ["check", "m:f", "--fail-on", "never"],
     ["explain", "a", "b"], ["--wrong"]],
)  # fmt: skip
def test_bad_usage_is_refused_in_one_line(run: Run, arguments: list[str]) -> None:
    refused(*run(*arguments))


def test_a_refused_value_is_told(run: Run) -> None:
    assert "'many'" in refused(*run("check", "m:f", "--steps", "many"))
    assert "'-1'" in refused(*run("check", "m:f", "--steps", "-1"))
    assert "'never'" in refused(*run("check", "m:f", "--fail-on", "never"))


def test_a_page_that_cannot_be_written_is_refused(run: Run, factory: str, tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "folder.html"
    status, out, err = run("check", f"{factory}:healthy", "--html", str(path))
    refused(status, out, own_words(err))


def test_traceback_shows_where_it_went_wrong(run: Run, factory: str) -> None:
    with pytest.raises(Exception, match="ZeroDivisionError: on") as caught:
        run("check", f"{factory}:raising", "--traceback")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_explain_lists_everything_there_is(run: Run) -> None:
    status, out, err = run("explain")
    assert (status, err) == (0, "")
    for found in (*rules(), *remedies()):
        assert found.name in out
    status, out, _ = run("explain", "--json")
    listed = json.loads(out)
    assert out.count("\n") == 1
    assert [r["name"] for r in listed["rules"]] == [r.name for r in rules()]
    assert [r["name"] for r in listed["remedies"]] == [r.name for r in remedies()]


@pytest.mark.parametrize("found", [*rules(), *remedies()], ids=lambda r: r.name)
def test_explain_prints_the_page_of_each(run: Run, found: Any) -> None:
    status, out, _ = run("explain", found.name)
    assert status == 0
    assert found.summary in " ".join(out.split())  # wrapped to the width of the terminal
    for heading, body in found.sections.items():
        assert heading in out
        assert body.split()[0] in out
    words = [found.name.upper(), *([found.code.lower()] if hasattr(found, "code") else [])]
    assert all(run("explain", word)[1] == out for word in words)
    status, out, _ = run("explain", found.name, "--json")
    assert out.count("\n") == 1
    assert json.loads(out)["name"] == found.name


def test_explain_of_an_unknown_name_suggests_the_closest(run: Run) -> None:
    assert "dead-relu" in refused(*run("explain", "dead-rellu"))
    assert "gradmend explain" in refused(*run("explain", "zzzzzzzzz"))


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["explain", "--help"]])
def test_help_is_on_stdout_and_exits_with_zero(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "Usage" in out


def test_without_arguments_the_help_is_shown(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out == run("--help")[1]
    assert "check" in out


def test_the_command_line_needs_no_click_beside_typer() -> None:
    # newer typer carries its own, and nothing that gradmend depends on brings another
    code = "import sys; sys.modules['click'] = None; from gradmend.cli import main; main(['chek'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=HOME
    )
    if "typer._click" not in sys.modules:
        pytest.skip("this typer depends on click itself")
    refused(2, done.stdout, done.stderr)
    assert "Did you mean" in done.stderr


def test_python_m_gradmend_works(factory: str, tmp_path: Path) -> None:
    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gradmend", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            env=HOME,
        )

    done = started("explain", "ACT101")
    assert (done.returncode, done.stderr) == (0, "")
    assert "attenuating-activation" in done.stdout
    done = started("check", f"{factory}:raising")
    assert done.returncode == 2
    refused(done.returncode, done.stdout, own_words(done.stderr))
    done = started("check", f"{factory}:raising", "--traceback")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


FROZEN: dict[str, list[str]] = {
    "check": ["target", "--fail-on", "--html", "--json", "--steps", "--traceback"],
    "demo": [
        "--activation", "--budget", "--depth", "--depth-sweep", "--json", "--keep", "--out",
        "--seed", "--traceback", "--width",
    ],
    "diff": ["good", "bad", "--json", "--traceback"],
    "explain": ["word", "--json", "--traceback"],
    "export": ["prescription", "target", "checkpoint", "--force", "--json", "--out", "--traceback"],
    "fix": [
        "target", "arguments", "--budget", "--jobs", "--json", "--keep", "--out", "--seeds",
        "--steps", "--traceback", "-m",
    ],
    "live": ["place", "--host", "--open", "--port", "--traceback"],
    "ls": ["folder", "--json", "--traceback"],
    "report": ["folder", "--html", "--json", "--markdown", "--rank", "--traceback"],
    "run": [
        "target", "arguments", "--budget", "--fail-on", "--looks", "--record", "--run",
        "--stop-when-dead", "--traceback", "--with", "-m",
    ],
}  # fmt: skip
"""Every command and its options: scripts rely on them, so removing one is a breaking change."""


def test_the_commands_and_their_options_are_frozen() -> None:
    command = typer.main.get_command(app)
    found = {}
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        options = [o for p in sub.params for o in p.opts if p.param_type_name == "option"]
        arguments = [p.name for p in sub.params if p.param_type_name == "argument"]
        found[name] = [*arguments, *sorted(o for o in options if o != "--help")]
    assert found == FROZEN


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gradmend {gradmend.__version__}\n"


def test_the_beginning_of_a_code_suggests_the_codes_that_begin_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "ACT1"]) == 2
    said = capsys.readouterr().err
    assert "ACT101, ACT102, ACT103, ACT104?" in said and "?." not in said
