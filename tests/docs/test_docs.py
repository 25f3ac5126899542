"""The documents say what the code does."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradmend
from gradmend.registry import remedies, rules

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "gradmend").rglob("*.py"))


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    bare = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        named = isinstance(node, ast.ClassDef | ast.FunctionDef)
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            bare.append(node.name)
    assert not bare


def test_public_names_exist_and_are_documented() -> None:
    for name in gradmend.__all__:
        found = getattr(gradmend, name)
        assert isinstance(found, str) or found.__doc__


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chek'"):
        gradmend.chek  # noqa: B018


PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} -> {target}"


def test_the_counts_in_the_documents_are_true() -> None:
    limits = " ".join((ROOT / "docs" / "limits.md").read_text("utf-8").split())
    one_look = sum(rule.function is not None for rule in rules())
    live = sum(rule.live is not None for rule in rules())
    counted = f"{len(rules())} rules ({one_look} over one look, {live} over a run)"
    assert f"{counted}, {len(remedies())} remedies" in limits


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for path in (ROOT / "src" / "gradmend").iterdir():
        if path.name.startswith("__") or path.name == "py.typed":
            continue
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


def test_every_finding_that_the_situations_name_exists() -> None:
    text = (ROOT / "docs" / "situations.md").read_text("utf-8")
    named = {name for row in text.splitlines() if row.startswith("| ") for name in
             re.findall(r"`([a-z]+(?:-[a-z]+)+)`", row)}  # fmt: skip
    known = {rule.name for rule in rules()}
    assert named <= known
    symptoms = {"vanishing-gradient", "exploding-gradient", "non-finite-value", "loss-plateau"}
    assert len(known - named - symptoms) < 12, "nearly every cause answers something people say"
