"""Everything unfrozen, at small rates, from the trained head: how one process, or each of several, does it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from serving import sealed
from serving.errors import BadInput
from tasks.data.dataset import Dataset, subset
from tasks.model.classifier import Checkpoint, Classifier, load_classifier, manifest_of, save_classifier, trainable
from tasks.model.device import full_float32
from tasks.progress import Progress, silent
from tasks.training.checkpoint import TrainingCheckpoints
from tasks.training.errors import TooLarge, TrainingError
from tasks.training.fit import Recipe, balanced_weights, fit
from tasks.training.folding import folded
from tasks.training.interpolate import interpolate
from tasks.training.layers import freeze_statistics, layer_groups, thaw
from tasks.training.memory import kept
from tasks.training.parallel import ALONE, Processes
from tasks.training.pictures import Pictures, Source, outputs
from tasks.training.rates import STEPS, choose_rate
from tasks.training.signs import signs
from tasks.training.spec import FinetuneSpec
from tasks.training.table import Epoch, as_table, best_epoch, log_loss

_FORMAT = 9  # of the result: raise it when the same job would give other weights


@dataclass(frozen=True, slots=True)
class Job:
    """All that decides what fine-tuning gives, as small values: what another process needs to take part in it."""

    start: Checkpoint
    dataset: Dataset
    run: Path
    spec: FinetuneSpec
    class_weights: str
    seed: int
    device: str  # cpu or cuda
    precision: str  # of the forward pass: fp32 or bf16
    processes: int
    checkpoint_seconds: float

    @property
    def key(self) -> str:
        made_of = [self.start.key, self.dataset.key, self.spec.model_dump(mode="json"), self.class_weights, self.seed]
        return sealed.digest_of([_FORMAT, *made_of, self.device, self.precision, self.processes])[:16]

    @property
    def checkpoints(self) -> TrainingCheckpoints:
        return TrainingCheckpoints(self.run.parent.parent, "finetune", self.key, self.checkpoint_seconds)


def check_steps(job: Job) -> None:
    """Raises BadInput: a step has too few pictures for its processes, or for statistics over them."""
    pictures = min(job.spec.batch_size, len(subset(job.dataset, "train")))
    least = 2 if job.spec.batchnorm == "train" else 1
    if job.spec.epochs and pictures // job.processes < least:
        raise BadInput(
            f"finetune.batch_size: expected {least} or more pictures of a step for each process (runtime.processes: "
            f"{job.processes}, finetune.batchnorm: {job.spec.batchnorm}), found {pictures} for all: give more pictures "
            "or a larger batch_size, fewer processes, or batchnorm: frozen"
        )


def tune(job: Job, progress: Progress, processes: Processes = ALONE, device: str = "cpu") -> None:
    """Trains; rank 0 writes `run/finetune/`. `device`: this process's own, e.g. cuda:1. Raises TrainingError."""
    checkpoints = job.checkpoints
    try:
        tuning = _Tuning(job, progress, processes, device)
        with kept(), full_float32():
            about = tuning.train(checkpoints)
    except TooLarge:
        raise
    except TrainingError:
        checkpoints.discard()  # they lead to the same error
        raise
    except torch.OutOfMemoryError as error:  # outside the passes that are taken in halves: weights, AdamW, augmentation
        raise TooLarge(
            f"expected steps of {job.spec.batch_size} pictures to fit into the GPU's memory, found them not to: lower "
            "finetune.batch_size or model.image_size, or choose a smaller model.backbone"
        ) from error
    if processes.rank == 0:
        with sealed.sealing(job.run / "finetune", {"key": job.key, **about}) as directory:
            save_classifier(directory, tuning.network)
        checkpoints.discard()


