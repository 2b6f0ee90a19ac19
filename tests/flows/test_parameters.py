"""Parameters: defaults hold, later sources win key by key, and all that is wrong is told at once, by its key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from flows.demo import demo_values, write_manifest
from flows.parameters import Parameters, checked, read_parameters
from serving.errors import BadInput
from tasks.evaluation.spec import WatchSpec
from tasks.spec import Spec

BASE: dict[str, Any] = {"name": "digits", "data": {"root": "/pictures"}}


def read(*settings: str, config: str | None = None) -> Parameters:
    path = Path("thaw.yaml")
    if config is not None:
        path.write_text(config, encoding="utf-8")
    return read_parameters(BASE, path if config is not None else None, settings)


def refused(*settings: str, config: str | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        read(*settings, config=config)
    message = str(caught.value)
    assert "\n" not in message
    if config is None:  # else YAML's own words are among them
        assert message.count(", found ") == message.count("expected "), "each error says both, once"
    assert "Value error" not in message
    assert "Input " not in message
    return message


def specs(model: Any) -> Iterator[type[Spec]]:
    """A parameter model and every one inside it."""
    if isinstance(model, type) and issubclass(model, Spec):
        yield model
        for field in model.model_fields.values():
            yield from specs(field.annotation)
    for part in get_args(model):
        yield from specs(part)


# --- what holds when nothing is said -----------------------------------------------------------------


def test_name_and_root_are_enough() -> None:
    parameters = read()
    assert parameters.name == "digits"
    assert parameters.data.root == Path("/pictures")
    assert (parameters.data.train, parameters.data.validation, parameters.data.test) == (0.70, 0.15, 0.15)
    assert parameters.model.backbone == "timm/tf_efficientnet_lite0"
    assert parameters.head.method == "solve"
    assert (parameters.finetune.epochs, parameters.finetune.learning_rate) == (5, 1e-4)
    assert parameters.gate.confidence == 0.95
    assert parameters.release.promote == "auto"


def test_name_and_root_are_needed() -> None:
    with pytest.raises(
        BadInput, match=r"^name: expected a value, found nothing; data: expected a value, found nothing$"
    ):
        checked({})
    with pytest.raises(BadInput, match=r"^data.root: expected a value, found nothing$"):
        checked({"name": "x", "data": {}})


def test_the_demos_parameters_hold(home: Path) -> None:
    parameters = checked(demo_values(home))
    assert parameters.name == "solar-cells"
    assert parameters.decision.watch[0].label == "defective"
    assert not parameters.data.root.exists(), "nothing is written before the parameters are known to be right"
    assert "module ids" in write_manifest(home)
    assert parameters.data.root.read_text().count("\n") == 2625


def test_parameters_survive_json() -> None:
    parameters = read("gate.min_recall={a: 0.9}", "decision.watch=[{label: a, recall: 0.9}]")
    assert Parameters.model_validate_json(parameters.model_dump_json()) == parameters


def test_every_field_is_described_for_the_form() -> None:
    """Its own description, or for a group the one of its model."""
    bare = [
        f"{model.__name__}.{name}"
        for model in set(specs(Parameters))
        for name, field in model.model_fields.items()
        if not field.description and not next((inner.__doc__ for inner in specs(field.annotation)), None)
    ]
    assert sorted(bare) == []


def test_every_model_refuses_unknown_keys_and_is_frozen() -> None:
    models = set(specs(Parameters))
    assert WatchSpec in models
    assert len(models) >= 12
    for model in models:
        assert model.model_config["extra"] == "forbid", model
        assert model.model_config["frozen"], model


def test_a_file_of_weights_is_one_from_the_working_directory(tmp_path: Path) -> None:
    """A deployment's runs start in the checkout."""
    assert read("model.weights=w.pth").model.weights == str(tmp_path / "w.pth")
    assert [read(f"model.weights={word}").model.weights for word in ("imagenet", "none")] == ["imagenet", "none"]


# --- --set ------------------------------------------------------------------------------------------


