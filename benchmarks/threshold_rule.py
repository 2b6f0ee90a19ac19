"""Does the threshold rule keep its promise? Its choice on validation, repeated thousands of times, against the truth.

    uv run python -m benchmarks.threshold_rule EVALUATION_DIR [--write] [--draws 5000]

EVALUATION_DIR: an evaluation of `thaw demo` (`.thaw/runs/*/evaluation-1`). Its validation and test scores stand for all
pictures there could be. Each draw takes as many positives and negatives as validation had, chooses the threshold by the
real `choose_rule`, and looks at the recall it truly has. Required: the wanted recall is reached in at least 90 % of
draws. Beside it the naive rule, which takes the wanted share of the validation positives themselves.
Exits 1 with what was not met. About 20 s.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from benchmarks.coverage import SEED, conclude, rows
from tasks.evaluation.evidence import Evidence, load
from tasks.evaluation.intervals import clopper_pearson_lower
from tasks.evaluation.metrics import Floats
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import CONFIDENCE, choose_rule

DRAWS = 5_000
LABEL, WANTED = "defective", 0.90  # the demo's watched class, flows/demo.py
REACHED = 0.90
_CLIP = 1e-6


@dataclass(frozen=True, slots=True)
class Population:
    """Scores of one kind of picture on the logit scale: Gaussian kernels at `centres`; width 0 draws those again."""

    centres: Floats
    width: float

    def draw(self, count: int, random: np.random.Generator) -> Floats:
        return random.choice(self.centres, count) + self.width * random.standard_normal(count)

    def above(self, threshold: float) -> float:
        """The share of all such pictures that score at least `threshold`."""
        if self.width == 0:
            return float((self.centres >= threshold).mean())
        return float(stats.norm.sf((threshold - self.centres) / self.width).mean())


@dataclass(frozen=True, slots=True)
class World:
    """Both kinds of picture, and how many of each validation and test held."""

    positives: Population
    negatives: Population
    validation: tuple[int, int]
    test: tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="directory with evidence.npz")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--draws", type=int, default=DRAWS, help="validation sets drawn")
    arguments = parser.parse_args()
    figures = measure(load(arguments.evaluation), arguments.draws)
    conclude("threshold_rule", figures, table(figures), requirements(figures), arguments.write)


def measure(evidence: Evidence, draws: int) -> dict[str, Any]:
    """Both rules in both populations; the same draws for the same count."""
    worlds = {"smoothed": world(evidence, smooth=True), "resampled": world(evidence, smooth=False)}
    smoothed = worlds["smoothed"]
    needed = _hits_needed(smoothed.validation[0])
    return {
        "draws": draws,
        "validation": smoothed.validation,
        "test": smoothed.test,
        "width_positives": smoothed.positives.width,
        "width_negatives": smoothed.negatives.width,
        "hits_needed": needed,
        # the recall at the k-th highest of n continuous scores is Beta(k, n - k + 1), whatever their distribution
        "expected": float(stats.beta.sf(WANTED, needed, smoothed.validation[0] - needed + 1)),
        "results": [{"population": name} | row for name, where in worlds.items() for row in simulate(where, draws)],
    }


def world(evidence: Evidence, smooth: bool) -> World:
    index = evidence.classes.index(LABEL)
    validation, test = evidence.samples["validation"], evidence.samples["test"]
    scores = np.concatenate([validation.probabilities[:, index], test.probabilities[:, index]]).astype(np.float64)
    positive = np.concatenate([validation.truth, test.truth]) == index
    centres = logit(np.clip(scores, _CLIP, 1 - _CLIP))
    kinds = [Population(part, _silverman(part) if smooth else 0.0) for part in (centres[positive], centres[~positive])]
    counts = [(int((s.truth == index).sum()), int((s.truth != index).sum())) for s in (validation, test)]
    return World(kinds[0], kinds[1], counts[0], counts[1])


def simulate(where: World, draws: int) -> list[dict[str, Any]]:
    """For the rule, the naive one and argmax: how often, and at which price."""
    random = np.random.default_rng(SEED)
    found: dict[str, list[tuple[float, ...]]] = {"the rule": [], "naive": [], "argmax": []}
    for _ in range(draws):
        positives, negatives = (
            kind.draw(count, random)
            for kind, count in zip((where.positives, where.negatives), where.validation, strict=True)
        )
        fresh = where.positives.draw(where.test[0], random)
        thresholds = {"the rule": chosen(positives, negatives), "naive": naive(positives), "argmax": 0.0}
        for name, threshold in thresholds.items():
            true, false = where.positives.above(threshold), where.negatives.above(threshold)
            found[name].append((threshold, true, false, float((fresh >= threshold).mean())))
    return [_row(name, np.array(values), where) for name, values in found.items()]


def chosen(positives: Floats, negatives: Floats) -> float:
    """The real rule's threshold, on the logit scale."""
    scores = expit(np.concatenate([positives, negatives]))
    probabilities = np.stack([scores, 1 - scores], axis=1).astype(np.float32)
    truth = (np.arange(len(scores)) >= len(positives)).astype(np.int64)
    decision = DecisionSpec(watch=(WatchSpec(label=LABEL, recall=WANTED),))
    rule = choose_rule(probabilities, truth, (LABEL, "other"), decision)
    return float(logit(rule.watch[0].threshold))


