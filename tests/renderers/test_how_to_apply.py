from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from gradmend.records.prescription import Prescription
from gradmend.records.script import Place, ScriptFacts
from gradmend.renderers.how_to_apply import lines_for

_spec = importlib.util.spec_from_file_location("reports", Path(__file__).with_name("reports.py"))
assert _spec is not None and _spec.loader is not None
reports = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reports)


def test_the_line_to_type_fits_what_the_report_is_of() -> None:
    look = reports.deep(4)
    assert [line.code for line in lines_for(look)] == [
        "gradmend.fix(model, batches, loss_fn, optimizer=optimizer)"
    ]
    script = replace(look, script=ScriptFacts(model_place=Place(file="/a/b/my train.py", line=3)))
    assert lines_for(script)[0].code == "gradmend fix 'my train.py'"
    repaired = replace(script, prescription=reports.repaired().prescription)
    assert [line.code for line in lines_for(repaired)] == [
        "gradmend run --with prescription.json 'my train.py'",
        'gradmend.apply("prescription.json", model, optimizer=optimizer)',
    ]
    nothing = replace(look, prescription=Prescription())
    assert lines_for(nothing)[0].code.startswith("gradmend.fix")
