"""Publishing makes entries that BentoML lists and Thaw verifies; a kill at any moment leaves nothing to repair by hand.

The drill kills `publish` and `promote` with SIGKILL at every call that changes the disk or the ledger. Its controls are
three careless stores that the same check must catch.
"""

from __future__ import annotations

import multiprocessing
import pwd
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import bentoml
import pytest

from serving import artifact as artifacts
from serving.artifact import Artifact
from serving.errors import ArtifactError, BadInput
from serving.ledger import Ledger, Version, opened
from serving.store import LABEL, Store, parse_reference, resolve_name, whoami
from tests.conftest import Pipeline
from tests.serving.conftest import model_store_at
from tests.serving.kills import kill_at, kill_points
from tests.serving.tiny import make_artifact

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML builds entries in the system's temporary directory, which a killed child cannot clean."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with opened(tmp_path / "home") as ledger:
        yield ledger


@pytest.fixture
def store(tmp_path: Path, ledger: Ledger, bentoml_home: Path) -> Store:
    return Store(tmp_path / "home", ledger)


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "artifact")


def entry_of(bentoml_home: Path, version: Version) -> Path:
    return bentoml_home / "models" / Path(*version.tag.split(":"))


# --- publishing and opening ---------------------------------------------------------------------------


def test_a_published_artifact_opens_as_it_was(store: Store, ledger: Ledger, source: Artifact) -> None:
    version = store.publish(source, "ann", "first")
    assert version == ledger.version("colours", 1)
    assert version.digest == source.digest
    found = store.open("colours", 1)
    assert (found.digest, found.contents) == (source.digest, source.contents)
    assert found.path != source.path
    event = ledger.history("colours")[-1]
    assert (event.kind, event.who, event.why, event.digest) == ("publish", "ann", "first", source.digest)


def test_bentoml_lists_it_under_the_ledgers_label(store: Store, ledger: Ledger, source: Artifact) -> None:
    version = store.publish(source, "ann", "first")
    (listed,) = bentoml.models.list()
    assert str(listed.tag) == version.tag == f"colours:{ledger.id}-1"
    assert listed.info.labels == {LABEL: ledger.id}
    assert bentoml.models.get(version.tag).path == listed.path


def test_versions_count_up_and_stay(store: Store, source: Artifact, tmp_path: Path) -> None:
    other = make_artifact(tmp_path / "other", bias=1.0)
    versions = [store.publish(artifact, "ann", "") for artifact in (source, other, source)]
    assert [version.version for version in versions] == [1, 2, 3]
    assert [store.open("colours", n).digest for n in (1, 2, 3)] == [source.digest, other.digest, source.digest]
    assert len(bentoml.models.list()) == 3


def test_a_rejected_artifact_is_stored_with_its_verdict(store: Store, ledger: Ledger, tmp_path: Path) -> None:
    version = store.publish(make_artifact(tmp_path / "bad", verdict="REJECTED"), "ann", "")
    assert version.verdict == "REJECTED"
    with pytest.raises(BadInput, match="REJECTED"):
        ledger.promote("colours", 1, who="ann", why="")


def test_a_real_artifact_is_published(store: Store, pipeline: Pipeline) -> None:
    source = artifacts.read(pipeline.certified.artifact)
    version = store.publish(source, "ann", "")
    assert store.open("digits", version.version).digest == source.digest


def test_two_ledgers_share_a_model_store(store: Store, ledger: Ledger, source: Artifact, tmp_path: Path) -> None:
    store.publish(source, "ann", "")
    with opened(tmp_path / "second") as other:
        assert Store(tmp_path / "second", other).publish(source, "bob", "").version == 1
        assert {model.info.labels[LABEL] for model in bentoml.models.list()} == {ledger.id, other.id}
    assert store.open("colours", 1).digest == source.digest


def test_nothing_else_is_left_in_bentomls_home(store: Store, source: Artifact, bentoml_home: Path) -> None:
    store.publish(source, "ann", "")
    assert [path.name for path in bentoml_home.iterdir()] == ["models"]


