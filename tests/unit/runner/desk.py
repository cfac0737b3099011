"""A runner on stores in memory, whose steps do what a test says."""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING

from tests.unit.core.strategies import spec_with
from worker import runner as shell
from worker.artifacts.memory import MemoryArtifacts
from worker.core.commands import (
    AwaitResume,
    CallTool,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    Event,
    RunJudged,
    RunRecorded,
    SessionEnded,
    TeacherReplied,
)
from worker.core.values import (
    Ending,
    Limits,
    Outcome,
    Purpose,
    Runner,
    RunOutcome,
    Text,
    ToolCall,
)
from worker.heart import Heart
from worker.journal.memory import MemoryJournal
from worker.judge.llm import LlmJudge
from worker.ledger.memory import MemoryLedger
from worker.payloads import Payloads
from worker.spool import Spool
from worker.spool.memory import MemoryFolder
from worker.steps.context import Ports
from worker.steps.resume import await_resume
from worker.testing import CollectedHints, ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.commands import Command
    from worker.core.machine import Session
    from worker.runner import Worked
    from worker.steps.context import Step
    from worker.steps.workspace import Workspace
    from worker.wire.result import DiagnoseResult

__all__ = ["SESSION", "Desk", "usual"]

SESSION = "s-1"
_FINE = Ending(diagnosis=Text(text="fine"), clusters=(), nothing_found=True)


def usual(command: Command, step: Step) -> Event:  # noqa: PLR0911 - one `return` a command
    """Return what comes of a step on a good day: one tool call, then the diagnosis."""
    match command:
        case Prepare():
            return BundlePrepared(brief=Text(text="brief"), traces=1, tasks=1)
        case TakeTurn(purpose=Purpose.EXPLORE, turn=1):
            call = ToolCall(call_id="toolu_1", tool="list_traces", arguments_json="{}")
            return _replied(command, calls=(call,))
        case TakeTurn():
            return _replied(command, ending=_FINE)
        case CallTool():
            return CallAnswered(turn=command.turn, index=command.index, result=Text(text="[]"))
        case RunStudent():
            return RunRecorded(
                turn=command.turn,
                index=command.index,
                ordinal=command.ordinal,
                runner=Runner.STUDENT,
                spec=command.spec,
                outcome=RunOutcome.ANSWERED,
                score=1.0,
                passed=True,
            )
        case JudgeRun():
            return RunJudged(
                turn=command.turn,
                index=command.index,
                ordinal=command.ordinal,
                score=1.0,
                passed=True,
                why="good",
            )
        case AwaitResume():
            return await_resume(step)
        case Conclude():
            return SessionEnded(
                outcome=Outcome.CONCLUDED.value,
                reason="done",
                cost_nusd=0,
                manifest_sha256="0" * 64,
                artifacts_uri="s3://b/x/",
            )


def _replied(
    command: TakeTurn, *, calls: tuple[ToolCall, ...] = (), ending: Ending | None = None
) -> TeacherReplied:
    return TeacherReplied(
        turn=command.turn,
        purpose=command.purpose,
        content=Text(text="[]"),
        stop_reason="end_turn",
        calls=calls,
        ending=ending,
    )


class Desk:
    """One process's runner; give another desk its stores to have a second process."""

    def __init__(
        self, *, journal: MemoryJournal | None = None, clock: ManualClock | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.journal = journal or MemoryJournal(self.clock)
        self.ledger = MemoryLedger(self.clock)
        self.folder = MemoryFolder()
        self.spool = Spool(
            self.folder,
            self.ledger,
            self.clock,
            fleet="",
            max_bytes=100_000,
            max_age_ms=3_600_000,
        )
        self.hints = CollectedHints()
        self.acts: deque[Callable[[Command, Step], Event]] = deque()
        #: Which run of which server the journal is on.
        self.server = 0
        #: Steps that were begun, in order.
        self.begun: list[str] = []
        tokens = count(1)
        self.runner = shell.Runner(
            journal=self.journal,
            hints=self.hints,
            ports=self._ports(),
            owner=f"desk-{id(self)}",
            new_token=lambda: f"{id(self)}-{next(tokens)}",
            chance=lambda: 1.0,
            heart=Heart(self.journal, beat_ms=None, now_s=lambda: self.clock.now_ms() / 1000),
            perform=self._act,
            spool=self.spool,
            server=lambda: self.server,
        )

    def open(self, limits: Limits | None = None) -> bool:
        """Open the session."""
        return self.runner.open(spec_with(limits or Limits()), {})

    def then(self, *acts: Callable[[Command, Step], Event]) -> None:
        """Let the next steps do this; what comes after them has a good day."""
        self.acts.extend(acts)

    def work(self, step_id: str) -> Worked:
        """Work on a step."""
        return self.runner.work(SESSION, step_id)

    def play(self, *step_ids: str) -> None:
        """Work on steps that all must end well."""
        for step_id in step_ids:
            worked = self.work(step_id)
            assert worked.status == "done", f"{step_id}: {worked}"

    def told(self) -> list[str]:
        """Return the steps that were told since this was last asked."""
        return [hint.step_id for hint in self.hints.take()]

    @property
    def session(self) -> Session:
        session = self.runner.session(SESSION)
        assert session is not None
        return session

    @property
    def keys(self) -> list[str]:
        """Return the keys of the journal."""
        return [record.key for record in self.journal.load(SESSION).records]

    def _act(self, command: Command, step: Step) -> Event:
        self.begun.append(step.step_id)
        act = self.acts.popleft() if self.acts else usual
        return act(command, step)

    def _ports(self) -> Ports:
        artifacts = MemoryArtifacts()
        return Ports(
            ledger=self.ledger,
            artifacts=artifacts,
            payloads=Payloads(artifacts, inline_bytes=8_192),
            workspaces=_no_workspace,
            teachers={},
            students={},
            judge=LlmJudge(),
            clock=self.clock,
            records=lambda session_id: self.journal.load(session_id).records,
            publish=_unpublished,
        )


def _no_workspace(uri: str) -> Workspace:
    raise AssertionError(f"no step of these tests opens {uri!r}")


def _unpublished(result: DiagnoseResult, runtime_s: float) -> None:
    raise AssertionError(f"no step of these tests publishes {result!r}")
