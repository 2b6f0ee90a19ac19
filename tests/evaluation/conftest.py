"""One more real model: it looks good, and misses the one class that is rare."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tasks.certification.certify import Certified, Record, certify
from tasks.certification.gather import Trained
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.evaluation import intervals
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.export.export import export
from tasks.model.backbone import describe
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.spec import FinetuneSpec, HeadSpec

INK = (1.0, 0.7, 0.4)  # orange: grey pictures would not tell red from blue


@dataclass(frozen=True)
class Rare:
    """A model of `eight` against `other`, 14 of 514 pictures. Shared by all tests: certify it in other runs."""

    trained: Trained
    run: Path
    certified: Certified


def certify_rare(trained: Trained, run: Path) -> Certified:
    """With every default: nothing is watched, and the gate has only its built-in lines."""
    decision, gate = DecisionSpec(), GateSpec()
    kept = {"decision": decision.model_dump(mode="json"), "gate": gate.model_dump(mode="json")}
    record = Record(json.dumps(kept), '{"run_id": "rare"}')
    return certify(trained, None, run, decision, gate, record, device="cpu")


def write_rare(folder: Path) -> Path:
    """Real handwritten digits in orange: 14 eights, and 500 of all other digits."""
    data = load_digits()
    for label, rows in (
        ("eight", np.flatnonzero(data.target == 8)[:14]),
        ("other", np.flatnonzero(data.target != 8)[:500]),
    ):
        folder.joinpath(label).mkdir(parents=True)
        for row in rows:
            orange = (data.images[row][..., None] * 15.9 * INK).astype(np.uint8)
            picture = Image.fromarray(orange).resize((40, 40), Image.Resampling.BICUBIC)
            picture.save(folder / label / f"{row:04}.png")
    return folder


@pytest.fixture(scope="session")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Rare:
    """The real steps at 32 pixels, head only: about 15 seconds."""
    home = tmp_path_factory.mktemp("rare")
    run, model = home / "run", ModelSpec(image_size=32)
    root = write_rare(home / "pictures")
    data = DataSpec(root=root, train=0.30, validation=0.15, test=0.55, near_duplicates=False, seed=1)
    preprocessing = describe(model)
    dataset = prepare("rare", home, data, preprocessing)
    features = embed(dataset, home, model, preprocessing, seed=0)
    head = train_head(dataset, features, run, model, preprocessing, HeadSpec(), seed=0)
    tuned = finetune(head, dataset, run, FinetuneSpec(epochs=0), "none", seed=0)
    trained = Trained("rare", dataset, features, head, tuned, export(tuned, dataset, run, DecisionSpec()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 100)  # no line here has a drawn interval that decides
        return Rare(trained, run, certify_rare(trained, run))
