"""Publishing makes entries that BentoML lists and Thaw verifies; removing takes away what nobody needs."""

from __future__ import annotations

import multiprocessing
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import bentoml
import pytest

from benchmarks.kills import kill_at, kill_points
from serving import artifact as artifacts
from serving.artifact import Artifact
from serving.errors import ArtifactError, BadInput, Conflict
from serving.ledger import Ledger, Version, opened
from serving.store import LABEL, Store, parse_reference, resolve_name, whoami
from tests.conftest import Pipeline
from tests.serving.conftest import model_store_at
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


def several(place: Path, count: int) -> list[Artifact]:
    """As many that differ."""
    return [make_artifact(place / f"of-several-{n}", bias=float(n)) for n in range(1, count + 1)]


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
    sources = [source, *several(tmp_path, 2)]
    versions = [store.publish(artifact, "ann", "") for artifact in sources]
    assert [version.version for version in versions] == [1, 2, 3]
    assert [store.open("colours", n).digest for n in (1, 2, 3)] == [artifact.digest for artifact in sources]
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


# --- the same artifact again, as when a run is resumed ------------------------------------------------


def state(bentoml_home: Path) -> dict[Path, tuple[int, int]]:
    """What is in the model store: a file written again has another inode or time."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in bentoml_home.rglob("*")}


def test_an_artifact_is_published_once(
    store: Store, ledger: Ledger, source: Artifact, bentoml_home: Path, tmp_path: Path
) -> None:
    first = store.publish(source, "ann", "first")
    store.publish(make_artifact(tmp_path / "other", bias=1.0), "ann", "another run's, meanwhile")
    stored, history = state(bentoml_home), ledger.history("colours")
    assert store.publish(source, "bob", "resumed") == first
    assert (state(bentoml_home), ledger.history("colours")) == (stored, history)
    assert len(ledger.versions("colours")) == 2


def test_an_altered_entry_is_not_taken_for_published(
    store: Store, ledger: Ledger, source: Artifact, bentoml_home: Path
) -> None:
    (entry_of(bentoml_home, store.publish(source, "ann", "")) / artifacts.CARD).write_text("better than it is")
    with pytest.raises(ArtifactError, match=artifacts.CARD):
        store.publish(source, "ann", "resumed")
    assert len(ledger.history("colours")) == 1


def test_an_artifact_whose_files_are_lost_is_published_again(
    store: Store, source: Artifact, bentoml_home: Path
) -> None:
    shutil.rmtree(entry_of(bentoml_home, store.publish(source, "ann", "")))
    assert store.publish(source, "ann", "resumed").version == 2
    assert store.open("colours", 2).digest == source.digest


def test_an_artifact_that_is_being_removed_is_published_again(store: Store, ledger: Ledger, source: Artifact) -> None:
    """A removal is recorded before the files go: nobody could promote that version."""
    ledger.record_removal(store.publish(source, "ann", ""), "ann", "thaw gc, killed here")
    assert store.publish(source, "ann", "resumed").version == 2


def publish_it(home: Path, source: Artifact) -> None:
    with opened(home) as ledger:
        Store(home, ledger).publish(source, "drill", "run")


def test_a_publish_killed_and_resumed_gives_one_version(source: Artifact, tmp_path: Path) -> None:
    """At every eighth point, and at all of the last ones, where the ledger's record is kept."""
    bentoml.models.list()  # BentoML imports much at its first use: here, not in every child
    with model_store_at(tmp_path / "counted"):
        points = kill_points(lambda: publish_it(tmp_path / "counted" / "home", source), tmp_path / "record")
    assert {name.partition(" ")[2] for name in points} >= {"commit", "rename", "copyfile"}
    for number in sorted({*range(0, len(points), 8), *range(len(points) - 8, len(points))}):
        name = points[number]
        home = tmp_path / f"killed-{number}" / "home"
        with model_store_at(home.parent):
            kill_at(number, lambda: publish_it(home, source), tmp_path / "record")  # noqa: B023 - called at once
            publish_it(home, source)
            with opened(home) as ledger:
                store = Store(home, ledger)
                assert [event.kind for event in ledger.history("colours")] == ["publish"], f"killed {name}"
                assert store.open("colours", 1).digest == source.digest
                assert store.leftovers("colours") == (), f"killed {name}"


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
    store: Store, tmp_path: Path, bentoml_home: Path, kept: int
) -> None:
    """BentoML takes a unique prefix of a version: `x-1` would find `x-10`; two of them are an error of its own."""
    versions = [store.publish(source, "ann", "") for source in several(tmp_path, 9 + kept)]
    shutil.rmtree(entry_of(bentoml_home, versions[0]))
    with pytest.raises(ArtifactError, match="colours:1 "):
        store.open("colours", 1)
    assert store.open("colours", 10).digest == versions[9].digest


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


