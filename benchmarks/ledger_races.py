"""Of processes that promote against the same champion, does exactly one win, each time?

    uv run python -m benchmarks.ledger_races [--processes 16] [--rounds 100] [--write]

In each round every process promotes a version of its own against the generation it saw; on SQLite and, where it is
installed, on a PostgreSQL server started for the drill. Required: one winner a round, everybody else told of a
conflict, generations and history without a gap. Control: a ledger that looks and then writes, without
compare-and-swap, lets several win. About 3 minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from contextlib import nullcontext
from multiprocessing.synchronize import Barrier
from typing import Any

import sqlalchemy as sa

from benchmarks.coverage import conclude, rows
from benchmarks.postgres import binaries, postgres
from serving.errors import Conflict
from serving.ledger import Ledger, opened
from serving.ledger_rows import CHAMPIONS, Champion, champion_of, row_of

NAME = "colours"
CONTROL_ROUNDS = 10
LOCK_SECONDS = 120


class Careless(Ledger):
    """Looks, thinks, writes: the control."""

    def promote(self, name: str, version: int, *, expected_generation: int | None = None, **_: Any) -> Champion:
        with self.transaction() as connection:
            current = champion_of(connection, name)
        if current.generation != expected_generation:
            raise Conflict("another champion")
        time.sleep(0.01)
        champion = Champion(name, version, current.generation + 1, False)
        with self.transaction() as connection:
            connection.execute(CHAMPIONS.update().where(CHAMPIONS.c.name == name).values(**row_of(champion)))
        return champion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    figures = measure(arguments.processes, arguments.rounds)
    conclude("ledger_races", figures, table(figures), requirements(figures), arguments.write)


def measure(processes: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"processes": processes, "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="thaw-races-") as folder:
        for engine in ("SQLite", "PostgreSQL") if binaries() else ("SQLite",):
            with postgres() if engine == "PostgreSQL" else nullcontext(f"sqlite:///{folder}/ledger.db") as url:
                found[engine] = raced(url, Ledger, processes, rounds)
        found["control"] = raced(f"sqlite:///{folder}/careless.db", Careless, processes, CONTROL_ROUNDS)
    return found


def raced(url: str, kind: type[Ledger], processes: int, rounds: int) -> dict[str, Any]:
    with opened(url) as ledger:
        for version in range(processes + 1):
            ledger.publish(NAME, version + 1, f"{version:064d}", f"{NAME}:{version}", "PASSED", "drill", "races")
        ledger.promote(NAME, processes + 1, who="drill", why="first")
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(processes), context.Queue()
    started = time.perf_counter()
    racers = [
        context.Process(target=race, args=(url, kind, version + 1, rounds, barrier, wins))
        for version in range(processes)
    ]
    for racer in racers:
        racer.start()
    told = [wins.get(timeout=LOCK_SECONDS + rounds) for _ in racers]
    for racer in racers:
        racer.join()
    seconds = time.perf_counter() - started
    with opened(url) as ledger:
        moves = [event for event in ledger.history(NAME) if event.kind == "promote"]
        generation = ledger.champion(NAME).generation
    winners = [sum(won[number] for won, _ in told) for number in range(rounds)]
    return {
        "rounds": rounds,
        "one_winner": sum(count == 1 for count in winners),
        "most_winners": max(winners),
        "other_errors": sum(errors for _, errors in told),
        "generation": generation,
        "promotions_in_history": len(moves),
        "seconds": seconds,
    }


def race(url: str, kind: type[Ledger], version: int, rounds: int, barrier: Barrier, wins: Any) -> None:
    """In each round promotes once, at the same moment as the others."""
    won, errors = [], 0
    ledger = kind(url)
    for _ in range(rounds):
        barrier.wait(LOCK_SECONDS)
        seen = ledger.champion(NAME).generation
        barrier.wait(LOCK_SECONDS)
        try:
            ledger.promote(NAME, version, who="drill", why="race", expected_generation=seen)
            won.append(True)
        except Conflict:
            won.append(False)
        except sa.exc.SQLAlchemyError:
            won.append(False)
            errors += 1
    ledger.close()
    wins.put((won, errors))


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    found = []
    for engine in ("SQLite", "PostgreSQL"):
        if engine in f:
            race, rounds = f[engine], f["rounds"]
            found += [
                (race["one_winner"] == rounds, f"{engine}: one winner in {rounds} rounds, found {race['one_winner']}"),
                (race["other_errors"] == 0, f"{engine}: conflicts only, found {race['other_errors']} other errors"),
                (race["generation"] == rounds + 1, f"{engine}: generation {rounds + 1}, found {race['generation']}"),
                (race["promotions_in_history"] == rounds + 1, f"{engine}: every promotion in the history"),
            ]
    return [*found, (f["control"]["most_winners"] > 1, "the careless control lets several win")]


def table(f: dict[str, Any]) -> str:
    body = [
        (engine, *(str(f[engine][key]) for key in keys), f"{f[engine]['seconds']:.0f}")
        for keys in [("rounds", "one_winner", "most_winners", "other_errors", "promotions_in_history")]
        for engine in ("SQLite", "PostgreSQL", "control")
        if engine in f
    ]
    header = ("", "rounds", "with one winner", "most winners", "other errors", "promotions in history", "seconds")
    return "\n".join([f"# {f['processes']} processes promote at once\n", rows(header, body), ""])


if __name__ == "__main__":
    main()
