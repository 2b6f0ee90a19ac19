"""Does a killed training end as if nobody had killed it?

    uv run python -m benchmarks.resume [--kills 40] [--seed 0] [--write]

A short fine-tuning of EfficientNet-Lite0 on real digits, with all that keeps a state: dropout, BatchNorm statistics
that move, a moving average of the weights, mixed pictures, gradual unfreezing. SIGKILL comes at a random moment, up to
three times in turn; then another process takes the training up. Required each time: every checkpoint that the kills
left is readable, and the weights and the table of epochs are the uninterrupted run's, bit for bit. Also told: how much
of the work the checkpoints saved. About 4 minutes on 2 idle cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.coverage import conclude, rows
from serving import sealed
from serving.errors import ArtifactError
from tasks.data.dataset import Dataset
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of, weights_digest

SPEC: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "batchnorm": "train",
    "ema": 0.9,
    "mixup": 0.2,
    "unfreeze": "gradual",
}
CHECKPOINT_SECONDS = 0.3
# one process imports, and each run is a copy of it: SIGKILL then meets training, not imports
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Setting:
    """What every run of the drill starts from."""

    head: Checkpoint
    dataset: Dataset


@dataclass
class Kill:
    """One training that was killed at `moments` (seconds from its start, each in a process of its own)."""

    moments: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # checkpoints after the last kill
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the process that ended it
    same: bool = False


# --- in the child -------------------------------------------------------------------------------------


def prepared(home: Path, pictures: Path) -> Setting:
    from tasks.data.prepare import prepare
    from tasks.data.spec import DataSpec
    from tasks.model.backbone import describe
    from tasks.model.spec import ModelSpec
    from tasks.training.embed import embed
    from tasks.training.head import train_head
    from tasks.training.spec import HeadSpec

    model = ModelSpec(image_size=32, dropout=0.2)
    preprocessing = describe(model)
    data = DataSpec(root=pictures, train=0.5, validation=0.25, test=0.25)
    dataset = prepare("digits", home, data, preprocessing)
    features = embed(dataset, home, model, preprocessing, seed=0)
    head = train_head(dataset, features, home / "runs" / "head", model, preprocessing, HeadSpec(), seed=0)
    return Setting(head, dataset)


def train(setting: Setting, run: Path) -> None:
    """Bitwise the same each time: one thread."""
    import torch

    from tasks.training.finetune import finetune
    from tasks.training.spec import FinetuneSpec

    torch.set_num_threads(1)
    spec = FinetuneSpec.model_validate(SPEC)
    finetune(setting.head, setting.dataset, run, spec, "balanced", seed=0, checkpoint_seconds=CHECKPOINT_SECONDS)


# --- the program --------------------------------------------------------------------------------------


def started(setting: Setting, run: Path) -> BaseProcess:
    process = PROCESSES.Process(target=train, args=(setting, run))
    process.start()
    return process


def result(run: Path) -> tuple[str, Any]:
    """Digest of the weights, and the table without what differs from run to run: its speed."""
    made = Checkpoint(run / "finetune", "finetune", "", reused=False)
    table = [{key: row[key] for key in row if key != "pictures_per_second"} for row in manifest_of(made)["epochs"]]
    return weights_digest(load_classifier(made)), table


def one(setting: Setting, home: Path, wanted: tuple[str, Any], life: float, moments: random.Random) -> Kill:
    """Kills once, or a second and third time where the next process was still at it at the moment drawn for it."""
    kill = Kill()
    run = home / "runs" / "killed"
    for _ in range(moments.choice((1, 1, 2, 3))):
        moment = moments.uniform(0.0, life)
        process = started(setting, run)
        process.join(moment)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it was through
            break
        kill.moments.append(round(moment, 3))
    for place in sorted(home.glob("checkpoints/*/epoch-*")):
        kill.left.append(place.name)
        try:
            sealed.verify(place)
        except ArtifactError as error:
            kill.unreadable.append(str(error))
    began = time.monotonic()
    process = started(setting, run)
    process.join()
    kill.seconds = time.monotonic() - began
    kill.same = process.exitcode == 0 and result(run) == wanted
    return kill


def measure(place: Path, kills: int, seed: int) -> dict[str, Any]:
    from tests.conftest import write_digits

    PROCESSES.set_forkserver_preload(["tasks.training.finetune", "timm"])
    pictures = write_digits(place / "pictures", (0, 1, 7), 80, side=32)
    with PROCESSES.Pool(1) as pool:
        setting = pool.apply(prepared, (place / "home", pictures))
    lives = []
    for number in range(3):
        began = time.monotonic()
        process = started(setting, place / f"whole-{number}" / "runs" / "run")
        process.join()
        lives.append(time.monotonic() - began)
    whole = [result(place / f"whole-{number}" / "runs" / "run") for number in range(3)]
    moments, life = random.Random(seed), 0.8 * min(lives)
    found: list[Kill] = []
    while len(found) < kills:
        found.append(one(setting, place / f"kill-{len(found)}", whole[0], life, moments))
        print(len(found), asdict(found[-1]), flush=True)
    return {
        "kills": [asdict(kill) for kill in found],
        "whole_seconds": sorted(lives)[1],
        "whole_same": whole[1:] == whole[:-1],
    }


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    kills = f["kills"]
    killed = [kill for kill in kills if kill["moments"]]
    resumed = [kill for kill in kills if kill["left"]]
    different = [number for number, kill in enumerate(kills, start=1) if not kill["same"]]
    unreadable = [text for kill in kills for text in kill["unreadable"]]
    return [
        (f["whole_same"], "three runs that nobody killed to be the same, bit for bit"),
        (not different, f"every killed run to end as one that nobody killed, found otherwise: {different}"),
        (not unreadable, f"no unreadable checkpoint, found {unreadable[:3]}"),
        (2 * len(killed) > len(kills), f"most runs to have met their kill, found {len(killed)} of {len(kills)}"),
        (3 * len(resumed) > len(kills), f"a checkpoint after many kills, found {len(resumed)} of {len(kills)}"),
    ]


def table(f: Mapping[str, Any]) -> str:
    kills = f["kills"]
    resumed = sorted(kill["seconds"] for kill in kills if kill["left"])
    body = [
        ("trainings killed", len(kills)),
        ("kills", sum(len(kill["moments"]) for kill in kills)),
        ("ended with the same weights and table, bit for bit", sum(kill["same"] for kill in kills)),
        ("with a checkpoint to go on from", len(resumed)),
        ("unreadable checkpoints", sum(len(kill["unreadable"]) for kill in kills)),
        ("seconds of a training that nobody kills, median", f"{f['whole_seconds']:.1f}"),
        (
            "seconds of the process that ends a killed one, median",
            f"{resumed[len(resumed) // 2]:.1f}" if resumed else "-",
        ),
    ]
    return "\n".join(["# Trainings killed and taken up\n", rows(("", ""), body), "", str(f["note"]).strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-resume-") as folder:
        figures = measure(Path(folder), arguments.kills, arguments.seed) | {"note": arguments.note}
    conclude("resume", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