def test_a_source_altered_since_it_was_read_is_not_published(
    store: Store, ledger: Ledger, source: Artifact, tmp_path: Path
) -> None:
    (source.path / artifacts.CARD).write_text("better than it is")
    with pytest.raises(ArtifactError, match=artifacts.CARD):
        store.publish(source, "ann", "")
    assert ledger.versions("colours") == ()
    good = make_artifact(tmp_path / "good")
    assert store.publish(good, "ann", "").version == 1
    assert store.open("colours", 1).digest == good.digest


def test_what_was_never_published_does_not_open(store: Store, source: Artifact) -> None:
    store.publish(source, "ann", "")
    for name, version in (("colours", 2), ("other", 1)):
        with pytest.raises(BadInput, match="published"):
            store.open(name, version)


def test_the_champion_is_what_the_ledger_names(store: Store, ledger: Ledger, source: Artifact, tmp_path: Path) -> None:
    store.publish(source, "ann", "")
    newest = store.publish(make_artifact(tmp_path / "newest", bias=1.0), "ann", "")
    with pytest.raises(BadInput, match="expected a champion"):
        store.champion("colours")
    ledger.promote("colours", 1, who="ann", why="")
    assert store.champion("colours").digest == source.digest != newest.digest


# --- altered, lost and look-alike entries -------------------------------------------------------------

FILES = (artifacts.MODEL, artifacts.GOLDEN, artifacts.SPLIT, artifacts.CARD, artifacts.MANIFEST)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_entry_does_not_open(store: Store, source: Artifact, bentoml_home: Path, name: str) -> None:
    path = entry_of(bentoml_home, store.publish(source, "ann", "")) / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=r"expected (sha256|artifact digest)"):
        store.open("colours", 1)