def test_set_reads_numbers_words_lists_and_maps() -> None:
    parameters = read(
        "finetune.epochs=8",
        "finetune.learning_rate=1e-4",
        "model.image_size=null",
        "data.near_duplicates=no",
        r"data.group_by=^(\d+)[a-z]+_",
        "gate.min_recall={bad: 0.9, good: 0.5}",
        "decision.watch=[{label: bad, recall: 0.9}, {label: odd, precision: 0.8}]",
        "gate.lines=[{metric: f1, scope: bad, threshold: 0.5, severity: warn}]",
        "model.weights=/a/b=c.pth",
    )
    assert (parameters.finetune.epochs, parameters.finetune.learning_rate) == (8, 1e-4)
    assert parameters.model.image_size is None
    assert parameters.data.near_duplicates is False
    assert parameters.data.group_by == r"^(\d+)[a-z]+_"
    assert parameters.gate.min_recall == {"bad": 0.9, "good": 0.5}
    assert [(w.label, w.recall, w.precision) for w in parameters.decision.watch] == [
        ("bad", 0.9, None),
        ("odd", None, 0.8),
    ]
    assert parameters.gate.lines[0].severity == "warn"
    assert parameters.model.weights == "/a/b=c.pth"


def test_set_reaches_into_maps_and_the_later_one_wins() -> None:
    parameters = read("gate.min_recall.bad=0.8", "gate.min_recall.good=0.5", "gate.min_recall.bad=0.9")
    assert parameters.gate.min_recall == {"bad": 0.9, "good": 0.5}
    assert read("gate.min_recall.bad=0.8", "gate.min_recall=0.7").gate.min_recall == 0.7


def test_a_setting_keeps_its_neighbours() -> None:
    assert read("data.seed=3").data.root == Path("/pictures")


def test_text_that_is_no_yaml_is_text() -> None:
    assert read("data.group_by=[a-z]+_(.*").data.group_by == "[a-z]+_(.*"
    assert read("data.root=/2024-13-45", "data.group_by=2024-13-45").data.group_by == "2024-13-45"


def test_a_key_that_stands_twice_in_a_setting_is_refused() -> None:
    message = refused("gate={min_accuracy: 0.999, min_accuracy: 0.1}")
    assert message.startswith("--set gate: expected each key once, found 'min_accuracy' again in line 1: ")


@pytest.mark.parametrize("setting", ["finetune.epochs", "=3", "", ".epochs=3", "finetune.=3", "finetune..epochs=3"])
def test_a_setting_needs_a_key_and_a_value(setting: str) -> None:
    assert f"--set key.path=value, found {setting!r}" in refused(setting)


# --- the file ---------------------------------------------------------------------------------------


def test_the_file_wins_over_defaults_and_settings_over_the_file() -> None:
    config = "finetune:\n  epochs: 8\n  batch_size: 16\nname: other\ngate:\n  min_recall:\n    bad: 0.9\n"
    parameters = read("finetune.epochs=2", "gate.min_recall.good=0.4", config=config)
    assert parameters.name == "other"
    assert (parameters.finetune.epochs, parameters.finetune.batch_size) == (2, 16)
    assert parameters.gate.min_recall == {"bad": 0.9, "good": 0.4}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "keys and values in thaw.yaml"),
        ("[1, 2]", "found list"),
        ("finetune: [", "expected YAML in thaw.yaml"),
        ("name: !!python/object/apply:os.mkdir [boom]", "expected YAML in thaw.yaml"),
        ("data: {root: 2024-13-45}", "expected YAML in thaw.yaml, found otherwise: month must be in 1..12"),
        ("finetune:", "finetune: expected"),
        ("1: 2", "expected text as a key, found 1"),
    ],
)
def test_a_file_that_is_no_configuration(config: str, words: str) -> None:
    assert words in refused(config=config)
    assert not Path("boom").exists()


@pytest.mark.parametrize(
    ("config", "key", "line"),
    [
        ("gate: {min_accuracy: 0.999}\nmodel: {image_size: 32}\ngate:\n  min_recall: 0.5\n", "gate", 3),
        ("gate:\n  min_recall: {bad: 0.9, good: 0.5,\n    'bad': 0.1}\n", "bad", 3),
        ("gate: {lines: [{metric: f1, scope: a, threshold: 0.5, threshold: 0.1}]}", "threshold", 1),
    ],
)
def test_a_key_that_stands_twice_is_refused(config: str, key: str, line: int) -> None:
    """Else a line of the gate would be gone without a word."""
    assert refused(config=config).startswith(f"thaw.yaml: expected each key once, found '{key}' again in line {line}: ")


def test_merged_mappings_may_name_a_key_again() -> None:
    config = "data: &data {root: /a, seed: 1}\nmodel: {image_size: 32}\ndata2: &more\n  <<: *data\n  seed: 2\n"
    message = refused(config=config + "data3: {<<: *more, seed: 3}\n")
    assert "each key once" not in message
    assert message.startswith("expected a known key, found data2")


