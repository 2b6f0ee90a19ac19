"""What does the server do with more than it can, with clients that stall, and when it is told to end?

    uv run python -m benchmarks.overload HOME [--seconds 60] [--stops 20] [--write]

HOME: with a champion, e.g. a finished demo's; BENTOML_HOME as that run had it. First the peak: 8 connections that ask
again at once. Then requests at random times, four times as many a second. Required: only 200, 429 and 503, no
connection broken, at least 60 % of the peak answered with 200, refusals within 100 ms and answers within 2 s (99 of
100). Then 300 uploads that stop halfway beside honest clients at half the peak: their 99th percentile at most doubles.
Then SIGTERM under load, again and again: no request is lost that was sent on a connection the server had accepted.
Controls: the same server with a queue without end answers late; with little memory for bodies, stalled uploads keep the
honest out; SIGKILL loses requests. About 6 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.clients import BROKEN, Answered, Clients, run
from benchmarks.coverage import conclude, rows
from benchmarks.served import served
from benchmarks.serving_speed import CONNECTIONS, jpeg

TIMES = 4
STALLED = 300
PEAK_SECONDS = 10.0
CONTROL_SECONDS = 8.0
STOP_CONTROLS = 3
GOODPUT, REFUSED_MS, ANSWERED_MS, SLOWER = 0.6, 100.0, 2000.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Thaw home with a champion")
    parser.add_argument("--seconds", type=float, default=60, help="of overload")
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    figures = measure(arguments.home.resolve(), arguments.seconds, arguments.stops)
    conclude("overload", figures, table(figures), requirements(figures), arguments.write)


def measure(home: Path, seconds: float, stops: int) -> dict[str, Any]:
    environment = {"THAW_HOME": str(home), "THAW_DEVICE": "cpu", "THAW_LOG_LEVEL": "WARNING"}
    data = jpeg()
    with served(environment) as server:
        peak = run(peak_of(server.url, data))
        overloaded = run(overload(server.url, data, TIMES * peak, seconds))
        alone, stalled = run(with_stalled(server.url, data, peak / 2, CONTROL_SECONDS))
    with served(environment | {"THAW_QUEUE": "1000000"}) as server:
        endless = run(overload(server.url, data, TIMES * peak, CONTROL_SECONDS))
    half = len(data) // 2 * STALLED
    with served(environment | {"THAW_MAX_BUFFERED_BYTES": str(half)}) as server:
        _, kept_out = run(with_stalled(server.url, data, peak / 2, CONTROL_SECONDS / 2))
    return {
        "peak": peak,
        "overload": summary(overloaded, seconds),
        "alone": summary(alone, CONTROL_SECONDS),
        "stalled": summary(stalled, CONTROL_SECONDS),
        "stops": [stopped(environment, data, signal.SIGTERM) for _ in range(stops)],
        "control_endless_queue": summary(endless, CONTROL_SECONDS),
        "control_little_memory": summary(kept_out, CONTROL_SECONDS / 2),
        "control_killed": [stopped(environment, data, signal.SIGKILL) for _ in range(STOP_CONTROLS)],
    }


async def peak_of(url: str, data: bytes) -> float:
    """Answers a second with as many clients as keep it busy."""
    clients = Clients(url, data)
    for seconds in (2.0, PEAK_SECONDS):  # the first warms up
        clients.answers.clear()
        end = time.monotonic() + seconds
        await clients.closed_loop(CONNECTIONS, lambda end=end: time.monotonic() < end)  # type: ignore[misc]
    clients.close()
    return len(clients.answers) / PEAK_SECONDS


async def overload(url: str, data: bytes, rate: float, seconds: float) -> list[Answered]:
    clients = Clients(url, data)
    await clients.open_loop(rate, seconds)
    clients.close()
    return clients.answers


async def with_stalled(url: str, data: bytes, rate: float, seconds: float) -> tuple[list[Answered], list[Answered]]:
    """Honest clients alone, then beside stalled uploads."""
    alone = await overload(url, data, rate, seconds)
    others = Clients(url, data)
    stalled = await others.stall(STALLED)
    beside = await overload(url, data, rate, seconds)
    for connection in stalled:
        connection.close()
    return alone, beside


def stopped(environment: dict[str, str], data: bytes, how: signal.Signals) -> dict[str, int]:
    """A server that is told to end while clients ask. Lost: sent on a connection that had served, and not answered."""
    with served(environment) as server:
        target = server.process.pid if how == signal.SIGTERM else server.worker().pid

        async def scenario() -> tuple[list[Answered], float]:
            clients = Clients(server.url, data)
            told: list[float] = []

            def goes_on() -> bool:
                return not told or time.monotonic() < told[0] + 6

            async def tell() -> None:
                await asyncio.sleep(1.5)
                os.kill(target, how)
                told.append(time.monotonic())

            await asyncio.gather(clients.closed_loop(CONNECTIONS, goes_on), tell())
            clients.close()
            return clients.answers, told[0]

        answers, told = run(scenario())
    return {
        "answered": sum(answer.status == 200 for answer in answers),
        "answered_after": sum(answer.status == 200 and answer.sent > told for answer in answers),
        "other": sum(answer.status not in (200, BROKEN) for answer in answers),
        "lost": sum(answer.status == BROKEN and not answer.fresh for answer in answers),
        "refused": sum(answer.status == BROKEN and answer.fresh for answer in answers),
        "refused_while_draining": sum(
            answer.status == BROKEN and told <= answer.sent < told + 1.5 for answer in answers
        ),
    }


def summary(answers: list[Answered], seconds: float) -> dict[str, Any]:
    ok = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer.seconds for answer in answers if answer.status in (429, 503)]
    return {
        "requests": len(answers),
        "statuses": dict(Counter(str(answer.status) for answer in answers)),
        "goodput": len(ok) / seconds,
        "ok_p50_ms": percentile(ok, 50),
        "ok_p99_ms": percentile(ok, 99),
        "refused_p99_ms": percentile(refused, 99),
    }


def percentile(seconds: list[float], which: int) -> float:
    if len(seconds) < 2:
        return 1000 * seconds[0] if seconds else float("nan")
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[which - 1]


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    over, share = f["overload"], f["overload"]["goodput"] / f["peak"]
    slower = f["stalled"]["ok_p99_ms"] / f["alone"]["ok_p99_ms"]
    lost = sum(stop["lost"] + stop["refused_while_draining"] + stop["other"] for stop in f["stops"])
    endless, kept_out = f["control_endless_queue"], f["control_little_memory"]
    return [
        (set(over["statuses"]) <= {"200", "429", "503"}, f"only 200, 429 and 503, found {over['statuses']}"),
        (share >= GOODPUT, f"at least {GOODPUT:.0%} of the peak answered, found {share:.0%}"),
        (over["refused_p99_ms"] <= REFUSED_MS, f"refusals in {REFUSED_MS} ms, found {over['refused_p99_ms']:.0f}"),
        (over["ok_p99_ms"] <= ANSWERED_MS, f"answers in {ANSWERED_MS} ms, found {over['ok_p99_ms']:.0f}"),
        (set(f["stalled"]["statuses"]) == {"200"}, f"the honest answered, found {f['stalled']['statuses']}"),
        (slower <= SLOWER, f"p99 beside stalled uploads at most doubled, found {slower:.2f} times"),
        (lost == 0, f"no accepted request lost at SIGTERM, found {lost}"),
        (not endless["ok_p99_ms"] <= ANSWERED_MS, "the control without an end to its queue answers late"),
        (set(kept_out["statuses"]) != {"200"}, "the control with little memory keeps honest clients out"),
        (sum(stop["lost"] for stop in f["control_killed"]) > 0, "the control that is killed loses requests"),
    ]


def table(f: dict[str, Any]) -> str:
    parts = {
        f"{TIMES} times the peak": f["overload"],
        "half the peak": f["alone"],
        f"half the peak beside {STALLED} stalled uploads": f["stalled"],
        "control: overload, a queue without end": f["control_endless_queue"],
        "control: stalled uploads, little memory for bodies": f["control_little_memory"],
    }
    body = [
        (
            name,
            ", ".join(f"{count} x {status}" for status, count in sorted(part["statuses"].items())),
            f"{part['goodput'] / f['peak']:.2f}",
            *(f"{part[key]:.0f}" for key in ("ok_p50_ms", "ok_p99_ms", "refused_p99_ms")),
        )
        for name, part in parts.items()
    ]
    header = ("", "answers", "of the peak", "200: p50 ms", "p99 ms", "refused: p99 ms")
    return "\n".join([
        f"# Overload, stalled uploads, stops (peak {f['peak']:.0f}/s)\n",
        rows(header, body),
        "",
        stops_line("SIGTERM", f["stops"]),
        stops_line("control: SIGKILL of the worker", f["control_killed"]),
        "",
    ])  # fmt: skip


def stops_line(name: str, stops: list[dict[str, int]]) -> str:
    total = {key: sum(stop[key] for stop in stops) for key in stops[0]} if stops else {}
    return (
        f"{name}, {len(stops)} times: " + ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in total.items()) + ".\n"
    )


if __name__ == "__main__":
    main()
