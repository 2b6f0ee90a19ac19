"""The whole chain on real digits: the contract's JSON, what a repeat costs, what a verdict does, and the way back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from safetensors.torch import load_file
from torchvision.models import resnet18

from flows.predict import open_model, predict_files
from flows.release import promote_version, rollback_version
from flows.show import describe_models
from serving import artifact
from serving.errors import BadInput, Conflict
from serving.ledger import opened
from serving.predictor import load_predictor
from serving.store import Store, whoami
from tests.conftest import write_digits
from tests.flows.conftest import Ran, command, intact, published, settings, stored, thaw

STEPS = ("prepare", "embed", "audit", "train_head", "finetune", "validate", "export", "certify", "publish", "promote")
CHECK = {
    "metric", "split", "scope", "operator", "threshold", "value", "ci_low", "ci_high", "n", "evidence", "severity",
    "verdict", "advice",
}  # fmt: skip
SMALL = settings(
    "model.image_size=32", "finetune.epochs=1", "finetune.batch_size=16", "data.train=0.5", "data.validation=0.25",
    "data.test=0.25", "runtime.device=cpu",
)  # fmt: skip
LINES = settings("decision.watch=[{label: digit-7, recall: 0.80}]", "gate.min_recall.digit-7=0.5")
OUT_OF_REACH = settings("gate.lines=[{metric: accuracy, operator: '<=', threshold: 0.1}]")


@dataclass(frozen=True)
class Story:
    """Three runs under one home.

    `first` in a process of its own; `again` the same; `rejected` with a line out of reach, and trained as in the
    tutorial: torchvision's ResNet-18, weights from a file, the head by Adam.
    """

    home: Path
    root: Path
    weights: Path
    first: Ran
    again: Ran
    rejected: Ran


def retrain(root: Path, *chosen: str, name: str = "digits") -> Ran:
    return thaw("retrain", root, "--name", name, "--json", *SMALL, *LINES, *chosen)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("story")
    root, home = write_digits(place / "own pictures", (0, 1, 7), 80), place / "home"
    weights = place / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), weights)
    other = settings("model.backbone=torchvision/resnet18", f"model.weights={weights}", "head.method=adam")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_HOME", str(home))
        first = command("retrain", root, "--name", "digits", "--json", *SMALL, *LINES, cwd=place)
        again = retrain(root)
        rejected = retrain(root, *OUT_OF_REACH, *other)
    return Story(home, root, weights, first, again, rejected)


@pytest.fixture(autouse=True)
def _at_home(story: Story, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("THAW_HOME", str(story.home))
    yield
    assert intact(story.home)
    assert not [path for path in stored() if path.name.startswith(".thaw-")], "nothing is left in staging"


# --- the first run ----------------------------------------------------------------------------------


def test_the_first_run_passes_and_is_promoted(story: Story) -> None:
    assert story.first.status == 0, story.first.err
    body = story.first.document
    assert (body["name"], body["version"], body["verdict"]) == ("digits", 1, "PASSED")
    assert (body["promoted"], body["skipped"]) == (True, False)
    assert (body["unreadable"], body["bridges"]) == (0, 0)
    assert body["champion"]["version"] is None


def test_the_document_is_the_contracts(story: Story) -> None:
    body = story.first.document
    assert {"checks", "metrics", "baselines", "seconds", "artifact", "report", "run_id"} <= set(body)
    assert all(set(check) == CHECK for check in body["checks"])
    assert tuple(body["seconds"]) == STEPS
    assert all(seconds >= 0 for seconds in body["seconds"].values())
    metrics = body["metrics"]
    classes = {"digit-0", "digit-1", "digit-7"}
    for figures in (metrics, metrics["argmax"]):
        assert {"accuracy", "macro_recall"} <= set(figures)
        assert set(figures["recall"]) == set(figures["precision"]) == set(figures["f1"]) == classes
    assert 0 <= metrics["train_accuracy"] <= 1
    assert 0 <= metrics["validation_accuracy"] <= 1
    assert set(body["baselines"]) >= {"majority", "head_only"}
    assert body["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3, abs=0.02)
    assert body["rule"].startswith("digit-7 if its probability >= ")


def test_what_the_document_names_is_there(story: Story) -> None:
    body = story.first.document
    run = story.home / "runs" / body["run_id"]
    assert json.loads((run / "result.json").read_text()) == body
    kept = json.loads((run / "parameters.json").read_text())
    assert (kept["name"], kept["data"]["root"]) == ("digits", str(story.root))
    assert kept["decision"]["watch"][0]["label"] == "digit-7"
    assert body["data"]["fingerprint"]
    assert Path(body["report"]).read_text().startswith("<!")
    made = artifact.read(Path(body["artifact"]))
    assert made.contents.verdict == "PASSED"
    with opened(story.home, create=False) as ledger:
        assert Store(story.home, ledger).open("digits", 1).digest == made.digest


def test_both_phases_trained_what_they_should(story: Story) -> None:
    phases = story.first.document["phases"]
    assert phases["train_head"]["trainable"] == {"tensors": 2, "values": 3 * 1280 + 3}
    assert phases["finetune"]["trainable"]["tensors"] > 140
    assert [row["epoch"] for row in phases["finetune"]["epochs"]] == [0, 1]


def test_progress_goes_to_stderr_a_line_a_step(story: Story) -> None:
    lines = story.first.err.splitlines()
    assert lines[0] == "Prefect API: an ephemeral server of this run"
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(STEPS)
    assert any(line.strip().startswith("epoch 1: train loss") for line in lines)
    assert "" not in lines
    assert ".png" not in story.first.err + story.first.out, "pictures are named nowhere"


# --- the same again ---------------------------------------------------------------------------------


def test_an_unchanged_run_is_skipped(story: Story) -> None:
    first, again = story.first.document, story.again.document
    assert story.again.status == 0
    assert again["skipped"] is True
    assert again["version"] == 1
    assert again["promoted"] is True
    assert "nothing changed since run" in again["reason"]
    assert tuple(again["seconds"]) == STEPS[:5]
    kept = set(first) - {"skipped", "reason", "seconds", "promoted"}
    assert {key: again[key] for key in kept} == {key: first[key] for key in kept}


def test_the_same_without_json_prints_a_table(story: Story) -> None:
    ran = thaw("retrain", story.root, "--name", "digits", *SMALL, *LINES)
    assert ran.status == 0
    assert "PASSED digits:1" in ran.out
    assert "as served" in ran.out
    assert "head only" in ran.out


# --- a line out of reach ----------------------------------------------------------------------------


def test_a_rejected_version_is_published_and_the_champion_stays(story: Story) -> None:
    body = story.rejected.document
    assert story.rejected.status == 3
    assert (body["version"], body["verdict"], body["promoted"]) == (2, "REJECTED", False)
    assert "the champion stays" in body["reason"]
    assert body["champion"]["version"] == 1
    assert body["champion"]["generation"] == 1


def test_every_check_says_what_was_wanted_and_found(story: Story) -> None:
    checks = story.rejected.document["checks"]
    assert {check["metric"] for check in checks} >= {"accuracy", "recall", "parity", "accuracy_vs_champion"}
    for check in checks:
        assert isinstance(check["threshold"], float)
        assert isinstance(check["value"], float)
        assert check["n"] > 0
        assert check["verdict"] == "PASSED" or check["advice"], check
    (unreachable,) = [check for check in checks if check["operator"] == "<=" and check["metric"] == "accuracy"]
    assert (unreachable["threshold"], unreachable["verdict"]) == (0.1, "REJECTED")


def test_adam_on_a_local_resnet_leaves_the_backbone_as_it_was(story: Story) -> None:
    body = story.rejected.document
    phases = body["phases"]
    assert phases["train_head"]["trainable"] == {"tensors": 2, "values": 3 * 512 + 3}
    assert [row["epoch"] for row in phases["train_head"]["epochs"]] == list(range(11))
    assert phases["finetune"]["trainable"]["tensors"] == 62
    state = torch.load(story.weights)
    saved = load_file(story.home / "runs" / body["run_id"] / "train_head" / "weights.safetensors")
    backbone = {key.removeprefix("body."): value for key, value in saved.items() if key.startswith("body.")}
    assert backbone.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(value, state[key]) for key, value in backbone.items())
    parity = next(check for check in body["checks"] if check["metric"] == "parity")
    assert parity["verdict"] == "PASSED"


def test_a_line_within_the_interval_is_inconclusive(story: Story) -> None:
    """60 pictures may all be right and still not show 99 %."""
    before = published(story.home)
    ran = retrain(story.root, *settings("gate.min_recall.digit-0=0.99"), name="unsure")
    assert ran.status == 4
    assert (ran.document["verdict"], ran.document["version"], ran.document["promoted"]) == ("INCONCLUSIVE", 1, False)
    (check,) = [check for check in ran.document["checks"] if check["verdict"] == "INCONCLUSIVE"]
    assert "more test pictures" in check["advice"]
    assert published(story.home) == [*before, "unsure:1"]


def test_stop_early_ends_before_export_and_publishes_nothing(story: Story) -> None:
    before = published(story.home)
    ran = retrain(story.root, *OUT_OF_REACH, *settings("gate.stop_early=true"))
    assert ran.status == 3
    body = ran.document
    assert (body["verdict"], body["version"], body["artifact"]) == ("REJECTED", None, None)
    assert body["reason"].startswith("validation rules out accuracy of overall: stopped before export; accuracy on ")
    assert tuple(body["seconds"]) == STEPS[:6]
    (check,) = [check for check in body["checks"] if check["verdict"] == "REJECTED"]
    assert (check["split"], check["threshold"]) == ("validation", 0.1)
    run = story.home / "runs" / body["run_id"]
    assert json.loads((run / "result.json").read_text()) == body
    assert not (run / "export").exists()
    assert published(story.home) == before
    again = retrain(story.root, *OUT_OF_REACH, *settings("gate.stop_early=true"), "--if-changed")
    assert (again.status, again.document["skipped"], again.document["run_id"]) == (3, True, run.name)
    assert again.document["reason"] == f"nothing changed since run {run.name}, which published nothing"


# --- what the orchestrator shows ---------------------------------------------------------------------


def final_states(name: str) -> dict[str, list[str]]:
    """State name -> messages of this session's flow runs of a model, but for failed ones: other tests provoke those."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_ASC)
    found: dict[str, list[str]] = {}
    named = re.compile(rf"retrain {name} \d{{4}}-\d\d-\d\d [0-9a-f]{{6}}")
    for run in runs:
        if named.fullmatch(run.name) and run.state and run.state.type == StateType.COMPLETED:
            assert run.name.endswith(f" {str(run.id)[-6:]}")
            found.setdefault(str(run.state.name), []).append(str(run.state.message))
    return found