# --- removing -----------------------------------------------------------------------------------------


@pytest.fixture
def three(store: Store, ledger: Ledger, source: Artifact, tmp_path: Path) -> list[Version]:
    """Three versions; the second is the champion."""
    sources = [source, make_artifact(tmp_path / "two", bias=2.0), make_artifact(tmp_path / "three", bias=3.0)]
    versions = [store.publish(each, "ann", "") for each in sources]
    ledger.promote("colours", 2, who="ann", why="")
    return versions


def test_a_removed_version_has_no_files_but_its_row_and_history(
    store: Store, ledger: Ledger, three: list[Version], bentoml_home: Path
) -> None:
    before = ledger.history("colours")
    assert store.is_stored(three[0])
    store.remove("colours", 1, "ann", "thaw gc --keep 1")
    assert not store.is_stored(three[0])
    assert not entry_of(bentoml_home, three[0]).exists()
    assert [path.name for path in bentoml_home.iterdir()] == ["models"], "nothing is left beside the store"
    assert ledger.version("colours", 1) == three[0]
    after = ledger.history("colours")
    assert after[:-1] == before
    assert (after[-1].kind, after[-1].version, after[-1].who, after[-1].why) == ("remove", 1, "ann", "thaw gc --keep 1")
    assert [store.open("colours", n).digest for n in (2, 3)] == [three[1].digest, three[2].digest]
    assert {str(model.tag) for model in bentoml.models.list()} == {three[1].tag, three[2].tag}


def test_opening_a_removed_version_says_who_took_it(store: Store, three: list[Version]) -> None:
    store.remove("colours", 1, "ann", "")
    with pytest.raises(BadInput, match="found it removed by `thaw gc`"):
        store.open("colours", 1)


def test_a_lost_version_is_not_said_to_be_removed(store: Store, three: list[Version], bentoml_home: Path) -> None:
    store.remove("colours", 1, "ann", "")
    shutil.rmtree(entry_of(bentoml_home, three[2]))
    with pytest.raises(ArtifactError, match="BENTOML_HOME"):
        store.open("colours", 3)


def test_the_champion_is_not_removed(store: Store, ledger: Ledger, three: list[Version]) -> None:
    before = ledger.history("colours")
    with pytest.raises(Conflict, match="colours:2 is the champion"):
        store.remove("colours", 2, "ann", "")
    assert store.champion("colours").digest == three[1].digest
    assert ledger.history("colours") == before


def test_what_was_never_published_is_not_removed(store: Store, ledger: Ledger, three: list[Version]) -> None:
    for name, version in (("colours", 4), ("other", 1)):
        with pytest.raises(BadInput, match="published"):
            store.remove(name, version, "ann", "")
    assert ledger.removed("colours") == ledger.removed("other") == set()


def test_the_number_of_a_removed_version_is_not_given_again(
    store: Store, three: list[Version], source: Artifact
) -> None:
    store.remove("colours", 1, "ann", "")
    store.remove("colours", 3, "ann", "")
    assert store.publish(source, "ann", "").version == 4
    with pytest.raises(BadInput, match="thaw gc"):
        store.open("colours", 3)


def remove_first(home: Path) -> None:
    with opened(home) as ledger:
        Store(home, ledger).remove("colours", 1, "drill", "thaw gc")


