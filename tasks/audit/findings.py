"""Findings: what is wrong with some pictures, how much it matters, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tasks.audit.spec import AuditSpec, Kind

Level = Literal["INFO", "WARN", "BLOCK"]
Action = Literal["keep", "drop", "relabel"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """One picture, or two that are one: rows of the dataset. `score` is 0 ... 1, the higher the surer.

    `action` is proposed for the last of the rows; `suggested` is the label that fits it better, where one does.
    """

    rows: tuple[int, ...]
    score: float
    action: Action = "keep"
    suggested: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was found and what to do, and names no picture; `suspects` come the worst first."""

    kind: Kind
    level: Level
    text: str
    suspects: tuple[Suspect, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def finding_of(body: Mapping[str, Any]) -> Finding:
    """The inverse of `as_json`, after a file."""
    suspects = tuple(
        Suspect(tuple(s["rows"]), float(s["score"]), s["action"], s["suggested"]) for s in body["suspects"]
    )
    return Finding(body["kind"], body["level"], body["text"], suspects)


def by_policy(findings: list[Finding], spec: AuditSpec) -> tuple[Finding, ...]:
    """Without what is ignored, BLOCK where the policy says so, or no policy can help; the gravest first."""
    rank = {"BLOCK": 0, "WARN": 1, "INFO": 2}
    told = [
        replace(found, level="BLOCK" if found.kind in spec.block else found.level)
        for found in findings
        if found.level == "BLOCK" or found.kind not in spec.ignore
    ]
    return tuple(sorted(told, key=lambda found: rank[found.level]))


def of_pictures(count: int) -> str:
    """
    >>> of_pictures(1), of_pictures(1200)
    ('1 picture', '1,200 pictures')
    """
    return counted(count, "picture")


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
