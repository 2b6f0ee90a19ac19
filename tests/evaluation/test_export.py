"""The exported file: alone, the same in every batch size, and in reduced precision a model of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from serving.artifact import MODEL, Rule, read
from serving.errors import ArtifactError
from serving.predictor import Predictor, load_predictor
from tasks.certification.certify import Certified, read_evaluation
from tasks.data.dataset import pixels, subset
from tasks.evaluation import intervals
from tasks.evaluation.scores import log_loss
from tasks.evaluation.spec import DecisionSpec
from tasks.export import export as exporting
from tasks.export.export import Exported, ExportError, export
from tasks.export.onnx_file import write_network
from tasks.export.precision import CALIBRATION_PICTURES, calibration_pictures
from tasks.export.spec import ExportSpec
from tasks.model.classifier import Classifier
from tests.conftest import Pipeline, certify_again

PRECISIONS = ("int8", "fp16")


@dataclass(frozen=True)
class Reduced:
    exported: Exported
    certified: Certified


@pytest.fixture(scope="module")
def reduced(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reduced]:
    """The shared model's file in both reduced precisions, certified. The float32 network is written only once."""
    place, made = tmp_path_factory.mktemp("reduced"), {}
    network: list[bytes] = []

    def write_once(path: Path, classifier: Classifier, image_size: int) -> None:
        if not network:
            write_network(path, classifier, image_size)
            network.append(path.read_bytes())
        path.write_bytes(network[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 20)  # nothing here looks at an interval
        patch.setattr(exporting, "write_network", write_once)
        for precision in PRECISIONS:
            spec = ExportSpec.model_validate({"precision": precision})
            exported = export(pipeline.tuned, pipeline.dataset, place / precision, pipeline.decision, spec)
            made[precision] = Reduced(exported, certify_again(pipeline, place / precision, exported))
    return made


def predictor(exported: Exported, rule: Rule = Rule()) -> Predictor:
    return Predictor(exported.path / MODEL, exported.classes, exported.preprocessing, rule, "cpu")


def test_one_file_holds_everything(pipeline: Pipeline) -> None:
    file = onnx.load(pipeline.exported.path / MODEL, load_external_data=False)
    assert not any(tensor.external_data for tensor in file.graph.initializer)
    assert [value.name for value in file.graph.output] == ["logits", "probabilities"]
    assert {path.name for path in pipeline.exported.path.iterdir() if path.suffix == ".onnx"} == {MODEL}


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(pipeline: Pipeline) -> None:
    shown = pixels(pipeline.dataset)[subset(pipeline.dataset, "validation").rows]
    probabilities, logits = predictor(pipeline.exported).scores(shown)
    scaled = logits.astype(np.float64) / pipeline.exported.temperature
    expected = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reduced_file_is_smaller(pipeline: Pipeline, reduced: dict[str, Reduced], precision: str) -> None:
    whole = (pipeline.exported.path / MODEL).stat().st_size
    share = (reduced[precision].exported.path / MODEL).stat().st_size / whole
    assert share < {"fp16": 0.6, "int8": 0.4}[precision]
    assert read_evaluation(reduced[precision].certified)["size_mb"] == pytest.approx(share * whole / 1e6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_reduced_file_decides_most_pictures_alike(
    pipeline: Pipeline, reduced: dict[str, Reduced], precision: str
) -> None:
    shown = pixels(pipeline.dataset)
    whole, small = (predictor(e).scores(shown)[0] for e in (pipeline.exported, reduced[precision].exported))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.sum(axis=1), 1, atol=1e-5)
    alike = float((whole.argmax(axis=1) == small.argmax(axis=1)).mean())
    assert alike >= {"fp16": 0.99, "int8": 0.85}[precision]
    assert np.abs(whole - small).max() > 1e-6, "it is not the float32 file"


@pytest.mark.parametrize("precision", ["fp32", *PRECISIONS])
def test_every_precision_has_the_temperature_that_suits_its_own_logits(
    pipeline: Pipeline, reduced: dict[str, Reduced], precision: str
) -> None:
    exported = pipeline.exported if precision == "fp32" else reduced[precision].exported
    assert exported.precision == precision
    part = subset(pipeline.dataset, "validation")
    _, logits = predictor(exported).scores(pixels(pipeline.dataset)[part.rows])

    def loss(temperature: float) -> float:
        scaled = logits.astype(np.float64) / temperature
        return log_loss(np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)), part.labels)

    best, at_most = exported.temperature, 1e-6
    others = [best * factor for factor in (0.8, 0.95, 1.05, 1.25) if 0.5 <= best * factor <= 20]
    assert others
    assert all(loss(best) <= loss(other) + at_most for other in others)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_precision_is_certified_and_travels(reduced: dict[str, Reduced], precision: str) -> None:
    certified, exported = reduced[precision].certified, reduced[precision].exported
    body = read_evaluation(certified)
    assert (body["precision"], body["temperature"]) == (precision, exported.temperature)
    assert body["rule"] == exported.rule.text()
    artifact = read(certified.artifact, certified.digest)
    assert artifact.contents.precision == precision
    assert artifact.contents.rule == exported.rule
    load_predictor(artifact, "cpu")  # gives its golden answers
    severities = {
        check["metric"]: check["severity"] for check in body["checks"] if check["metric"].startswith("parity")
    }
    assert severities == dict.fromkeys(("parity", "parity_logits"), "warn" if precision == "int8" else "fail")
    assert certified.verdict in ("PASSED", "INCONCLUSIVE")