def test_a_kill_at_any_point_of_a_removal_is_finished_by_removing_again(tmp_path: Path) -> None:
    template, (source, champion) = tmp_path / "template", several(tmp_path, 2)
    with model_store_at(template / "bentoml"), opened(template / "home") as ledger:
        for each in (source, champion):
            version = Store(template / "home", ledger).publish(each, "drill", "").version
            ledger.promote("colours", version, who="drill", why="")

    def somewhere(work: Callable[[Path, Path], list[str]]) -> list[str]:
        place = tmp_path / "here"
        shutil.copytree(template / "home", place / "home")
        with model_store_at(place / "bentoml"):
            shutil.copytree(template / "bentoml", place / "bentoml", dirs_exist_ok=True)
            found = work(place / "home", place)
        shutil.rmtree(place)
        return found

    def killed_at(point: int) -> Callable[[Path, Path], list[str]]:
        def work(home: Path, place: Path) -> list[str]:
            kill_at(point, lambda: remove_first(home), place / "record")
            with opened(home) as ledger:
                store = Store(home, ledger)
                stored, recorded = store.is_stored(ledger.version("colours", 1)), ledger.removed("colours") == {1}
                wrong = [] if stored or recorded else ["the files went before it was recorded"]
                if stored:
                    wrong += [] if store.open("colours", 1).digest == source.digest else ["half of it is gone"]
                store.remove("colours", 1, "drill", "again")
                store.remove_leftovers("colours")
                wrong += ["it is still stored"] if store.is_stored(ledger.version("colours", 1)) else []
                wrong += [str(path) for path in (place / "bentoml").iterdir() if path.name != "models"]
                wrong += ["it is not recorded"] if ledger.removed("colours") != {1} else []
                wrong += ["the champion is lost"] if store.champion("colours").digest != champion.digest else []
                with pytest.raises(BadInput, match="thaw gc"):
                    store.open("colours", 1)
                return wrong

        return work

    points = somewhere(lambda home, place: kill_points(lambda: remove_first(home), place / "record"))
    assert {name.partition(" ")[2] for name in points} >= {"commit", "rename", "rmtree"}
    for number, name in enumerate(points):
        assert somewhere(killed_at(number)) == [], f"killed {name}"


# --- what interrupted publishes left ------------------------------------------------------------------


def leave(bentoml_home: Path, ledger_id: str, version: str, name: str = "colours") -> Path:
    """An entry as a kill between the rename and the record leaves one."""
    place = bentoml_home / "models" / name / f"{ledger_id}-{version}"
    place.mkdir(parents=True)
    (place / artifacts.MODEL).write_bytes(b"whole")
    return place


def test_where_nothing_was_interrupted_nothing_is_left_over(store: Store, three: list[Version]) -> None:
    assert store.leftovers("colours") == store.leftovers("other") == ()
    assert store.remove_leftovers("colours") == ()
    assert all(store.is_stored(version) for version in three)


def test_leftovers_are_entries_the_ledger_does_not_know_and_the_half_written_one(
    store: Store, ledger: Ledger, three: list[Version], bentoml_home: Path
) -> None:
    unrecorded = [leave(bentoml_home, ledger.id, version) for version in ("4", "9")]
    half = bentoml_home / f".thaw-{ledger.id}-colours"
    (half / "colours").mkdir(parents=True)
    assert store.leftovers("colours") == (*unrecorded, half)
    assert store.remove_leftovers("colours") == (*unrecorded, half)
    assert not any(path.exists() for path in (*unrecorded, half))
    assert store.leftovers("colours") == ()
    assert [store.open("colours", version.version).digest for version in three] == [v.digest for v in three]


def test_what_is_anothers_is_no_leftover(
    store: Store, ledger: Ledger, three: list[Version], source: Artifact, bentoml_home: Path, tmp_path: Path
) -> None:
    with opened(tmp_path / "second") as other:
        theirs = Store(tmp_path / "second", other).publish(source, "bob", "")
        others = [
            entry_of(bentoml_home, theirs),
            leave(bentoml_home, other.id, "2"),
            leave(bentoml_home, ledger.id, "1", name="shapes"),
            leave(bentoml_home, "made", "by-hand"),
        ]
        staging = bentoml_home / f".thaw-{other.id}-colours"
        staging.mkdir()
        assert store.leftovers("colours") == store.remove_leftovers("colours") == ()
        assert all(path.is_dir() for path in (*others, staging))
        assert Store(tmp_path / "second", other).leftovers("colours") == (others[1], staging)
    assert store.remove_leftovers("shapes") == (others[2],)


