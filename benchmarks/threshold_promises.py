"""Is the served threshold's promise kept for pictures in groups, and for a precision that no threshold has?

    uv run python -m benchmarks.threshold_promises [--write] [--draws 1000]

Grouped: positives whose scores go by their group (intraclass correlation 0.49) and a wanted recall of 0.90, by groups
and without. Precision: pictures of which a share just below the wanted 0.90 is positive, whatever their score, so that
every rule is wrong. Required: with groups kept in at least 95 % of the draws that give a rule, or none given; a wrong
precision in no more than 5 % (both within two standard errors). Exits 1 with what was not met. About 2 minutes.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.coverage import SEED, conclude, rows
from serving.errors import BadInput
from tasks.evaluation.metrics import Floats
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import CONFIDENCE, choose_rule

DRAWS = 1_000
WANTED, BELOW, CORRELATION = 0.90, 0.898, 0.49
GROUPS = ((123, 1), (60, 5), (40, 3), (25, 5), (12, 10), (3, 40))  # how many, and pictures of each
PICTURES = (400, 1_000, 5_000)
RECALL = DecisionSpec(watch=(WatchSpec(label="bad", recall=WANTED),))
PRECISION = DecisionSpec(watch=(WatchSpec(label="bad", precision=WANTED),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--draws", type=int, default=DRAWS, help="validation sets drawn for each row")
    arguments = parser.parse_args()
    figures = measure(arguments.draws)
    conclude("threshold_promises", figures, table(figures), requirements(figures), arguments.write)


def measure(draws: int) -> dict[str, Any]:
    random = np.random.default_rng(SEED)
    grouped = [grouped_row(groups, each, draws, random) for groups, each in GROUPS]
    return {"draws": draws, "grouped": grouped, "precision": [precision_row(n, draws, random) for n in PICTURES]}


def grouped_row(groups: int, each: int, draws: int, random: np.random.Generator) -> dict[str, Any]:
    """Shares of draws that give a rule, and of those in which it truly holds; by groups and by pictures."""
    member = np.repeat(np.arange(groups), each)
    names, truth = tuple(f"{i}" for i in member), np.zeros(len(member), np.int64)
    recalls: dict[str, list[float]] = {"groups": [], "pictures": []}
    for _ in range(draws):
        of_groups, own = random.standard_normal(groups)[member], random.standard_normal(len(member))
        # uniform over all pictures there could be: the true recall of a threshold t is 1 - t
        scores = stats.norm.cdf(np.sqrt(CORRELATION) * of_groups + np.sqrt(1 - CORRELATION) * own)
        for unit, given in (("groups", names), ("pictures", None)):
            threshold = chosen(scores, truth, RECALL, given)
            recalls[unit] += [] if threshold is None else [1 - threshold]
    row: dict[str, Any] = {"groups": groups, "each": each}
    for unit, found in recalls.items():
        row[f"issued_{unit}"] = len(found) / draws
        row[f"kept_{unit}"] = float(np.mean(np.array(found) >= WANTED)) if found else None
    return row


def precision_row(pictures: int, draws: int, random: np.random.Generator) -> dict[str, Any]:
    """Shares of draws in which a rule is given, which is wrong: by the rule, and by the best of all thresholds."""
    wrong = best = 0
    for _ in range(draws):
        truth = (random.random(pictures) >= BELOW).astype(np.int64)
        wrong += chosen(random.random(pictures), truth, PRECISION, None) is not None
        hits, decided = np.cumsum(truth == 0), np.arange(1, pictures + 1)
        best += bool((stats.beta.ppf(1 - CONFIDENCE, np.maximum(hits, 1), decided - hits + 1) >= WANTED).any())
    return {"pictures": pictures, "wrong": wrong / draws, "best_of_all": best / draws}


def chosen(scores: Floats, truth: Any, decision: DecisionSpec, groups: tuple[str, ...] | None) -> float | None:
    """The real rule's threshold; None where it refuses."""
    try:
        rule = choose_rule(np.stack([scores, 1 - scores], axis=1), truth, ("bad", "good"), decision, groups)
    except BadInput:
        return None
    return rule.watch[0].threshold


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    doubt = 2 * np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / f["draws"])
    kept = [
        (
            row["kept_groups"] is None or row["kept_groups"] >= CONFIDENCE - doubt,
            f"recall kept in {CONFIDENCE} of draws of {row['groups']} groups, found {row['kept_groups']}",
        )
        for row in f["grouped"]
    ]
    return kept + [
        (
            row["wrong"] <= 1 - CONFIDENCE + doubt,
            f"a wrong precision in {1 - CONFIDENCE:.2f} of draws of {row['pictures']} pictures, found {row['wrong']}",
        )
        for row in f["precision"]
    ]


def table(f: dict[str, Any]) -> str:
    """In percent."""
    shown = [
        (f"{r['groups']} x {r['each']}", *(_percent(r[k]) for k in ("issued_groups", "kept_groups", "kept_pictures")))
        for r in f["grouped"]
    ]
    wrong = [(f"{r['pictures']:,}", _percent(r["wrong"]), _percent(r["best_of_all"])) for r in f["precision"]]
    return "\n".join(
        [
            f"# What the served threshold promises: {f['draws']} validation sets a row, in %",
            f"\nA recall of {WANTED} of positives in groups, scores correlated by {CORRELATION} within a group.\n",
            rows(("groups x pictures", "a rule is given", "kept, of those", "kept if pictures were counted"), shown),
            f"\nA precision of {WANTED} where {BELOW} of the pictures are positive whatever their score.\n",
            rows(("pictures", "a rule is given, wrongly", "if the best of all thresholds were taken"), wrong),
            "\nFewer than 29 groups cannot show a recall of 0.9: nothing is given. Counting groups is careful where "
            "their pictures differ.\n",
        ]
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
