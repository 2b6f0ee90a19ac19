"""The report as a file: what it holds, what it must not hold, and that odd evaluations do not break it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from serving.artifact import Rule
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.spec import GateSpec
from tasks.report.mistakes import Pictures
from tasks.report.page import write_report
from tests.report.made import against_champion, dataset_of, evaluation_of, evidence_of, watching

HOSTILE = (
    "<script>alert(1)</script>",
    "\U0001f600 $x_1$ \"q' &amp;",
    "n" * 200,
    "a|b_*c*",
    "line\nbreak\x01",
    "\udcff",
)
VOID = {"meta", "img", "br", "link"}
SECTIONS = [
    "The gate, line by line", "Training", "Confusion", "Operating points", "Calibration", "Classes",
    "Overall figures", "Slices", "Worst mistakes", "Baselines", "Champion", "Audit", "Data",
    "The exported file", "Configuration", "Provenance", "Time",
]  # fmt: skip


class Reader(HTMLParser):
    """Raises at a tag that is not closed in order; collects headings, text and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.attributes.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.attributes if found == tag]

    def said(self, tag: str) -> list[str]:
        return [text for found, text in self.texts if found == tag]


def page_of(
    evidence: Evidence,
    folder: Path,
    pictures: Pictures = "embed",
    rule: Rule = Rule(),
    gate: GateSpec = GateSpec(min_accuracy=0.5),
    **changes: Any,
) -> str:
    dataset, test = dataset_of(evidence, folder)
    write_report(
        folder / "report.html", evaluation_of(evidence, rule, gate) | changes, evidence, dataset, test, pictures
    )
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_section_stands_in_its_order_and_is_linked(tmp_path: Path) -> None:
    page = Reader(page_of(evidence_of(("bad", "good")), tmp_path))
    assert page.said("h1") == ["solar-cells"]
    assert page.said("h2") == SECTIONS == page.said("a")
    assert [a["href"] for a in page.all("a")] == [f"#{h['id']}" for h in page.all("h2")]
    assert all(image["alt"] for image in page.all("img"))
    assert page.said("caption") and all(header["scope"] in ("row", "col") for header in page.all("th"))


def test_the_verdict_and_its_lines_are_said_first(tmp_path: Path) -> None:
    evidence, rule = watching(evidence_of(("bad", "good")), "bad")
    page = page_of(evidence, tmp_path, rule=rule, gate=GateSpec(min_accuracy=0.999, min_recall={"bad": 0.1}))
    assert 'class="banner REJECTED"' in page
    reader = Reader(page)
    assert "1 of 8 lines of the gate is not met: accuracy on test." in reader.said("p")
    assert "Decision rule: bad if its probability >= 0.2; else the likeliest other class." in reader.said("p")
    rows = re.findall(r'<tr class="(\w+)"><th scope="row"[^>]*>([^<]*)', page)
    assert rows[0] == ("REJECTED", "accuracy on test")
    assert {verdict for verdict, _ in rows[1:]} == {"PASSED"}
    assert "They are worn" in page


@pytest.mark.parametrize("pictures", ["embed", "local", "none"])
def test_names_of_classes_are_only_ever_text(tmp_path: Path, pictures: Pictures) -> None:
    evidence, rule = watching(evidence_of(HOSTILE, each=12), HOSTILE[2], HOSTILE[0])
    page = page_of(against_champion(evidence), tmp_path, pictures, rule, GateSpec(min_accuracy=0.9, min_recall=0.7))
    reader = Reader(page)
    assert not reader.all("script") and "<script" not in page
    assert HOSTILE[0] in reader.said("th") and HOSTILE[2] in reader.said("th")
    for svg in charts_in(page):
        ElementTree.fromstring(svg)


def charts_in(page: str) -> list[str]:
    return [base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]


def test_nothing_is_fetched_or_run(tmp_path: Path) -> None:
    page = page_of(evidence_of(("bad", "good")), tmp_path)
    reader = Reader(page)
    policy = next(meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; img-src data: file:; style-src 'unsafe-inline'"
    addresses = [a[name] for _, a in reader.attributes for name in ("src", "href") if name in a]
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in reader.attributes}
    assert not any(name.startswith("on") for _, attributes in reader.attributes for name in attributes)
    for text in (page, *charts_in(page)):
        assert not re.search(r"url\(\s*['\"]?(?!#)|@import|(?:src|href)\s*=\s*['\"]?\s*(?:https?:)?//", text)


@pytest.mark.parametrize("pictures", ["embed", "local", "none"])
def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path, pictures: Pictures) -> None:
    evidence = evidence_of(("bad", "good"))
    assert page_of(evidence, tmp_path, pictures) == page_of(evidence, tmp_path, pictures)


def test_pictures_are_small_copies_in_the_page(tmp_path: Path) -> None:
    page = page_of(evidence_of(("bad", "good")), tmp_path)
    assert "data:image/jpeg;base64," in page and "patient-" in page and "file:" not in page.replace("data: file:", "")


def test_pictures_are_the_files_of_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    reader = Reader(page_of(evidence_of(("bad", "good")), folder, "local"))
    local = [image["src"] for image in reader.all("img") if image["src"].startswith("file:")]
    assert local and all(address.startswith(f"{folder.as_uri()}/patient-") for address in local)
    assert "a%20b" in local[0]