class _Tuning:
    """One fine-tuning: the network, and what it is trained with."""

    def __init__(self, job: Job, progress: Progress, processes: Processes, device: str) -> None:
        self.job, self.spec, self.progress, self.processes, self.device = job, job.spec, progress, processes, device
        self.network = self._fresh()
        dataset, classes = job.dataset, len(job.dataset.classes)
        train, self._validation = subset(dataset, "train"), subset(dataset, "validation")
        self._validation_source = Source(dataset, self._validation, device)
        source = Source(dataset, train, device)
        self._pictures = Pictures(source, train.labels, classes, job.spec, job.seed, device, processes)
        balanced = job.class_weights == "balanced"
        self._weights = balanced_weights(train.labels, classes).to(device) if balanced else None

    def train(self, checkpoints: TrainingCheckpoints) -> dict[str, Any]:
        """Leaves the network with the weights to keep. What the manifest says of it."""
        rate = self.spec.learning_rate
        if rate == "auto":
            rate = self._chosen_rate(checkpoints) if self.spec.epochs else 0.0  # nothing will be trained
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        counts = trainable(self.network)
        rows = self._fit(self.network, rate, self._recipe(self.network, self.spec.unfreeze), self.progress, checkpoints)
        share = self._interpolate(before, rows)
        self.network.requires_grad_(True)
        known = manifest_of(self.job.start)
        return {name: known[name] for name in ("backbone", "preprocessing", "dropout", "classes")} | {
            "phase": "finetune",
            "start": self.job.start.key,
            "trainable": counts,
            "learning_rate": rate,
            "epochs": as_table(rows),
            "best_epoch": best_epoch(rows),
            "share": share,
            "signs": self._signs(rows),
        }

    def _fit(
        self,
        network: Classifier,
        rate: float,
        recipe: Recipe,
        progress: Progress,
        checkpoints: TrainingCheckpoints | None = None,
    ) -> tuple[Epoch, ...]:
        groups = layer_groups(network, rate, self.spec.layer_decay, self.spec.weight_decay)
        frozen = self.spec.batchnorm == "frozen"
        with folded(network, self._validation_source.take(np.arange(2))) if frozen else nullcontext():
            return fit(
                network,
                groups,
                lambda epoch, first: islice(self._pictures.batches(epoch, first), recipe.steps_per_epoch - first),
                self._outputs,
                recipe,
                self._weights,
                progress,
                checkpoints,
                self.processes,
            )

    def _recipe(self, network: Classifier, unfreeze: str) -> Recipe:
        spec, parameters = self.spec, [p for p in network.parameters() if p.requires_grad]

        def train_mode(epoch: int) -> None:
            network.train()
            if spec.batchnorm == "frozen":
                freeze_statistics(network)
            if unfreeze == "gradual":
                thaw(parameters, epoch, spec.epochs)

        return Recipe(
            epochs=spec.epochs,
            steps_per_epoch=self._pictures.steps,
            warmup=spec.warmup,
            clip_norm=spec.clip_norm,
            label_smoothing=spec.label_smoothing,
            patience=spec.patience,
            train_mode=train_mode,
            ema=spec.ema,
            autocast=torch.bfloat16 if self.job.precision == "bf16" else None,
            seed=self.job.seed,
        )

    def _chosen_rate(self, checkpoints: TrainingCheckpoints) -> float:
        """Once for all runs that go on from one another: trials may end otherwise where they are repeated."""
        rate = self.processes.same(checkpoints.rate() if self.processes.rank == 0 else None)
        if rate is None:
            rate = self._best_rate()
            if self.processes.rank == 0:
                checkpoints.keep_rate(rate)
        return float(self.processes.same(rate))  # the others wait: they are about to read what is there

    def _best_rate(self) -> float:
        """Trials of one short epoch, each from the start with all unfrozen, without a moving average."""
        self.progress(0, 1, "trying learning rates")

        def trial(rate: float) -> tuple[Epoch, ...]:
            network = self._fresh()
            steps = min(STEPS, self._pictures.steps)
            recipe = replace(self._recipe(network, "all"), epochs=1, steps_per_epoch=steps, ema=0.0)
            return self._fit(network, rate, recipe, silent)

        return choose_rate(trial, self.progress)

    def _interpolate(self, before: dict[str, torch.Tensor], rows: Sequence[Epoch]) -> float:
        """How far from the start to the best epoch's weights those lie that the network is left with."""
        best = best_epoch(rows)
        if best == 0:
            return 0.0
        share = 1.0
        if self.spec.interpolate and self.processes.rank == 0:
            kept = next(row for row in rows if row.epoch == best)
            weights = None if self._weights is None else self._weights.double().cpu().numpy()
            share, loss = interpolate(
                self.network, before, kept.validation_loss, lambda n: log_loss(*self._outputs(n), weights)
            )
            text = f"weights {share:.0%} of the way to epoch {best} kept: validation loss {loss:.4f}"
            self.progress(len(rows), len(rows), text)
        return share

    def _outputs(self, network: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Validation logits and labels."""
        return outputs(network, self._validation_source, len(self._validation)), self._validation.labels

    def _signs(self, rows: Sequence[Epoch]) -> list[str]:
        if self.processes.rank or not self.spec.epochs:
            return []
        found = signs(rows, self._outputs(self.network), self.job.dataset.classes)
        for text in found:
            self.progress(len(rows), len(rows), f"warning: {text}")
        return list(found)

    def _fresh(self) -> Classifier:
        network = load_classifier(self.job.start).to(self.device)
        network.requires_grad_(True)
        network.normalize.requires_grad_(False)
        return network
