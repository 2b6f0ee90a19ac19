"""`thaw verify`: the original pictures, wherever they lie now, give the same verdict digest; other ones do not."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

import pytest

from serving import artifact
from serving.artifact import Artifact
from serving.errors import BadInput
from tasks.certification.certify import Candidate
from tasks.certification.verify import verify
from tasks.data.spec import DataSpec
from tasks.evaluation.judgement import Judgement
from tests.conftest import DECISION, GATE, Pipeline, certify_again


@pytest.fixture(scope="module")
def made(pipeline: Pipeline) -> Artifact:
    return artifact.read(pipeline.certified.artifact)


def again(made: Artifact, root: Path) -> Judgement:
    return verify(made, None, DataSpec(root=root), DECISION, GATE, "cpu")


def test_the_same_pictures_give_the_same_verdict(made: Artifact, digits_folder: Path) -> None:
    found = again(made, digits_folder)
    assert found.digest == made.contents.verdict_digest
    assert found.verdict == "PASSED"
    assert not [c for c in found.checks if c.metric.startswith(("parity", "latency"))], "those do not travel"


def test_names_places_and_other_pictures_do_not_matter(made: Artifact, digits_folder: Path, tmp_path: Path) -> None:
    """A manifest in another order, other file names, and a picture more, as on an auditor's machine."""
    files = [(path, path.parent.name) for path in sorted(digits_folder.rglob("*.png"))]
    random.Random(0).shuffle(files)
    with (tmp_path / "manifest.csv").open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(("path", "label"))
        for number, (path, label) in enumerate(files):
            shutil.copyfile(path, tmp_path / f"{number}.png")
            writer.writerow((f"{number}.png", label))
        (tmp_path / "new.png").write_bytes(b"never looked at")
        writer.writerow(("new.png", "digit-1"))
    found = again(made, tmp_path / "manifest.csv")
    assert found.digest == made.contents.verdict_digest


def test_a_missing_or_changed_picture_is_said(made: Artifact, digits_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_folder, tmp_path / "copy"))
    (copy / "digit-0" / "000.png").unlink()
    with (copy / "digit-1" / "000.png").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadInput, match=r"expected the 240 pictures .* found 238"):
        again(made, copy)


def test_another_label_gives_another_verdict_digest(made: Artifact, digits_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(digits_folder, tmp_path / "copy"))
    for path in sorted((copy / "digit-0").iterdir())[:30]:
        path.rename(copy / "digit-1" / f"was-{path.name}")
    assert again(made, copy).digest != made.contents.verdict_digest


def test_the_comparison_with_the_champion_is_made_again(
    pipeline: Pipeline, made: Artifact, digits_folder: Path, tmp_path: Path
) -> None:
    champion = Candidate(made.path, made.digest, 1, 1)
    challenger = artifact.read(certify_again(pipeline, tmp_path, champion=champion).artifact)
    assert challenger.contents.champion_version == 1
    root = DataSpec(root=digits_folder)
    found = verify(challenger, (made, 1, 1), root, DECISION, GATE, "cpu")
    assert found.digest == challenger.contents.verdict_digest
    assert {c.metric for c in found.checks} >= {"recall_vs_champion", "accuracy_vs_champion"}
    without = verify(challenger, None, root, DECISION, GATE, "cpu")
    assert without.digest != challenger.contents.verdict_digest
