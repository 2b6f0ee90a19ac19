"""Wrong input on the command line: exit status 2, one `error:` line, one JSON document, nothing half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet34

from serving.ledger import opened
from tests.conftest import write_digits
from tests.flows.conftest import Ran, command, errors, intact, published, settings, stored, thaw

Arrange = Callable[[Path], tuple[Path, list[str]]]


def refused(ran: Ran, *words: str) -> str:
    """The message of a command that ended with status 2, after checking both of its streams."""
    assert ran.status == 2, ran.err
    assert "Traceback" not in ran.err
    (line,) = errors(ran.err)
    assert ran.err.rstrip().endswith(line), "the error is the last thing said"
    document = json.loads(ran.out)
    assert document["error"]["code"] == "bad_input"
    message: str = document["error"]["message"]
    assert line == f"error: {' '.join(message.split())}"
    assert "expected" in message
    assert "found" in message or "could not" in message
    for word in words:
        assert word in message
    return message


# --- data, model and configuration that cannot work ---------------------------------------------------


def empty_folder(place: Path) -> tuple[Path, list[str]]:
    (place / "pictures").mkdir()
    return place / "pictures", []


def missing_folder(place: Path) -> tuple[Path, list[str]]:
    return place / "nowhere", []


def one_class(place: Path) -> tuple[Path, list[str]]:
    return write_digits(place / "one", (3,), 6), []


def a_class_with_one_picture(place: Path) -> tuple[Path, list[str]]:
    write_digits(place / "pictures", (0, 1), 8)
    return write_digits(place / "pictures", (2,), 1), []


def a_corrupt_picture(place: Path) -> tuple[Path, list[str]]:
    root = write_digits(place / "pictures", (0, 1), 8)
    (root / "digit-0" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return root, []


def an_incomplete_split(place: Path) -> tuple[Path, list[str]]:
    for split in ("train", "test"):
        write_digits(place / "pictures" / split, (0, 1), 8)
    return place / "pictures", []


def a_numeric_target(place: Path) -> tuple[Path, list[str]]:
    root = write_digits(place / "pictures", (0,), 8)
    rows = "".join(f"digit-0/{i:03}.png,{0.37 * i}\n" for i in range(8))
    (root / "prices.csv").write_text(f"path,label\n{rows}")
    return root / "prices.csv", []


def digits(place: Path, *chosen: str) -> tuple[Path, list[str]]:
    return write_digits(place / "pictures", (0, 1), 12), [*chosen, "model.image_size=32"]


def an_unknown_backbone(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "model.backbone=timm/resnet81")


def a_size_the_backbone_does_not_take(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "model.backbone=torchvision/alexnet", "model.weights=none")


def weights_that_do_not_fit(place: Path) -> tuple[Path, list[str]]:
    torch.save(resnet34(weights=None).state_dict(), place / "resnet34.pth")
    return digits(place, "model.backbone=torchvision/resnet18", f"model.weights={place / 'resnet34.pth'}")


def weights_that_are_not_there(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "model.weights=gone.safetensors")


def weights_that_cannot_be_fetched(place: Path) -> tuple[Path, list[str]]:
    os.environ["TORCH_HOME"] = str(place / "torch")  # no cache; the fixture restores the environment
    return digits(place, "model.backbone=torchvision/resnet18")


def a_watched_class_that_does_not_exist(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "decision.watch=[{label: digit-9, recall: 0.9}]")


def a_recall_that_too_few_positives_can_show(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "decision.watch=[{label: digit-1, recall: 0.9}]")


def a_gate_line_on_a_class_that_does_not_exist(place: Path) -> tuple[Path, list[str]]:
    return digits(place, "gate.min_recall.digit-9=0.9")


# what else leaves nothing: which picture it was is kept for its owner; what fails after prepare can be gone on with
LEFT: dict[Arrange, set[str]] = {
    a_corrupt_picture: {"error.txt"},
    a_size_the_backbone_does_not_take: {"parameters.json"},
    weights_that_do_not_fit: {"parameters.json"},
    weights_that_are_not_there: {"parameters.json"},
    weights_that_cannot_be_fetched: {"parameters.json"},
}


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (empty_folder, ("pictures", "found none")),
        (missing_folder, ("nowhere", "check data.root")),
        (one_class, ("two or more classes", "'digit-3'")),
        (a_class_with_one_picture, ("at least 3 separate pictures", "found 1 of 'digit-2'", "add pictures")),
        (a_corrupt_picture, ("digit-0/003.png", "unreadable", "found 1 of 16")),
        (an_incomplete_split, ("exactly train/, validation/ and test/", "found test, train")),
        (a_numeric_target, ("8 different numbers", "does not predict quantities")),
        (an_unknown_backbone, ("'timm/resnet81'", "did you mean resnet18")),
        (a_size_the_backbone_does_not_take, ("32 pixels", "choose another model.image_size")),
        (weights_that_do_not_fit, ("resnet34.pth", "layer1.2.bn1.bias", "choose the matching model.backbone")),
        (weights_that_are_not_there, ("gone.safetensors", "correct the path")),
        (weights_that_cannot_be_fetched, ("torchvision/resnet18", "could not", "give model.weights a local file")),
        (a_watched_class_that_does_not_exist, ("'digit-9'", "digit-0, digit-1")),
        (a_recall_that_too_few_positives_can_show, ("at least 29 validation pictures of 'digit-1'", "found 2")),
        (a_gate_line_on_a_class_that_does_not_exist, ("digit-9", "correct gate")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_work_is_refused(arrange: Arrange, words: tuple[str, ...], home: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    root, chosen = arrange(place)
    before = stored()
    ran = thaw("retrain", root, "--name", "digits", "--json", *settings(*chosen))
    refused(ran, *words)
    assert intact(home)
    assert published(home) == []
    assert stored() == before
    left = {path.relative_to(home / "runs").parts[1:] for path in home.glob("runs/**/*") if path.is_file()}
    assert left == {(name,) for name in LEFT.get(arrange, set())}, "nothing was trained"


def test_a_corrupt_picture_is_named_whatever_its_name(home: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8, which Prefect could not report, with what looks like the terminal's markup."""
    root = write_digits(tmp_path / "pictures", (0, 1), 8)
    (root / "digit-0" / os.fsdecode(b"[bold]\xff.png")).write_bytes(b"broken")
    ran = thaw("retrain", root, "--name", "digits", "--json")
    refused(ran, "digit-0/[bold]\\xff.png: expected JPEG, PNG")
    (kept,) = home.glob("runs/*/error.txt")
    assert "digit-0/[bold]\\xff.png: expected JPEG, PNG" in kept.read_text()
    assert intact(home)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("finetune.epoch=3", "found finetune.epoch: did you mean epochs?"),
        ("foo=1", "found foo: known are audit, data"),
        ("finetune.epochs=many", "finetune.epochs: expected a valid integer"),
        ("data.train=0.9", "train + validation + test = 1, found 1.2"),
        ("finetune.epochs", "--set key.path=value"),
    ],
)
def test_a_wrong_configuration_is_told_before_anything_is_read(setting: str, words: str, home: Path) -> None:
    ran = thaw("retrain", "nowhere", "--name", "digits", "--json", "--set", setting)
    refused(ran, words)
    assert "Prefect" not in ran.err
    assert not list(home.iterdir())


