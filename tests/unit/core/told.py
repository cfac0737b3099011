"""Sessions told in a few words, for tests of what is concluded and reported.

Rule: what a test says happened becomes events, and the state machine makes the session of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    CallExpanded,
    Event,
    RunJudged,
    RunRecorded,
    SessionOpened,
    TeacherReplied,
    key_of,
)
from worker.core.machine import Session, fold
from worker.core.values import (
    ClaimedCluster,
    Ending,
    Limits,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    SessionSpec,
    Text,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Told", "cluster", "ending", "spec", "text_of"]

#: How a run came out, in a letter: passed, failed, fault, unjudged, judged wrong, empty.
_RUNS: Mapping[str, Mapping[str, Any]] = {
    "p": {"outcome": RunOutcome.ANSWERED, "output": Text(text="42"), "score": 1.0, "passed": True},
    "f": {"outcome": RunOutcome.ANSWERED, "output": Text(text="41"), "score": 0.0, "passed": False},
    "x": {"outcome": RunOutcome.FAULT, "why": "timeout after 60000 ms"},
    "u": {"outcome": RunOutcome.ANSWERED, "output": Text(text="hm"), "needs_judge": True},
    "j": {"outcome": RunOutcome.CUT, "output": Text(text="4"), "needs_judge": True},
    "e": {"outcome": RunOutcome.EMPTY, "score": 0.0, "passed": False},
}


def spec(**changes: Any) -> SessionSpec:
    """Return an accepted request."""
    given: dict[str, Any] = {
        "session_id": "night-2026-01-05-smol",
        "bundle_uri": "s3://bucket/bundles/" + "0" * 64 + ".tar.gz",
        "student": "smol",
        "teacher": "anthropic",
        "judge": "anthropic",
        "teacher_model": "claude-opus-4-6",
        "judge_model": "claude-haiku-4-5",
        "tenant": "lab",
        "campaign": "2026-01-05",
        "trigger": "nightly",
        "limits": Limits(max_turns=10),
        "price_version": "2026-01-01",
    }
    return SessionSpec(**(given | changes))


def cluster(cluster_id: str, *sample_ids: str, **changes: Any) -> ClaimedCluster:
    """Return a claimed cluster."""
    given: dict[str, Any] = {
        "cluster_id": cluster_id,
        "description": f"fails at {cluster_id}",
        "skill_gap": "",
        "sample_ids": sample_ids,
    }
    return ClaimedCluster(**(given | changes))


def ending(*clusters: ClaimedCluster, text: str = "What I found.", **changes: Any) -> Ending:
    """Return a diagnosis."""
    return Ending(diagnosis=Text(text=text), clusters=clusters, **changes)


def text_of(payload: object) -> str:
    """Return a payload's text; what a blob holds does not matter here."""
    return payload.text if isinstance(payload, Text) else f"({payload})"


