"""The model card: what it must say, and that names cannot break its tables."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tasks.evaluation.spec import GateSpec
from tasks.report.card import card, limits, notes, verdict_sentence
from tasks.report.tables import beside, gate_table
from tests.report.made import evaluation_of, evidence_of, watching


def body_of(*classes: str, gate: GateSpec = GateSpec(min_accuracy=0.5)) -> dict[str, Any]:
    evidence, rule = watching(evidence_of(classes), classes[0])
    return evaluation_of(evidence, rule, gate)


def test_it_says_what_the_model_is_for_and_how_well_it_does() -> None:
    text = card(body_of("bad", "good"))
    assert text.startswith("# solar-cells\n\n**PASSED.** All 7 deciding lines of the gate are met.")
    for heading in (
        "Lines of the gate",
        "Overall",
        "Per class on test",
        "Slices of test",
        "Pictures",
        "Limits",
        "How it was made",
    ):
        assert re.search(f"^## {heading}", text, re.MULTILINE)
    assert "bad if its probability &gt;= 0.2" in text
    assert "temperature 1.300" in text and "precision fp32" in text and "near duplicates" in text


def test_it_holds_no_file_name_and_no_picture() -> None:
    body = body_of("bad", "good")
    body["configuration"]["model"]["weights"] = "patients-of-dr-x.safetensors"
    text = card(body)
    assert not re.search(r"secret-folder|patients|data:image|file:|!\[", text)
    assert "weights from a file" in text


def test_names_stay_inside_their_cells() -> None:
    text = card(body_of("a|b_*c*", "<script>[x](y)`", "two\nlines", "back\\slash\udcff"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 5
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
    assert r"a\|b\_\*c\*" in text and "<script>" not in text and r"&lt;script&gt;\[x\](y)\`" in text
    text.encode("utf-8")


def test_lines_that_are_not_met_come_first_and_warnings_after_what_decides() -> None:
    body = body_of("bad", "good", gate=GateSpec(min_accuracy=0.999, min_macro_recall=0.8))
    body["checks"] = [
        {**body["checks"][0], "scope": f"{severity} {verdict}", "severity": severity, "verdict": verdict}
        for verdict in ("PASSED", "INCONCLUSIVE", "REJECTED")
        for severity in ("warn", "fail")
    ]
    names = [str(row[0]).removeprefix("accuracy of ").split(" on ")[0] for row in gate_table(body).rows]
    assert names[:4] == ["fail REJECTED", "fail INCONCLUSIVE", "warn REJECTED", "warn INCONCLUSIVE"]
    assert set(names[4:]) == {"warn PASSED", "fail PASSED"}
    assert "(a warning only)" in str(gate_table(body).rows[2][0])


def test_the_verdict_names_only_lines_that_decided() -> None:
    body = body_of("bad", "good", gate=GateSpec(min_accuracy=0.999))
    assert verdict_sentence(body) == "1 of 7 lines of the gate is not met: accuracy on test."
    body["checks"] = [{**check, "severity": "fail", "verdict": "INCONCLUSIVE"} for check in body["checks"]]
    body["verdict"] = "INCONCLUSIVE"
    assert verdict_sentence(body).startswith(
        "7 of 7 lines of the gate are not decided by these pictures: accuracy on test; "
    )
    assert verdict_sentence(body).endswith("and 1 more.")  # the two recalls of one class are one name


def test_the_notes_count_pictures() -> None:
    body = body_of("bad", "good")
    body["metrics"]["confusion_matrix"] = [[8, 2], [5, 85]]
    said = notes(body)
    assert said[1] == "Of 100 test pictures it decides 93 as they are labelled (93.0%)."
    assert said[2] == "Of 10 pictures of bad it finds 8 and misses 2; 5 of the 13 that it calls bad are something else."
    assert said[-1].startswith("This is decision number 51 on these held-out pictures. They are worn")


@pytest.mark.parametrize(("grouped", "words"), [(True, "whole groups"), (False, "No groups were given")])
def test_limits_say_what_is_unknown(grouped: bool, words: str) -> None:
    body = body_of("bad", "good")
    body["data"]["grouped"] = grouped
    body["configuration"]["data"]["near_duplicates"] = False
    body["slices"] = {"rows": [], "worst": None}
    said = " ".join(limits(body))
    assert words in said and "Near duplicates were not looked for" in said and "No slices were given" in said


@pytest.mark.parametrize("value", [0.8, 0.79999999, 0.80000001, 0.0, 1.0, -0.0200001, 6.9e-06, 12345.6])
@pytest.mark.parametrize("threshold", [0.8, -0.02, 0.0])
def test_a_shown_value_stands_on_the_side_of_the_true_one(value: float, threshold: float) -> None:
    shown = float(beside(value, threshold))
    assert (shown > threshold, shown == threshold) == (value > threshold, value == threshold)
    assert shown == pytest.approx(value, rel=1e-3)