def test_int8_is_calibrated_on_training_pictures_drawn_by_the_seed(pipeline: Pipeline) -> None:
    train = subset(pipeline.dataset, "train")
    allowed = {image.tobytes() for image in pixels(pipeline.dataset)[train.rows]}
    drawn = calibration_pictures(pipeline.dataset, 0)
    assert len(drawn) == min(CALIBRATION_PICTURES, len(train))
    assert {image.tobytes() for image in drawn} <= allowed
    assert np.array_equal(drawn, calibration_pictures(pipeline.dataset, 0))


class Small(nn.Module):
    """The mean colour as logits; with `mixing`, less the mean of the whole batch."""

    def __init__(self, mixing: bool) -> None:
        super().__init__()
        self.mixing = mixing

    def forward(self, images: Tensor) -> Tensor:
        means = images.float().mean(dim=(1, 2)) * torch.tensor([1.0, 2.0, 3.0])
        return (means - means.mean(dim=0, keepdim=True) if self.mixing else means) / 10


def exported_small(pipeline: Pipeline, run: Path, mixing: bool, monkeypatch: pytest.MonkeyPatch) -> Exported:
    monkeypatch.setattr(exporting, "load_classifier", lambda _: Small(mixing))
    return export(pipeline.tuned, pipeline.dataset, run, DecisionSpec())


def test_a_network_that_mixes_the_pictures_of_a_batch_is_not_exported(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match=r"in batches of 1 and 32, found .* the backbone mixes pictures of a batch"):
        exported_small(pipeline, tmp_path, True, monkeypatch)
    assert not (tmp_path / "export").exists(), "nothing half-finished is left"


def test_the_same_network_without_mixing_is_exported(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = exported_small(pipeline, tmp_path, False, monkeypatch)
    about = json.loads((exported.path / "manifest.json").read_text())
    assert about["precision"] == "fp32"
    assert (exported.path / MODEL).stat().st_size < 10_000


# --- a run that is resumed


@pytest.fixture
def not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "load_classifier", lambda _: pytest.fail("the network was loaded"))


@pytest.mark.usefixtures("not_again")
def test_what_was_exported_is_not_exported_again(pipeline: Pipeline) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in pipeline.run.rglob("*")}

    before = state()
    assert pipeline.exported.rule.watch, "it has a rule to recover"
    assert export(pipeline.tuned, pipeline.dataset, pipeline.run, pipeline.decision) == pipeline.exported
    assert state() == before


@pytest.mark.usefixtures("not_again")
@pytest.mark.parametrize("what", ["checkpoint", "dataset", "decision", "spec"])
def test_a_run_exported_for_something_else_is_refused(pipeline: Pipeline, what: str) -> None:
    same = {
        "checkpoint": pipeline.tuned, "dataset": pipeline.dataset, "run": pipeline.run, "decision": pipeline.decision,
    }  # fmt: skip
    others = {
        "checkpoint": replace(pipeline.tuned, key="other"),
        "dataset": replace(pipeline.dataset, key="other"),
        "decision": DecisionSpec(),
        "spec": ExportSpec(precision="fp16"),
    }
    with pytest.raises(ArtifactError, match=r"export: expected key .* resume it with its own, or start a new run"):
        export(**same | {what: others[what]})  # type: ignore[arg-type]


@pytest.mark.usefixtures("not_again")
def test_an_altered_export_is_detected(pipeline: Pipeline, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline.exported.path, tmp_path / "export"))
    with (copy / MODEL).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ArtifactError, match="model.onnx: expected sha256"):
        export(pipeline.tuned, pipeline.dataset, tmp_path, pipeline.decision)