def remove_leftovers_beside(home: Path, start: Barrier, results: multiprocessing.Queue[str]) -> None:
    start.wait(30)
    try:
        with opened(home) as ledger:
            for _ in range(20):
                Store(home, ledger).remove_leftovers("colours")
        results.put("done")
    except Exception as error:
        results.put(repr(error))


def test_leftovers_are_not_removed_under_the_hands_of_who_publishes(store: Store, tmp_path: Path) -> None:
    start, results = FORK.Barrier(3), FORK.Queue()
    home, sources = tmp_path / "home", several(tmp_path, 2)
    rivals = [FORK.Process(target=publish_beside_others, args=(home, each, start, results)) for each in sources]
    rivals.append(FORK.Process(target=remove_leftovers_beside, args=(home, start, results)))
    for rival in rivals:
        rival.start()
    assert sorted(results.get(timeout=60) for _ in rivals) == ["1", "2", "done"]
    for rival in rivals:
        rival.join(30)
    found = {store.open("colours", version).digest for version in (1, 2)}
    assert found == {each.digest for each in sources}


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


def publish_at_once(home: Path, sources: list[Artifact]) -> list[str]:
    """The versions that as many processes got, sorted."""
    start, results = FORK.Barrier(len(sources)), FORK.Queue()
    rivals = [FORK.Process(target=publish_beside_others, args=(home, each, start, results)) for each in sources]
    for rival in rivals:
        rival.start()
    versions = sorted(results.get(timeout=60) for _ in rivals)
    for rival in rivals:
        rival.join(30)
    return versions


def test_processes_that_publish_at_once_get_a_version_each(store: Store, tmp_path: Path) -> None:
    sources = several(tmp_path, 4)
    assert publish_at_once(tmp_path / "home", sources) == ["1", "2", "3", "4"]
    found = {store.open("colours", version).digest for version in (1, 2, 3, 4)}
    assert found == {each.digest for each in sources}


def test_processes_that_publish_the_same_at_once_get_one_version(
    store: Store, ledger: Ledger, source: Artifact, tmp_path: Path
) -> None:
    assert publish_at_once(tmp_path / "home", [source] * 4) == ["1"] * 4
    assert [event.kind for event in ledger.history("colours")] == ["publish"]


def publish_from_another_host(
    place: Path, database: str, sources: list[Artifact], start: Barrier, results: multiprocessing.Queue[str]
) -> None:
    """A home of its own: its file locks are nobody else's."""
    try:
        with opened(database, create=False) as ledger:
            start.wait(30)
            for source in sources:
                results.put(str(Store(place, ledger).publish(source, place.name, "").version))
    except Exception as error:
        results.put(repr(error))


def test_hosts_that_publish_at_once_to_one_database_get_a_version_each(
    database: str, tmp_path: Path, bentoml_home: Path
) -> None:
    sources = several(tmp_path, 6)
    with opened(database) as ledger:
        assert ledger.versions("colours") == ()
    start, results = FORK.Barrier(2), FORK.Queue()
    rivals = [
        FORK.Process(target=publish_from_another_host, args=(tmp_path / host, database, own, start, results))
        for host, own in (("one", sources[:3]), ("two", sources[3:]))
    ]
    for rival in rivals:
        rival.start()
    assert sorted(results.get(timeout=60) for _ in range(6)) == ["1", "2", "3", "4", "5", "6"]
    for rival in rivals:
        rival.join(30)
    with opened(database, create=False) as ledger:
        store = Store(tmp_path / "one", ledger)
        found = {store.open("colours", version).digest for version in range(1, 7)}
        assert found == {each.digest for each in sources}
        assert store.leftovers("colours") == ()


def test_a_version_is_removed_on_a_database_server_too(database: str, tmp_path: Path, bentoml_home: Path) -> None:
    with opened(database) as ledger:
        store = Store(tmp_path / "home", ledger)
        for source in several(tmp_path, 2):
            store.publish(source, "ann", "")
        ledger.promote("colours", 2, who="ann", why="")
        store.remove("colours", 1, "ann", "")
        with pytest.raises(BadInput, match="thaw gc"):
            store.open("colours", 1)
        with pytest.raises(Conflict, match="champion"):
            store.remove("colours", 2, "ann", "")
