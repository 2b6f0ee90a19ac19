"""The report in the real Chromium, as wide as a desk and as a telephone: nothing overflows, every picture shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.evidence import Evidence
from tasks.evaluation.spec import GateSpec
from tasks.report.mistakes import Pictures
from tasks.report.page import write_report
from tests.report.made import against_champion, dataset_of, evaluation_of, evidence_of, watching

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=5000",
    "--dump-dom", "--window-size=1400,1000",
)  # fmt: skip
WIDTHS = (1280, 400)
# the report's own policy forbids scripts: they stand in a page around it, which may look inside
WRAPPER = """<!doctype html><meta charset="utf-8"><body>{frames}<pre id="out"></pre><script>
addEventListener("load", () => {{
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement, word = page.querySelector("p.word");
    const boxes = [...page.querySelectorAll(".box")];
    return {{
      width: root.clientWidth, needed: Math.max(root.scrollWidth, page.body.scrollWidth),
      images: [...page.images].map((image) => [image.naturalWidth, image.clientWidth, image.alt]),
      verdict: word.textContent, bottom: word.getBoundingClientRect().bottom, top: word.getBoundingClientRect().top,
      scrolling: boxes.filter((box) => box.scrollWidth > box.clientWidth).length, ran: frame.contentWindow.ran || false,
      small: [...page.querySelectorAll("p,td,th,dd,dt,figcaption,small")].filter(
        (found) => parseFloat(frame.contentWindow.getComputedStyle(found).fontSize) < 11).length,
    }};
  }});
  document.getElementById("out").textContent = JSON.stringify(seen);
}});
</script></body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
Seen = dict[int, dict[str, Any]]
Look = Callable[[Evidence, dict[str, Any], Pictures], Seen]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Writes a report and says what a browser makes of it at each width."""

    def looked(evidence: Evidence, evaluation: dict[str, Any], pictures: Pictures) -> Seen:
        dataset, test = dataset_of(evidence, tmp_path)
        write_report(tmp_path / "report.html", evaluation, evidence, dataset, test, pictures)
        style = "border:0;height:900px;width:"
        frames = "".join(f'<iframe src="report.html" style="{style}{width}px"></iframe>' for width in WIDTHS)
        (tmp_path / "wrapper.html").write_text(WRAPPER.format(frames=frames))
        command = [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "wrapper.html").as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        return dict(zip(WIDTHS, json.loads(unescape(found[1])), strict=True))

    return looked


def check(seen: Seen, verdict: str, images: int) -> None:
    for width, page in seen.items():
        assert width - 20 <= page["width"] <= width  # what the scroll bar leaves
        assert page["needed"] <= page["width"], f"{page['needed']} pixels wide at {width}"
        assert len(page["images"]) == images
        for natural, shown, alt in page["images"]:
            assert natural > 0 and 0 < shown <= width and alt
        assert page["verdict"] == verdict and 0 <= page["top"] < page["bottom"] <= 400
        assert page["small"] == 0 and not page["ran"]
    assert seen[400]["scrolling"] > 0  # wide tables scroll in their own box


def test_a_report_with_pictures(look: Look) -> None:
    evidence, rule = watching(evidence_of(("defective", "functional")), "defective")
    check(look(evidence, evaluation_of(evidence, rule), "embed"), "PASSED", 2 + 1 + 2 + 1 + 12)


def test_names_of_any_kind_and_length(look: Look) -> None:
    names = ("<script>window.ran = true</script>", "\U0001f600 $x$", "n" * 200, "W" * 60, "a b c")
    evidence, rule = watching(evidence_of(names), names[2], names[0])
    evaluation = evaluation_of(against_champion(evidence), rule, GateSpec(min_accuracy=0.99, min_recall=0.9))
    check(look(evidence, evaluation, "none"), "REJECTED", 2 + 1 + 3 + 1)


def test_many_classes(look: Look) -> None:
    evidence = evidence_of(tuple(f"a longer name of class {i}" for i in range(26)), each=4)
    evaluation = evaluation_of(evidence, gate=GateSpec(min_accuracy=0.01))
    check(look(evidence, evaluation, "none"), evaluation["verdict"], 2 + 0 + 7 + 1)


def test_pictures_are_read_from_this_machine(look: Look, tmp_path: Path) -> None:
    from PIL import Image

    evidence, rule = watching(evidence_of(("defective", "functional"), each=8), "defective")
    for i in range(len(evidence.test)):
        Image.new("RGB", (50, 40), (i, 0, 0)).save(tmp_path / f"patient-{i}.png")
    seen = look(evidence, evaluation_of(evidence, rule), "local")
    local = [natural for natural, _, alt in seen[400]["images"] if alt.startswith("Labelled")]
    assert local and set(local) == {50}
