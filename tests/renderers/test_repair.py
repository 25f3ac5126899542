from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradmend.engine.files import read_prescription
from gradmend.records.verdict import Verdict
from gradmend.renderers.before_after import before_and_after
from gradmend.renderers.repair import repair_figures, repair_sections

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)
arm = reports.arm


def verdict_of(**arms: object) -> Verdict:
    return Verdict(kept=True, reason="", **arms)  # type: ignore[arg-type]


def test_the_prescription_can_be_saved_and_read_again() -> None:
    report = reports.repaired()
    page = "".join(repair_sections(report))
    found = re.search(r'id="prescription-data">(.*?)</script>', page)
    assert found is not None
    content = json.loads(found[1])
    content["edits"] = content["edits"][:2]  # the third is of no known kind
    assert read_prescription(content).remedies == report.prescription.remedies
    assert 'data-save="prescription-data"' in page


def test_a_prescription_too_large_for_a_page_is_left_out() -> None:
    report = reports.repaired()
    edit = replace(report.prescription.edits[0], targets=tuple(f"layer.{k}" for k in range(50_000)))
    large = replace(report, prescription=replace(report.prescription, edits=(edit,)))
    page = "".join(repair_sections(large))
    assert "too large for this page" in page and len(page) < 100_000


@pytest.mark.parametrize("name", list(reports.REPORTS))
def test_any_report_has_figures_that_are_json(name: str) -> None:
    report = reports.REPORTS[name]()
    page = "".join(repair_sections(report)) + (before_and_after(report) or "")
    for figure in repair_figures(report):
        json.dumps(figure.plain(), allow_nan=False).encode()
        assert f'data-figure="{figure.id}"' in page
    shown = re.sub(r"\w*nan\w+|\w+nan\w*", "", page.lower())
    assert "nan" not in shown