@pytest.mark.parametrize("name", FILES)
def test_an_incomplete_entry_does_not_open(store: Store, source: Artifact, bentoml_home: Path, name: str) -> None:
    (entry_of(bentoml_home, store.publish(source, "ann", "")) / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        store.open("colours", 1)


def test_a_lost_entry_says_where_to_look(store: Store, source: Artifact, bentoml_home: Path) -> None:
    shutil.rmtree(entry_of(bentoml_home, store.publish(source, "ann", "")))
    with pytest.raises(ArtifactError, match="BENTOML_HOME"):
        store.open("colours", 1)


@pytest.mark.parametrize("body", [None, b"", b"\xff\xff", b"name: [", b"name: colours\nversion: 1\n"])
def test_serving_does_not_depend_on_bentomls_own_description(
    store: Store, source: Artifact, bentoml_home: Path, body: bytes | None
) -> None:
    """`model.yaml` is for people who list models; what is served is what the ledger's digest covers."""
    path = entry_of(bentoml_home, store.publish(source, "ann", "")) / "model.yaml"
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    assert store.open("colours", 1).digest == source.digest


@pytest.mark.parametrize("kept", [1, 2])
def test_a_lost_entry_is_not_replaced_by_one_whose_tag_begins_alike(
    store: Store, source: Artifact, bentoml_home: Path, kept: int
) -> None:
    """BentoML takes a unique prefix of a version: `x-1` would find `x-10`; two of them are an error of its own."""
    versions = [store.publish(source, "ann", "") for _ in range(9 + kept)]
    shutil.rmtree(entry_of(bentoml_home, versions[0]))
    with pytest.raises(ArtifactError, match="colours:1 "):
        store.open("colours", 1)
    assert store.open("colours", 10).digest == source.digest


def test_an_entry_the_ledger_does_not_know_is_replaced(
    store: Store, ledger: Ledger, source: Artifact, bentoml_home: Path
) -> None:
    unrecorded = bentoml_home / "models" / "colours" / f"{ledger.id}-1"
    unrecorded.mkdir(parents=True)
    (unrecorded / artifacts.MODEL).write_bytes(b"half")
    (unrecorded / "stray").write_bytes(b"")
    version = store.publish(source, "ann", "")
    assert entry_of(bentoml_home, version) == unrecorded
    assert not (unrecorded / "stray").exists()
    assert store.open("colours", 1).digest == source.digest


# --- names and references -----------------------------------------------------------------------------


def test_a_name_may_be_left_out_when_there_is_one(
    store: Store, ledger: Ledger, source: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="found none"):
        resolve_name(ledger, None)
    store.publish(source, "ann", "")
    assert resolve_name(ledger, None) == resolve_name(ledger, "colours") == "colours"
    with pytest.raises(BadInput, match="found colours"):
        resolve_name(ledger, "colors")
    store.publish(make_artifact(tmp_path / "shapes", name="shapes"), "ann", "")
    with pytest.raises(BadInput, match="expected one model name, found colours, shapes"):
        resolve_name(ledger, None)


def test_references() -> None:
    assert parse_reference("solar-cells") == ("solar-cells", None)
    assert parse_reference("solar-cells:12") == ("solar-cells", 12)
    for bad in ("a:", "a:0", "a:-1", "a:latest", "a:1:2", "a: 1", "a:1.0"):
        with pytest.raises(BadInput, match="NAME:VERSION"):
            parse_reference(bad)


def test_an_account_without_a_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setenv("USER", "ann")
    monkeypatch.delenv("LOGNAME", raising=False)
    assert whoami() == "ann"
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert whoami() == "unknown"


# --- rivals -------------------------------------------------------------------------------------------


def publish_beside_others(home: Path, source: Artifact, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    start.wait(30)
    try:
        with opened(home) as ledger:
            results.put(str(Store(home, ledger).publish(source, "rival", "").version))
    except Exception as error:
        results.put(repr(error))


def test_processes_that_publish_at_once_get_a_version_each(store: Store, source: Artifact, tmp_path: Path) -> None:
    start, results = FORK.Barrier(4), FORK.Queue()
    arguments = (tmp_path / "home", source, start, results)
    rivals = [FORK.Process(target=publish_beside_others, args=arguments) for _ in range(4)]
    for rival in rivals:
        rival.start()
    assert sorted(results.get(timeout=60) for _ in rivals) == ["1", "2", "3", "4"]
    for rival in rivals:
        rival.join(30)
    for version in (1, 2, 3, 4):
        assert store.open("colours", version).digest == source.digest


# --- kills --------------------------------------------------------------------------------------------

MakeStore = Callable[[Path, Ledger], Store]


def publish_and_promote(home: Path, source: Artifact, make: MakeStore = Store) -> int:
    with opened(home) as ledger:
        version = make(home, ledger).publish(source, "drill", "publish").version
        ledger.promote("colours", version, who="drill", why="promote")
        return version


def problems(home: Path, source: Artifact, make: MakeStore = Store) -> list[str]:
    """What is wrong for the next process that comes here: nothing, after any kill."""
    found = []

    def must(what: str, check: Callable[[], object]) -> None:
        try:
            if check() is False:
                found.append(f"{what}: no")
        except Exception as error:
            found.append(f"{what}: {type(error).__name__}: {error}")

    with opened(home) as ledger:
        store = make(home, ledger)
        champion = ledger.champion("colours")
        must("BentoML lists its models", bentoml.models.list)
        for version in ledger.versions("colours"):
            must(f"version {version.version} opens", lambda v=version: store.open("colours", v.version))
        if champion.version is not None:
            must("the champion opens", lambda: store.champion("colours"))
        must("publish and promote again", lambda: publish_and_promote(home, source, make))
        must("BentoML lists its models afterwards", bentoml.models.list)
        must("the new champion is the newest", lambda: newest_is_champion(ledger))
        must("the new champion opens", lambda: store.champion("colours"))
        must("every entry is in the ledger", lambda: entries() == {v.tag for v in ledger.versions("colours")})
        must("generations have events", lambda: promotions(ledger) == ledger.champion("colours").generation)
    return found


def newest_is_champion(ledger: Ledger) -> bool:
    return ledger.champion("colours").version == ledger.versions("colours")[0].version


def promotions(ledger: Ledger) -> int:
    return [event.kind for event in ledger.history("colours")].count("promote")


def entries() -> set[str]:
    return {str(model.tag) for model in bentoml.models.list()}


class Drill:
    """One fresh home, ledger and model store for each kill, with `before` versions published and promoted."""

    def __init__(self, place: Path, source: Artifact, before: int = 0, make: MakeStore = Store) -> None:
        self._place, self._source, self._make = place, source, make
        self._template = place / "template"
        (self._template / "home").mkdir(parents=True)
        with model_store_at(self._template / "bentoml"):
            bentoml.models.list()  # BentoML imports much at its first use: here, not in every child
            for _ in range(before):
                publish_and_promote(self._template / "home", source)
        self.points = self._run("count", lambda home, record: kill_points(lambda: self._work(home), record))

    def spread(self, count: int) -> list[int]:
        """That many points evenly over all of them, the first and the last among them."""
        last = len(self.points) - 1
        assert last > count, "more points than are tried"
        return [round(i * last / (count - 1)) for i in range(count)]

    def after_kill_at(self, point: int) -> list[str]:
        """What is wrong after that kill."""

        def killed(home: Path, record: Path) -> list[str]:
            kill_at(point, lambda: self._work(home), record)
            return problems(home, self._source, self._make)

        return self._run(str(point), killed)

    def _work(self, home: Path) -> None:
        publish_and_promote(home, self._source, self._make)

    def _run(self, name: str, work: Callable[[Path, Path], list[str]]) -> list[str]:
        place = self._place / name
        shutil.copytree(self._template / "home", place / "home")
        with model_store_at(place / "bentoml"):
            shutil.copytree(self._template / "bentoml", place / "bentoml", dirs_exist_ok=True)
            result = work(place / "home", place / "record")
        shutil.rmtree(place)
        return result


@pytest.mark.parametrize(("before", "kills"), [(0, 60), (1, 30)], ids=["first version", "second version"])
def test_a_kill_at_any_point_leaves_what_the_next_process_can_use(
    tmp_path: Path, source: Artifact, before: int, kills: int
) -> None:
    drill = Drill(tmp_path / "drill", source, before)
    kinds = {name.partition(" ")[2] for name in drill.points if name.startswith("before")}
    assert kinds == {"fsync", "rename", "mkdir", "copyfile", "rmtree", "statement", "commit"}
    wrong = {f"{n}: {drill.points[n]}": found for n in drill.spread(kills) if (found := drill.after_kill_at(n))}
    assert wrong == {}


class CopiesIntoPlace(Store):
    """As BentoML does by itself: the final directory first, then the files."""

    def _write(self, tag: str, source: Artifact) -> None:
        with bentoml.models.create(tag, labels={LABEL: self._ledger.id}) as entry:
            for name in (*source.contents.files, artifacts.MANIFEST):
                shutil.copyfile(source.path / name, entry.path_of(name))

    def _remove_unrecorded(self, tag: str) -> None:
        pass


class RecordsFirst(Store):
    """The ledger names a version whose files are still to come."""

    def publish(self, source: Artifact, who: str, why: str) -> Version:
        number = len(self._ledger.versions("colours")) + 1
        tag = f"colours:{self._ledger.id}-{number}"
        version = self._ledger.publish("colours", number, source.digest, tag, "PASSED", who, why)
        self._write(tag, source)
        return version


class ForgetsToTidy(Store):
    """Renames into place, but does not expect to find anything there."""

    def _remove_unrecorded(self, tag: str) -> None:
        pass


@pytest.mark.parametrize("careless", [CopiesIntoPlace, RecordsFirst, ForgetsToTidy])
def test_the_drill_catches_a_careless_store(tmp_path: Path, source: Artifact, careless: MakeStore) -> None:
    drill = Drill(tmp_path / "drill", source, make=careless)
    points = drill.spread(40)
    random.Random(0).shuffle(points)  # in order, the harmless ones would all come first
    assert any(drill.after_kill_at(point) for point in points)