def test_a_verdict_is_a_state_of_its_own_and_no_failure(story: Story) -> None:
    states = final_states("digits")
    assert "accuracy on test: " in states["Rejected"][0]
    assert "wanted <= 0.1" in states["Rejected"][0]
    assert "nothing changed since run" in states["Skipped"][0]


def test_an_undecided_run_says_what_is_missing(story: Story) -> None:
    (message,) = final_states("unsure")["Inconclusive"]
    assert "recall of 'digit-0' on test: 1 (" in message


def test_data_verdict_confusion_curves_and_report_are_artifacts_without_pictures(story: Story) -> None:
    with get_client(sync_client=True) as client:
        found = {f"digits-{key}": client.read_artifacts(
                     artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"digits-{key}"])))
                 for key in ("data", "audit", "verdict", "confusion", "curves", "report")}  # fmt: skip
    texts = {key: "\n".join(str(artifact.data) for artifact in versions) for key, versions in found.items()}
    assert "| class | train | validation | test |" in texts["digits-data"]
    assert "| all | 120 | 60 | 60 |" in texts["digits-data"]
    assert "0 unreadable, 0 quarantined as bridges; prepared at 32 pixels" in texts["digits-data"]
    assert "240 pictures looked at." in texts["digits-audit"]
    assert "| level | finding | what, and what to do | suspects |" in texts["digits-audit"]
    assert "| recall of digit-7, test |" in texts["digits-verdict"]
    assert "| true / decided | digit-0 | digit-1 | digit-7 |" in texts["digits-confusion"]
    assert texts["digits-curves"].startswith("![Loss and accuracy by epoch](data:image/png;base64,")
    assert Path(story.rejected.document["report"]).as_uri() in texts["digits-report"]
    assert not any(".png" in text for text in texts.values())


