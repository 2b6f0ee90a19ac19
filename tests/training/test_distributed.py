"""Several real processes (gloo, on the CPU) train what one trains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from serving.errors import DeviceError
from tasks.data.dataset import subset
from tasks.model.classifier import load_classifier, manifest_of
from tasks.training.distributed import launch
from tasks.training.errors import TrainingError
from tasks.training.finetune import finetune
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec
from tasks.training.tuning import Job
from tests.conftest import Pipeline

# at 1e-3 this network's first epoch goes astray, and what rounds otherwise there ends elsewhere
SPEC = FinetuneSpec(epochs=2, batch_size=15, augmentation="industrial", learning_rate=1e-4)


class Heard:
    """A progress callback that keeps the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, done: int, total: int, text: str = "") -> None:
        self.texts.append(text)


class Stops(Heard):
    """The same, and Ctrl-C after an epoch."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        super().__call__(done, total, text)
        if text.startswith("epoch "):
            raise KeyboardInterrupt


def test_two_processes_give_what_one_gives(pipeline: Pipeline, tmp_path: Path) -> None:
    """Batches of 15 with class weights, so that the slices differ: losses agree to 1e-3, and nearly all decisions."""
    p, heard = pipeline, Heard()
    made = [
        finetune(p.head, p.dataset, tmp_path / str(n) / "runs" / "r", SPEC, "balanced", 0, processes=n, progress=heard)
        for n in (1, 2)
    ]
    one, two = (manifest_of(checkpoint) for checkpoint in made)
    assert two["trainable"] == one["trainable"]
    for a, b in zip(one["epochs"], two["epochs"], strict=True):
        assert b["validation_loss"] == pytest.approx(a["validation_loss"], rel=1e-3)
        assert a["train_loss"] is None or b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-3)
        assert b["train_accuracy"] == pytest.approx(a["train_accuracy"], abs=0.01)
    test = subset(p.dataset, "test")
    logits = [logits_of(load_classifier(checkpoint), p.dataset, test) for checkpoint in made]
    np.testing.assert_allclose(logits[0], logits[1], atol=0.02 * np.abs(logits[0]).max())
    assert made[0].key != made[1].key
    assert sum(text.startswith("epoch ") for text in heard.texts) == 4
    again = finetune(p.head, p.dataset, tmp_path / "2" / "runs" / "s", SPEC, "balanced", 0, processes=2)
    assert again.reused and again.path == made[1].path


def test_an_error_of_the_processes_is_the_callers(pipeline: Pipeline, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"learning_rate": 1e-60})
    with pytest.raises(TrainingError, match="raise learning_rate"):
        finetune(pipeline.head, pipeline.dataset, tmp_path / "runs" / "r", spec, "none", 0, processes=2)
    assert not (tmp_path / "runs" / "r" / "finetune").exists()


@pytest.mark.skipif(torch.cuda.device_count() > 63, reason="there is a GPU for each of them")
def test_more_processes_than_gpus_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    p = pipeline
    job = Job(p.head, p.dataset, tmp_path / "runs" / "r", SPEC, "none", 0, "cuda", "bf16", 64, 60.0)
    with pytest.raises(DeviceError, match="runtime.processes"):
        launch(job, Heard())


CHILD = """
    import json, signal, sys
    from pathlib import Path
    from tasks.data.dataset import Dataset
    from tasks.model.classifier import Checkpoint
    from tasks.training.finetune import finetune
    from tasks.training.spec import FinetuneSpec

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background programs inherit it as ignored
    head, dataset, spec, run = json.loads(sys.argv[1])
    dataset["path"], head["path"] = Path(dataset["path"]), Path(head["path"])
    dataset["classes"], dataset["slices"] = tuple(dataset["classes"]), tuple(dataset["slices"])
    finetune(Checkpoint(**head), Dataset(**dataset), Path(run), FinetuneSpec(**spec), "none", 0, processes=2,
             progress=lambda done, total, text="": print(text, flush=True), checkpoint_seconds=0)
"""


def test_interrupted_they_end_and_others_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    """Ctrl-C in the launching process alone: no process stays, and the next run resumes."""
    p, spec = pipeline, SPEC.model_copy(update={"epochs": 60, "patience": 60})
    values = [asdict(p.head), asdict(p.dataset), spec.model_dump(), tmp_path / "runs" / "first"]
    command = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(values, default=str)]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("epoch 1"):
                break
        family = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        child.wait(120)
    assert len(family) >= 3  # torchrun and two
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert child.returncode != 0
    heard = Stops()
    with pytest.raises(KeyboardInterrupt):
        finetune(p.head, p.dataset, tmp_path / "runs" / "next", spec, "none", 0, processes=2, progress=heard)
    assert heard.texts[0].startswith("resumed at epoch")
