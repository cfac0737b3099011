"""How a session stands, for people and scripts: one view, from journal and ledger.

Rule: it only reads, and it says what the journal says: nothing is remembered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from worker.core.machine import held_back
from worker.core.prices import usd
from worker.core.values import Cause, Runner, RunOutcome

if TYPE_CHECKING:
    from worker.core.machine import Session
    from worker.ports import Journal, Ledger, StepRow
    from worker.runner import Runner as SessionRunner

__all__ = ["Activity", "PauseView", "PrunedView", "SessionView", "StepView", "pruned_view", "view"]

#: How many steps a view names; the count is exact.
SHOWN_STEPS = 20


class StepView(BaseModel):
    """A step that is due or under way."""

    model_config = ConfigDict(frozen=True)

    step_id: str
    state: str
    queue: str
    owner: str
    attempt: int
    last_error: str


class Activity(BaseModel):
    """One turn of the teacher: what it asked for and how far that is."""

    model_config = ConfigDict(frozen=True)

    turn: int
    tools: tuple[str, ...]
    done: int
    cost_nusd: int


class PauseView(BaseModel):
    """Why a session stands still, and what would let it go on."""

    model_config = ConfigDict(frozen=True)

    #: `money`, `asked` or `funds` (it has not started).
    cause: str
    since_ms: int
    #: When it ends with what it has, if nothing comes.
    until_ms: int
    #: What was said when it began.
    detail: str
    needed_nusd: int
    #: The tightest of its accounts now, and what that has free.
    scope: str
    free_nusd: int

    @property
    def words(self) -> str:
        """One sentence: why, and what would let it go on."""
        if self.cause == Cause.ASKED.value:
            return f"paused: {self.detail}; `diagnosis resume` lets it go on"
        what = "waiting to start" if self.cause == Cause.FUNDS.value else "paused"
        return (
            f"{what}: needs {usd(self.needed_nusd)}, and the tightest account {self.scope!r} has "
            f"{usd(self.free_nusd)}; `diagnosis budget set` lets it go on"
        )


class SessionView(BaseModel):
    """A session at one instant."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    phase: str
    #: `concluded`, `inconclusive`, `cancelled` or `failed`; None while it runs.
    outcome: str | None
    #: Why it ended, or why the exploration did; empty while neither has.
    reason: str
    turns: int
    max_turns: int
    tool_calls: int
    max_tool_calls: int
    student_runs: int
    student_runs_done: int
    student_faults: int
    teacher_runs: int
    cost_nusd: int
    held_nusd: int
    cap_nusd: int
    created_ms: int
    ended_ms: int | None
    artifacts_uri: str
    #: None while it works.
    paused: PauseView | None = None
    #: The session that it began from; empty where it began with nothing.
    forked_from: str = ""
    #: Up to which turn; None where all was taken over, or nothing.
    forked_at_turn: int | None = None
    #: What the part that it began with had cost that session.
    inherited_nusd: int = 0
    activity: tuple[Activity, ...]
    steps: tuple[StepView, ...]
    open_steps: int
    #: Steps that wait for the session's own widths: they are not among the open ones yet.
    held_back_steps: int = 0


class PrunedView(BaseModel):
    """What is left of a session that ended and left Redis."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    outcome: str
    created_ms: int
    ended_ms: int
    pruned_ms: int
    artifacts_uri: str


def pruned_view(session_id: str, journal: Journal) -> PrunedView | None:
    """Return what is left of a pruned session; None for any other.

    Raises:
        Unavailable: Redis did not answer.
    """
    labels = journal.labels(session_id)
    if "pruned_ms" not in labels:
        return None
    return PrunedView(
        session_id=session_id,
        outcome=labels["outcome"],
        created_ms=int(labels["created_ms"]),
        ended_ms=int(labels["ended_ms"]),
        pruned_ms=int(labels["pruned_ms"]),
        artifacts_uri=labels["artifacts_uri"],
    )


def view(
    session_id: str, runner: SessionRunner, journal: Journal, ledger: Ledger
) -> SessionView | None:
    """Return a session's view; None where there is no such session.

    Raises:
        Unavailable: Redis did not answer.
    """
    session = runner.session(session_id)
    if session is None:
        return None
    labels = journal.labels(session_id)
    account = ledger.account(f"session:{session_id}")
    steps = journal.steps(session_id)
    student = [run for run in session.runs if run.runner is Runner.STUDENT]
    done = [run.record for run in student if run.record is not None]
    limits, forked = session.spec.limits, session.spec.forked
    return SessionView(
        session_id=session_id,
        phase=session.phase.value,
        outcome=session.ended.outcome if session.ended else None,
        reason=_reason(session),
        turns=len(session.turns),
        max_turns=limits.max_turns,
        tool_calls=session.tool_calls,
        max_tool_calls=limits.max_tool_calls,
        student_runs=session.student_runs,
        student_runs_done=len(done),
        student_faults=sum(record.outcome is RunOutcome.FAULT for record in done),
        teacher_runs=sum(run.runner is Runner.TEACHER for run in session.runs),
        cost_nusd=account.posted_nusd if account else 0,
        held_nusd=account.held_nusd if account else 0,
        cap_nusd=account.cap_nusd if account else limits.max_cost_nusd,
        created_ms=int(labels.get("created_ms", 0)),
        ended_ms=int(labels["ended_ms"]) if "ended_ms" in labels else None,
        artifacts_uri=session.ended.artifacts_uri if session.ended else "",
        paused=_paused(session, journal, ledger),
        forked_from=forked.session_id if forked else "",
        forked_at_turn=forked.at_turn if forked else None,
        inherited_nusd=forked.inherited_nusd if forked else 0,
        activity=_activity(session),
        steps=tuple(_step(row) for row in steps[:SHOWN_STEPS]),
        open_steps=len(steps),
        held_back_steps=held_back(session),
    )


def _reason(session: Session) -> str:
    if session.ended is not None:
        return session.ended.reason
    return session.stop_detail or (session.stop.value if session.stop else "")


def _paused(session: Session, journal: Journal, ledger: Ledger) -> PauseView | None:
    pause = session.paused
    if pause is None:
        return None
    escrow = pause.cause is Cause.FUNDS
    spec = session.spec
    rooms = ledger.rooms(spec.scopes[:-1] if escrow else spec.scopes)
    free = {
        scope: max(room.free_nusd - (room.promised_nusd if escrow else 0), 0)
        for scope, room in rooms.items()
    }
    tightest = min(free, key=lambda scope: free[scope])
    records = journal.load(spec.session_id).records
    since_ms = next(r.at_ms for r in records if r.key == f"pause/{pause.number}")
    return PauseView(
        cause=pause.cause.value,
        since_ms=since_ms,
        until_ms=since_ms + spec.limits.max_pause_ms,
        detail=pause.detail,
        needed_nusd=pause.needed_nusd,
        scope=tightest,
        free_nusd=free[tightest],
    )


def _activity(session: Session) -> tuple[Activity, ...]:
    return tuple(
        Activity(
            turn=turn.reply.turn,
            tools=tuple(call.call.tool for call in turn.calls),
            done=sum(call.complete for call in turn.calls),
            cost_nusd=turn.reply.cost_nusd,
        )
        for turn in session.turns
    )


def _step(row: StepRow) -> StepView:
    return StepView(
        step_id=row.step_id,
        state=row.state,
        queue=row.queue,
        owner=row.owner,
        attempt=row.attempt,
        last_error=row.last_error,
    )
