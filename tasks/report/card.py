"""What an evaluation says, as sentences; and `card.md`, the model card made of them and of the tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

import numpy as np

from tasks.report.tables import (
    MANY,
    NAMED,
    Body,
    Table,
    class_table,
    counts_table,
    gate_table,
    line_name,
    number,
    overall_table,
    slice_table,
    watched,
    words,
)


def verdict_sentence(evaluation: Body) -> str:
    deciding = [check for check in evaluation["checks"] if check["severity"] == "fail"]
    if evaluation["verdict"] == "PASSED":
        return f"All {len(deciding)} deciding lines of the gate are met."
    found = [line_name(check) for check in deciding if check["verdict"] == evaluation["verdict"]]
    names = list(dict.fromkeys(found))  # two lines may ask the same figure for more and for less
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    verb = "is" if len(found) == 1 else "are"
    why = "not met" if evaluation["verdict"] == "REJECTED" else "not decided by these pictures"
    return f"{len(found)} of {len(deciding)} lines of the gate {verb} {why}: {'; '.join(names[:NAMED])}{more}."


def notes(evaluation: Body) -> list[str]:
    """The rule, the test figures without technical terms, the champion's notes, how often these pictures decided."""
    matrix, held_out = np.array(evaluation["metrics"]["confusion_matrix"]), evaluation["held_out"]
    right, total = int(matrix.trace()), int(matrix.sum())
    said = [
        f"Decision rule: {evaluation['rule'] or 'the likeliest class'}.",
        f"Of {total:,} test pictures it decides {right:,} as they are labelled ({right / total:.1%})."
        if total
        else "There are no test pictures.",
    ]
    for label in watched(evaluation)[:NAMED]:
        i = evaluation["classes"].index(label)
        own, decided, found = int(matrix[i].sum()), int(matrix[:, i].sum()), int(matrix[i, i])
        said.append(
            f"Of {own:,} pictures of {label} it finds {found:,} and misses {own - found:,}; "
            f"{decided - found:,} of the {decided:,} that it calls {label} are something else."
        )
    said += [note[:1].upper() + note[1:].rstrip(".") + "." for note in evaluation["champion"]["notes"]]
    worn = " They are worn: take fresh ones, or a good figure may be luck." if held_out["worn"] else ""
    return [*said, f"This is decision number {held_out['decisions']} on these held-out pictures.{worn}"]


def limits(evaluation: Body) -> Iterator[str]:
    """What the figures cannot say, in sentences."""
    data = evaluation["data"]
    if data["grouped"]:
        yield "Groups stay on one side of the split, and intervals draw whole groups again: they hold for new groups."
    else:
        yield (
            "No groups were given: pictures of one object, person or day may stand on both sides of the split, and "
            "then the figures flatter the model. Beyond exact and near duplicates, leakage is unknown."
        )
    if (evaluation["configuration"].get("data") or {}).get("near_duplicates") is False:
        yield "Near duplicates were not looked for."
    if not evaluation["slices"]["rows"]:
        yield "No slices were given: whether one site, camera or kind does worse is unknown."
    yield f"Left out: {data['unreadable']} unreadable pictures, {data['bridges']} that join units of different splits."
    yield "It answers one of its classes for every picture, whatever that shows. Labels were taken as true."


def card(evaluation: Body) -> str:
    """`card.md`, which travels with the artifact: no file name, no picture. Texts from data are escaped."""
    classes = [_md(label) for label in evaluation["classes"]]
    named = ", ".join(classes[:MANY]) + (f" and {len(classes) - MANY} more" if len(classes) > MANY else "")
    tables = [gate_table, overall_table, class_table, slice_table, counts_table]
    parts = [
        f"# {_md(evaluation['name'])}",
        f"**{evaluation['verdict']}.** {_md(verdict_sentence(evaluation))}",
        f"**Use:** decides which of {len(classes)} classes a picture shows: {named}. For pictures taken like those it "
        "was made from; no evidence here speaks for others.",
        *(_md(note) for note in notes(evaluation)),
        *(f"## {_md(t.caption)}\n\n{_md_table(t)}" for table in tables if (t := table(evaluation))),
        f"Independent units: {evaluation['data']['units']}. Fingerprint: {evaluation['data']['fingerprint']}.",
        "## Limits\n\n" + "\n".join(f"- {_md(sentence)}" for sentence in limits(evaluation)),
        "## How it was made\n\n" + "\n".join(f"- {_md(line)}" for line in _recipe(evaluation)),
    ]
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode() + "\n"


def _recipe(evaluation: Body) -> Iterator[str]:
    """The training in a line each, without the names of anybody's files."""
    for part in ("model", "head", "finetune"):
        values = dict(evaluation["configuration"].get(part) or {})
        if values.get("weights", "none") not in ("imagenet", "none"):
            values["weights"] = "from a file"
        if values.get("method") == "solve":
            values = {name: values[name] for name in ("method", "class_weights") if name in values}
        if values:
            yield f"{part}: " + ", ".join(f"{words(name)} {value}" for name, value in values.items())
    for name, phase in evaluation["phases"].items():
        yield f"{words(name)}: {phase['trainable']['values']:,} values trained, epoch {phase['best_epoch']} kept"
    yield f"temperature {number(evaluation['temperature'])}, fitted on validation"
    yield f"precision {evaluation['precision']}, {number(evaluation['size_mb'])} MB"


def _md_table(table: Table) -> str:
    rows = [[_md(cell) for cell in row] for row in (table.header, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(table.header), *rows[1:]))


def _md(cell: object) -> str:
    """Text that Markdown takes as text, on one line."""
    return re.sub(r"([\\`*_\[\]{}|#~!$])", r"\\\1", escape(" ".join(str(cell).split()), quote=False))
