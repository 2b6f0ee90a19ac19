"""A person's word before a version goes live: `release.promote: manual` in a deployment's run.

The run is suspended with a typed form and gives its worker's slot back. Whoever resumes it in the UI says approve or
refuse, who they are, and why; the ledger keeps that. Nobody for `release.approval_hours`: Prefect ends the run, nothing
moves, and the ledger shows the question without an answer. Outside a deployment nothing can be suspended: the version
is published, and `thaw promote` is the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from prefect import runtime
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows import events
from flows.artifacts import show_verdict, verdict_table
from serving.ledger import opened
from serving.store import Store
from tasks.certification.certify import Candidate, Certified
from tasks.release.release import Published, find_champion
from tasks.release.spec import ReleaseSpec
from tasks.release.unchanged import RESULT


class Approval(RunInput):
    """The form."""

    decision: Literal["approve", "refuse"] = Field(description="approve makes it the champion; refuse leaves it stored")
    who: str = Field(min_length=2, max_length=80, description="your name; it is kept in the ledger")
    reason: str = Field(min_length=3, max_length=500, description="why; it is kept in the ledger")


def is_deployed() -> bool:
    """Whether this run belongs to a deployment: only such a run can be suspended and resumed."""
    return runtime.deployment.id is not None


def is_asked(release: ReleaseSpec, certified: Certified, name: str, home: Path, ledger: str | None) -> bool:
    """Whether a person decides here and now: not about what may not go live anyway."""
    if release.promote != "manual" or certified.verdict != "PASSED" or not is_deployed():
        return False
    with opened(ledger or home) as book:
        return not book.champion(name).hold


def champion_to_meet(name: str, run: Path, home: Path, ledger: str | None) -> Candidate | None:
    """The champion that a run which goes on was certified against before it was suspended; else the present one.

    What the person was shown is what their answer is about. Whether that champion still stands, promote finds out.
    """
    if not (run / RESULT).is_file():
        return find_champion(name, home, ledger)
    met = json.loads((run / RESULT).read_text())["champion"]
    if met["version"] is None:
        return None
    with opened(ledger or home) as book:
        artifact = Store(home, book).open(name, met["version"])
    return Candidate(artifact.path, artifact.digest, met["version"], met["generation"])


def ask(
    published: Published, release: ReleaseSpec, result: Mapping[str, Any], home: Path, ledger: str | None
) -> Approval:
    """The answer. Where there is none yet, suspends the run: this process ends, and a later one asks again and has it.

    Records the question in the ledger, once.
    """
    until = datetime.now(UTC) + timedelta(hours=release.approval_hours)
    why = f"run {result['run_id']}"
    with opened(ledger or home) as book:
        if book.note(published.name, published.version, "ask", "thaw", why):
            show_verdict(result)  # before the answer, which it is for
            events.approval_asked(published.name, published.version, "PASSED", result["reason"], result["run_id"])
    form = Approval.with_initial_data(description=_question(published, result, until))
    answer: Approval = suspend_flow_run(
        wait_for_input=form,
        timeout=int(release.approval_hours * 3600),
        key=f"{published.name}-{published.version}",
    )
    return answer


def refuse(published: Published, answer: Approval, why: str, home: Path, ledger: str | None) -> str:
    """Records the refusal and tells it, once; says it in words."""
    with opened(ledger or home) as book:
        if book.note(published.name, published.version, "refuse", answer.who, f"{answer.reason} ({why})"):
            events.rejected(published.name, published.version, "PASSED", f"refused by {answer.who}", why)
    return f"{published.name}:{published.version} was refused by {answer.who}: {answer.reason}"


def _question(published: Published, result: Mapping[str, Any], until: datetime) -> str:
    """Markdown: what would go live, what it would replace, and every line of the verdict."""
    champion = result["champion"]["version"]
    instead = f"in place of {published.name}:{champion}" if champion else "as the first champion"
    return (
        f"### Make {published.name}:{published.version} the champion, {instead}?\n\n"
        f"No answer until {until:%Y-%m-%d %H:%M} UTC counts as a refusal.\n\n{verdict_table(result)}"
    )
