"""The gate report: one HTML page that needs no other file, script or network. The verdict and its lines come first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from tasks.data.dataset import Dataset, Subset
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.spec import GAINED
from tasks.report import card, learnt, mistakes, tables
from tasks.report.audited import audited
from tasks.report.markup import page_html, paragraph
from tasks.report.mistakes import Part, Pictures
from tasks.report.tables import Body, Cell, Measured, Table, measured, number, words

_GLYPHS = {"PASSED": "\u2713", "REJECTED": "\u2715", "INCONCLUSIVE": "?"}
_EVIDENCE = (
    "A line with evidence interval passes only if its whole confidence interval lies on the wanted side; with point "
    "the value decides. What was not measured never passes."
)


def write_report(
    path: Path, evaluation: Body, evidence: Evidence, dataset: Dataset, test: Subset, pictures: Pictures
) -> None:
    """Writes the page. `test` is aligned with `evidence.test`; the same input gives the same bytes.

    `pictures` of the worst mistakes: `embed` puts small copies and names into the page, `local` the addresses of the
    files on this machine; with `none` the page holds neither pictures nor names of files, and may travel.
    """
    missing = "The data has no slices: name columns of a manifest in data.slices to get them."
    sections: dict[str, list[Part]] = {
        "The gate, line by line": [paragraph(_EVIDENCE), tables.gate_table(evaluation)],
        "Training": learnt.training(evaluation),
        "Confusion": mistakes.confusions(evaluation),
        "Operating points": mistakes.operating_points(evaluation, evidence),
        "Calibration": mistakes.calibration(evaluation, evidence),
        "Classes": [tables.class_table(evaluation)],
        "Overall figures": [tables.overall_table(evaluation)],
        "Slices": [tables.slice_table(evaluation) or paragraph(missing)],
        "Worst mistakes": mistakes.worst_mistakes(evaluation, evidence, dataset, test, pictures),
        "Baselines": _baselines(evaluation),
        "Champion": _champion(evaluation),
        "Audit": audited(evaluation.get("audit") or {}),
        "Data": _data(evaluation),
        "The exported file": [_file(evaluation)],
        "Configuration": [_settings(evaluation["configuration"], pictures)],
        "Provenance": [_settings(evaluation["provenance"], pictures)],
        "Time": [_time(evaluation["seconds"])],
    }
    name = evaluation["name"]
    page = page_html(f"{name}: {evaluation['verdict']}", "Gate report", name, _lead(evaluation), sections)
    # a name in another encoding than UTF-8 must not lose the report
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _lead(evaluation: Body) -> str:
    """Verdict, rule and notes, and beside them what was judged."""
    verdict, champion, made = evaluation["verdict"], evaluation["champion"], evaluation["provenance"]
    chosen = {part: evaluation["configuration"].get(part) or {} for part in ("model", "gate")}
    facts = {
        "test pictures": number(evaluation["metrics"]["n"]),
        "classes": number(len(evaluation["classes"])),
        "intervals at": chosen["gate"].get("confidence"),
        "backbone": chosen["model"].get("backbone"),
        "file": f"{evaluation['precision']}, {number(evaluation['size_mb'], 1)} MB",
        "champion": "none yet" if champion["version"] is None else f"version {champion['version']}",
        "run": made.get("run_id"),
        "made at": made.get("made_at"),
        "verdict digest": evaluation["verdict_digest"][:12],
    }
    return (
        f'<div class="banner {verdict}"><span class="word" aria-hidden="true">{_GLYPHS[verdict]}</span><div>'
        f'<p class="word">{verdict}</p><p>{escape(card.verdict_sentence(evaluation))}</p></div></div>'
        f'<div class="lead"><div>{"".join(map(paragraph, card.notes(evaluation)))}</div>'
        f"{_facts({name: value for name, value in facts.items() if value is not None})}</div>"
    )


def _baselines(evaluation: Body) -> list[Part]:
    found, test = evaluation["baselines"], evaluation["metrics"]
    header = ["figure", "this model"]
    for name in found:
        header += [words(name), f"gain over {words(name)}"]
    rows: list[tuple[Cell, ...]] = []
    for metric in GAINED:
        cells: list[Cell] = [measured(test["argmax"] if metric in test["argmax"] else test, metric)]
        for theirs in found.values():
            gain = theirs["gains"][metric]
            cells += [measured(theirs, metric), Measured(gain["value"], gain["interval"])]
        rows.append((words(metric), *cells))
    text = "All at argmax on test; a gain above 0 is this model's. "
    text += f"Majority always says {found['majority']['label']}. " if "majority" in found else ""
    known = "is the frozen backbone with its trained head" if "head_only" in found else "is not known"
    return [paragraph(f"{text}Head only {known}."), Table("Against the baselines", tuple(header), tuple(rows))]


def _champion(evaluation: Body) -> list[Part]:
    champion = evaluation["champion"]
    if champion["version"] is None:
        return [paragraph("No champion yet: there is nothing to compare with.")]
    named = f"version {champion['version']} ({str(champion['digest'])[:12]}), generation {champion['generation']}"
    parts: list[Part] = [paragraph(f"Compared with {named}."), *map(paragraph, champion["notes"])]
    if (pairs := champion["mcnemar"]) is None:
        return [*parts, paragraph("No picture could be compared.")]
    rows: tuple[tuple[Cell, ...], ...] = (
        ("pictures compared", pairs["n"]),
        ("only this model is right", pairs["only_this_right"]),
        ("only the champion is right", pairs["only_champion_right"]),
        (
            "p, exact McNemar test",
            "not computed: pictures of a group are not independent" if pairs["p"] is None else number(pairs["p"]),
        ),
    )
    return [*parts, Table("The same test pictures, both models", ("", "figure"), rows)]


def _data(evaluation: Body) -> list[Part]:
    data, counts = evaluation["data"], tables.counts_table(evaluation)
    facts = {
        "independent units": data["units"],
        "groups given": "yes" if data["grouped"] else "no",
        "unreadable, left out": data["unreadable"],
        "bridges, left out": data["bridges"],
        "fingerprint": data["fingerprint"],
    }
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in card.limits(evaluation))
    return [*([counts] if counts else []), _facts(facts), f"<h3>What the figures cannot say</h3><ul>{said}</ul>"]


def _file(evaluation: Body) -> str:
    latency = f"{number(evaluation['latency_ms'])} ms, median of single pictures, decode included"
    return _facts(
        {
            "precision": evaluation["precision"],
            "size": f"{number(evaluation['size_mb'])} MB",
            "latency": "not measured" if evaluation["latency_ms"] is None else latency,
            "provider": evaluation.get("provider"),
            "temperature": number(evaluation["temperature"], 4),
            "verdict digest": evaluation["verdict_digest"],
        }
    )


def _time(seconds: Mapping[str, float]) -> Table:
    rows = [(words(step), f"{value:.1f}") for step, value in {**seconds, "all": sum(seconds.values())}.items()]
    return Table("Seconds per step", ("step", "seconds"), tuple(rows))


def _settings(values: Mapping[str, Any], pictures: Pictures) -> str:
    """Nested values as a block each; with `none` without the name of the folder or manifest."""
    parts = {"general": {name: v for name, v in values.items() if not isinstance(v, Mapping)}}
    parts |= {name: dict(v) for name, v in values.items() if isinstance(v, Mapping)}
    if pictures == "none" and "root" in parts.get("data", {}):
        parts["data"]["root"] = "left out"
    blocks = (f"<div><h3>{escape(name)}</h3>{_facts(part)}</div>" for name, part in parts.items() if part)
    return f'<div class="settings">{"".join(blocks)}</div>' if values else paragraph("Not recorded.")


def _facts(facts: Mapping[str, Any]) -> str:
    def shown(value: object) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return "not set" if value is None else escape(text)

    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{shown(value)}</dd>' for name, value in facts.items())}</dl>"
