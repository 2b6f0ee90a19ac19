"""finetune: everything unfrozen, at small rates, from the trained head."""

from __future__ import annotations

from pathlib import Path

from tasks.data.dataset import Dataset
from tasks.model.classifier import Checkpoint
from tasks.progress import Progress, silent
from tasks.training.checkpoint import EVERY_SECONDS
from tasks.training.distributed import launch
from tasks.training.reuse import find_checkpoint
from tasks.training.spec import FinetuneSpec
from tasks.training.tuning import Job, check_steps, tune


def finetune(
    start: Checkpoint,
    dataset: Dataset,
    run: Path,
    spec: FinetuneSpec,
    class_weights: str,
    seed: int,
    device: str = "cpu",
    precision: str = "fp32",
    processes: int = 1,
    progress: Progress = silent,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> Checkpoint:
    """Trains all weights from `start`; keeps the epoch with the best validation loss, the start included.

    Writes `run/finetune/`: weights, and a manifest with the trainable counts, the epochs, the one kept, how far from
    the start to it (`share`) the weights lie, and the warning signs. The same inputs trained in an earlier run are used
    again; where one was interrupted, this one goes on from its newest checkpoint in `checkpoints/<key>/` beside `runs/`
    (at least one every `checkpoint_seconds`; removed when `run/finetune/` is complete). `precision` of the forward pass
    is fp32 or bf16; `processes` above 1 share the work, one a GPU, or on the CPU. Raises TrainingError;
    BadInput: too few pictures a step; ArtifactError: `run/finetune/` was made of something else.
    """
    job = Job(start, dataset, run, spec, class_weights, seed, device, precision, processes, checkpoint_seconds)
    found = find_checkpoint(run, "finetune", job.key)
    if found is not None:
        job.checkpoints.discard()  # a kill may have come between the result and the line that removes them
        return found
    check_steps(job)
    if processes > 1:
        launch(job, progress)
    else:
        tune(job, progress, device=device)
    return Checkpoint(run / "finetune", "finetune", job.key, reused=False)