def test_a_file_that_is_not_utf_8_or_not_there() -> None:
    Path("latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(BadInput, match=r"expected YAML in latin\.yaml"):
        read_parameters(BASE, Path("latin.yaml"), [])
    with pytest.raises(BadInput, match=r"at gone\.yaml, found none that can be read .No such file"):
        read_parameters(BASE, Path("gone.yaml"), [])


# --- what is wrong is told by key --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "dotted", "hint"),
    [
        ("modle.image_size=64", "modle", "did you mean model?"),
        ("foo=1", "foo", "known are audit, data, decision, export, finetune, gate, head, model, name"),
        ("finetune.epoch=3", "finetune.epoch", "did you mean epochs?"),
        ("data.roots=x", "data.roots", "did you mean root?"),
        ("gate.min_acuracy=0.5", "gate.min_acuracy", "did you mean min_accuracy?"),
        ("runtime.workers=4", "runtime.workers", "known are device, precision, processes, seed"),
        ("decision.watch=[{label: a, recal: 0.9}]", "decision.watch.0.recal", "did you mean recall?"),
        ("gate.lines=[{metric: f1, scop: a, threshold: 0.5}]", "gate.lines.0.scop", "did you mean scope?"),
    ],
)
def test_an_unknown_key_at_each_level(setting: str, dotted: str, hint: str) -> None:
    assert f"expected a known key, found {dotted}: {hint}" in refused(setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("finetune.epochs=many", "finetune.epochs: expected a valid integer"),
        ("finetune.epochs=-1", "finetune.epochs: expected greater than or equal to 0, found -1"),
        ("finetune.epochs=2.5", "finetune.epochs: expected a valid integer"),
        ("finetune.learning_rate=.inf", "finetune.learning_rate: expected "),
        ("gate.confidence=.nan", "gate.confidence: expected a finite number, found nan"),
        ("runtime.device=tpu", "runtime.device: expected 'auto', 'cuda' or 'cpu', found 'tpu'"),
        ("name=Big Name", "name: expected text that matches ^[a-z0-9]"),
        ("model=5", "model: expected "),
        ("model.backbone=resnet18", "model.backbone: expected text that matches ^(timm|torchvision)/"),
        ("model.image_size=16", "model.image_size: expected greater than or equal to 32, found 16"),
        ("data.root=", "data.root: expected a path, found None"),
        ("gate.min_recall=high", "gate.min_recall: expected a valid number"),
        ("gate.min_recall.bad=high", "gate.min_recall.bad: expected a valid number"),
        ("gate.min_recall=1.5", "gate: expected min_recall between 0 and 1, found 1.5"),
        ("decision.watch=[{label: a}]", "decision.watch.0: expected either recall or precision for 'a', found both or"),
        ("decision.watch=[{label: no, recall: 0.9}]", "decision.watch.0.label: expected no true or false here"),
        ("gate.lines=[{metric: recall, threshold: 0.5}]", "gate.lines.0: expected a class as scope of recall"),
        ("data.train=0.9", "data: expected train + validation + test = 1, found 1.2"),
    ],
)
def test_a_wrong_value_is_told_by_its_key(setting: str, message: str) -> None:
    assert message in refused(setting)


@pytest.mark.parametrize("key", ["finetune.learning_rate", "finetune.epochs", "gate.min_accuracy"])
@pytest.mark.parametrize(("word", "found"), [("true", "true"), ("yes", "true"), ("off", "false")])
def test_true_is_no_number(key: str, word: str, found: str) -> None:
    assert refused(f"{key}={word}").startswith(f"{key}: expected no true or false here, found {found} ")


def test_true_is_true() -> None:
    assert read("data.verify=yes", "finetune.interpolate=off").data.verify


def test_messages_name_no_member_of_a_union() -> None:
    assert not re.search(r"min_recall\.(float|dict)", refused("gate.min_recall=high", "gate.min_accuracy=x"))


def test_everything_wrong_is_told_at_once() -> None:
    message = refused("finetune.epoch=3", "foo=1", "name=A B", "data.train=0.9", "runtime.seed=x")
    told = message.split("; ")
    assert len(told) == 5
    for key in ("finetune.epoch", "foo", "name", "data", "runtime.seed"):
        assert sum(bool(re.search(rf"(^|found ){re.escape(key)}:", sentence)) for sentence in told) == 1, key