@dataclass(slots=True)
class Told:
    """A session in the making: each method is one turn of the teacher."""

    events: list[Event]
    #: Attempts of a task by runner, so that no two runs of a session have the same seed.
    _attempts: dict[tuple[Runner, str], int] = field(default_factory=dict[Any, int])

    @classmethod
    def prepared(cls, *, traces: int = 200, tasks: int = 50, **changes: Any) -> Told:
        """Return a session whose teacher may begin."""
        brief = Text(text="There are traces and tasks.")
        opened = SessionOpened(spec=spec(**changes))
        return cls([opened, BundlePrepared(brief=brief, traces=traces, tasks=tasks)])

    @property
    def session(self) -> Session:
        """The session so far."""
        return fold(self.events)

    @property
    def keys(self) -> list[str]:
        """The journal's keys."""
        return [key_of(event) for event in self.events]

    def then(self, *events: Event) -> Told:
        """Add events as they are."""
        self.events.extend(events)
        return self

    def students(self, **outcomes: str) -> Told:
        """Run the student: `task=letters`, one letter a run; see `_RUNS`."""
        specs: list[RunSpec] = []
        letters: list[str] = []
        for task, runs in outcomes.items():
            for letter in runs:
                specs.append(self._next(Runner.STUDENT, task))
                letters.append(letter)
        turn = self._turn(("run_student_on_tasks", {"task_ids": [_id(t) for t in outcomes]}))
        self.events.append(CallExpanded(turn=turn, index=0, runs=tuple(specs)))
        for ordinal, (run, letter) in enumerate(zip(specs, letters, strict=True)):
            self._record(turn, 0, ordinal, Runner.STUDENT, run, letter)
        return self

    def teacher(self, **outcomes: str) -> Told:
        """Run the teacher: `task=letters`, one letter a run."""
        runs = [(task, letter) for task, letters in outcomes.items() for letter in letters]
        turn = self._turn(*(("run_self_on_task", {"task_id": _id(task)}) for task, _ in runs))
        for index, (task, letter) in enumerate(runs):
            run = self._next(Runner.TEACHER, task)
            self._record(turn, index, 0, Runner.TEACHER, run, letter)
        return self

    def reads(self, tool: str, arguments: Mapping[str, Any], result: str) -> Told:
        """Have the teacher read something."""
        turn = self._turn((tool, arguments))
        answer = CallAnswered(turn=turn, index=0, result=Text(text=result), latency_ms=12)
        return self.then(answer)

    def submits(self, given: Ending) -> Told:
        """Have the teacher submit its diagnosis."""
        turn = self._turn(("submit_diagnosis", {"diagnosis_md": "…", "clusters": []}))
        result = Text(text='{"accepted": true}')
        return self.then(CallAnswered(turn=turn, index=0, result=result, ending=given))

    def writes(self, given: Ending, purpose: Purpose = Purpose.EXPLORE) -> Told:
        """Have the teacher end with a text."""
        turn = len(self.session.turns) + 1 if purpose is Purpose.EXPLORE else 0
        return self.then(_reply(turn, purpose, "end_turn", (), ending=given))

    def _turn(self, *calls: tuple[str, Mapping[str, Any]]) -> int:
        turn = len(self.session.turns) + 1
        made = tuple(
            ToolCall(
                call_id=f"toolu_{turn}_{index}",
                tool=tool,
                arguments_json=json.dumps(arguments, ensure_ascii=False),
            )
            for index, (tool, arguments) in enumerate(calls)
        )
        self.events.append(_reply(turn, Purpose.EXPLORE, "tool_use", made))
        return turn

    def _next(self, runner: Runner, task: str) -> RunSpec:
        attempt = self._attempts.get((runner, task), 0)
        self._attempts[runner, task] = attempt + 1
        return RunSpec(task_id=_id(task), attempt=attempt)

    def _record(
        self, turn: int, index: int, ordinal: int, runner: Runner, run: RunSpec, letter: str
    ) -> None:
        """Add what came of a run; a blank is one that is still under way."""
        if letter == " ":
            return
        where: dict[str, int] = {"turn": turn, "index": index, "ordinal": ordinal}
        scorer = "" if letter in "xuj" else "exact"
        outcome: dict[str, Any] = {"scorer": scorer, "latency_ms": 500, "tokens": 20}
        outcome |= _RUNS[letter]
        self.events.append(RunRecorded(**where, runner=runner, spec=run, **outcome))
        if letter == "u":
            self.events.append(RunJudged(**where, score=None, passed=None, why="no verdict"))
        if letter == "j":
            self.events.append(RunJudged(**where, score=0.2, passed=False, why="cut short"))


def _id(task: str) -> str:
    """Return a task's id; Python's names have no dash."""
    return task.replace("_", "-")


def _reply(
    turn: int, purpose: Purpose, stop_reason: str, calls: tuple[ToolCall, ...], **more: Any
) -> TeacherReplied:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": f"Turn {turn}: let me see."}]
    blocks += [
        {
            "type": "tool_use",
            "id": call.call_id,
            "name": call.tool,
            "input": json.loads(call.arguments_json),
        }
        for call in calls
    ]
    return TeacherReplied(
        turn=turn,
        purpose=purpose,
        content=Text(text=json.dumps(blocks, ensure_ascii=False)),
        stop_reason=stop_reason,
        calls=calls,
        usage=Usage(input_tokens=900, cache_read_tokens=4_000, output_tokens=150),
        model="claude-opus-4-6",
        message_id=f"msg_{turn}",
        request_id=f"req_{turn}",
        latency_ms=2_500,
        **more,
    )
