"""What does the orchestrator cost?

    uv run python -m benchmarks.overhead [--pairs 5] [--write]

The `retrain` flow, called as `thaw retrain` calls it, against a running Prefect server; and the same steps on the same
pictures as plain functions. In turn, each time in a process of its own after all imports and in a fresh home, on digits
that train for seconds: the worst case, for what the orchestrator adds does not grow with the pictures. Required: the
median of the flow is at most 1.10 times the plain one plus 3 s (the aim: 1.05 times). Also told: how much of it lies in
the steps and how much between them, the seconds of the processor (which other programs on the machine change less), and
what the process needs after the flow has returned (logs and events that are still to be sent). About 6 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage import conclude, rows
from benchmarks.platform import USUAL, environment, small, up

NAME = "digits"
RATIO, SECONDS, AIM = 1.10, 3.0, 1.05
KINDS = ("plain", "flow")
CHILD_SECONDS = 900  # a limit against hanging only


# --- in the child -------------------------------------------------------------------------------------


def child(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of one retrain in this process, which has imported everything."""
    from flows import quiet

    quiet.set_defaults()
    from flows.parameters import Parameters
    from flows.retrain import retrain

    parameters = Parameters.model_validate(values)
    began, worked = time.perf_counter(), time.process_time()
    if kind == "flow":
        body = retrain(**{key: getattr(parameters, key) for key in Parameters.model_fields})
        steps, verdict = body["seconds"], body["verdict"]
    else:
        steps, verdict = plain(parameters)
    spent, worked = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": spent, "processor": worked, "steps": steps, "verdict": verdict, "returned": time.time()}


