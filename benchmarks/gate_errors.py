"""How often the comparison with the champion errs: once, and over 365 nights on the same held-out pictures.

    uv run python -m benchmarks.gate_errors [--write] [--draws 10000] [--retrains 1000]

`--draws`: simulated comparisons a cell, each judged by the real `compare` and `judge`, the line on recall alone.
Required, at 400 positives, 8 % disagreement and a stated margin of 0.05: a challenger 5 points worse is promoted in at
most 5 %, an equally good one refused in at most 10 %. `--retrains`: years simulated a row, see `nights`.
Exits 1 with what was not met. About 5 minutes; `--draws 500 --retrains 20` 40 s.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq
from scipy.special import owens_t

from benchmarks.coverage import SEED, conclude, rows
from tasks.evaluation.champion import RECALL_MARGIN, compare
from tasks.evaluation.evidence import Evidence, Machine, Pairs
from tasks.evaluation.gate import Line, Measurement, Verdict, judge
from tasks.evaluation.intervals import wilson
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec

Bools = npt.NDArray[np.bool_]
DRAWS, YEARS, NIGHTS, EARLY = 10_000, 1_000, 365, 50  # EARLY: where Thaw calls the held-out pictures worn
SIZES = (50, 100, 200, 400, 1000, 2000)
DISAGREEMENTS = (0.02, 0.05, 0.08, 0.12, 0.20)
DIFFERENCES = (-0.05, -0.02, 0.0)
MARGIN = 0.05
GATES = (("interval", MARGIN), ("point", None))  # None: the user states no margin, the built-in one holds
POSITIVES, DISAGREEMENT, START, FLOOR, ACCIDENT = 400, 0.08, 0.90, 0.80, 0.06
MOST_WRONG, MOST_REFUSED = 0.05, 0.10
CLASSES = ("defective", "functional")
DECISION = DecisionSpec(watch=(WatchSpec(label=CLASSES[0], recall=0.9),))
ONCE = ("5 points worse, promoted", "2 worse, promoted", "equal, refused")
ONCE_HEADER = tuple(f"{name}: {what}" for name in (f"interval {MARGIN}", f"point {RECALL_MARGIN}") for what in ONCE)
CHANGES = ("change_50", "change_365", "change_low", "change_high", "optimism_50", "optimism_365")
NIGHTS_HEADER = (
    *("challengers' true recall", "evidence", "gate", "promoted", "of them truly worse", "worse by > margin"),
    *("share of years with one", "change of true recall after 50", "after 365", "5th", "95th percentile"),
    *("held-out minus true after 50", "after 365"),
)
WORDS = """
Once: a stated margin, judged by interval, rarely promotes a challenger that much worse, at any size, and pays by
refusing good ones where positives are few. The built-in margin, judged by value, refuses few good ones; one worse by
exactly the margin passes half the time, and with few positives a much worse one often does.

Over a year: luck on these pictures helps to win, so held-out recall comes to look better than it is. Worse, each
comparison is with the last champion only: where every retrain is a little worse than it, the losses add up whatever
the margin, until an absolute line (min_recall) ends it. Hence Thaw judges those beside the comparison, starts every
retrain from the pretrained backbone, counts the decisions on a held-out set and calls it worn after 50.
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where a night's challenger's true recall lies: around the champion's or around START."""

    name: str
    around_champion: bool = False
    offset: float = 0.0
    spread: float = 0.0
    accidents: float = 0.0  # share of nights on which it is worse by ACCIDENT


