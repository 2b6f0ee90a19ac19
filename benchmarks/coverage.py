"""Do the intervals hold what they say? Simulated and exact coverage of what the gate and the threshold rule rely on.

    uv run python -m benchmarks.coverage [--write] [--draws 20000]

Draws samples with a known truth, asks the real functions for their interval, and counts how often the truth lies in it.
Required: Wilson's mean over proportions 0.05-0.95 within 94-96.5 % at n = 20, 50, 100 and 400; the threshold's
one-sided bound at least 95 % everywhere, by exact enumeration. Shown: Tango's paired interval and macro means. Exits 1
with what was not met. About a minute; `--draws 1000` takes seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tasks.evaluation.intervals import clopper_pearson_lower, jeffreys_macro, tango, wilson
from tasks.evaluation.metrics import Floats

RESULTS = Path(__file__).parent / "results"
SEED = 20_261_122
DRAWS = 20_000
CONFIDENCE = 0.95
SIZES = (20, 50, 100, 400)
BOUND_SIZES = (29, 50, 123, 400)  # 29: the fewest that can show a recall of 0.9; 123: the demo's
RATES = np.arange(5, 96) / 100
WILSON_MEAN = (0.94, 0.965)
PAIRED_SIZES = (50, 100, 200, 400)
DISAGREEMENTS = (0.02, 0.05, 0.08, 0.20)
DIFFERENCES = (0.0, -0.02, -0.05)
# recall and pictures of each class
MACRO = (
    ((0.95, 0.65), (205, 449)),
    ((0.90, 0.90), (25, 100)),
    ((0.99, 0.99), (30, 30)),
    ((0.95, 0.90, 0.85, 0.80, 0.75), (20, 20, 20, 20, 20)),
)
_ROUNDING = 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--draws", type=int, default=DRAWS, help="samples drawn a cell")
    arguments = parser.parse_args()
    figures = measure(arguments.draws)
    conclude("coverage", figures, table(figures), requirements(figures), arguments.write)


def measure(draws: int) -> dict[str, Any]:
    """Every table; the same draws for the same count."""
    random = np.random.default_rng(SEED)
    return {
        "draws": draws,
        "cell_error": float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)),
        "wilson": [wilson_coverage(n, draws, random) for n in SIZES],
        "clopper_pearson": [bound_coverage(n, draws, random) for n in BOUND_SIZES],
        "tango": [
            paired_coverage(n, disagreement, difference, draws, random)
            for n in PAIRED_SIZES
            for disagreement in DISAGREEMENTS
            for difference in DIFFERENCES
            if disagreement >= -difference
        ],
        "jeffreys": [macro_coverage(recalls, totals, draws, random) for recalls, totals in MACRO],
    }


def wilson_coverage(n: int, draws: int, random: np.random.Generator) -> dict[str, float]:
    ends = np.array([wilson(k, n, CONFIDENCE) for k in range(n + 1)])
    covers = (ends[:, 0] <= RATES[:, None]) & (RATES[:, None] <= ends[:, 1])  # [rate, k]
    simulated = _simulated(covers, n, draws, random)
    exact = _exact(covers, n, RATES)
    return {
        "n": n,
        "mean": float(simulated.mean()),
        "min": float(simulated.min()),
        "exact_mean": float(exact.mean()),
        "exact_min": float(exact.min()),
        "worst_rate": float(RATES[exact.argmin()]),
    }


def bound_coverage(n: int, draws: int, random: np.random.Generator) -> dict[str, float]:
    """Exact: on a fine grid and just below every bound, where one more outcome stops being covered."""
    bounds = np.array([clopper_pearson_lower(k, n) for k in range(n + 1)])
    rates = np.concatenate([np.linspace(0.001, 0.999, 999), np.nextafter(bounds[1:], 0)])
    exact = _exact(bounds <= rates[:, None], n, rates)
    simulated = _simulated(bounds <= RATES[:, None], n, draws, random)
    return {
        "n": n,
        "exact_min": float(exact.min()),
        "exact_mean": float(_exact(bounds <= RATES[:, None], n, RATES).mean()),
        "mean": float(simulated.mean()),
        "min": float(simulated.min()),
    }


def paired_coverage(
    n: int, disagreement: float, difference: float, draws: int, random: np.random.Generator
) -> dict[str, float]:
    """`too_high`: how often even the lower end lies above the truth, which is what promotes a worse challenger."""
    gained, lost = (disagreement + difference) / 2, (disagreement - difference) / 2
    counts = random.multinomial(n, [gained, lost, 1 - gained - lost], draws)[:, :2]
    pairs, index = np.unique(counts, axis=0, return_inverse=True)
    ends = np.array([tango(int(g), int(k), n, CONFIDENCE) for g, k in pairs])[index.ravel()]
    low, high = ends[:, 0] <= difference + _ROUNDING, difference - _ROUNDING <= ends[:, 1]
    return {
        "n": n,
        "disagreement": disagreement,
        "difference": difference,
        "coverage": float((low & high).mean()),
        "too_high": float((~low).mean()),
    }


def macro_coverage(
    recalls: Sequence[float], totals: Sequence[int], draws: int, random: np.random.Generator
) -> dict[str, Any]:
    truth = float(np.mean(recalls))
    hits = np.stack([random.binomial(n, p, draws) for p, n in zip(recalls, totals, strict=True)], axis=1)
    found, index = np.unique(hits, axis=0, return_inverse=True)
    ends = np.array([jeffreys_macro(row.tolist(), totals, CONFIDENCE) for row in found])[index.ravel()]
    low, high = ends[:, 0] <= truth, truth <= ends[:, 1]
    return {
        "recalls": list(recalls),
        "totals": list(totals),
        "coverage": float((low & high).mean()),
        "too_high": float((~low).mean()),
    }


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    low, high = WILSON_MEAN
    return [
        *(
            (
                low <= row["mean"] <= high,
                f"Wilson's mean coverage within {low}-{high} at n {row['n']}, found {row['mean']}",
            )
            for row in f["wilson"]
        ),
        *(
            (
                row["exact_min"] >= CONFIDENCE - _ROUNDING,
                f"the threshold's bound to cover {CONFIDENCE} at n {row['n']}, found {row['exact_min']}",
            )
            for row in f["clopper_pearson"]
        ),
    ]


def table(f: dict[str, Any]) -> str:
    """All tables, in percent."""
    wilsons = [
        (r["n"], *(_percent(r[k]) for k in ("mean", "exact_mean", "min", "exact_min")), f"{r['worst_rate']:.2f}")
        for r in f["wilson"]
    ]
    bounds = [
        (r["n"], *(_percent(r[k], 2) for k in ("exact_min", "min", "exact_mean", "mean"))) for r in f["clopper_pearson"]
    ]
    paired = [
        (
            r["n"],
            _percent(r["disagreement"], 0),
            _percent(r["difference"], 0),
            _percent(r["coverage"]),
            _percent(r["too_high"]),
        )
        for r in f["tango"]
    ]
    macro = [
        (
            *(", ".join(map(str, r[k])) for k in ("recalls", "totals")),
            *(_percent(r[k]) for k in ("coverage", "too_high")),
        )
        for r in f["jeffreys"]
    ]
    error = f"One cell's sampling error: {100 * f['cell_error']:.2f} points."
    return "\n".join(
        [
            f"# Coverage of the 95 % intervals, in %: {f['draws']} draws a cell",
            f"\n{error} The smallest of 91 simulated cells lies below the exact one by about two of these.\n",
            "## Wilson, proportions 0.05, 0.06 ... 0.95\n",
            rows(("n", "mean", "mean, exact", "smallest", "smallest, exact", "at"), wilsons),
            "\n## The threshold's bound: Clopper-Pearson, one-sided\n",
            "Exact: 999 proportions and just below every bound, where the least is covered.\n",
            rows(("n", "smallest, exact", "smallest, simulated", "mean, exact", "mean, simulated"), bounds),
            "\n## Tango, paired differences (nominal 95, and 2.5 too high)\n",
            rows(("n", "disagreement", "true difference", "covered", "lower end above the truth"), paired),
            "\n## Means of recalls: Jeffreys draws\n",
            rows(("recall of each class", "pictures of each class", "covered", "lower end above the truth"), macro),
            "",
        ]
    )


def rows(header: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def conclude(name: str, figures: dict[str, Any], text: str, found: Sequence[tuple[bool, str]], write: bool) -> None:
    """Shows a benchmark's table, keeps it if asked to, and ends the program: 1 with what was not met, else 0."""
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1, default=float) + "\n")
        (RESULTS / f"{name}.md").write_text(text)
    problems = [problem for holds, problem in found if not holds]
    for problem in problems:
        print(f"not met: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def _exact(covers: Any, n: int, rates: Floats) -> Floats:
    chances = stats.binom.pmf(np.arange(n + 1), n, rates[:, None])
    return np.asarray((chances * covers).sum(axis=1), np.float64)


def _simulated(covers: Any, n: int, draws: int, random: np.random.Generator) -> Floats:
    """Coverage at each of RATES, from draws."""
    hits = random.binomial(n, RATES[:, None], (len(RATES), draws))
    return np.asarray(np.take_along_axis(covers, hits, axis=1).mean(axis=1), np.float64)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


if __name__ == "__main__":
    main()
