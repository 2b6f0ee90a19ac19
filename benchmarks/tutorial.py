"""Is Thaw faster than the transfer learning of tutorials, at the same quality? On photos of solar cells.

    uv run python -m benchmarks.tutorial [--seeds 3] [--train 512] [--size 160] [--write]

Both sides train the same backbone from the same weights on the same folder of pictures for the same epochs:
`benchmarks/recipe.py` as a tutorial does it, and Thaw's prepare, embed, train_head and finetune with their defaults. In
turn, each in a process of its own after all imports, once a seed; the pictures stay the same.

Required of the medians: prepare to finetune take Thaw at most 1/3 of the recipe's time (the aim: 1/5; on a GPU 1/5 and
1/10); 10 epochs of the head, with the one pass of the backbone that they need, at most 1/8; and test accuracy, macro
recall and the recall of `defective` reach at least the recipe's lowest over the seeds. About 18 minutes on 2 cores.

The head's 10 epochs are told apart: the recipe's (decoding, the backbone and validation in every epoch) against Thaw's
`embed` and `train_head` with `method: adam` (validation in every epoch). The pass embeds the test pictures too, which
the recipe's head never sees: they count against Thaw. The whole run has `method: solve`, Thaw's default. Deciding on
the test pictures is part of neither time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import recall_score

from benchmarks.coverage import conclude, rows
from benchmarks.recipe import SIDES, child, lay_out
from serving import sealed

WHOLE = {"cpu": 3.0, "cuda": 5.0}  # times faster
AIM = {"cpu": 5.0, "cuda": 10.0}
HEAD = 8.0
SEEDS = 3
SCORES = ("accuracy", "macro_recall", "recall_defective")
DEFECTIVE = 0  # its class: `defective` comes before `functional`
STEPS = {"recipe": ("load", "head", "finetune"), "thaw": ("prepare", "embed", "train_head", "finetune")}
CHILD_SECONDS = 7200  # a limit against hanging only
Figures = dict[str, Any]


def measure(place: Path, seeds: int, train: int, size: int) -> Figures:
    counts = {"train": train, "validation": train // 4, "test": train}
    pictures = lay_out(place / "pictures", counts)
    found: dict[str, list[Figures]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side in SIDES if seed % 2 else SIDES[::-1]:
            job = {"pictures": str(pictures), "size": size, "seed": seed}
            found[side].append(condense(_in_child(side, job), pictures))
            print(side, f"{total(side, found[side][-1]['seconds']):.1f} s", flush=True)
    return {"size": size, "counts": counts, "cores": os.cpu_count()} | found | summary(found)


def _in_child(side: str, job: Mapping[str, Any]) -> Figures:
    command = [sys.executable, "-m", "benchmarks.tutorial", "--child", side]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=CHILD_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    body: Figures = json.loads(done.stdout.splitlines()[-1])
    return body


def condense(body: Figures, pictures: Path) -> Figures:
    """A run's figures to keep: scores for decisions, and a digest for the pictures' names."""
    names = {s: [str(Path(path).relative_to(pictures)) for path in body["pictures"][s]] for s in body["pictures"]}
    kept = {key: body[key] for key in ("device", "threads", "seconds", "validation_accuracy")}
    return kept | {"scores": scores(body["labels"], body["decided"]), "pictures": sealed.digest_of(names)[:16]}


def scores(labels: Sequence[int], decided: Sequence[int]) -> dict[str, float]:
    recalls = recall_score(labels, decided, labels=[DEFECTIVE, 1], average=None, zero_division=0)
    accuracy = float((np.array(labels) == np.array(decided)).mean())
    return {
        "accuracy": accuracy,
        "macro_recall": float(np.mean(recalls)),
        "recall_defective": float(recalls[DEFECTIVE]),
    }


def total(side: str, seconds: Mapping[str, float]) -> float:
    return sum(seconds[step] for step in STEPS[side])


def summary(found: Mapping[str, Sequence[Figures]]) -> Figures:
    """Medians over the seeds: seconds of each step and of the whole, and how many times faster; scores' ranges."""

    def median(side: str, value: Any) -> float:
        return float(statistics.median(value(one) for one in found[side]))

    def score(side: str, name: str) -> dict[str, float]:
        values = [one["scores"][name] for one in found[side]]
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    seconds = {
        side: {step: median(side, lambda one, step=step: one["seconds"][step]) for step in found[side][0]["seconds"]}
        | {"whole": median(side, lambda one, side=side: total(side, one["seconds"]))}
        for side in SIDES
    }
    head, adam = seconds["recipe"]["head"], seconds["thaw"]["adam"]
    embed, read = seconds["thaw"]["embed"], seconds["thaw"]["prepare"]
    return {
        "device": found["thaw"][0]["device"],
        "medians": seconds,
        "whole_times": seconds["recipe"]["whole"] / seconds["thaw"]["whole"],
        "head_times": {
            "epochs": head / adam,
            "and_pass": head / (embed + adam),
            "and_read": head / (read + embed + adam),
        },
        "scores": {side: {name: score(side, name) for name in SCORES} for side in SIDES},
        "pictures": sorted({one["pictures"] for side in SIDES for one in found[side]}),
    }


