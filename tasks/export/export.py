"""export: temperature, one ONNX file, and the decision rule chosen on that file's own validation outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving import sealed
from serving.artifact import GOLDEN, MODEL, Rule, golden_inputs
from serving.predictor import Predictor
from serving.preprocess import Preprocessing
from tasks.data.dataset import Dataset, subset
from tasks.evaluation.evidence import from_pixels
from tasks.evaluation.spec import DecisionSpec
from tasks.evaluation.threshold import choose_rule
from tasks.export.onnx_file import write_onnx
from tasks.export.temperature import fit_temperature
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of
from tasks.progress import Progress, silent
from tasks.training.finetune import logits_of


@dataclass(frozen=True, slots=True)
class Exported:
    """Names a complete directory with `model.onnx` and `golden.npz`; temperature and rule are in its manifest."""

    path: Path
    rule: Rule
    temperature: float
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def export(
    checkpoint: Checkpoint, dataset: Dataset, run: Path, decision: DecisionSpec, progress: Progress = silent
) -> Exported:
    """Turns a checkpoint into the file that will be certified and served.

    Writes `run/export/`. Raises BadInput: what `decision` wants cannot be shown on the validation pictures.
    """
    network = load_classifier(checkpoint)
    preprocessing = Preprocessing.model_validate(manifest_of(checkpoint)["preprocessing"])
    validation = subset(dataset, "validation")
    temperature = fit_temperature(logits_of(network, dataset, validation), validation.labels)
    progress(1, 3, f"temperature {temperature:.3f}")
    place = run / "export"
    about: dict[str, object] = {"checkpoint": checkpoint.key, "temperature": temperature}
    with sealed.sealing(place, about) as directory:
        model = directory / MODEL
        write_onnx(model, network, temperature, preprocessing.image_size)
        progress(2, 3, "ONNX file written")
        predictor = Predictor(model, dataset.classes, preprocessing, Rule(), "cpu")
        _write_golden(directory / GOLDEN, predictor, preprocessing.image_size)
        outputs = from_pixels(predictor, dataset, validation)
        rule = choose_rule(outputs.probabilities, validation.labels, dataset.classes, decision)
        about["rule"] = rule.model_dump(mode="json")
        progress(3, 3, rule.text() or "argmax")
    return Exported(place, rule, temperature, dataset.classes, preprocessing)


def _write_golden(path: Path, predictor: Predictor, image_size: int) -> None:
    images = golden_inputs(image_size)
    probabilities, logits = predictor.scores(images)
    np.savez_compressed(path, images=images, probabilities=probabilities, logits=logits)
