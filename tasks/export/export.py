"""export: one ONNX file, its temperature, and the decision rule chosen on that file's own validation outputs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving import sealed
from serving.artifact import GOLDEN, MODEL, Rule, golden_inputs
from serving.errors import ThawError
from serving.predictor import Predictor
from serving.preprocess import Preprocessing
from tasks.data.dataset import Dataset, groups_of, pixels, subset
from tasks.evaluation.outputs import from_pixels
from tasks.evaluation.spec import DecisionSpec
from tasks.evaluation.threshold import choose_rule
from tasks.export.onnx_file import add_probabilities, write_network
from tasks.export.precision import to_float16, to_int8
from tasks.export.spec import ExportSpec
from tasks.export.temperature import fit_temperature
from tasks.model.classifier import Checkpoint, Classifier, load_classifier, manifest_of
from tasks.progress import Progress, silent

BATCH_SIZES = (1, 7, 32)
_SAME = 1e-4  # of a probability, between batch sizes: other kernels round otherwise


class ExportError(ThawError):
    """The exported file does not do what the network does: it is not published."""

    code = "export_failed"


@dataclass(frozen=True, slots=True)
class Exported:
    """Names a complete directory with `model.onnx` and `golden.npz`; temperature and rule are in its manifest."""

    path: Path
    rule: Rule
    temperature: float
    precision: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    run: Path,
    decision: DecisionSpec,
    spec: ExportSpec = ExportSpec(),
    progress: Progress = silent,
) -> Exported:
    """Turns a checkpoint into the file that will be certified and served.

    Writes `run/export/`, unless it is there already: then that is the answer. Raises BadInput: what `decision` wants
    cannot be shown on the validation pictures; ExportError: the file answers otherwise in other batch sizes;
    ArtifactError: it does not load alone, or what is there was made of something else or altered.
    """
    place, preprocessing = run / "export", Preprocessing.model_validate(manifest_of(checkpoint)["preprocessing"])
    parameters = [decision.model_dump(mode="json"), spec.model_dump(mode="json")]
    key = sealed.digest_of([checkpoint.key, dataset.key, *parameters])[:16]
    about = sealed.reusable(place, key)
    if about is None:
        made_of = {"key": key, "checkpoint": checkpoint.key, "precision": spec.precision}
        _write(place, made_of, load_classifier(checkpoint), dataset, preprocessing, decision, spec, progress)
        about = sealed.verify(place)
    rule = Rule.model_validate(about["rule"])
    return Exported(place, rule, about["temperature"], spec.precision, dataset.classes, preprocessing)


def _write(
    place: Path,
    made_of: dict[str, str],
    classifier: Classifier,
    dataset: Dataset,
    preprocessing: Preprocessing,
    decision: DecisionSpec,
    spec: ExportSpec,
    progress: Progress,
) -> None:
    validation, about = subset(dataset, "validation"), dict[str, object](made_of)
    with sealed.sealing(place, about) as directory, tempfile.TemporaryDirectory() as empty:
        network, model = Path(empty, "network.onnx"), directory / MODEL
        write_network(network, classifier, preprocessing.image_size)
        _reduce(network, dataset, spec)
        progress(1, 3, f"{spec.precision} file written")
        plain = _with_temperature(network, Path(empty, "plain.onnx"), 1.0)
        uncalibrated = from_pixels(Predictor(plain, dataset.classes, preprocessing, Rule(), "cpu"), dataset, validation)
        temperature = fit_temperature(uncalibrated.logits.astype(np.float64), validation.labels)
        progress(2, 3, f"temperature {temperature:.3f}")
        _with_temperature(network, model, temperature)
        predictor = _loaded_alone(model, dataset.classes, preprocessing)
        _check_batch_sizes(predictor, pixels(dataset)[validation.rows[: max(BATCH_SIZES)]])
        _write_golden(directory / GOLDEN, predictor, preprocessing.image_size)
        outputs = from_pixels(predictor, dataset, validation)
        probabilities, groups = outputs.sample.probabilities, groups_of(dataset, validation)
        rule = choose_rule(probabilities, validation.labels, dataset.classes, decision, groups)
        about |= {"temperature": temperature, "rule": rule.model_dump(mode="json")}
        progress(3, 3, rule.text() or "argmax")


def _reduce(network: Path, dataset: Dataset, spec: ExportSpec) -> None:
    if spec.precision == "int8":
        to_int8(network, dataset)
    elif spec.precision == "fp16":
        to_float16(network)


def _with_temperature(network: Path, target: Path, temperature: float) -> Path:
    shutil.copyfile(network, target)
    add_probabilities(target, temperature)
    return target


def _loaded_alone(model: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> Predictor:
    """The predictor of a copy in an otherwise empty directory: weights in other files would be missing there."""
    with tempfile.TemporaryDirectory() as empty:
        shutil.copyfile(model, Path(empty, MODEL))
        return Predictor(Path(empty, MODEL), classes, preprocessing, Rule(), "cpu")


def _check_batch_sizes(predictor: Predictor, images: np.ndarray) -> None:
    whole, _ = predictor.scores(images)
    for size in BATCH_SIZES:
        parts = [predictor.scores(images[i : i + size])[0] for i in range(0, len(images), size)]
        worst = float(np.abs(np.concatenate(parts) - whole).max())
        if not worst <= _SAME:
            raise ExportError(
                f"expected the same probabilities in batches of {size} and {len(images)}, found {worst:.3g} between "
                "them: the backbone mixes pictures of a batch; choose another"
            )


def _write_golden(path: Path, predictor: Predictor, image_size: int) -> None:
    images = golden_inputs(image_size)
    probabilities, logits = predictor.scores(images)
    np.savez_compressed(path, images=images, probabilities=probabilities, logits=logits)