# --- what was published -----------------------------------------------------------------------------


def test_predict_answers_as_the_artifacts_predictor(story: Story) -> None:
    folder = story.root / "digit-1"
    results = list(predict_files(open_model("digits:1", "cpu"), [folder], lambda: None))
    with opened(story.home, create=False) as ledger:
        made = Store(story.home, ledger).open("digits", 1)
    predictor = load_predictor(made, "cpu")
    paths = sorted(folder.iterdir())
    assert [result["path"] for result in results] == [str(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        (answer,) = predictor.answer([predictor.read(path.read_bytes())])
        assert (result["label"], result["probability"]) == (answer.label, answer.probability)
        assert [(s["label"], s["probability"]) for s in result["scores"]] == list(answer.scores)
        assert result["model"] == {"name": "digits", "version": 1, "digest": made.digest}
    found = sum(result["label"] == "digit-1" for result in results)
    assert found > 40, "half of the pictures would be chance's doing"


def test_predict_names_a_bad_picture_among_good_ones(story: Story, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = story.root / "digit-7" / "000.png"
    ran = thaw("predict", good, tmp_path / "bad.png", "--name", "digits:1", "--device", "cpu", "--json")
    assert ran.status == 2
    fine, broken = ran.document
    assert fine["label"] in ("digit-0", "digit-1", "digit-7")
    assert broken["error"]["code"] == "unsupported_format"


def _models() -> dict[str, Any]:
    return {model["name"]: model for model in describe_models(None)["models"]}


def test_show_tells_champion_versions_and_history(story: Story) -> None:
    model = _models()["digits"]
    assert (model["champion"]["version"], model["champion"]["hold"]) == (1, False)
    assert [(entry["version"], entry["verdict"]) for entry in model["versions"]] == [(2, "REJECTED"), (1, "PASSED")]
    assert [(event["kind"], event["version"]) for event in model["history"]] == [
        ("publish", 1), ("promote", 1), ("publish", 2),
    ]  # fmt: skip
    assert all(event["who"] and event["why"].startswith("run ") for event in model["history"])
    only = describe_models("digits:2")["models"][0]
    assert only["artifact"]["verdict"] == "REJECTED"
    ran = thaw("show", "digits")
    assert (ran.status, ran.err) == (0, "")
    assert "champion digits:1, generation 1" in ran.out


# --- by hand: last, because it moves the pointer -------------------------------------------------------


def test_promotion_rollback_and_hold(story: Story) -> None:
    with pytest.raises(BadInput, match="expected verdict PASSED, found REJECTED for digits:2"):
        promote_version("digits:2", None, False)
    with pytest.raises(BadInput, match="expected an earlier champion of digits, found none"):
        rollback_version("digits", None, "")
    assert _models()["digits"]["champion"]["generation"] == 1, "nothing moved"

    moved = promote_version("digits:2", "the line was a mistake", False)
    assert (moved["version"], moved["generation"], moved["hold"]) == (2, 2, False)
    back = rollback_version("digits", None, "it was not")
    assert (back["version"], back["generation"], back["hold"]) == (1, 3, True)

    with pytest.raises(Conflict, match="digits is on hold since a rollback: promote with --release-hold"):
        promote_version("digits:1", None, False)
    ended = promote_version("digits:1", None, True)
    assert (ended["version"], ended["generation"], ended["hold"]) == (1, 4, False)

    history = _models()["digits"]["history"]
    assert [(event["kind"], event["version"]) for event in history][3:] == [
        ("promote", 2), ("rollback", 1), ("hold", 1), ("release", 1), ("promote", 1),
    ]  # fmt: skip
    assert [event["why"] for event in history][3:6] == ["override: the line was a mistake", "it was not", "it was not"]
    assert {event["who"] for event in history} == {whoami()}
    ran = thaw("promote", "digits:2", "--override", "try again", "--json")
    assert (ran.status, ran.document["version"], ran.document["generation"]) == (0, 2, 5)
    ran = thaw("rollback", "digits", "--to", "1")
    assert (ran.status, ran.out) == (0, "digits:1 is the champion (generation 6, on hold)\nno server is running\n")


def test_a_run_that_ended_is_not_gone_on_with(story: Story) -> None:
    """Else its old version would meet the champion that came after it, and replace it."""
    run, before = story.home / "runs" / story.first.document["run_id"], published(story.home)
    kept = (run / "result.json").read_bytes()
    promote_version("digits:2", "newer", True)
    ran = thaw("retrain", "--resume", run.name, "--json")
    body = ran.document
    assert (ran.status, body["version"], body["promoted"], body["skipped"]) == (0, 1, False, True)
    assert body["reason"].startswith(f"run {run.name} had ended, nothing was done: ")
    assert _models()["digits"]["champion"]["version"] == 2
    assert published(story.home) == before
    assert (run / "result.json").read_bytes() == kept
    ran = thaw("retrain", "--resume", run.name, *settings("gate.min_accuracy=0.1"))
    assert ran.status == 2
    assert "was begun with, found other gate" in ran.err