def naive(positives: Floats) -> float:
    """The largest threshold that finds the wanted share of these very positives."""
    return float(np.sort(positives)[::-1][int(np.ceil(WANTED * len(positives))) - 1])


def _row(name: str, values: Floats, where: World) -> dict[str, Any]:
    threshold, true, false, fresh = values.T
    positives, negatives = np.add(where.validation, where.test)
    hits, alarms = positives * true, negatives * false
    return {
        "rule": name,
        "reached": float((true >= WANTED).mean()),
        "reached_on_test": float((fresh >= WANTED).mean()),
        "threshold": float(expit(np.median(threshold))),
        "recall": float(true.mean()),
        "recall_5th": float(np.quantile(true, 0.05)),
        "precision": float((hits / (hits + alarms)).mean()),
        "accuracy": float(((hits + negatives - alarms) / (positives + negatives)).mean()),
    }


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    return [
        (
            row[key] >= REACHED,
            f"recall {WANTED} reached in {REACHED} of draws ({row['population']}, {key}), found {row[key]:.4f}",
        )
        for row in f["results"]
        if row["rule"] == "the rule"
        for key in ("reached", "reached_on_test")
    ]


def table(f: dict[str, Any]) -> str:
    """In percent."""
    shares = ("reached", "reached_on_test", "recall", "recall_5th", "precision", "accuracy")
    header = ("population", "rule", f"true recall >= {WANTED}", "the same on a fresh test split", "mean recall")
    body = [
        (r["population"], r["rule"], *(f"{100 * r[k]:.1f}" for k in shares), f"{r['threshold']:.3f}")
        for r in f["results"]
    ]
    (vp, vn), (tp, tn) = f["validation"], f["test"]
    return "\n".join(
        [
            f"# The threshold for a recall of {WANTED} of {LABEL!r}: {f['draws']} validation sets, in %",
            f"\nEach has {vp} positives and {vn} negatives, a fresh test split {tp} and {tn}. Population: the demo's "
            f"{vp + tp} and {vn + tn} validation and test scores, smoothed on the logit scale by Gaussian kernels of "
            "Silverman's width "
            f"({f['width_positives']:.2f} and {f['width_negatives']:.2f}), or resampled as they are.\n",
            rows((*header, "5th percentile", "precision", "accuracy", "median threshold"), body),
            f"\nThe rule asks for {f['hits_needed']} of {vp} found. By the law of order statistics (Wilks 1941) that "
            f"reaches {WANTED} in {100 * f['expected']:.1f} % whatever the scores' distribution; ties only add to it. "
            "The naive threshold reaches it less than half the time: recall on the pictures it was chosen on is no "
            "promise for others. The promise costs precision and accuracy, and holds for pictures like those of "
            "validation only: when pictures change, nothing chosen on old ones holds.\n",
        ]
    )


def _hits_needed(positives: int) -> int:
    """The fewest found that show the wanted recall."""
    return next(k for k in range(positives + 1) if clopper_pearson_lower(k, positives, CONFIDENCE) >= WANTED)


def _silverman(values: Floats) -> float:
    """0.9 min(sd, interquartile range / 1.34) n^(-1/5) (Silverman 1986)."""
    spread = min(values.std(ddof=1), float(stats.iqr(values)) / 1.34)
    return float(0.9 * spread * len(values) ** -0.2)


if __name__ == "__main__":
    main()
