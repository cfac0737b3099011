"""The session state machine.

Rule 1: everything that decides what a session does next lives in this file. If a task, the
runner or an adapter needs to know "what now?", it asks `wanted`.

Rule 2: this file does not know who is calling, nor when. Celery, a thread, a test and a replay of a
year-old journal all get the same commands for the same events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, assert_never

from worker.core.commands import (
    AwaitResume,
    CallTool,
    Command,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
)
from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    CallExpanded,
    CancelRequested,
    DeadlinePassed,
    Event,
    PauseExpired,
    PreparationFailed,
    RunJudged,
    RunRecorded,
    SessionEnded,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    TeacherReplied,
    TeacherStopped,
    key_of,
)
from worker.core.values import (
    Cause,
    Ending,
    Phase,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    SessionSpec,
    Stop,
    ToolCall,
)
from worker.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "TRANSITIONS",
    "Call",
    "Run",
    "Session",
    "Turn",
    "apply",
    "fold",
    "held_back",
    "is_crowded",
    "least_under_way",
    "wanted",
]

#: The place of a step that no width keeps waiting.
_FIRST = -1

_PREPARING = frozenset({Phase.PREPARING})
_EXPLORING = frozenset({Phase.EXPLORING})
_CONCLUDING = frozenset({Phase.CONCLUDING})
_ONWARD = frozenset({Phase.EXPLORING, Phase.CLOSING, Phase.CONCLUDING})

#: phase -> event -> phases it may lead to. Where several are named, the counts decide. An event of
#: the exploration that arrives after its end (a run that was under way when the time was up) is
#: kept as evidence and changes no phase. An answer to what was never asked for is refused in any
#: phase: it would wedge the session later, far from the bug that made it.
TRANSITIONS: Mapping[Phase, Mapping[type[Event], frozenset[Phase]]] = {
    Phase.PREPARING: {
        BundlePrepared: _EXPLORING,
        PreparationFailed: _CONCLUDING,
        DeadlinePassed: _CONCLUDING,
        CancelRequested: _CONCLUDING,
        SessionPaused: _PREPARING,
        SessionResumed: _PREPARING,
        PauseExpired: frozenset({Phase.PREPARING, Phase.CONCLUDING}),
    },
    Phase.EXPLORING: {
        TeacherReplied: _ONWARD | {Phase.EXTRACTING},
        TeacherStopped: frozenset({Phase.CLOSING}),
        CallAnswered: _ONWARD,
        CallExpanded: _ONWARD,
        RunRecorded: _ONWARD,
        RunJudged: _ONWARD,
        DeadlinePassed: frozenset({Phase.CLOSING}),
        CancelRequested: _CONCLUDING,
        SessionPaused: _EXPLORING,
        SessionResumed: _EXPLORING,
        PauseExpired: frozenset({Phase.EXPLORING, Phase.CLOSING}),
    },
    Phase.CLOSING: {
        TeacherReplied: frozenset({Phase.CLOSING, Phase.EXTRACTING, Phase.CONCLUDING}),
        TeacherStopped: frozenset({Phase.CLOSING, Phase.CONCLUDING}),
        CallAnswered: frozenset({Phase.CLOSING}),
        CallExpanded: frozenset({Phase.CLOSING}),
        RunRecorded: frozenset({Phase.CLOSING}),
        RunJudged: frozenset({Phase.CLOSING}),
        DeadlinePassed: frozenset({Phase.CLOSING}),
        CancelRequested: _CONCLUDING,
        SessionPaused: frozenset({Phase.CLOSING}),
        SessionResumed: frozenset({Phase.CLOSING}),
        PauseExpired: frozenset({Phase.CLOSING}),
    },
    Phase.EXTRACTING: {
        TeacherReplied: frozenset({Phase.EXTRACTING, Phase.CONCLUDING}),
        TeacherStopped: frozenset({Phase.EXTRACTING, Phase.CONCLUDING}),
        CallAnswered: frozenset({Phase.EXTRACTING}),
        CallExpanded: frozenset({Phase.EXTRACTING}),
        RunRecorded: frozenset({Phase.EXTRACTING}),
        RunJudged: frozenset({Phase.EXTRACTING}),
        DeadlinePassed: frozenset({Phase.EXTRACTING}),
        CancelRequested: _CONCLUDING,
        SessionPaused: frozenset({Phase.EXTRACTING}),
        SessionResumed: frozenset({Phase.EXTRACTING}),
        PauseExpired: frozenset({Phase.EXTRACTING}),
    },
    Phase.CONCLUDING: {
        BundlePrepared: _CONCLUDING,
        PreparationFailed: _CONCLUDING,
        TeacherReplied: _CONCLUDING,
        TeacherStopped: _CONCLUDING,
        CallAnswered: _CONCLUDING,
        CallExpanded: _CONCLUDING,
        RunRecorded: _CONCLUDING,
        RunJudged: _CONCLUDING,
        DeadlinePassed: _CONCLUDING,
        CancelRequested: _CONCLUDING,
        SessionPaused: _CONCLUDING,
        SessionResumed: _CONCLUDING,
        PauseExpired: _CONCLUDING,
        SessionEnded: frozenset({Phase.ENDED}),
    },
    Phase.ENDED: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of student or teacher on a task; `record` is None until it is over."""

    spec: RunSpec
    runner: Runner
    record: RunRecorded | None = None
    verdict: RunJudged | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing more will be known about this run."""
        if self.record is None:
            return False
        return self.verdict is not None or not self.record.needs_judge

    @property
    def score(self) -> float | None:
        """The score, 0..1; None for a fault, or where no judge could say."""
        if self.verdict is not None:
            return self.verdict.score
        return self.record.score if self.record else None

    @property
    def passed(self) -> bool | None:
        """Whether the model did the task; None where that was not measured."""
        if self.verdict is not None:
            return self.verdict.passed
        return self.record.passed if self.record else None

    @property
    def counts(self) -> bool:
        """Whether the run may stand in a denominator: it was measured, and it is no fault."""
        return (
            self.record is not None
            and self.record.outcome is not RunOutcome.FAULT
            and self.passed is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One tool call of a turn and what became of it."""

    call: ToolCall
    answer: CallAnswered | None = None
    #: The student runs it asked for; None where it asked for none.
    runs: tuple[Run, ...] | None = None
    #: How many student runs the session had been asked for before these: a run's place in the order
    #: in which widths let them begin.
    runs_before: int = 0
    #: How many more runs it asked for than the session's limit left.
    runs_refused: int = 0
    #: The teacher's own run that this call was, with its record.
    self_run: Run | None = None
    #: The limit that kept the call from being made; None for a call that was.
    refused: Stop | None = None

    @property
    def complete(self) -> bool:
        """Whether the call's result can be written."""
        if self.refused is not None:
            return True
        if self.self_run is not None:
            return self.self_run.complete
        if self.runs is not None:
            return all(run.complete for run in self.runs)
        return self.answer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One reply of the teacher with its calls."""

    reply: TeacherReplied
    calls: tuple[Call, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every call of the turn has its result."""
        return all(call.complete for call in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All that the journal says about a session. `fold` makes it; nothing else does."""

    spec: SessionSpec
    phase: Phase = Phase.PREPARING
    prepared: BundlePrepared | None = None
    #: Turns of the exploration, in order.
    turns: tuple[Turn, ...] = ()
    #: Replies to the closing call and the extraction, in order.
    closings: tuple[TeacherReplied, ...] = ()
    ending: Ending | None = None
    #: Why the exploration ended; None while it goes on.
    stop: Stop | None = None
    stop_detail: str = ""
    #: Calls that failed for good, as said by the step: shown in the report.
    faults: tuple[str, ...] = ()
    #: The pause that was not ended by its own resume; `paused` says whether it stands.
    pause: SessionPaused | None = None
    #: How many pauses there were.
    pauses: int = 0
    ended: SessionEnded | None = None
    #: Tool calls made, and student runs asked for, so far.
    tool_calls: int = field(default=0)
    student_runs: int = field(default=0)

    @property
    def paused(self) -> SessionPaused | None:
        """The pause that stands; None while the session works.

        A session that has nothing left to do but to write its artifacts does not wait with that.
        """
        return None if self.phase in {Phase.CONCLUDING, Phase.ENDED} else self.pause

    @property
    def calls(self) -> Iterable[Call]:
        """All tool calls in the order in which the teacher made them."""
        return (call for turn in self.turns for call in turn.calls)

    @property
    def runs(self) -> Iterable[Run]:
        """All runs of student and teacher, in the order in which they were asked for."""
        for call in self.calls:
            yield from call.runs or ()
            if call.self_run is not None:
                yield call.self_run


def fold(events: Iterable[Event], session: Session | None = None) -> Session:
    """Return the session that `events` make, from `session` on, or from nothing.

    Raises:
        IllegalEvent: The events are not a journal: wrong start, or an edge that does not exist.
    """
    folded = reduce(apply, events, session)
    if folded is None:
        raise IllegalEvent("an empty journal makes no session")
    return folded


def apply(session: Session | None, event: Event) -> Session:
    """Return the session after `event`.

    Raises:
        IllegalEvent: `event` is not in `TRANSITIONS[session.phase]`, or it answers a step that
            cannot have been asked for; nothing changed.
    """
    if session is None or isinstance(event, SessionOpened):
        return _open(session, event)
    allowed = TRANSITIONS[session.phase].get(type(event))
    if allowed is None:
        raise IllegalEvent(
            f"{type(event).__name__} cannot happen while a session is {session.phase.value!r}",
            phase=session.phase.value,
            event=type(event).__name__,
        )
    after = _move_on(_take(session, event))
    if after.phase not in allowed:
        raise IllegalEvent(
            f"{type(event).__name__} led from {session.phase.value!r} to {after.phase.value!r}",
            phase=session.phase.value,
            event=type(event).__name__,
        )
    return after


def wanted(session: Session) -> tuple[Command, ...]:
    """Return every step that should be under way now, in a fixed order.

    It is level-triggered: asking twice, or after a crash, returns the same steps until their events
    are in the journal.
    """
    if session.paused is not None:
        return (AwaitResume(number=session.paused.number),)
    match session.phase:
        case Phase.PREPARING:
            return (Prepare(),)
        case Phase.EXPLORING:
            return _wanted_exploring(session)
        case Phase.CLOSING:
            return (TakeTurn(turn=0, purpose=Purpose.CLOSE),)
        case Phase.EXTRACTING:
            return (TakeTurn(turn=0, purpose=Purpose.EXTRACT),)
        case Phase.CONCLUDING:
            return (Conclude(),)
        case Phase.ENDED:
            return ()


def _open(session: Session | None, event: Event) -> Session:
    if session is not None or not isinstance(event, SessionOpened):
        raise IllegalEvent(
            f"a journal starts with SessionOpened and holds it once, not {type(event).__name__}",
            event=type(event).__name__,
        )
    return Session(spec=event.spec)


def _take(session: Session, event: Event) -> Session:
    """Put what the event says into the session, without deciding what follows but an end."""
    match event:
        case SessionOpened():
            raise IllegalEvent("a session is opened once")
        case BundlePrepared():
            return replace(session, prepared=event, phase=_unless_over(session, Phase.EXPLORING))
        case PreparationFailed():
            return _conclude(session, Stop.NOT_PREPARED, event.reason)
        case TeacherReplied():
            return _replied(session, event)
        case TeacherStopped():
            return _stopped(session, event)
        case CallAnswered():
            return _answered(session, event)
        case CallExpanded():
            return _expanded(session, event)
        case RunRecorded():
            return _recorded(session, event)
        case RunJudged():
            return _judged(session, event)
        case DeadlinePassed():
            return _deadline(session)
        case CancelRequested():
            return _conclude(session, Stop.CANCELLED, event.reason)
        case SessionPaused():
            return _paused(session, event)
        case SessionResumed() | PauseExpired():
            return _unpaused(session, event)
        case SessionEnded():
            return replace(session, ended=event, phase=Phase.ENDED)
    assert_never(event)


def _move_on(session: Session) -> Session:
    """Leave the exploration when its last turn is complete and a limit or a diagnosis says so."""
    if session.phase is not Phase.EXPLORING or not session.turns:
        return session
    if not session.turns[-1].complete:
        return session
    if session.ending is not None:
        return replace(session, phase=Phase.CONCLUDING, stop=Stop.SUBMITTED)
    limits = session.spec.limits
    if session.tool_calls >= limits.max_tool_calls:
        return _close(session, Stop.TOOL_CALLS, f"{session.tool_calls} tool calls")
    if len(session.turns) >= limits.max_turns:
        return _close(session, Stop.TURNS, f"{len(session.turns)} turns")
    return session


def held_back(session: Session) -> int:
    """Return how many steps wait only for the session's own widths; 0 where none is reached."""
    if session.phase is not Phase.EXPLORING or session.paused is not None:
        return 0
    return len(_open_steps(session)) - len(_wanted_exploring(session))


def is_crowded(session: Session) -> bool:
    """Whether the turn has asked for more than widths let begin at once, now or before.

    Then a commit announces all that is wanted, and not only what it added: a step that two committers
    missed, each on a fold that lacked the other's event, would wait for the turn's end.
    """
    rests = session.paused is not None
    if session.phase is not Phase.EXPLORING or not session.turns or rests:
        return False
    limits = session.spec.limits
    calls = session.turns[-1].calls
    runs = sum(len(call.runs or ()) for call in calls)
    return _beyond(len(calls), limits.max_parallel_calls) or _beyond(runs, limits.max_parallel_runs)


def least_under_way(session: Session) -> int:
    """Return how many steps should be under way where others may wait for widths; 0 where none may.

    For who commits on a fold that is behind: others may have ended steps, or asked for runs, and what
    may begin now neither they nor this fold can tell. A quarter may stay unused until somebody asks
    again: asking after every step would cost more than it brings.
    """
    if session.phase is not Phase.EXPLORING or session.paused is not None:
        return 0
    most = len(_wanted_exploring(session)) if is_crowded(session) else 0
    width = session.spec.limits.max_parallel_runs
    asked = any(isinstance(command, CallTool) for command, _ in _open_steps(session))
    if width is not None and asked and session.student_runs > 0:
        # A call that is still to be made here may have asked for any number of runs by now.
        most = max(most, width)
    return (3 * most + 3) // 4


def _beyond(steps: int, width: int | None) -> bool:
    return width is not None and steps > width


def _wanted_exploring(session: Session) -> tuple[Command, ...]:
    steps = _open_steps(session)
    limits = session.spec.limits
    last_call = _last_to_begin(
        [place for command, place in steps if isinstance(command, CallTool)],
        limits.max_parallel_calls,
    )
    last_run = _last_to_begin(
        [place for command, place in steps if not isinstance(command, CallTool)],
        limits.max_parallel_runs,
    )
    return tuple(
        command
        for command, place in steps
        if place <= (last_call if isinstance(command, CallTool) else last_run)
    )


def _last_to_begin(places: list[int], width: int | None) -> int:
    """Return the last place that a width lets begin.

    A step's place never changes, and those before it only become fewer: what has begun once is
    wanted until it is done, whatever else is asked for meanwhile.
    """
    waiting = sorted(place for place in places if place != _FIRST)
    return (waiting[:width] or [_FIRST])[-1]


def _open_steps(session: Session) -> list[tuple[Command, int]]:
    """Return what is still to be done, in a fixed order, with each step's place among its like."""
    if not session.turns or session.turns[-1].complete:
        return [(TakeTurn(turn=len(session.turns) + 1, purpose=Purpose.EXPLORE), _FIRST)]
    turn = session.turns[-1]
    return [
        open_step
        for index, call in enumerate(turn.calls)
        if not call.complete
        for open_step in _open_steps_of(turn.reply.turn, index, call)
    ]


def _open_steps_of(turn: int, index: int, call: Call) -> Iterable[tuple[Command, int]]:
    if call.answer is None and call.runs is None and call.self_run is None:
        yield CallTool(turn=turn, index=index, call=call.call), index
    if call.self_run is not None and not call.self_run.complete:
        yield JudgeRun(turn=turn, index=index, ordinal=0), _FIRST
    for ordinal, run in enumerate(call.runs or ()):
        place = call.runs_before + ordinal
        if run.record is None:
            yield RunStudent(turn=turn, index=index, ordinal=ordinal, spec=run.spec), place
        elif not run.complete:
            yield JudgeRun(turn=turn, index=index, ordinal=ordinal), place


def _unless_over(session: Session, phase: Phase) -> Phase:
    return session.phase if session.phase is Phase.CONCLUDING else phase


def _close(session: Session, stop: Stop, detail: str) -> Session:
    return replace(session, phase=Phase.CLOSING, stop=stop, stop_detail=detail)


def _conclude(session: Session, stop: Stop, detail: str) -> Session:
    if session.phase is Phase.CONCLUDING:
        return session
    return replace(session, phase=Phase.CONCLUDING, stop=stop, stop_detail=detail)


def _deadline(session: Session) -> Session:
    match session.phase:
        case Phase.PREPARING:
            return _conclude(session, Stop.TIME, "the time was up before the bundle was ready")
        case Phase.EXPLORING:
            return _close(session, Stop.TIME, f"{session.spec.limits.max_duration_ms} ms")
        case Phase.CLOSING | Phase.EXTRACTING | Phase.CONCLUDING | Phase.ENDED:
            return session


def _paused(session: Session, event: SessionPaused) -> Session:
    if event.number != session.pauses + 1:
        raise _never_asked(event)
    return replace(session, pause=event, pauses=event.number)


def _unpaused(session: Session, event: SessionResumed | PauseExpired) -> Session:
    """End the pause that the event names; where another took its place, nothing changes."""
    if not 1 <= event.number <= session.pauses:
        raise _never_asked(event)
    pause = session.paused
    if pause is None or pause.number != event.number:
        return session
    after = replace(session, pause=None)
    if isinstance(event, SessionResumed):
        return after
    match session.phase:
        case Phase.PREPARING:
            return _conclude(after, _STOPS[pause.cause], event.detail)
        case Phase.EXPLORING:
            return _close(after, _STOPS[pause.cause], event.detail)
        case Phase.CLOSING | Phase.EXTRACTING | Phase.CONCLUDING | Phase.ENDED:
            return after


#: What ended the exploration when nobody brought what a pause waited for.
_STOPS: Mapping[Cause, Stop] = {
    Cause.MONEY: Stop.BUDGET,
    Cause.ASKED: Stop.PAUSED,
    Cause.FUNDS: Stop.FUNDS,
}


def _check_turn(session: Session, event: TeacherReplied | TeacherStopped) -> None:
    """Check that the session asked for this call of the teacher, now or before a late end.

    Raises:
        IllegalEvent: It cannot have.
    """
    match event.purpose:
        case Purpose.EXPLORE:
            before = session.turns[-1:]
            in_order = event.turn == len(session.turns) + 1 <= session.spec.limits.max_turns
            asked = session.prepared is not None and in_order and all(t.complete for t in before)
        case Purpose.CLOSE:
            asked = session.phase in {Phase.CLOSING, Phase.CONCLUDING}
        case Purpose.EXTRACT:
            asked = session.phase in {Phase.EXTRACTING, Phase.CONCLUDING}
    if not asked:
        raise _never_asked(event)


def _never_asked(event: Event) -> IllegalEvent:
    return IllegalEvent(
        f"{type(event).__name__} {key_of(event)!r} answers nothing that was asked for",
        event=type(event).__name__,
        key=key_of(event),
    )


def _replied(session: Session, event: TeacherReplied) -> Session:
    _check_turn(session, event)
    if event.purpose is not Purpose.EXPLORE:
        return _closed(session, event)
    turn = Turn(reply=event, calls=_admitted(session, event.calls))
    made = sum(call.refused is None for call in turn.calls)
    after = replace(session, turns=(*session.turns, turn), tool_calls=session.tool_calls + made)
    if after.phase is not Phase.EXPLORING:
        return after
    if event.ending is not None:
        return _ended_as_text(after, event.ending)
    if event.stop is not None:
        return _close(after, event.stop, event.stop_reason)
    return after


def _admitted(session: Session, calls: tuple[ToolCall, ...]) -> tuple[Call, ...]:
    """Return the calls, those beyond the limit or after the end marked as refused."""
    if session.phase is not Phase.EXPLORING:
        return tuple(Call(call=call, refused=session.stop or Stop.TIME) for call in calls)
    left = session.spec.limits.max_tool_calls - session.tool_calls
    return tuple(
        Call(call=call, refused=None if index < left else Stop.TOOL_CALLS)
        for index, call in enumerate(calls)
    )


def _ended_as_text(session: Session, ending: Ending) -> Session:
    phase = Phase.CONCLUDING if _readable(ending) else Phase.EXTRACTING
    return replace(session, ending=ending, phase=phase, stop=Stop.SUBMITTED)


def _readable(ending: Ending) -> bool:
    return bool(ending.clusters) or ending.nothing_found


def _closed(session: Session, event: TeacherReplied) -> Session:
    """Take a reply to the closing call or the extraction."""
    after = replace(session, closings=(*session.closings, event))
    if session.phase is Phase.CONCLUDING:
        return after
    if event.ending is None:
        return replace(after, phase=Phase.CONCLUDING)
    if event.purpose is Purpose.CLOSE and not _readable(event.ending):
        return replace(after, ending=event.ending, phase=Phase.EXTRACTING)
    return replace(after, ending=_with_text_of(session, event.ending), phase=Phase.CONCLUDING)


def _with_text_of(session: Session, ending: Ending) -> Ending:
    """Return `ending` under the diagnosis that is already there: an extraction adds clusters."""
    if session.ending is None:
        return ending
    return replace(ending, diagnosis=session.ending.diagnosis)


def _stopped(session: Session, event: TeacherStopped) -> Session:
    _check_turn(session, event)
    after = replace(session, faults=(*session.faults, event.detail))
    if event.purpose is not Purpose.EXPLORE:
        return replace(after, phase=Phase.CONCLUDING)
    if after.phase is not Phase.EXPLORING:
        return after
    return _close(after, event.stop, event.detail)


def _answered(session: Session, event: CallAnswered) -> Session:
    after = _with_open_call(session, event, lambda call: replace(call, answer=event))
    return after if event.ending is None else replace(after, ending=event.ending)


def _expanded(session: Session, event: CallExpanded) -> Session:
    left = max(session.spec.limits.max_student_runs - session.student_runs, 0)
    specs = event.runs[:left]
    runs = tuple(Run(spec=spec, runner=Runner.STUDENT) for spec in specs)
    refused = len(event.runs) - len(runs)
    before = session.student_runs
    after = _with_open_call(
        session,
        event,
        lambda call: replace(call, runs=runs, runs_before=before, runs_refused=refused),
    )
    return replace(after, student_runs=session.student_runs + len(runs))


def _recorded(session: Session, event: RunRecorded) -> Session:
    ran = Run(spec=event.spec, runner=event.runner, record=event)
    if event.runner is Runner.TEACHER:
        return _with_open_call(session, event, lambda call: replace(call, self_run=ran))

    def recorded(run: Run) -> Run:
        if run != Run(spec=event.spec, runner=event.runner):
            raise _never_asked(event)
        return ran

    return _with_run(session, event, recorded)


def _judged(session: Session, event: RunJudged) -> Session:
    def judged(run: Run) -> Run:
        if run.record is None or run.complete:
            raise _never_asked(event)
        return replace(run, verdict=event)

    return _with_run(session, event, judged)


def _with_run(
    session: Session, event: RunRecorded | RunJudged, change: Callable[[Run], Run]
) -> Session:
    """Return the session with one run changed.

    Raises:
        IllegalEvent: There is no such run.
    """

    def changed(call: Call) -> Call:
        at = event.ordinal
        if call.self_run is not None and at == 0:
            return replace(call, self_run=change(call.self_run))
        runs = call.runs or ()
        if not 0 <= at < len(runs):
            raise _never_asked(event)
        return replace(call, runs=(*runs[:at], change(runs[at]), *runs[at + 1 :]))

    return _with_call(session, event, changed)


def _with_open_call(
    session: Session,
    event: CallAnswered | CallExpanded | RunRecorded,
    change: Callable[[Call], Call],
) -> Session:
    """Return the session with one call changed that was made and has no outcome yet.

    Raises:
        IllegalEvent: There is no such call, it was refused, or its outcome is there.
    """

    def changed(call: Call) -> Call:
        if call != Call(call=call.call):
            raise _never_asked(event)
        return change(call)

    return _with_call(session, event, changed)


def _with_call(
    session: Session,
    event: CallAnswered | CallExpanded | RunRecorded | RunJudged,
    change: Callable[[Call], Call],
) -> Session:
    """Return the session with one call changed.

    Raises:
        IllegalEvent: There is no such turn or call.
    """
    turn, index = event.turn, event.index
    if not 1 <= turn <= len(session.turns) or not 0 <= index < len(session.turns[turn - 1].calls):
        raise _never_asked(event)
    before = session.turns[turn - 1]
    calls = (*before.calls[:index], change(before.calls[index]), *before.calls[index + 1 :])
    after = replace(before, calls=calls)
    turns = (*session.turns[: turn - 1], after, *session.turns[turn:])
    return replace(session, turns=turns)
