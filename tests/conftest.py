"""Shared fixtures: everything isolated in temporary directories, and one real small model made by the real steps."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

# Prefect and BentoML read these when they are imported, which test modules do at their top
_PLACES = tempfile.TemporaryDirectory(prefix="thaw-tests-")
for _variable in ("BENTOML_HOME", "PREFECT_HOME"):
    os.environ[_variable] = str(Path(_PLACES.name, _variable.lower()))
for _variable in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE"):
    os.environ.pop(_variable, None)
for _variable in [name for name in os.environ if name.startswith("THAW_") and name != "THAW_TEST_PICTURES"]:
    os.environ.pop(_variable)
os.environ.setdefault("USER", "tester")
# small tensors gain nothing from threads, and on a busy machine threads that wait for each other cost ten times as much
os.environ.setdefault("OMP_NUM_THREADS", "1")

from flows.quiet import set_defaults  # noqa: E402

set_defaults()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from serving.preprocess import Preprocessing  # noqa: E402
from serving.session import gpu_count  # noqa: E402
from tasks.certification.certify import Candidate, Certified, Record, certify  # noqa: E402
from tasks.certification.gather import Trained  # noqa: E402
from tasks.data.dataset import Dataset  # noqa: E402
from tasks.data.prepare import prepare  # noqa: E402
from tasks.data.spec import DataSpec  # noqa: E402
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec  # noqa: E402
from tasks.export.export import Exported, export  # noqa: E402
from tasks.model.backbone import describe  # noqa: E402
from tasks.model.classifier import Checkpoint  # noqa: E402
from tasks.model.spec import ModelSpec  # noqa: E402
from tasks.training.embed import Features, embed  # noqa: E402
from tasks.training.finetune import finetune  # noqa: E402
from tasks.training.head import train_head  # noqa: E402
from tasks.training.spec import FinetuneSpec, HeadSpec  # noqa: E402
from tests.serving import tiny  # noqa: E402

needs_gpu = pytest.mark.skipif(gpu_count() == 0, reason="the CUDA driver offers no GPU here")
needs_no_gpu = pytest.mark.skipif(gpu_count() > 0, reason="this machine has a usable GPU")


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has its own working directory and home; os.environ is restored."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that THAW_HOME names."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("THAW_HOME", str(place))
    return place


def write_digits(folder: Path, digits: tuple[int, ...], each: int, side: int = 40) -> Path:
    """Class folders `digit-<d>` of real handwritten digits (scikit-learn), `each` pictures a class."""
    data = load_digits()
    for digit in digits:
        target = folder / f"digit-{digit}"
        target.mkdir(parents=True)
        for i, row in enumerate(np.flatnonzero(data.target == digit)[:each]):
            grey = Image.fromarray((data.images[row] * 15.9).astype(np.uint8))
            grey.resize((side, side), Image.Resampling.BICUBIC).save(target / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes x 80 pictures of 40 x 40."""
    return write_digits(tmp_path_factory.mktemp("digits"), (0, 1, 7), 80)


DECISION = DecisionSpec(watch=(WatchSpec(label="digit-7", recall=0.80),))
GATE = GateSpec(min_recall={"digit-7": 0.5})


@dataclass(frozen=True)
class Pipeline:
    """What the plain steps, run in order on real digits, gave. Shared by all tests: do not write into it."""

    home: Path
    run: Path
    data: DataSpec
    model: ModelSpec
    preprocessing: Preprocessing
    decision: DecisionSpec
    gate: GateSpec
    dataset: Dataset
    features: Features
    head: Checkpoint
    tuned: Checkpoint
    exported: Exported
    certified: Certified


def trained(p: Pipeline, exported: Exported | None = None) -> Trained:
    return Trained("digits", p.dataset, p.features, p.head, p.tuned, exported or p.exported)


def record() -> Record:
    """A configuration as the flow keeps it, as far as the verdict depends on it."""
    kept = {"decision": DECISION.model_dump(mode="json"), "gate": GATE.model_dump(mode="json")}
    return Record(json.dumps(kept), '{"run_id": "test"}')


def certify_again(
    p: Pipeline, run: Path, exported: Exported | None = None, champion: Candidate | None = None
) -> Certified:
    """The shared model certified once more, e.g. with another export, in another run."""
    return certify(trained(p, exported), champion, run, p.decision, p.gate, record(), device="cpu")


def of_another_run(p: Pipeline, place: Path) -> Certified:
    """The shared model as another run would have left it: the same but for its provenance, so another digest."""
    copy = Path(shutil.copytree(p.certified.artifact, place))
    made = tiny.reseal(copy, provenance={"run_id": place.name})
    return replace(p.certified, artifact=copy, digest=made.digest)


@pytest.fixture(scope="session")
def pipeline(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """prepare -> ... -> certify as plain functions, no Prefect: EfficientNet-Lite0 at 32 pixels, about 20 seconds."""
    home = tmp_path_factory.mktemp("pipeline")
    run = home / "runs" / "test"
    data = DataSpec(root=digits_folder, train=0.5, validation=0.25, test=0.25)
    model = ModelSpec(image_size=32)
    decision, gate = DECISION, GATE
    preprocessing = describe(model)
    dataset = prepare("digits", home, data, preprocessing)
    features = embed(dataset, home, model, preprocessing, seed=0)
    head = train_head(dataset, features, run, model, preprocessing, HeadSpec(), seed=0)
    spec = FinetuneSpec(epochs=1, batch_size=16, augmentation="none")
    tuned = finetune(head, dataset, run, spec, "none", seed=0)
    exported = export(tuned, dataset, run, decision)
    made = Trained("digits", dataset, features, head, tuned, exported)
    certified = certify(made, None, run, decision, gate, record(), device="cpu")
    return Pipeline(
        home, run, data, model, preprocessing, decision, gate, dataset, features, head, tuned, exported, certified
    )
