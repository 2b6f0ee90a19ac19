"""A verdict from evidence: every line is evaluated and listed, whatever the others say."""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving import sealed
from tasks.evaluation.advice import advise
from tasks.evaluation.champion import Comparison, compare
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Check, Line, Measurement, Verdict, judge, overall
from tasks.evaluation.lines import built_in_lines, measured, parity_lines, wanted_lines
from tasks.evaluation.spec import DecisionSpec, GateSpec


@dataclass(frozen=True, slots=True)
class Judgement:
    """`digest` names the decisions and verdicts that another machine must reach from the same pictures and file."""

    verdict: Verdict
    checks: tuple[Check, ...]
    comparison: Comparison
    digest: str


def judge_all(evidence: Evidence, decision: DecisionSpec, gate: GateSpec, precision: str) -> Judgement:
    """Judges every line. Raises BadInput for a line about a class or slice that does not exist."""
    evidence = evidence.in_order()
    shares = {
        label: float((evidence.test.truth == i).sum() / max(1, len(evidence.test)))
        for i, label in enumerate(evidence.classes)
    }
    comparison = compare(evidence, decision, gate)
    lines = (
        *wanted_lines(gate, evidence.classes, evidence.slice_values()),
        *built_in_lines(decision, evidence.classes, shares),
        *parity_lines(precision),
    )
    pairs = (*((line, measured(line, evidence, gate.confidence)) for line in lines), *comparison.lines)
    checks = tuple(_check(line, found, evidence, gate.confidence) for line, found in pairs)
    return Judgement(overall(checks), checks, comparison, verdict_digest(evidence, checks))


def verdict_digest(evidence: Evidence, checks: tuple[Check, ...]) -> str:
    """sha256 of every test picture's truth and decision, and of the verdict of each line that pictures decide.

    Left out: values, which differ by rounding between processors, and lines on this machine or on weights that do not
    travel (parity, latency, gains over the head alone).
    """
    test = evidence.test
    decided = sorted(zip(test.digests, test.truth.tolist(), test.decided.tolist(), strict=True))
    lines = [
        (c.metric, c.split, c.scope, c.operator, c.threshold, c.evidence, c.severity, c.n, c.verdict)
        for c in checks
        if travels(c)
    ]
    return sealed.digest_of([evidence.classes, decided, lines])


def travels(check: Check) -> bool:
    """Whether a line can be judged again elsewhere, from the artifact and the pictures."""
    return not (check.metric.startswith(("parity", "latency")) or check.metric.endswith("_over_head_only"))


def _check(line: Line, found: Measurement | None, evidence: Evidence, confidence: float) -> Check:
    check = judge(line, found)
    advice = advise(check, found, confidence, evidence.samples["validation"], evidence.classes)
    return replace(check, advice=advice)
