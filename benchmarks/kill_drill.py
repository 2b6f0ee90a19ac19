"""Is there a moment at which a kill leaves a model that is half there?

    uv run python -m benchmarks.kill_drill [--every 1] [--write]

`publish`, `promote` and `rollback` are killed with SIGKILL at every call that changes the disk or the ledger (before
it, after it, halfway through a copy), each time in a fresh home; on SQLite and, where it is installed, on a PostgreSQL
server started for the drill. After each kill the next process must find every recorded version whole, the champion
among them, BentoML able to list its models, a generation for each event; and must be able to publish and promote the
same artifact again, which is one version with one publish event however often it was tried, and then another one.
Required: no bad state in at least 100 kills. Controls: four careless stores are each caught. About 6 minutes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import bentoml
import sqlalchemy as sa

from benchmarks.coverage import conclude, rows
from benchmarks.kills import kill_at, kill_points
from benchmarks.postgres import binaries, postgres
from benchmarks.served import model_store
from serving import artifact as artifacts
from serving.artifact import Artifact
from serving.ledger import Ledger, Version, opened
from serving.store import LABEL, Store
from tests.serving import tiny

NAME = "colours"
WANTED = 100
CONTROL_KILLS = 40
MakeStore = Callable[[Path, Ledger], Store]
Place = Path | str  # of a ledger
Work = Callable[[Path, Place, Artifact, MakeStore], object]


def publish_and_promote(home: Path, place: Place, source: Artifact, make: MakeStore = Store) -> int:
    with opened(place) as ledger:
        version = make(home, ledger).publish(source, "drill", "publish").version
        ledger.promote(NAME, version, who="drill", why="promote", release_hold=True)
        return version


def roll_back(_home: Path, place: Place, _source: Artifact, _make: MakeStore = Store) -> None:
    with opened(place) as ledger:
        ledger.rollback(NAME, who="drill", why="rollback")


# what is killed, and how many versions were promoted before
WORKS: dict[str, tuple[Work, int]] = {
    "first publish and promote": (publish_and_promote, 0),
    "second publish and promote": (publish_and_promote, 1),
    "rollback": (roll_back, 2),
}


# --- where ------------------------------------------------------------------------------------------------


class Files:
    """Ledgers in their homes."""

    def first(self, home: Path) -> Place:
        return home

    @contextmanager
    def copy(self, home: Path) -> Iterator[Place]:
        """The first one's copy that came with the home's."""
        yield home


class Databases:
    """Ledgers in databases of one PostgreSQL server."""

    def __init__(self, server: str) -> None:
        self._prefix = server.rpartition("/")[0]
        self._engine = sa.create_engine(
            server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        self._template = f"t{uuid.uuid4().hex}"

    def first(self, _home: Path) -> Place:
        self._tell(f"CREATE DATABASE {self._template}")
        return f"{self._prefix}/{self._template}"

    @contextmanager
    def copy(self, _home: Path) -> Iterator[Place]:
        name = f"c{uuid.uuid4().hex}"
        self._tell(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        try:
            yield f"{self._prefix}/{name}"
        finally:
            self._tell(f"DROP DATABASE {name} WITH (FORCE)")

    def _tell(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


class Drill:
    """One fresh home, ledger and model store for each kill, with some versions published and promoted before."""

    def __init__(
        self,
        place: Path,
        source: Artifact,
        work: str,
        make: MakeStore = Store,
        ledgers: Files | Databases | None = None,
    ) -> None:
        self._place, self._source, self._make, self._ledgers = place, source, make, ledgers or Files()
        self._following = tiny.make_artifact(place / "following", NAME, bias=-1.0)
        self._work, before = WORKS[work]
        self._template = place / "template"
        (self._template / "home").mkdir(parents=True)
        ledger = self._ledgers.first(self._template / "home")
        with model_store(self._template / "bentoml"):
            bentoml.models.list()  # BentoML imports much at its first use: here, not in every child
            for number in range(1, before + 1):
                earlier = tiny.make_artifact(place / f"earlier-{number}", NAME, bias=float(number))
                publish_and_promote(self._template / "home", ledger, earlier)
        self.points = self._run("count", self._counted)

    def spread(self, count: int) -> list[int]:
        """That many points evenly over all of them, the first and the last among them; all, if there are no more."""
        last = len(self.points) - 1
        return sorted({round(number * last / (count - 1)) for number in range(count)})

    def after_kill_at(self, point: int) -> list[str]:
        """What is wrong after that kill."""

        def killed(home: Path, ledger: Place, record: Path) -> list[str]:
            kill_at(point, lambda: self._work(home, ledger, self._source, self._make), record)
            return problems(home, ledger, self._source, self._following, self._make)

        return self._run(str(point), killed)

    def _counted(self, home: Path, ledger: Place, record: Path) -> list[str]:
        return kill_points(lambda: self._work(home, ledger, self._source, self._make), record)

    def _run(self, name: str, work: Callable[[Path, Place, Path], list[str]]) -> list[str]:
        place = self._place / name
        shutil.copytree(self._template / "home", place / "home")
        with model_store(place / "bentoml"), self._ledgers.copy(place / "home") as ledger:
            shutil.copytree(self._template / "bentoml", place / "bentoml", dirs_exist_ok=True)
            result = work(place / "home", ledger, place / "record")
        shutil.rmtree(place)
        return result


# --- what must hold afterwards -----------------------------------------------------------------------------


def problems(home: Path, place: Place, source: Artifact, following: Artifact, make: MakeStore = Store) -> list[str]:
    """What is wrong for the next process that comes here: nothing, after any kill.

    It publishes what the killed one may have published already, then an artifact that nobody has.
    """
    found = []

    def must(what: str, check: Callable[[], object]) -> None:
        try:
            if check() is False:
                found.append(f"{what}: no")
        except Exception as error:
            found.append(f"{what}: {type(error).__name__}: {error}")

    with opened(place) as ledger:
        store = make(home, ledger)
        must("BentoML lists its models", bentoml.models.list)
        for version in ledger.versions(NAME):
            must(f"version {version.version} opens", lambda v=version: store.open(NAME, v.version))  # type: ignore[misc]
        if ledger.champion(NAME).version is not None:
            must("the champion opens", lambda: store.champion(NAME))
        must("generations have events", lambda: moves(ledger) == ledger.champion(NAME).generation)
        for what, artifact in (("the same", source), ("another", following)):
            must(f"publish and promote {what}", lambda a=artifact: publish_and_promote(home, place, a, make))  # type: ignore[misc]
            must(f"{what} is one version, published once", lambda a=artifact: times_published(ledger, a) == (1, 1))  # type: ignore[misc]
            must(f"{what} is the newest and the champion", lambda a=artifact: newest_is_champion(ledger, a))  # type: ignore[misc]
            must(f"{what} opens as the champion", lambda: store.champion(NAME))
        must("BentoML lists its models afterwards", bentoml.models.list)
        must("every entry is in the ledger", lambda: entries() == {v.tag for v in ledger.versions(NAME)})
        must("generations have events afterwards", lambda: moves(ledger) == ledger.champion(NAME).generation)
    return found


def times_published(ledger: Ledger, artifact: Artifact) -> tuple[int, int]:
    """How many versions an artifact is, and how many events say that it was published."""
    versions = [version for version in ledger.versions(NAME) if version.digest == artifact.digest]
    told = [event for event in ledger.history(NAME) if event.kind == "publish" and event.digest == artifact.digest]
    return len(versions), len(told)


def newest_is_champion(ledger: Ledger, artifact: Artifact) -> bool:
    newest = ledger.versions(NAME)[0]
    return ledger.champion(NAME).version == newest.version and newest.digest == artifact.digest


def moves(ledger: Ledger) -> int:
    return sum(event.kind in ("promote", "rollback") for event in ledger.history(NAME))


def entries() -> set[str]:
    return {str(model.tag) for model in bentoml.models.list()}


# --- controls ----------------------------------------------------------------------------------------------


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
        published = self._published(source)
        if published is not None:
            return published
        number = len(self._ledger.versions(NAME)) + 1
        tag = f"{NAME}:{self._ledger.id}-{number}"
        version = self._ledger.publish(NAME, number, source.digest, tag, "PASSED", who, why)
        self._write(tag, source)
        return version


class ForgetsToTidy(Store):
    """Renames into place, but does not expect to find anything there."""

    def _remove_unrecorded(self, tag: str) -> None:
        pass


class ForgetsWhatItPublished(Store):
    """Makes a version of whatever it is given, so that who was killed and tries again makes two."""

    def _published(self, source: Artifact) -> Version | None:  # noqa: ARG002 - that it does not look is the fault
        return None


CARELESS = (CopiesIntoPlace, RecordsFirst, ForgetsToTidy, ForgetsWhatItPublished)


def caught(place: Path, source: Artifact, careless: MakeStore) -> bool:
    """Whether some of the kills show that a store is careless."""
    drill = Drill(place, source, "first publish and promote", careless)
    points = drill.spread(CONTROL_KILLS)
    random.Random(0).shuffle(points)  # in order, the harmless ones would all come first
    return any(drill.after_kill_at(point) for point in points)


# --- the program -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try only each N-th point")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    # the server first: it runs as another user, who may not enter our directory
    with postgres() if binaries() else nullcontext() as server, tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # BentoML builds entries there, which a killed child cannot clean
        figures = measure(Path(folder), arguments.every, server)
    conclude("kills", figures, table(figures), requirements(figures), arguments.write)


def measure(place: Path, every: int, server: str | None) -> dict[str, Any]:
    source = tiny.make_artifact(place / "source", NAME)
    found = {"SQLite": killed(place / "sqlite", source, every, Files)}
    if server is not None:
        found["PostgreSQL"] = killed(place / "postgresql", source, every, lambda: Databases(server))
    controls = {kind.__name__: caught(place / kind.__name__, source, kind) for kind in CARELESS}
    return {"engines": found, "controls": controls}


def killed(place: Path, source: Artifact, every: int, ledgers: Callable[[], Files | Databases]) -> list[dict[str, Any]]:
    found = []
    for number, work in enumerate(WORKS):
        drill = Drill(place / str(number), source, work, ledgers=ledgers())
        tried = range(0, len(drill.points), every)
        bad = {point: wrong for point in tried if (wrong := drill.after_kill_at(point))}
        named = {f"{point}: {drill.points[point]}": wrong for point, wrong in bad.items()}
        found.append({"work": work, "points": len(drill.points), "kills": len(tried), "bad": named})
    return found


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    found = []
    for engine, parts in f["engines"].items():
        kills = sum(part["kills"] for part in parts)
        found.append((kills >= WANTED, f"{engine}: at least {WANTED} kills, found {kills}"))
        found += [(not part["bad"], f"{engine}, {part['work']}: no bad state, found {part['bad']}") for part in parts]
    return [*found, *((seen, f"the careless store {name} caught") for name, seen in f["controls"].items())]


def table(f: dict[str, Any]) -> str:
    body = [
        (engine, part["work"], str(part["points"]), str(part["kills"]), str(len(part["bad"])))
        for engine, parts in f["engines"].items()
        for part in parts
    ]
    controls = ", ".join(f"{name} {'caught' if seen else 'not caught'}" for name, seen in f["controls"].items())
    header = ("ledger", "killed", "points", "kills", "bad states")
    return "\n".join(["# SIGKILL at every point\n", rows(header, body), "", f"Controls: {controls}.", ""])


if __name__ == "__main__":
    main()
