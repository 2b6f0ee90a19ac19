"""The audit as one HTML page that needs no other file, script or network: findings, and the pictures they are about."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from serving.preprocess import Pixels
from tasks.audit.audit import Audit
from tasks.audit.findings import Finding, Suspect, counted, of_pictures
from tasks.data.dataset import Dataset, pixels
from tasks.data.facts import Facts, facts
from tasks.report.audited import findings_table, proofs_tables
from tasks.report.charts import embedded
from tasks.report.markup import page_html, paragraph
from tasks.report.mistakes import Part

Pictures = Literal["embed", "local", "none"]
_MOST = 24  # suspects shown of each finding
_SIDE = 160  # pixels of one picture


def write_page(path: Path, name: str, found: Audit, dataset: Dataset, shown: Pictures) -> None:
    """Writes the page. With `none` it holds neither pictures nor names of files, and may travel."""
    told = facts(dataset)
    counted = [{"level": f.level, "kind": f.kind, "text": f.text, "count": len(f.suspects)} for f in found.findings]
    sections: dict[str, list[Part]] = {
        "Findings": [findings_table(counted)] if counted else [paragraph("Nothing was found.")],
        "What these pictures can prove": proofs_tables(found.proofs),
    }
    images = pixels(dataset)
    for finding in found.findings:
        if finding.suspects:
            sections[finding.kind.replace("_", " ").capitalize()] = _sheet(finding, dataset, told, images, shown)
    # a name in another encoding than UTF-8 must not lose the page
    path.write_text(_page(name, found, sections), encoding="utf-8", errors="backslashreplace")


def _page(name: str, found: Audit, sections: dict[str, list[Part]]) -> str:
    word = "REJECTED" if found.blocking else "PASSED"  # only the colours of the banner
    said = (
        f"{counted(len(found.blocking), 'finding')} would stop a retrain."
        if found.blocking
        else "Nothing here stops a retrain."
    )
    lead = f'<div class="banner {word}"><p>{said}</p></div>'
    return page_html(f"{name}: audit", f"Audit of {of_pictures(found.pictures)}", name, lead, sections)


def _sheet(finding: Finding, dataset: Dataset, told: Facts, images: Pixels, shown: Pictures) -> list[Part]:
    """The worst of a finding, pairs side by side."""
    items = "".join(_item(suspect, dataset, told, images, shown) for suspect in finding.suspects[:_MOST])
    more = len(finding.suspects) - _MOST
    rest = [paragraph(f"And {more:,} more: --suspects lists them all.")] if more > 0 else []
    return [paragraph(finding.text), f'<ul class="pictures">{items}</ul>', *rest]


def _item(suspect: Suspect, dataset: Dataset, told: Facts, images: Pixels, shown: Pictures) -> str:
    labels = " and ".join(dataset.classes[told.labels[row]] for row in suspect.rows)
    names = "".join(
        f'<p class="name">{escape(told.digests[row][:12] if shown == "none" else told.paths[row].name)}</p>'
        for row in suspect.rows
    )
    facts_of = {"labelled": labels, "split": " and ".join(told.splits[row] for row in suspect.rows)}
    facts_of |= {"suggested": suspect.suggested} if suspect.suggested else {}
    facts_of |= {"score": f"{suspect.score:.3f}"}
    list_ = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in facts_of.items())
    return f"<li>{_images(suspect, told, images, labels, shown)}{names}<dl>{list_}</dl></li>"


def _images(suspect: Suspect, told: Facts, images: Pixels, labels: str, shown: Pictures) -> str:
    if shown == "none":
        return ""
    alt = escape(f"Labelled {labels}")
    if shown == "local":
        places = (told.paths[row].absolute().as_uri() for row in suspect.rows)
        return "".join(f'<img src="{escape(place)}" alt="{alt}">' for place in places)
    side_by_side = Image.new("RGB", (_SIDE * len(suspect.rows), _SIDE))
    for position, row in enumerate(suspect.rows):
        small = Image.fromarray(np.array(images[row])).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        side_by_side.paste(small, (position * _SIDE, 0))
    buffer = io.BytesIO()
    side_by_side.save(buffer, "JPEG", quality=85)
    return f'<img src="{embedded(buffer.getvalue(), "image/jpeg")}" alt="{alt}">'