SCENARIOS = (
    Scenario("all exactly as good"),
    Scenario("around 0.90, sd 0.01", spread=0.01),
    Scenario("the same, 1 night in 20 6 points worse", spread=0.01, accidents=0.05),
    Scenario("around the champion's, sd 0.01", around_champion=True, spread=0.01),
    Scenario("0.2 points below the champion's, sd 0.01", around_champion=True, offset=-0.002, spread=0.01),
    Scenario("0.2 points below the champion's, sd 0.002", around_champion=True, offset=-0.002, spread=0.002),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--draws", type=int, default=DRAWS, help="comparisons simulated a cell")
    parser.add_argument("--retrains", type=int, default=YEARS, help="years of 365 nights simulated a row")
    arguments = parser.parse_args()
    cells = [(n, share, d) for n in SIZES for share in DISAGREEMENTS for d in DIFFERENCES if share >= -d]
    figures = {
        "draws": arguments.draws,
        "years": arguments.retrains,
        "once": [once(*cell, arguments.draws) for cell in cells],
        "nights": [
            nights(scenario, evidence, margin, how, arguments.retrains)
            for scenario in SCENARIOS
            for evidence, margin in GATES
            for how in ("alone", "floor", "fresh")
            if scenario.around_champion or how != "floor"  # elsewhere nothing comes near the floor
        ],
    }
    conclude("gate_errors", figures, table(figures), requirements(figures), arguments.write)


@cache
def verdict(n: int, gained: int, lost: int, margin: float | None) -> str:
    """The real gate's verdict on recall: n positives, `gained` only the challenger finds, `lost` only the champion."""
    ours, theirs = np.zeros(n, np.int64), np.zeros(n, np.int64)
    theirs[:gained] = 1
    ours[gained : gained + lost] = 1
    nothing = ("",) * n
    test = Sample(np.zeros(n, np.int64), np.zeros((n, 2), np.float32), ours, nothing, nothing)
    pairs = Pairs(1, 1, "", CLASSES, theirs, np.ones(n, bool))
    evidence = Evidence(CLASSES, False, {"test": test}, None, pairs, 0, Machine(np.nan, np.nan, ()))
    line, measured = compare(evidence, DECISION, GateSpec(champion_recall_margin=margin)).lines[0]
    return judge(line, measured).verdict


@cache
def above_floor(hits: int, n: int) -> bool:
    """Whether the real gate passes recall >= FLOOR, by interval."""
    measured = Measurement(hits / n, wilson(hits, n, 0.95), n, proportion=True)
    return judge(Line("recall", "test", CLASSES[0], ">=", FLOOR), measured).verdict == "PASSED"


def once(n: int, disagreement: float, difference: float, draws: int) -> dict[str, Any]:
    """Shares of verdicts for a challenger truly `difference` better, on fresh pictures."""
    random = np.random.default_rng((SEED, n, round(1000 * disagreement), round(-1000 * difference)))
    gained, lost = (disagreement + difference) / 2, (disagreement - difference) / 2
    counts = random.multinomial(n, [gained, lost, 1 - gained - lost], draws)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    found: dict[str, Any] = {"n": n, "disagreement": disagreement, "difference": difference}
    for evidence, margin in GATES:
        verdicts = np.array([verdict(n, int(g), int(k), margin) for g, k in pairs])
        found[evidence] = {name: float(times[verdicts == name].sum() / draws) for name in get_args(Verdict)}
    return found


def nights(scenario: Scenario, evidence: str, margin: float | None, how: str, years: int) -> dict[str, Any]:
    """365 nightly retrains, each compared with the champion of that night on one held-out set of 400 positives.

    Model: a picture's difficulty d ~ N(0, 1) never changes; a network with true recall r finds it if
    sqrt(s) d + sqrt(1 - s) e <= probit(r), with e ~ N(0, 1) its own: over all pictures there could be its recall is r.
    s is such that two networks of recall 0.90 disagree on 8 % of pictures. Gate: the recall line `alone`; with an
    absolute line, recall >= 0.80 by interval, as well (`floor`); `alone` but on `fresh` pictures every night.
    """
    random = np.random.default_rng((SEED, years, SCENARIOS.index(scenario)))
    limit = RECALL_MARGIN if margin is None else margin
    true = np.full(years, START)
    difficulties = _difficulties(years, random)
    right = _finds(true, difficulties, random)
    promoted, too_bad, worse = (np.zeros(years, np.int64) for _ in range(3))
    found: dict[str, Any] = {"scenario": scenario.name, "evidence": evidence, "how": how}
    for night in range(1, NIGHTS + 1):
        if how == "fresh":
            difficulties = _difficulties(years, random)
            right = _finds(true, difficulties, random)
        theirs = _challengers(scenario, true, random)
        finds = _finds(theirs, difficulties, random)
        passed = _passed((finds & ~right).sum(axis=1), (right & ~finds).sum(axis=1), margin)
        if how == "floor":
            passed &= np.array([above_floor(int(hits), POSITIVES) for hits in finds.sum(axis=1)])
        promoted += passed
        too_bad += passed & (theirs < true - limit)
        worse += passed & (theirs < true)
        true = np.where(passed, theirs, true)
        right = np.where(passed[:, None], finds, right)
        if night in (EARLY, NIGHTS):
            found[f"change_{night}"] = float(true.mean() - START)
            found[f"optimism_{night}"] = float((right.mean(axis=1) - true).mean())
    found["change_low"], found["change_high"] = (float(end - START) for end in np.quantile(true, [0.05, 0.95]))
    means = {"promoted": promoted, "worse": worse, "beyond_margin": too_bad, "years_with_one": too_bad > 0}
    return found | {name: float(values.mean()) for name, values in means.items()}


@cache
def shared_part() -> float:
    """s of `nights`: P(two disagree) = 4 T(probit(r), sqrt((1 - s) / (1 + s))), T Owen's function."""
    at = float(stats.norm.ppf(START))
    return float(brentq(lambda s: 4 * owens_t(at, np.sqrt((1 - s) / (1 + s))) - DISAGREEMENT, 0.0, 0.9999))


def _difficulties(years: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    drawn = random.standard_normal((years, POSITIVES), np.float32)
    return np.asarray(drawn * np.sqrt(shared_part()), np.float32)


def _finds(true: Floats, difficulties: npt.NDArray[np.float32], random: np.random.Generator) -> Bools:
    own = random.standard_normal(difficulties.shape, np.float32) * np.float32(np.sqrt(1 - shared_part()))
    return np.asarray(difficulties + own <= stats.norm.ppf(true)[:, None])


def _challengers(scenario: Scenario, champion: Floats, random: np.random.Generator) -> Floats:
    middle = champion if scenario.around_champion else np.full(len(champion), START)
    accident = ACCIDENT * (random.random(len(champion)) < scenario.accidents)
    drawn = scenario.spread * random.standard_normal(len(champion))
    return np.clip(middle + scenario.offset + drawn - accident, 0.01, 0.999)


def _passed(gained: Ints, lost: Ints, margin: float | None) -> Bools:
    pairs, index = np.unique(np.stack([gained, lost], axis=1), axis=0, return_inverse=True)
    return np.array([verdict(POSITIVES, int(g), int(k), margin) == "PASSED" for g, k in pairs])[index.ravel()]


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    at = {(row["n"], row["disagreement"], row["difference"]): row["interval"]["PASSED"] for row in f["once"]}
    wrong, refused = at[POSITIVES, DISAGREEMENT, -MARGIN], 1 - at[POSITIVES, DISAGREEMENT, 0.0]
    return [
        (wrong <= MOST_WRONG, f"a challenger 5 points worse promoted in at most {MOST_WRONG}, found {wrong:.4f}"),
        (refused <= MOST_REFUSED, f"an equally good one refused in at most {MOST_REFUSED}, found {refused:.4f}"),
    ]


def table(f: dict[str, Any]) -> str:
    error = 100 * np.sqrt(0.05 * 0.95 / f["draws"])
    lines = [
        "# Errors of the comparison with the champion (the line on recall alone, two-sided 95 %)",
        f"\n{f['draws']} simulated comparisons a cell, in %; a 5 % has a sampling error of {error:.2f} points.",
        "Refused: REJECTED or INCONCLUSIVE. Disagreement: share of pictures that exactly one of the two finds.\n",
        rows(("positives", "disagreement", *ONCE_HEADER), _once_rows(f["once"])),
        f"\n## {NIGHTS} nights on one held-out set of {POSITIVES} positives: {f['years']} years a row, in points\n",
        *(line.strip() for line in str(nights.__doc__).splitlines()[2:]),
        rows(NIGHTS_HEADER, [_nights_row(row) for row in f["nights"]]),
    ]
    return "\n".join([*lines, WORDS])


def _once_rows(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    cells = {(row["n"], row["disagreement"], row["difference"]): row for row in found}

    def cell(n: int, share: float, difference: float, evidence: str) -> str:
        if share < -difference:
            return "-"
        passed = cells[n, share, difference][evidence]["PASSED"]
        return f"{100 * (passed if difference else 1 - passed):.1f}"

    kinds = [(d, evidence) for evidence, _ in GATES for d in DIFFERENCES]
    return [(n, share, *(cell(n, share, *kind) for kind in kinds)) for n in SIZES for share in DISAGREEMENTS]


def _nights_row(r: dict[str, Any]) -> tuple[object, ...]:
    digits = {"promoted": 0, "worse": 0, "beyond_margin": 2, "years_with_one": 2}
    counts = [f"{r[key]:.{places}f}" for key, places in digits.items()]
    return r["scenario"], r["evidence"], r["how"], *counts, *(f"{100 * r[key]:+.1f}" for key in CHANGES)


if __name__ == "__main__":
    main()