def requirements(f: Figures) -> list[tuple[bool, str]]:
    """Speed, quality, and that the comparison is one."""
    wanted, many = WHOLE[f["device"]], min(len(f[side]) for side in SIDES)
    return [
        (f["whole_times"] >= wanted, f"the whole run {wanted:g} times faster, found {f['whole_times']:.2f}"),
        (
            f["head_times"]["and_pass"] >= HEAD,
            f"the head's 10 epochs and their pass {HEAD:g} times faster, found {f['head_times']['and_pass']:.2f}",
        ),
        *(
            (
                f["scores"]["thaw"][name]["median"] >= f["scores"]["recipe"][name]["low"],
                f"{name} at least the recipe's lowest, {f['scores']['recipe'][name]['low']:.4f}, found "
                f"{f['scores']['thaw'][name]['median']:.4f}",
            )
            for name in SCORES
        ),
        (len(f["pictures"]) == 1, f"the same pictures on both sides, found {len(f['pictures'])} sets"),
        (many >= SEEDS, f"at least {SEEDS} seeds, found {many}"),
    ]


def table(f: Figures) -> str:
    recipe_s, thaw_s, times = f["medians"]["recipe"], f["medians"]["thaw"], f["head_times"]

    def line(text: str, recipe_seconds: float, thaw_seconds: float) -> tuple[str, ...]:
        return text, f"{recipe_seconds:.1f}", f"{thaw_seconds:.1f}", f"{recipe_seconds / thaw_seconds:.1f}"

    whole = [
        ("load the network", f"{recipe_s['load']:.1f}", "", ""),
        ("prepare: read the pictures", "", f"{thaw_s['prepare']:.1f}", ""),
        ("embed: the backbone once, test pictures too", "", f"{thaw_s['embed']:.1f}", ""),
        line("head (recipe: 10 epochs; Thaw: solve)", recipe_s["head"], thaw_s["train_head"]),
        line("finetune, 5 epochs", recipe_s["finetune"], thaw_s["finetune"]),
        line("whole run", recipe_s["whole"], thaw_s["whole"]),
    ]
    heads = [
        ("10 epochs alone", f"{recipe_s['head']:.1f}", f"{thaw_s['adam']:.1f}", f"{times['epochs']:.1f}"),
        ("with embed", "", f"{thaw_s['embed'] + thaw_s['adam']:.1f}", f"{times['and_pass']:.1f}"),
        (
            "with prepare and embed",
            "",
            f"{thaw_s['prepare'] + thaw_s['embed'] + thaw_s['adam']:.1f}",
            f"{times['and_read']:.1f}",
        ),
    ]

    def scored(name: str) -> tuple[str, ...]:
        each = [f["scores"][side][name] for side in SIDES]
        return name.replace("_", " "), *(f"{one['median']:.4f} ({one['low']:.4f}-{one['high']:.4f})" for one in each)

    c = f["counts"]
    told = (
        f"Medians over the seeds ({len(f['thaw'])}); EfficientNet-Lite0 at {f['size']} px; {c['train']} training, "
        f"{c['validation']} validation and {c['test']} test pictures; {f['device']}, {f['cores']} cores. Aim for the "
        f"whole run: {AIM[f['device']]:g} times, required {WHOLE[f['device']]:g}."
    )
    header = ("seconds", "recipe", "Thaw", "times faster")
    return "\n".join(
        [
            "# Thaw and the transfer learning of tutorials\n",
            f"{told} {f['note']}".strip(),
            "\n## The whole run\n",
            rows(header, whole),
            "\n## 10 epochs of the head: the backbone in every epoch, or once\n",
            rows(header, heads),
            "\n## On the test pictures: median (lowest-highest)\n",
            rows(("", "recipe", "Thaw"), [scored(name) for name in SCORES]),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--train", type=int, default=512, help="training pictures; as many for test, a quarter to choose"
    )
    parser.add_argument("--size", type=int, default=160, help="side of the pictures in pixels")
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory(prefix="thaw-tutorial-") as folder:
        figures = measure(Path(folder), arguments.seeds, arguments.train, arguments.size) | {"note": arguments.note}
    conclude("tutorial", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
