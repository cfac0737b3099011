"""Hypothesis strategies for the core's words, and a world that plays whole sessions.

Rule: a history is made only of answers to steps that the session asked for, in any order and with
any outcome, and of what may come from outside at any time. `stray_events` are the opposite: events
that nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar, assert_never

from hypothesis import strategies as st

from worker.core.commands import (
    AwaitResume,
    CallTool,
    Command,
    Conclude,
    JudgeRun,
    Prepare,
    RunStudent,
    TakeTurn,
    step_id_of,
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
from worker.core.machine import Session, apply, fold, wanted
from worker.core.values import (
    Blob,
    Cause,
    ClaimedCluster,
    Ending,
    Limits,
    Outcome,
    Payload,
    Phase,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    SentPrompt,
    SessionSpec,
    Stop,
    Text,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = [
    "answers",
    "endings",
    "histories",
    "limits",
    "pause_of",
    "payloads",
    "specs",
    "stray_events",
    "usages",
    "World",
]

T = TypeVar("T")

#: The tools whose calls differ for the core; those that run the student are the most of the work.
TOOLS = (
    *["run_student_on_task", "run_student_on_tasks"] * 3,
    *["run_self_on_task"] * 3,
    *["list_traces", "compare_outputs"],
    "submit_diagnosis",
)
#: Why a teacher's call may end the exploration.
STOPS = (Stop.BUDGET, Stop.CONTEXT, Stop.REFUSED, Stop.EMPTY, Stop.FAULT)
#: No history is longer: the limits below leave room for about half of it.
MOST_EVENTS = 200


# ----------------------------------------------------------------------------------------- values


def payloads() -> SearchStrategy[Payload]:
    """Short texts, and addresses of long ones."""
    blobs = st.builds(
        Blob,
        sha256=st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"),
        size_bytes=st.integers(0, 10**9),
    )
    return st.one_of(st.builds(Text, text=st.text(max_size=8)), blobs)


def usages() -> SearchStrategy[Usage]:
    """Token counts of one call."""
    tokens = st.integers(0, 1_000_000)
    return st.builds(
        Usage,
        input_tokens=tokens,
        cache_write_5m_tokens=tokens,
        cache_write_1h_tokens=tokens,
        cache_read_tokens=tokens,
        output_tokens=tokens,
    )


def limits() -> SearchStrategy[Limits]:
    """Limits so small that a session often meets them."""
    return st.builds(
        Limits,
        max_turns=st.sampled_from([4, 3, 2, 1]),
        max_tool_calls=st.sampled_from([8, 6, 3, 1]),
        max_student_runs=st.sampled_from([9, 8, 5, 3, 1, 0]),
        max_parallel_calls=st.sampled_from([None, 1, 2]),
        max_parallel_runs=st.sampled_from([None, 1, 2, 3]),
    )


def specs() -> SearchStrategy[SessionSpec]:
    """Accepted requests that differ in their limits."""
    return limits().map(spec_with)


def spec_with(within: Limits) -> SessionSpec:
    """Return a request with these limits and nothing else that matters to the core."""
    return SessionSpec(
        session_id="s-1",
        bundle_uri="s3://bucket/bundles/" + "0" * 64 + ".tar.gz",
        student="default",
        teacher="default",
        judge="default",
        teacher_model="claude-opus-4-6",
        judge_model="claude-opus-4-6",
        tenant="default",
        campaign="default",
        trigger="test",
        limits=within,
    )


def endings() -> SearchStrategy[Ending]:
    """Diagnoses: with clusters, with "nothing is wrong", and with neither."""
    rate = st.none() | st.floats(0, 1)
    cluster = st.builds(
        ClaimedCluster,
        cluster_id=st.sampled_from(["a", "b"]),
        description=st.just("what goes wrong"),
        skill_gap=st.just("why"),
        sample_ids=st.lists(st.sampled_from(["t1", "t2"]), max_size=2).map(tuple),
        student_failure_rate=rate,
        teacher_success_rate=rate,
    )
    return st.builds(
        Ending,
        diagnosis=payloads(),
        clusters=st.lists(cluster, max_size=2).map(tuple),
        nothing_found=st.booleans(),
    )


def run_specs() -> SearchStrategy[RunSpec]:
    """Runs of few tasks, so that the same one is often asked for twice."""
    return st.builds(
        RunSpec, task_id=st.sampled_from(["t1", "t2", "t3"]), attempt=st.integers(0, 2)
    )


def tool_calls() -> SearchStrategy[tuple[ToolCall, ...]]:
    """The calls of one reply."""
    call = st.builds(
        ToolCall,
        call_id=st.just("toolu_1"),
        tool=st.sampled_from(TOOLS),
        arguments_json=st.sampled_from(["{}", "[", '{"task_id": "t1"}']),
    )
    return _some(call, most=3)


def _some(items: SearchStrategy[T], *, most: int) -> SearchStrategy[tuple[T, ...]]:
    """Up to `most` items, seldom none: lists would be short."""
    return st.sampled_from([*range(1, most + 1), *range(1, most + 1), 0]).flatmap(
        lambda size: st.lists(items, min_size=size, max_size=size).map(tuple)
    )


def _mostly(usual: SearchStrategy[T], rare: SearchStrategy[T], *, of: int) -> SearchStrategy[T]:
    """The rare one once in `of` times."""
    return st.sampled_from([*[usual] * (of - 1), rare]).flatmap(lambda chosen: chosen)


# ------------------------------------------------------------------------- answers to what is asked


@cache
def answers(command: Command) -> SearchStrategy[Event]:  # noqa: PLR0911 - one `return` a command
    """Everything that may come of a step: an event under its id."""
    match command:
        case Prepare():
            return _prepared()
        case TakeTurn():
            return _turn_taken(command)
        case CallTool():
            return _tool_called(command)
        case RunStudent():
            return _recorded(command.turn, command.index, command.ordinal, st.just(command.spec))
        case JudgeRun():
            return _judged(command.turn, command.index, command.ordinal)
        case AwaitResume():
            return st.one_of(
                st.just(SessionResumed(number=command.number, detail="there is money")),
                st.just(PauseExpired(number=command.number, detail="a day went by")),
            )
        case Conclude():
            return _ended()
    assert_never(command)


def _prepared() -> SearchStrategy[Event]:
    prepared = st.builds(
        BundlePrepared, brief=payloads(), traces=st.integers(0, 9), tasks=st.integers(0, 9)
    )
    return _mostly(prepared, st.just(PreparationFailed(reason="no bundle")), of=16)


def _turn_taken(command: TakeTurn) -> SearchStrategy[Event]:
    if command.purpose is Purpose.EXPLORE:
        return _explored(command.turn)
    return st.one_of(
        _replied(0, command.purpose, st.just(()), endings(), st.none()),
        _replied(0, command.purpose, st.just(()), st.none(), st.none()),
        _stopped(0, command.purpose),
    )


def _explored(turn: int) -> SearchStrategy[Event]:
    """A turn that mostly calls tools, so that a session goes on for a while."""
    goes_on = _replied(turn, Purpose.EXPLORE, tool_calls(), st.none(), st.none())
    ends = st.one_of(
        _replied(turn, Purpose.EXPLORE, tool_calls(), endings(), st.none()),
        _replied(turn, Purpose.EXPLORE, tool_calls(), st.none(), st.sampled_from(STOPS)),
        _stopped(turn, Purpose.EXPLORE),
    )
    return _mostly(goes_on, ends, of=6)


def _replied(
    turn: int,
    purpose: Purpose,
    calls: SearchStrategy[tuple[ToolCall, ...]],
    ending: SearchStrategy[Ending | None],
    stop: SearchStrategy[Stop | None],
) -> SearchStrategy[Event]:
    return st.builds(
        TeacherReplied,
        turn=st.just(turn),
        purpose=st.just(purpose),
        content=st.just(Text(text="[]")),
        stop_reason=st.sampled_from(["tool_use", "end_turn", "max_tokens", "refusal"]),
        calls=calls,
        ending=ending,
        stop=stop,
        usage=USAGES,
        model=st.sampled_from(["", "claude-opus-5", "a-model-of-yours"]),
        sent=st.none() | SENT,
    )


#: Any usage and any note of what was sent: what they say of the cache must never break a report.
USAGES = st.builds(
    Usage,
    input_tokens=st.integers(0, 9_000),
    cache_write_5m_tokens=st.integers(0, 9_000),
    cache_read_tokens=st.integers(0, 9_000),
)
SENT = st.builds(
    SentPrompt,
    asked_ms=st.integers(0, 4_000_000),
    parts=st.lists(st.sampled_from(["a:1", "b:2"]), max_size=3).map(tuple),
    breakpoints=st.lists(st.sampled_from(["1:5m", "2:1h", "3:5m"]), max_size=3).map(tuple),
)


def _stopped(turn: int, purpose: Purpose) -> SearchStrategy[Event]:
    return st.builds(
        TeacherStopped,
        turn=st.just(turn),
        purpose=st.just(purpose),
        stop=st.sampled_from(STOPS),
        detail=st.just("529 overloaded, nine times"),
    )


def _tool_called(command: CallTool) -> SearchStrategy[Event]:
    turn, index = command.turn, command.index
    answered = st.builds(
        CallAnswered,
        turn=st.just(turn),
        index=st.just(index),
        result=payloads(),
        is_error=st.booleans(),
    )
    submitted = st.builds(
        CallAnswered,
        turn=st.just(turn),
        index=st.just(index),
        result=payloads(),
        ending=endings(),
    )
    expanded = st.builds(
        CallExpanded,
        turn=st.just(turn),
        index=st.just(index),
        runs=_some(run_specs(), most=4),
    )
    ran = _recorded(turn, index, 0, run_specs(), runner=Runner.TEACHER)
    match command.call.tool:
        case "submit_diagnosis":
            return _mostly(submitted, answered, of=3)
        case "run_student_on_task" | "run_student_on_tasks":
            return _mostly(expanded, answered, of=8)
        case "run_self_on_task":
            return _mostly(ran, answered, of=4)
        case _:
            return answered


def _recorded(
    turn: int,
    index: int,
    ordinal: int,
    spec: SearchStrategy[RunSpec],
    *,
    runner: Runner = Runner.STUDENT,
) -> SearchStrategy[Event]:
    where = {"turn": turn, "index": index, "ordinal": ordinal, "runner": runner}
    fixed = {name: st.just(value) for name, value in where.items()}
    judged_later = st.builds(
        RunRecorded,
        **fixed,
        spec=spec,
        outcome=st.sampled_from([RunOutcome.ANSWERED, RunOutcome.CUT]),
        output=payloads(),
        needs_judge=st.just(value=True),
    )
    scored = st.builds(
        RunRecorded,
        **fixed,
        spec=spec,
        outcome=st.sampled_from([RunOutcome.ANSWERED, RunOutcome.CUT, RunOutcome.EMPTY]),
        score=st.floats(0, 1),
        passed=st.booleans(),
        scorer=st.just("exact"),
    )
    faulty = st.builds(
        RunRecorded, **fixed, spec=spec, outcome=st.just(RunOutcome.FAULT), why=st.just("timeout")
    )
    return st.one_of(scored, judged_later, faulty)


def _judged(turn: int, index: int, ordinal: int) -> SearchStrategy[Event]:
    where = {"turn": st.just(turn), "index": st.just(index), "ordinal": st.just(ordinal)}
    said = st.builds(
        RunJudged, **where, score=st.floats(0, 1), passed=st.booleans(), why=st.just("because")
    )
    silent = st.builds(
        RunJudged, **where, score=st.none(), passed=st.none(), why=st.just("the judge failed")
    )
    return st.one_of(said, silent)


def _ended() -> SearchStrategy[Event]:
    return st.builds(
        SessionEnded,
        outcome=st.sampled_from([outcome.value for outcome in Outcome]),
        reason=st.just("as said in the report"),
        cost_nusd=st.integers(0, 10**9),
        manifest_sha256=st.just("0" * 64),
        artifacts_uri=st.just("s3://bucket/sessions/default/default/s-1/"),
    )


# ---------------------------------------------------------------------------------- whole sessions


@dataclass(slots=True)
class World:
    """A session with all that was ever asked of the world and is not answered yet.

    A step stays in `asked` when the session wants it no longer: its worker may still be at it.
    """

    journal: list[Event]
    session: Session
    asked: dict[str, Command]

    @classmethod
    def opened(cls, spec: SessionSpec) -> World:
        """Return the world of a session whose request was just accepted."""
        return cls.replayed([SessionOpened(spec=spec)])

    @classmethod
    def replayed(cls, journal: Iterable[Event]) -> World:
        """Return the world as it stands after a journal."""
        opened, *others = journal
        world = cls(journal=[opened], session=fold([opened]), asked={})
        world.ask()
        for event in others:
            world.take(event)
        return world

    def ask(self) -> None:
        """Note what the session wants now."""
        for command in wanted(self.session):
            self.asked.setdefault(step_id_of(command), command)

    def take(self, event: Event) -> None:
        """Put an event into the journal."""
        self.session = apply(self.session, event)
        self.journal.append(event)
        self.asked.pop(key_of(event), None)
        self.ask()

    @property
    def over(self) -> bool:
        return self.session.phase is Phase.ENDED


@st.composite
def histories(draw: DrawFn, *, finished: bool = False) -> tuple[Event, ...]:
    """The journal of a session that was played up to some point, or to its end."""
    world = World.opened(draw(specs()))
    length = MOST_EVENTS if finished else draw(st.integers(1, 60))
    deadline_at, cancel_at = draw(_interruptions())
    pauses_at = draw(_pauses())
    while not world.over and len(world.journal) < length:
        at = len(world.journal)
        if deadline_at is not None and at >= deadline_at:
            world.take(DeadlinePassed())
            deadline_at = None
        elif cancel_at is not None and at >= cancel_at:
            world.take(CancelRequested(reason="enough"))
            cancel_at = None
        elif pauses_at and at >= pauses_at[0]:
            pauses_at = pauses_at[1:]
            world.take(draw(pause_of(world.session.pauses + 1)))
        else:
            assert world.asked, f"nothing to do for a session that is {world.session.phase!r}"
            step_id = draw(st.sampled_from(sorted(world.asked)))
            world.take(draw(answers(world.asked[step_id])))
    return tuple(world.journal)


def _interruptions() -> SearchStrategy[tuple[int | None, int | None]]:
    """When the time is up and when a cancel comes, counted in events; mostly neither."""
    at = st.sampled_from([*[None] * 20, *range(1, 21)])
    return st.tuples(at, at.filter(lambda when: when is None or when % 2 == 0))


def _pauses() -> SearchStrategy[tuple[int, ...]]:
    """When it is paused, counted in events; mostly never, now and then twice in a row."""
    at = st.integers(1, 20)
    some = st.lists(at, min_size=1, max_size=3).map(lambda when: tuple(sorted(when)))
    return _mostly(st.just(()), some, of=3)


def pause_of(number: int) -> SearchStrategy[SessionPaused]:
    """A pause of any cause."""
    return st.builds(
        SessionPaused,
        number=st.just(number),
        cause=st.sampled_from(Cause),
        detail=st.just("no room"),
        needed_nusd=st.integers(0, 9),
    )


# ------------------------------------------------------------------------ events nobody asked for


def stray_events() -> SearchStrategy[Event]:
    """Events of every type, with small coordinates that may or may not exist."""
    turn = st.integers(-1, 4)
    index = st.integers(-1, 3)
    ordinal = st.integers(-1, 3)
    where = st.tuples(turn, index, ordinal)
    runner = st.sampled_from(list(Runner))
    purpose = st.sampled_from(list(Purpose))
    call = ToolCall(call_id="toolu_1", tool="run_self_on_task", arguments_json="{}")
    commands = st.one_of(
        st.just(Prepare()),
        st.just(Conclude()),
        st.builds(TakeTurn, turn=turn, purpose=purpose),
        st.builds(CallTool, turn=turn, index=index, call=st.just(call)),
        st.builds(RunStudent, turn=turn, index=index, ordinal=ordinal, spec=run_specs()),
        st.builds(JudgeRun, turn=turn, index=index, ordinal=ordinal),
        st.builds(AwaitResume, number=turn),
    )
    teachers_own = st.tuples(where, runner).flatmap(
        lambda at: _recorded(*at[0], run_specs(), runner=at[1])
    )
    return st.one_of(
        commands.flatmap(answers),
        teachers_own,
        st.builds(
            CallExpanded, turn=turn, index=index, runs=st.lists(run_specs(), max_size=2).map(tuple)
        ),
        st.just(DeadlinePassed()),
        turn.flatmap(pause_of),
        st.just(CancelRequested(reason="enough")),
        st.builds(SessionOpened, spec=specs()),
    )
