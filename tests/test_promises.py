"""Ways a promise could be broken without any single module being wrong: each was found by review, each has its test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from flows.console import print_result
from flows.parameters import checked
from flows.release import promote_version
from flows.result import shipped_configuration
from serving.artifact import read
from serving.errors import BadInput, Conflict
from serving.ledger import opened
from serving.preprocess import Preprocessing
from serving.settings import load_settings
from serving.store import Store
from tasks.data.dataset import subset
from tasks.data.prepare import prepare
from tasks.data.source import find_pictures
from tasks.data.spec import DataSpec
from tasks.evaluation.gate import Line, Measurement, judge
from tasks.evaluation.lines import measured
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed
from tests.conftest import Pipeline, of_another_run, write_digits
from tests.evaluation.build import evidence, sample

SMALL = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def test_two_names_never_share_what_was_trained_on_another_split(digits_folder: Path, home: Path) -> None:
    """Otherwise the second name's test pictures could be the first one's training pictures."""
    first = prepare("one", home, DataSpec(root=digits_folder, seed=1), SMALL)
    again = prepare("one", home, DataSpec(root=digits_folder, seed=0), SMALL)
    other = prepare("two", home, DataSpec(root=digits_folder, seed=0), SMALL)
    assert subset(first, "test").digests == subset(again, "test").digests, "a name's table never moves"
    assert subset(other, "test").digests != subset(again, "test").digests
    assert other.key != again.key


def test_architectures_with_equal_tensors_do_not_share_features(digits_folder: Path, home: Path) -> None:
    dataset = prepare("one", home, DataSpec(root=digits_folder), SMALL)
    names = ("timm/efficientnet_b0", "timm/tf_efficientnet_b0")
    models = [ModelSpec(backbone=name, weights="none", image_size=32) for name in names]
    features = [embed(dataset, home, model, SMALL, seed=0) for model in models]
    assert features[0].key != features[1].key
    assert not features[1].reused


def test_naming_groups_later_does_not_tear_them(tmp_path: Path, home: Path) -> None:
    folder = write_digits(tmp_path / "pictures", (0, 1), 30)
    prepare("late", home, DataSpec(root=folder), SMALL)
    with pytest.raises(BadInput, match="choose another name"):
        prepare("late", home, DataSpec(root=folder, group_by=r"/\d\d(\d)"), SMALL)
    grouped = prepare("fresh", home, DataSpec(root=folder, group_by=r"/\d\d(\d)"), SMALL)
    units = [set(subset(grouped, split).units) for split in ("train", "validation", "test")]
    assert not (units[0] & units[1] or units[0] & units[2] or units[1] & units[2])


def test_copies_across_given_splits_are_leakage(tmp_path: Path, home: Path) -> None:
    for split in ("train", "validation", "test"):
        write_digits(tmp_path / "given" / split, (0, 1), 3)
    for path in (tmp_path / "given" / "test").rglob("*.png"):  # other bytes, the same pixels
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    with pytest.raises(BadInput, match="leakage"):
        prepare("given", home, DataSpec(root=tmp_path / "given"), SMALL)


def test_a_class_that_cannot_be_read_at_all_is_an_error(tmp_path: Path, home: Path) -> None:
    folder = write_digits(tmp_path / "pictures", (0, 1, 7), 6)
    for path in (folder / "digit-7").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadInput, match="found none of digit-7"):
        prepare("lost", home, DataSpec(root=folder, max_unreadable=0.5), SMALL)


def test_a_class_must_not_be_called_overall(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "pictures", (0, 1), 3)
    (folder / "digit-0").rename(folder / "overall")
    with pytest.raises(BadInput, match="other than `overall`"):
        find_pictures(DataSpec(root=folder))


@pytest.mark.parametrize("metric", ["macro_f1", "macro_precision", "macro_recall"])
def test_a_few_perfect_pictures_prove_no_perfection(metric: str) -> None:
    line, perfect = Line(metric, "test", "overall", ">=", 0.99), evidence(sample([0, 0, 0, 1, 1, 1]))
    found = measured(line, perfect, 0.95)
    assert found is not None
    assert found.value == 1.0
    assert found.interval[0] < 0.7
    assert judge(line, found).verdict == "INCONCLUSIVE"


def test_promoting_by_hand_asks_for_the_champion_it_was_certified_against(
    pipeline: Pipeline, home: Path, tmp_path: Path
) -> None:
    second = of_another_run(pipeline, tmp_path / "two")
    with opened(home) as ledger:
        for version, certified in enumerate((pipeline.certified, second), start=1):
            published = Store(home, ledger).publish(read(certified.artifact), "tester", "test")
            assert (published.version, published.digest) == (version, certified.digest)
    assert promote_version("digits:1", None, False)["generation"] == 1
    with pytest.raises(Conflict, match="certify again"):
        promote_version("digits:2", None, False)
    with pytest.raises(BadInput, match="a reason"):
        promote_version("digits:2", " ", False)
    assert promote_version("digits:2", "measured in the field", False)["version"] == 2


@pytest.mark.parametrize(("name", "value"), [("THAW_THREADS", "abc"), ("THAW_DEVICE", "gpu")])
def test_a_wrong_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name}.*{value}"):
        load_settings()


def test_class_names_are_text_and_never_markup() -> None:
    odd = "[/x] [red]"
    figures = {"accuracy": 1.0, "macro_recall": 1.0, "recall": {odd: 1.0}}
    judged = judge(Line("recall", "test", odd, ">=", 0.5), Measurement(0.5, (0.5, 0.5), 3))
    check = replace(judged, advice=odd).as_json()
    result = {
        "name": "m", "version": 1, "verdict": "PASSED", "reason": odd, "report": None, "checks": [check],
        "metrics": figures | {"argmax": figures}, "baselines": {"head_only": figures, "majority": figures},
    }  # fmt: skip
    console = Console(record=True, width=200)
    print_result(console, result)
    assert console.export_text().count(odd) >= 3


def test_what_is_shipped_does_not_say_where_pictures_lie() -> None:
    place = "/data/patients/mueller"
    parameters = checked({"name": "m", "data": {"root": place}, "model": {"weights": f"{place}/w.pth"}})
    assert "patients" not in shipped_configuration(parameters)
