"""What the orchestration drill does with questions: answered, answered wrongly, refused, overtaken, not answered."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.drill import FOLLOW_SECONDS, RUN_SECONDS, SLOTS, Drill, told

HURRY_HOURS = 0.005  # 18 s
WHO = "A. Person"


class Approvals:
    """Three runs ask at the same time, one more than the pool has places, and another one completes meanwhile."""

    def __init__(self, drill: Drill) -> None:
        self._drill = drill
        self._asked = threading.Barrier(3)
        self._answer = threading.Event()

    def approved(self) -> None:
        drill, run = self._drill, self._ask("agreed")
        self._wait_for_the_others()
        keys = drill.up.artifacts(run)
        shown = {"agreed-verdict", "agreed-report"} <= set(keys)
        drill.check("the verdict and the report are there before the answer", shown, " ".join(keys))
        for what, form in {
            "a wrong choice": {"decision": "perhaps", "who": WHO, "reason": "looks good"},
            "a name left out": {"decision": "approve", "reason": "looks good"},
        }.items():
            said, state = drill.up.answer(run, **form), drill.up.run(run)["state"]["name"]
            figure = f"{said['status']}, {state}: {said['details'].get('reason')}"
            drill.check(f"{what} is no answer", (said["status"], state) == ("REJECT", "Suspended"), figure)
        ended = drill.answered(run, decision="approve", who=WHO, reason="seen with my own eyes")
        last = drill.history("agreed")[-1]
        kept = (last.kind, last.who) == ("promote", WHO) and "seen with my own eyes" in last.why
        champion = drill.champion("agreed").version
        figure = f"{told(ended)}; champion {champion}; ledger: {last.kind} by {last.who}: {last.why}"
        drill.check("an approved version is the champion; the ledger has who and why", champion == 1 and kept, figure)

    def refused(self) -> None:
        drill, run = self._drill, self._ask("declined")
        self._wait_for_the_others()
        ended = drill.answered(run, decision="refuse", who=WHO, reason="not before the audit")
        last, champion = drill.history("declined")[-1], drill.champion("declined").version
        kept = (last.kind, last.who) == ("refuse", WHO) and "not before the audit" in last.why
        figure = f"{told(ended)}; champion {champion}; ledger: {last.kind} by {last.who}: {last.why}"
        holds = ended["state"]["type"] == "COMPLETED" and champion is None and kept
        drill.check("a refused version is not promoted, and its run did not fail", holds, figure)

    def overtaken(self) -> None:
        """The champion changes while the question stands: the answer is about another comparison."""
        drill, name, run = self._drill, "overtaken", self._ask("overtaken")
        try:
            self._another_completes(name)
        finally:
            self._answer.set()
        drill.move("promote/on-demand", {"version": f"{name}:2", "who": WHO})
        assert drill.champion(name).version == 2
        again = drill.answered(run, decision="approve", who=WHO, reason="as shown")
        stands = drill.champion(name).version == 2
        asked_anew = again["state"]["name"] in ("Suspended", "Rejected", "Inconclusive")
        drill.check("an answer about an older champion promotes nothing", stands and asked_anew, told(again))
        self._answer_anew(run, again)

    def _another_completes(self, name: str) -> None:
        drill = self._drill
        self._asked.wait(RUN_SECONDS)
        other = drill.whole(drill.small(name, 2, release={"promote": "never"}))
        suspended = [one for one in drill.up.runs({}) if one["state"]["name"] == "Suspended"]
        figure = f"{len(suspended)} suspended, {SLOTS} places, another run: {told(other)}"
        free = len(suspended) > SLOTS and other["state"]["name"] == "Completed"
        drill.check("a suspended run gives its place back", free, figure)

    def _answer_anew(self, run: str, again: dict[str, Any]) -> None:
        """The second question is about the comparison with the new champion, and its answer counts."""
        drill, name = self._drill, "overtaken"
        ended = again
        if again["state"]["name"] == "Suspended":
            ended = drill.answered(run, decision="approve", who=WHO, reason="compared again")
        met = drill.result(run)["champion"]
        champion = drill.champion(name).version
        promoted = [event.version for event in drill.history(name) if event.kind == "promote"]
        figure = f"{told(ended)}; met {name}:{met['version']}; promoted {promoted}"
        holds = met["version"] == 2 and champion in (2, 3) and 1 not in promoted
        drill.check("it is certified again against the new one, and only that answer counts", holds, figure)

    def unanswered(self) -> None:
        """Nobody comes."""
        drill = self._drill
        drill.collision_begins.wait(RUN_SECONDS)
        release = {"promote": "manual", "approval_hours": HURRY_HOURS}
        run = drill.whole(drill.small("unanswered", release=release), "Suspended")
        began = time.monotonic()

        ended, deadline = run, began + HURRY_HOURS * 3600 + 2 * FOLLOW_SECONDS
        while ended["state"]["name"] != "Refused" and time.monotonic() < deadline:
            time.sleep(0.5)
            ended = drill.up.run(run["id"])
        champion = drill.champion("unanswered").version
        kinds = [event.kind for event in drill.history("unanswered")]
        figure = f"{told(ended)}; {time.monotonic() - began:.0f} s after the question; ledger: {kinds}"
        holds = ended["state"]["name"] == "Refused" and champion is None and kinds == ["publish", "ask"]
        drill.check("a question that nobody answers ends by itself, promoting nothing", holds, figure)

    def _ask(self, name: str) -> str:
        drill = self._drill
        drill.collision_begins.wait(RUN_SECONDS)
        try:
            run = drill.whole(drill.small(name, release={"promote": "manual"}), "Suspended")
            assert run["state"]["name"] == "Suspended", told(run)
        except BaseException:
            self._asked.abort()  # the others need not wait
            raise
        return str(run["id"])

    def _wait_for_the_others(self) -> None:
        self._asked.wait(RUN_SECONDS)
        if not self._answer.wait(RUN_SECONDS):
            raise TimeoutError("no other run completed while three were suspended")