def plain(p: Any) -> tuple[dict[str, float], str]:
    """The chain of flows/retrain.py without an orchestrator: seconds of each step, and the verdict."""
    from flows import result
    from serving.settings import find_home
    from serving.store import whoami
    from tasks.audit.audit import audit, audit_text
    from tasks.certification.certify import Record, certify
    from tasks.certification.gather import Trained
    from tasks.data.prepare import prepare
    from tasks.evaluation.validate import validate
    from tasks.export.export import export
    from tasks.model.backbone import describe
    from tasks.model.device import torch_device
    from tasks.release.release import decisions_made, find_champion, promote, publish
    from tasks.training.embed import embed
    from tasks.training.finetune import finetune
    from tasks.training.head import train_head

    spent: dict[str, float] = {}

    def timed(step: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        made = step(*arguments)
        spent[step.__name__] = time.perf_counter() - began
        return made

    home, pre, device, seed = find_home(), describe(p.model), torch_device(p.runtime.device), p.runtime.seed
    run = home / "runs" / "plain"
    dataset = timed(prepare, p.name, home, p.data, pre)
    features = timed(embed, dataset, home, p.model, pre, seed, device)
    audited = timed(audit, dataset, features, home, p.data, p.audit, p.gate)
    dataset = audited.dataset
    head = timed(train_head, dataset, features, run, p.model, pre, p.head, seed)
    tuned = timed(finetune, head, dataset, run, p.finetune, p.head.class_weights, seed, device)
    timed(validate, tuned, dataset, run, p.decision, p.gate)
    exported = timed(export, tuned, dataset, run, p.decision, p.export)
    trained, champion = Trained(p.name, dataset, features, head, tuned, exported), find_champion(p.name, home, None)
    earlier = decisions_made(p.name, home, None)
    made_by = result.shipped_configuration(p), result.provenance(run.name)
    record = Record(*made_by, earlier, tuple(spent.items()), audit_text(audited))
    certified = timed(certify, trained, champion, run, p.decision, p.gate, record, p.report, p.runtime.device)
    published = timed(publish, certified, home, None, whoami(), "plain")
    timed(promote, published, certified, home, None, p.release, whoami(), "plain")
    return spent, certified.verdict


# --- the program --------------------------------------------------------------------------------------


def measure(place: Path, pairs: int) -> dict[str, Any]:
    from tests.conftest import write_digits

    pictures = write_digits(place / "pictures", (0, 1, 7), 80, side=32)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    with up(place / "up", "--no-serve") as platform:
        for number in range(pairs):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                found[kind].append(_in_child(kind, place / f"{kind}-{number}", pictures, platform.api))
                print(kind, f"{found[kind][-1]['seconds']:.2f} s", flush=True)
    return {kind: found[kind] for kind in KINDS} | summary(found)


def _in_child(kind: str, place: Path, pictures: Path, api: str) -> dict[str, Any]:
    place.mkdir()
    variables = environment(place) | {"PREFECT_API_URL": api}
    command = [sys.executable, "-m", "benchmarks.overhead", "--child", kind]
    values = json.dumps(small(NAME, pictures, **USUAL), default=str)
    done = subprocess.run(command, input=values, env=variables, capture_output=True, text=True, timeout=CHILD_SECONDS)
    if done.returncode:
        raise RuntimeError(f"the {kind} retrain failed:\n{done.stderr[-3000:]}")
    body: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return body | {"after": time.time() - body["returned"]}


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians of each kind: all, in the steps, between them, each step, and after the return."""

    def median(kind: str, value: Any) -> float:
        return float(statistics.median(value(one) for one in found[kind]))

    def of(kind: str) -> dict[str, Any]:
        names = found[kind][0]["steps"]
        return {
            "all": median(kind, lambda one: one["seconds"]),
            "in_steps": median(kind, lambda one: sum(one["steps"].values())),
            "between": median(kind, lambda one: one["seconds"] - sum(one["steps"].values())),
            "processor": median(kind, lambda one: one["processor"]),
            "after": median(kind, lambda one: one["after"]),
            "steps": {name: median(kind, lambda one, name=name: one["steps"][name]) for name in names},
        }

    medians = {kind: of(kind) for kind in KINDS}
    plain_seconds, flow_seconds = medians["plain"]["all"], medians["flow"]["all"]
    return {
        "medians": medians,
        "ratio": flow_seconds / plain_seconds,
        "added": flow_seconds - plain_seconds,
        "verdicts": sorted({one["verdict"] for kind in KINDS for one in found[kind]}),
    }


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    plain_seconds, flow_seconds = f["medians"]["plain"]["all"], f["medians"]["flow"]["all"]
    limit = RATIO * plain_seconds + SECONDS
    return [
        (
            flow_seconds <= limit,
            f"the flow in at most {limit:.2f} s ({RATIO} x + {SECONDS} s), found {flow_seconds:.2f}",
        ),
        (f["verdicts"] == ["PASSED"], f"every retrain to pass, found {f['verdicts']}"),
        (min(len(f[kind]) for kind in KINDS) >= 3, "at least 3 of each"),
    ]


def table(f: Mapping[str, Any]) -> str:
    plain_of, flow_of = f["medians"]["plain"], f["medians"]["flow"]

    def line(text: str, plain_seconds: float, flow_seconds: float) -> tuple[str, ...]:
        return text, f"{plain_seconds:.2f}", f"{flow_seconds:.2f}", f"{flow_seconds - plain_seconds:+.2f}"

    body = [
        line("all", plain_of["all"], flow_of["all"]),
        line("in the steps", plain_of["in_steps"], flow_of["in_steps"]),
        line("between them", plain_of["between"], flow_of["between"]),
        *(line(f"step {name}", plain_of["steps"][name], flow_of["steps"][name]) for name in plain_of["steps"]),
        line("of the processor, in this process", plain_of["processor"], flow_of["processor"]),
        line("until the process ends, after the return", plain_of["after"], flow_of["after"]),
    ]
    low, high = (f"{min(one['seconds'] for one in f['flow']):.2f}", f"{max(one['seconds'] for one in f['flow']):.2f}")
    told = (
        f"Medians of {len(f['flow'])} of each, in turn. Ratio {f['ratio']:.3f} (aim {AIM}), {f['added']:+.2f} s; the "
        f"flow's seconds lay between {low} and {high}. {f['note']}"
    )
    header = ("seconds", "plain functions", "flow", "added")
    return "\n".join(["# What the orchestrator costs\n", rows(header, body), "", told.strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory(prefix="thaw-overhead-") as folder:
        figures = measure(Path(folder), arguments.pairs) | {"note": arguments.note}
    conclude("overhead", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
