"""The gate report as one self-contained HTML page, and the artifact's card, from one evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1a1f24;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:left;border-bottom:1px solid #d9dee3}
th{font-weight:600}.PASSED{color:#0a6b2d}.REJECTED{color:#b3261e}.INCONCLUSIVE{color:#8a5300}
.verdict{font-size:1.3rem;font-weight:700}pre{overflow-x:auto;background:#f4f6f8;padding:1rem}
"""
Row = Iterable[object]


def html_page(evaluation: Mapping[str, Any]) -> str:
    """The report; `evaluation` is what `evaluation.json` holds. Nothing in it is loaded from elsewhere."""
    verdict = str(evaluation["verdict"])
    sections = [
        f"<h1>{escape(str(evaluation['name']))}</h1>",
        f'<p class="verdict {verdict}">{verdict}</p>',
        f"<p>{escape(_rule(evaluation))}</p>",
        *(f"<p>{escape(note)}</p>" for note in evaluation["champion"]["notes"]),
        f"<p>{escape(_held_out(evaluation))}</p>",
        "<h2>The gate, line by line</h2>",
        _checks(evaluation["checks"]),
        "<h2>Per class, on the test split</h2>",
        _classes(evaluation),
        "<h2>Confusion matrix (rows: true, columns: decided)</h2>",
        _confusion(evaluation),
        "<h2>Against the baselines, at argmax on the test split</h2>",
        _baselines(evaluation),
        *(_phase(name, phase) for name, phase in evaluation["phases"].items()),
        "<h2>Data</h2>",
        _counts(evaluation),
        "<h2>Configuration and provenance</h2>",
        f"<pre>{escape(json.dumps({k: evaluation[k] for k in ('configuration', 'provenance')}, indent=1))}</pre>",
    ]
    title = f"{escape(str(evaluation['name']))}: {verdict}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "".join(sections)
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>'


def card(evaluation: Mapping[str, Any]) -> str:
    """`card.md`: what the model decides, how well, on what evidence."""
    figures = evaluation["metrics"]
    lines = [
        f"# {evaluation['name']}",
        "",
        f"Verdict: **{evaluation['verdict']}**. {_rule(evaluation)}",
        "",
        "| line | value | interval | wanted | n | verdict |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(map(str, _check_row(check)[:6]))} |" for check in evaluation["checks"]),
        "",
        f"Test split: accuracy {_number(figures['accuracy'])}, macro recall {_number(figures['macro_recall'])}, "
        f"{figures['n']} pictures.",
        "",
    ]
    return "\n".join(lines)


def _rule(evaluation: Mapping[str, Any]) -> str:
    return f"Decision rule: {evaluation['rule'] or 'the likeliest class'}."


def _held_out(evaluation: Mapping[str, Any]) -> str:
    count = evaluation["held_out"]["decisions"]
    worn = " They are worn: take fresh ones, or a good figure may be luck." if evaluation["held_out"]["worn"] else ""
    return f"Decision number {count} on these held-out pictures.{worn}"


def _checks(checks: Iterable[Mapping[str, Any]]) -> str:
    header = ("line", "value", "interval", "wanted", "n", "verdict", "evidence", "what next")
    return _table(header, [_check_row(check) for check in checks])


def _check_row(check: Mapping[str, Any]) -> tuple[object, ...]:
    scope = "" if check["scope"] == "overall" else f" of {check['scope']}"
    line = f"{check['metric']}{scope}, {check['split']}"
    if check["severity"] == "warn":
        line += " (warning only)"
    interval = "" if check["ci_low"] is None else f"{check['ci_low']:.4f} - {check['ci_high']:.4f}"
    wanted = f"{check['operator']} {check['threshold']:.4g}"
    value = _number(check["value"])
    return line, value, interval, wanted, check["n"], check["verdict"], check["evidence"], check["advice"] or ""


def _classes(evaluation: Mapping[str, Any]) -> str:
    figures = evaluation["metrics"]
    rows = [
        (
            label,
            *(
                _number(source[name][label])
                for source in (figures, figures["argmax"])
                for name in ("recall", "precision", "f1")
            ),
        )
        for label in evaluation["classes"]
    ]
    names = ("recall", "precision", "F1")
    return _table(("class", *names, *(f"{name} at argmax" for name in names)), rows)


def _confusion(evaluation: Mapping[str, Any]) -> str:
    classes = evaluation["classes"]
    matrix = evaluation["metrics"]["confusion_matrix"]
    return _table(("", *classes), [(label, *counts) for label, counts in zip(classes, matrix, strict=True)])


def _baselines(evaluation: Mapping[str, Any]) -> str:
    models = {**evaluation["baselines"], "this model": evaluation["metrics"]["argmax"]}
    names = ("accuracy", "macro_recall", "macro_precision", "macro_f1")
    return _table(("model", *names), [(label, *(_number(m[name]) for name in names)) for label, m in models.items()])


def _phase(name: str, phase: Mapping[str, Any]) -> str:
    trained = phase["trainable"]
    counts = f"{trained['tensors']} tensors, {trained['values']:,} values trained"
    title = f"<h2>{escape(name)}: {counts}; epoch {phase['best_epoch']} kept</h2>"
    names = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
    return title + _table(names, [[_number(epoch[column]) for column in names] for epoch in phase["epochs"]])


def _counts(evaluation: Mapping[str, Any]) -> str:
    rows = [
        (split, *(counts.get(label, 0) for label in evaluation["classes"]))
        for split, counts in evaluation["counts"].items()
    ]
    return _table(("split", *evaluation["classes"]), rows)


def _table(header: Row, rows: Iterable[Row]) -> str:
    def cells(tag: str, row: Row) -> str:
        return "".join(f"<{tag}{_class(cell)}>{escape(str(cell))}</{tag}>" for cell in row)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", header)}</tr>{body}</table></div>'


def _class(cell: object) -> str:
    return f' class="{cell}"' if cell in ("PASSED", "REJECTED", "INCONCLUSIVE") else ""


def _number(value: float | int | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.4g}" if abs(value) < 0.001 else f"{value:.4f}"