def test_a_wrong_name_or_file(home: Path) -> None:
    refused(thaw("retrain", "nowhere", "--name", "No Name", "--json"), "name: expected text that matches")
    refused(thaw("retrain", "nowhere", "--name", "x", "--config", "gone.yaml", "--json"), "gone.yaml")
    assert not list(home.iterdir())


# --- reading commands --------------------------------------------------------------------------------

READING: list[tuple[str, ...]] = [
    ("show",),
    ("show", "digits"),
    ("promote", "digits:1"),
    ("promote", "digits"),
    ("rollback", "digits"),
    ("rollback", "digits", "--to", "3"),
    ("predict", "picture.png"),
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_without_a_home_none_is_made(arguments: tuple[str, ...], tmp_path: Path) -> None:
    write_digits(tmp_path / "some", (0,), 1)
    (tmp_path / "some/digit-0/000.png").rename("picture.png")
    ran = thaw(*arguments, "--json")
    refused(ran, "expected a Thaw home", str(tmp_path / ".thaw"), "THAW_HOME")
    assert not (tmp_path / ".thaw").exists()


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_without_a_ledger_none_is_made(arguments: tuple[str, ...], home: Path) -> None:
    Path("picture.png").touch()
    refused(thaw(*arguments, "--json"), "")
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "digits:7"), "found no digits:7"),
        (("promote", "digits"), "expected NAME:VERSION, found 'digits'"),
        (("promote", "digits:first"), "found 'digits:first'"),
        (("promote", "digits:0"), "found 'digits:0'"),
        (("promote", "digits:-1"), "found 'digits:-1'"),
        (("promote", ":"), "found ':'"),
        (("promote", ""), "expected NAME:VERSION, found ''"),
        (("rollback", "digits"), "expected an earlier champion of digits, found none"),
        (("rollback", "digits", "--to", "3"), "version 3 among the earlier champions of digits"),
        (("rollback", "../digits"), "expected an earlier champion of ../digits"),
        (("show", "digits"), "a model named digits, found none"),
        (("show", "digits:x"), "found 'digits:x'"),
        (("predict", "picture.png"), "expected one model name, found none"),
        (("predict", "picture.png", "--name", "digits:2"), "a model named digits, found none"),
        (("predict", "gone.png"), "at gone.png, found nothing there"),
        (("predict", "empty"), "expected pictures in empty, found none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nonsense_is_refused_and_changes_nothing(arguments: tuple[str, ...], words: str, home: Path) -> None:
    Path("picture.png").touch()
    Path("empty").mkdir()
    with opened(home) as ledger:
        assert ledger.names() == ()
    refused(thaw(*arguments, "--json"), words)
    with opened(home, create=False) as ledger:
        assert ledger.history("digits") == ()
        assert ledger.champion("digits").version is None


# --- the real command, in its own process ------------------------------------------------------------


def test_the_command_shows_nothing_and_makes_nothing_without_a_home(tmp_path: Path) -> None:
    ran = command("show", "--json", cwd=tmp_path)
    refused(ran, "expected a Thaw home", str(tmp_path / ".thaw"))
    assert not list(tmp_path.iterdir())


def test_without_json_stdout_stays_empty_on_an_error(tmp_path: Path) -> None:
    ran = command("retrain", "nowhere", "--name", "x", "--set", "foo=1", cwd=tmp_path)
    assert (ran.status, ran.out) == (2, "")
    assert len(errors(ran.err)) == 1
    assert not list(tmp_path.iterdir())