def test_a_page_that_travels_names_no_file(tmp_path: Path) -> None:
    evidence = evidence_of(("bad", "good"))
    page = page_of(evidence, tmp_path, "none")
    for text in (page, *charts_in(page)):
        assert not re.search(r"patient|secret-folder|file:///|\.png|\.jpg|image/jpeg|image/png", text)
        assert str(tmp_path) not in text
    wrong = np.flatnonzero(evidence.test.truth != evidence.test.decided)
    named = set(re.findall(r'class="name">([0-9a-f]{12})<', page))
    assert named and named <= {evidence.test.digests[row][:12] for row in wrong}


@pytest.mark.parametrize(
    "evidence",
    [
        evidence_of(("a", "b", "c"), absent="b"),
        evidence_of(("a", "b"), without="validation"),
        evidence_of(tuple(f"class {i}" for i in range(40)), each=2),
        replace(evidence_of(("a", "b")), head_only=None),
        replace(evidence_of(("a", "b")), grouped=True),
    ],
    ids=["a class not in test", "no validation", "40 classes", "no head-only baseline", "grouped"],
)
@pytest.mark.parametrize("watch", [True, False])
def test_odd_evaluations_are_reported(tmp_path: Path, evidence: Evidence, watch: bool) -> None:
    evidence, rule = watching(evidence, evidence.classes[1]) if watch else (evidence, Rule())
    page = Reader(page_of(evidence, tmp_path, rule=rule))
    assert page.said("h2") == SECTIONS
    assert not any(re.search(r"\b(nan|None|null|inf)\b", text) for tag, text in page.texts if tag in ("p", "td", "th"))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_no_test_pictures(tmp_path: Path) -> None:
    page = Reader(page_of(evidence_of(("a", "b"), without="test"), tmp_path))
    assert "There are no test pictures." in page.said("p")
    assert "INCONCLUSIVE" in page.said("p")


def test_values_that_are_not_there(tmp_path: Path) -> None:
    evidence = evidence_of(("a", "b"))
    body = evaluation_of(evidence)
    body["metrics"] = _without_figures(body["metrics"])
    body["baselines"] = _without_figures(body["baselines"])
    changes: dict[str, Any] = {
        "configuration": {},
        "provenance": {},
        "counts": None,
        "latency_ms": None,
        "seconds": {},
        "phases": {},
    }
    slices: dict[str, Any] = {"rows": [], "worst": None}
    dataset, test = dataset_of(evidence, tmp_path)
    write_report(tmp_path / "r.html", body | changes | {"slices": slices}, evidence, dataset, test, "embed")
    page = Reader((tmp_path / "r.html").read_text())
    assert {"undefined", "not measured", "Not recorded."} <= {text for _, text in page.texts}
    assert any(text.startswith("The data has no slices") for text in page.said("p"))


def _without_figures(value: Any) -> Any:
    """Every figure undefined; counts stay."""
    if isinstance(value, dict):
        kept = ("confusion_matrix", "n", "label")
        return {name: found if name in kept else _without_figures(found) for name, found in value.items()}
    return [None, None] if isinstance(value, list) else None


def test_the_champion_is_compared(tmp_path: Path) -> None:
    evidence = against_champion(evidence_of(("a", "b")))
    page = page_of(evidence, tmp_path)
    assert "Compared with version 3 (cccccccccccc), generation 7." in page
    ours, theirs = evidence.test.decided == evidence.test.truth, evidence.test.truth == 0
    shown = re.findall(r"only (?:this model|the champion) is right</th><td[^>]*>(\d+)", page)
    assert [int(n) for n in shown] == [int((ours & ~theirs).sum()), int((theirs & ~ours).sum())]
    without = "not computed: pictures of a group are not independent"
    assert without not in page
    assert without in page_of(replace(evidence, grouped=True), tmp_path)


def test_figures_of_the_tables_are_those_of_the_evaluation(tmp_path: Path) -> None:
    evidence, rule = watching(evidence_of(("bad", "good")), "bad")
    body = evaluation_of(evidence, rule)
    page = page_of(evidence, tmp_path, rule=rule)
    cells = re.search(r'<th scope="row"[^>]*>bad</th>(.*?)</tr>', page[page.index("Per class on test") :])
    assert cells
    shown = re.findall(r"<td[^>]*>([\d.]+)<small>([\d.]+)\u2013([\d.]+)</small>", cells[1])
    test, argmax = body["metrics"], body["metrics"]["argmax"]
    parts = [(p, n) for p in (test, argmax) for n in ("recall", "precision", "f1")] + [
        (test, "roc_auc"),
        (test, "pr_auc"),
    ]
    assert shown == [tuple(f"{x:.3f}" for x in (part[n]["bad"], *part["intervals"][n]["bad"])) for part, n in parts]


def test_the_configuration_is_shown(tmp_path: Path) -> None:
    page = page_of(evidence_of(("bad", "good")), tmp_path)
    assert "secret-folder" in page
    assert json.loads(unescape(re.search(r"<dt>slices</dt><dd>(.*?)</dd>", page)[1])) == ["site"]  # type: ignore[index]


def test_the_training_is_told_epoch_by_epoch_with_its_warnings(tmp_path: Path) -> None:
    page = page_of(evidence_of(("bad", "good")), tmp_path)
    training = page[page.index(">Training</h2>") : page.index(">Confusion</h2>")]
    assert '<p class="warning">overfitting: &lt;validation&gt; loss rose</p>' in training
    assert "75% is kept" in training
    assert training.count("<table") == 1  # one epoch, as the head has, needs none
    titles = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', training)
    assert titles[0] == "epoch" and {"precision", "recall", "F1", "pictures/s"} <= set(titles)
    assert "31.4" in training
