"""The laws of the session state machine.

Rule: a law is stated over every session that can happen, or over every cell of the table; an
example stands only where a law cannot say what number comes out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.unit.core.strategies import World, answers, histories, spec_with, stray_events
from worker.core.commands import (
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
from worker.core.machine import TRANSITIONS, Run, Session, apply, fold, held_back, wanted
from worker.core.values import (
    Cause,
    ClaimedCluster,
    Ending,
    Limits,
    Phase,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    Stop,
    Text,
    ToolCall,
)
from worker.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Examples of the laws that every whole session is played for.
MANY = settings(max_examples=200, deadline=None)


# --------------------------------------------------------------------------------- a small language


def turn(number: int, *tools: str, ending: Ending | None = None) -> TeacherReplied:
    calls = tuple(
        ToolCall(call_id=f"toolu_{number}.{index}", tool=tool, arguments_json="{}")
        for index, tool in enumerate(tools)
    )
    return TeacherReplied(
        turn=number,
        purpose=Purpose.EXPLORE,
        content=Text(text="[]"),
        stop_reason="tool_use",
        calls=calls,
        ending=ending,
    )


def closing(purpose: Purpose = Purpose.CLOSE, ending: Ending | None = None) -> TeacherReplied:
    return TeacherReplied(
        turn=0,
        purpose=purpose,
        content=Text(text="[]"),
        stop_reason="end_turn",
        ending=ending,
    )


def stopped(number: int, purpose: Purpose = Purpose.EXPLORE) -> TeacherStopped:
    return TeacherStopped(turn=number, purpose=purpose, stop=Stop.BUDGET, detail="no room")


def answer(number: int, index: int, ending: Ending | None = None) -> CallAnswered:
    return CallAnswered(turn=number, index=index, result=Text(text="{}"), ending=ending)


def asks_for(number: int, index: int, runs: int) -> CallExpanded:
    specs = tuple(RunSpec(task_id="t", attempt=attempt) for attempt in range(runs))
    return CallExpanded(turn=number, index=index, runs=specs)


def ran(
    number: int,
    index: int,
    ordinal: int,
    *,
    runner: Runner = Runner.STUDENT,
    needs_judge: bool = False,
) -> RunRecorded:
    return RunRecorded(
        turn=number,
        index=index,
        ordinal=ordinal,
        runner=runner,
        spec=RunSpec(task_id="t", attempt=ordinal),
        outcome=RunOutcome.ANSWERED,
        passed=None if needs_judge else True,
        score=None if needs_judge else 1.0,
        needs_judge=needs_judge,
    )


def judged(number: int, index: int, ordinal: int) -> RunJudged:
    return RunJudged(
        turn=number, index=index, ordinal=ordinal, score=0.0, passed=False, why="it is wrong"
    )


PREPARED = BundlePrepared(brief=Text(text="40 traces, 12 tasks"), traces=40, tasks=12)
UNPREPARED = PreparationFailed(reason="there is no such bundle")
DEADLINE = DeadlinePassed()
CANCEL = CancelRequested(reason="enough")


def paused(number: int = 1, cause: Cause = Cause.ASKED) -> SessionPaused:
    return SessionPaused(number=number, cause=cause, detail="the night is over")


def resumed(number: int = 1) -> SessionResumed:
    return SessionResumed(number=number, detail="go on")


def expired(number: int = 1) -> PauseExpired:
    return PauseExpired(number=number, detail="a day went by")


ENDED = SessionEnded(
    outcome="concluded", reason="", cost_nusd=1, manifest_sha256="0" * 64, artifacts_uri="s3://b/s"
)
CLUSTER = ClaimedCluster(cluster_id="a", description="d", skill_gap="g", sample_ids=("t",))
READABLE = Ending(diagnosis=Text(text="it cannot count"), clusters=(CLUSTER,))
UNREADABLE = Ending(diagnosis=Text(text="it cannot count"), clusters=())
NOTHING = Ending(diagnosis=Text(text="all is well"), clusters=(), nothing_found=True)


def opened(**limits: int) -> SessionOpened:
    return SessionOpened(spec=spec_with(Limits(**limits)))


OPENED = opened()


def ids(session: Session) -> list[str]:
    return [step_id_of(command) for command in wanted(session)]


def replay(events: Iterable[Event]) -> Iterator[Session]:
    """Yield the session after each event."""
    session = None
    for event in events:
        session = apply(session, event)
        yield session


# ------------------------------------------------------------------------------ the table, cell by cell

#: A session in each phase, with one of everything that can be outstanding: calls 1.0 to 1.2 to be
#: made, call 1.3 expanded into a run to be made and one to be judged, turn 2 under way.
OUTSTANDING = (
    OPENED,
    PREPARED,
    turn(1, "list_traces", "run_self_on_task", "compare_outputs", "run_student_on_tasks"),
    asks_for(1, 3, 2),
    ran(1, 3, 1, needs_judge=True),
)
#: The second one took the place of the first, and stands.
PAUSED_TWICE = (paused(1), paused(2))
IN_PHASE: dict[Phase, tuple[Event, ...]] = {
    Phase.PREPARING: (OPENED, *PAUSED_TWICE),
    Phase.EXPLORING: (*OUTSTANDING, *PAUSED_TWICE),
    Phase.CLOSING: (*OUTSTANDING, *PAUSED_TWICE, DEADLINE),
    Phase.EXTRACTING: (*OUTSTANDING, *PAUSED_TWICE, DEADLINE, closing(ending=UNREADABLE)),
    Phase.CONCLUDING: (*OUTSTANDING, *PAUSED_TWICE, CANCEL),
    Phase.ENDED: (*OUTSTANDING, CANCEL, ENDED),
}
#: Every type of event, as it may come while the calls above are outstanding.
EVENTS: dict[type[Event], Event] = {
    SessionOpened: OPENED,
    BundlePrepared: PREPARED,
    PreparationFailed: UNPREPARED,
    TeacherReplied: turn(2),
    TeacherStopped: stopped(2),
    CallAnswered: answer(1, 0),
    CallExpanded: asks_for(1, 2, 1),
    RunRecorded: ran(1, 3, 0),
    RunJudged: judged(1, 3, 1),
    DeadlinePassed: DEADLINE,
    CancelRequested: CANCEL,
    SessionPaused: paused(3),
    SessionResumed: resumed(2),
    PauseExpired: expired(2),
    SessionEnded: ENDED,
}


def test_the_examples_stand_where_they_say() -> None:
    assert {phase: fold(events).phase for phase, events in IN_PHASE.items()} == {
        phase: phase for phase in Phase
    }
    assert set(TRANSITIONS) == set(Phase)
    assert set(EVENTS) == {OPENED.__class__}.union(*(row for row in TRANSITIONS.values()))


ILLEGAL = [
    (phase, event) for phase, event in product(Phase, EVENTS) if event not in TRANSITIONS[phase]
]


@pytest.mark.parametrize(
    ("phase", "event"), ILLEGAL, ids=[f"{event.__name__}-{phase}" for phase, event in ILLEGAL]
)
def test_an_event_outside_the_table_is_refused_and_changes_nothing(
    phase: Phase, event: type[Event]
) -> None:
    session = fold(IN_PHASE[phase])

    with pytest.raises(IllegalEvent, match=event.__name__):
        apply(session, EVENTS[event])

    assert session == fold(IN_PHASE[phase])


@given(history=histories(), stray=stray_events())
@MANY
def test_apply_moves_only_along_the_table_and_refuses_the_rest_unchanged(
    history: tuple[Event, ...], stray: Event
) -> None:
    session = fold(history)
    try:
        after = apply(session, stray)
    except IllegalEvent:
        assert session == fold(history)
    else:
        assert after.phase in TRANSITIONS[session.phase][type(stray)]


@given(history=histories(), stray=stray_events())
@MANY
def test_an_event_is_taken_when_its_step_was_asked_for_and_only_then(
    history: tuple[Event, ...], stray: Event
) -> None:
    """Only then: as long as the exploration lasts. That a key comes once is the journal's law."""
    world = World.replayed(history)
    before = world.session
    assume(key_of(stray) not in map(key_of, world.journal))

    if _was_asked_for(world, stray):
        assert apply(before, stray).phase in TRANSITIONS[before.phase][type(stray)]
    elif before.phase in {Phase.PREPARING, Phase.EXPLORING, Phase.ENDED}:
        with pytest.raises(IllegalEvent):
            apply(before, stray)


def _was_asked_for(world: World, event: Event) -> bool:
    if world.over:
        return False
    match event:
        case DeadlinePassed() | CancelRequested():
            return True
        case SessionPaused():
            return event.number == world.session.pauses + 1
        case SessionResumed() | PauseExpired():
            return 1 <= event.number <= world.session.pauses
        case RunRecorded(runner=Runner.STUDENT):
            command = world.asked.get(key_of(event))
            return isinstance(command, RunStudent) and command.spec == event.spec
        case _:
            return key_of(event) in world.asked


#: Journals from which, with one event more, every edge of the table is taken.
JOURNALS: tuple[tuple[Event, ...], ...] = (
    *IN_PHASE.values(),
    (OPENED, PREPARED),
    (OPENED, DEADLINE),
    (OPENED, CANCEL),
    (OPENED, PREPARED, DEADLINE),
    *(
        (*start, *rest)
        for start in (
            (opened(max_turns=1), PREPARED),
            (opened(max_turns=2), PREPARED),
        )
        for rest in (
            (),
            (turn(1, "a"),),
            (turn(1, "a"), asks_for(1, 0, 1)),
            (turn(1, "a"), asks_for(1, 0, 1), ran(1, 0, 0, needs_judge=True)),
            (turn(1, "submit_diagnosis", "a"), answer(1, 0, ending=READABLE)),
            (turn(1, "submit_diagnosis", "a"), answer(1, 0, ending=READABLE), asks_for(1, 1, 1)),
            (
                turn(1, "submit_diagnosis", "a"),
                answer(1, 0, ending=READABLE),
                asks_for(1, 1, 1),
                ran(1, 1, 0, needs_judge=True),
            ),
            (turn(1), DEADLINE, closing(ending=UNREADABLE)),
        )
    ),
)
#: What may come next, in each of its forms.
NEXT: tuple[Event, ...] = (
    *EVENTS.values(),
    *(
        turn(1, *tools, ending=ending)
        for tools in ((), ("a",))
        for ending in (None, READABLE, UNREADABLE)
    ),
    *(
        closing(purpose, ending=ending)
        for purpose in Purpose
        for ending in (None, READABLE, UNREADABLE)
    ),
    *(stopped(number, purpose) for number in (1, 2) for purpose in Purpose),
    *(event for number in (1, 2) for event in (paused(number), resumed(number), expired(number))),
    *(
        event
        for index in (0, 1)
        for event in (answer(1, index), asks_for(1, index, 1), asks_for(1, index, 0))
    ),
    *(ran(1, index, 0, needs_judge=needs) for index in (0, 1) for needs in (False, True)),
    *(judged(1, index, 0) for index in (0, 1)),
)


def test_the_table_has_no_edge_that_no_session_takes() -> None:
    taken: set[tuple[Phase, type[Event], Phase]] = set()
    for journal, event in product(JOURNALS, NEXT):
        before = fold(journal)
        with suppress(IllegalEvent):
            taken.add((before.phase, type(event), apply(before, event).phase))

    assert taken == {
        (phase, event, target)
        for phase, row in TRANSITIONS.items()
        for event, targets in row.items()
        for target in targets
    }


# ----------------------------------------------------------------------------------- whole sessions


@given(history=histories(finished=True))
@MANY
def test_every_session_ends_exactly_once_whatever_is_answered_in_whatever_order(
    history: tuple[Event, ...],
) -> None:
    last = fold(history)

    assert last.phase is Phase.ENDED
    assert wanted(last) == ()
    assert [isinstance(event, SessionEnded) for event in history].count(True) == 1
    assert isinstance(history[-1], SessionEnded)
    assert isinstance(last.stop, Stop)


@given(history=histories(finished=True))
@MANY
def test_no_limit_is_ever_passed(history: tuple[Event, ...]) -> None:
    for session in replay(history):
        limits = session.spec.limits
        runs = [run for run in session.runs if run.runner is Runner.STUDENT]
        made = [call for call in session.calls if call.refused is None]

        assert len(session.turns) <= limits.max_turns
        assert session.tool_calls == len(made) <= limits.max_tool_calls
        assert session.student_runs == len(runs) <= limits.max_student_runs
        for command in wanted(session):
            assert not isinstance(command, TakeTurn) or command.turn <= limits.max_turns


@given(history=histories(finished=True))
@MANY
def test_no_width_is_ever_passed_and_none_stays_unused(history: tuple[Event, ...]) -> None:
    for session in replay(history):
        limits = session.spec.limits
        commands = wanted(session)
        calls = sum(isinstance(command, CallTool) for command in commands)
        selves = {(call.turn, call.index) for call in _own_runs(session)}
        runs = [
            command
            for command in commands
            if isinstance(command, RunStudent | JudgeRun)
            and (command.turn, command.index) not in selves
        ]

        assert limits.max_parallel_calls is None or calls <= limits.max_parallel_calls
        assert limits.max_parallel_runs is None or len(runs) <= limits.max_parallel_runs
        if held_back(session):
            assert calls == limits.max_parallel_calls or len(runs) == limits.max_parallel_runs


def _own_runs(session: Session) -> Iterator[RunRecorded]:
    """Yield the teacher's own runs: their judging waits for no width."""
    for call in session.calls:
        if call.self_run is not None and call.self_run.record is not None:
            yield call.self_run.record


@given(history=histories(finished=True))
@MANY
def test_what_has_begun_is_wanted_until_it_is_done_or_the_exploration_ends(
    history: tuple[Event, ...],
) -> None:
    sessions = list(replay(history))
    for event, (before, after) in zip(history[1:], pairwise(sessions), strict=True):
        rests = before.paused is not None or after.paused is not None
        if before.phase is after.phase is Phase.EXPLORING and not rests:
            assert set(ids(before)) - {key_of(event)} <= set(ids(after))


@given(history=histories(finished=True))
@MANY
def test_a_session_that_has_not_ended_wants_something_and_nothing_that_is_done(
    history: tuple[Event, ...],
) -> None:
    keys: set[str] = set()
    for event, session in zip(history, replay(history), strict=True):
        keys.add(key_of(event))
        step_ids = ids(session)

        assert bool(step_ids) is (session.phase is not Phase.ENDED)
        assert len(set(step_ids)) == len(step_ids)
        assert not keys & set(step_ids)
    assert len(keys) == len(history)


@given(history=histories())
@MANY
def test_the_same_events_make_the_same_session_and_commands_for_ever(
    history: tuple[Event, ...],
) -> None:
    one, other = fold(history), fold(list(history))

    assert one == other
    assert wanted(one) == wanted(other) == wanted(one)


@given(history=histories(), data=st.data())
@MANY
def test_a_session_can_be_folded_on_from_anywhere(
    history: tuple[Event, ...], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(history)))

    assert fold(history[cut:], fold(history[:cut])) == fold(history)


@given(history=histories(), data=st.data())
@MANY
def test_the_event_that_ends_a_step_has_the_steps_id_as_its_key(
    history: tuple[Event, ...], data: st.DataObject
) -> None:
    for command in wanted(fold(history)):
        assert key_of(data.draw(answers(command))) == step_id_of(command)


@given(history=histories())
@MANY
def test_an_answered_step_is_not_wanted_again_and_the_others_stay_wanted(
    history: tuple[Event, ...],
) -> None:
    for (before, after), event in zip(pairwise(replay(history)), history[1:], strict=True):
        left = [step_id for step_id in ids(before) if step_id != key_of(event)]
        if after.phase is before.phase and not before.pause and not after.pause:
            assert set(left) <= set(ids(after))
        if before.phase is Phase.EXPLORING and after.phase is not Phase.EXPLORING and left:
            # The exploration is left with steps under way only when something says "now".
            assert before.pause or isinstance(event, DeadlinePassed | CancelRequested)


#: The phases in the order in which a session may pass them.
ORDER = list(Phase)


@given(history=histories(finished=True))
@MANY
def test_a_session_never_goes_back(history: tuple[Event, ...]) -> None:
    for before, after in pairwise(replay(history)):
        assert ORDER.index(after.phase) >= ORDER.index(before.phase)
        if before.stop is not None:
            assert after.stop in {before.stop, Stop.CANCELLED}
        if before.phase in {Phase.CONCLUDING, Phase.ENDED}:
            assert (after.stop, after.stop_detail) == (before.stop, before.stop_detail)


@given(history=histories(finished=True))
@MANY
def test_nothing_that_was_recorded_is_ever_lost(history: tuple[Event, ...]) -> None:
    last = fold(history)
    runs = {id(run.record) for run in last.runs}
    verdicts = {id(run.verdict) for run in last.runs}
    kept = {
        *runs,
        *verdicts,
        *(id(turn.reply) for turn in last.turns),
        *(id(call.answer) for call in last.calls),
        *(id(reply) for reply in last.closings),
        id(last.prepared),
        id(last.ended),
    }
    facts = (TeacherReplied, CallAnswered, RunRecorded, RunJudged, BundlePrepared, SessionEnded)

    for event in history:
        assert not isinstance(event, facts) or id(event) in kept
    assert last.faults == tuple(e.detail for e in history if isinstance(e, TeacherStopped))


@given(history=histories(finished=True))
@MANY
def test_a_session_is_diagnosed_by_the_closing_call_or_before_it(
    history: tuple[Event, ...],
) -> None:
    """Only a cancel and a bundle that cannot be had let a session conclude without asking."""
    last = fold(history)
    asked_to_close = any(
        event.purpose is not Purpose.EXPLORE
        for event in history
        if isinstance(event, TeacherReplied | TeacherStopped)
    )

    cut_short = last.stop in {Stop.CANCELLED, Stop.NOT_PREPARED} or not any(
        isinstance(session.prepared, BundlePrepared) and session.phase is Phase.EXPLORING
        for session in replay(history)
    )
    assert cut_short or asked_to_close or last.ending is not None


# ----------------------------------------------------------------------------- the exploration


def test_a_session_goes_step_by_step_from_its_bundle_to_its_end() -> None:
    def step(*commands: Command) -> list[str]:
        return [step_id_of(command) for command in commands]

    call = ToolCall(call_id="toolu_1.0", tool="run_student_on_tasks", arguments_json="{}")
    spec = RunSpec(task_id="t", attempt=0)
    journal: list[Event] = [OPENED]
    expected: list[tuple[Event, list[str]]] = [
        (PREPARED, step(TakeTurn(turn=1, purpose=Purpose.EXPLORE))),
        (turn(1, "run_student_on_tasks"), step(CallTool(turn=1, index=0, call=call))),
        (
            asks_for(1, 0, 2),
            step(
                RunStudent(turn=1, index=0, ordinal=0, spec=spec),
                RunStudent(turn=1, index=0, ordinal=1, spec=spec),
            ),
        ),
        (
            ran(1, 0, 1, needs_judge=True),
            step(
                RunStudent(turn=1, index=0, ordinal=0, spec=spec),
                JudgeRun(turn=1, index=0, ordinal=1),
            ),
        ),
        (ran(1, 0, 0), step(JudgeRun(turn=1, index=0, ordinal=1))),
        (judged(1, 0, 1), step(TakeTurn(turn=2, purpose=Purpose.EXPLORE))),
        (turn(2, "submit_diagnosis"), ["call/2.0"]),
        (answer(2, 0, ending=READABLE), step(Conclude())),
        (ENDED, []),
    ]

    assert ids(fold(journal)) == step(Prepare())
    for event, steps in expected:
        journal.append(event)
        assert ids(fold(journal)) == steps
    last = fold(journal)
    assert (last.stop, last.ending) == (Stop.SUBMITTED, READABLE)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_diagnosis_ends_the_exploration_once_the_other_calls_of_its_turn_are_done(
    order: tuple[int, int],
) -> None:
    asked = fold([OPENED, PREPARED, turn(1, "submit_diagnosis", "list_traces")])
    answered = [answer(1, 0, ending=READABLE), answer(1, 1)]

    half = apply(asked, answered[order[0]])
    whole = apply(half, answered[order[1]])

    assert half.phase is Phase.EXPLORING
    assert ids(whole) == ["conclude"]
    assert whole.ending == READABLE


def test_calls_beyond_the_limit_are_refused_and_the_closing_call_follows() -> None:
    asked = fold([opened(max_tool_calls=2), PREPARED, turn(1, "a", "b", "c")])
    done = fold([answer(1, 1), answer(1, 0)], asked)

    assert ids(asked) == ["call/1.0", "call/1.1"]
    assert [call.refused for call in asked.calls] == [None, None, Stop.TOOL_CALLS]
    assert ids(done) == ["close"]
    assert (done.stop, done.stop_detail) == (Stop.TOOL_CALLS, "2 tool calls")


def test_the_last_turn_is_followed_by_the_closing_call() -> None:
    first = fold([opened(max_turns=2), PREPARED, turn(1)])
    second = apply(first, turn(2))

    assert ids(first) == ["turn/2"]
    assert ids(second) == ["close"]
    assert (second.stop, second.stop_detail) == (Stop.TURNS, "2 turns")


def test_runs_beyond_the_limit_are_refused_and_counted() -> None:
    asked = fold([opened(max_student_runs=3), PREPARED, turn(1, "a", "b", "c")])
    expanded = fold([asks_for(1, 0, 2), asks_for(1, 1, 2), asks_for(1, 2, 2)], asked)

    assert ids(expanded) == ["run/1.0.0", "run/1.0.1", "run/1.1.0"]
    assert [call.runs_refused for call in expanded.calls] == [0, 1, 2]
    assert expanded.student_runs == 3


def test_a_run_begins_when_one_that_was_asked_for_before_it_is_over() -> None:
    within = opened(max_parallel_runs=2)
    later = fold([within, PREPARED, turn(1, "a", "b"), asks_for(1, 1, 3)])
    both = apply(later, asks_for(1, 0, 2))
    judged = apply(both, ran(1, 1, 0, needs_judge=True))
    one_over = apply(judged, RunJudged(turn=1, index=1, ordinal=0, score=1.0, passed=True, why=""))
    two_over = apply(one_over, ran(1, 1, 1))

    assert ids(later) == ["call/1.0", "run/1.1.0", "run/1.1.1"]
    assert (ids(both), held_back(both)) == (["run/1.1.0", "run/1.1.1"], 3)
    assert ids(judged) == ["judge/1.1.0", "run/1.1.1"], "a run's judging is of its width"
    assert ids(one_over) == ["run/1.1.1", "run/1.1.2"]
    assert (ids(two_over), held_back(two_over)) == (["run/1.0.0", "run/1.1.2"], 1)


def test_calls_of_a_turn_begin_in_their_order_as_others_end() -> None:
    asked = fold([opened(max_parallel_calls=2), PREPARED, turn(1, "a", "b", "c", "d")])

    assert (ids(asked), held_back(asked)) == (["call/1.0", "call/1.1"], 2)
    assert ids(apply(asked, answer(1, 1))) == ["call/1.0", "call/1.2"]


@pytest.mark.parametrize(
    ("ending", "then"), [(READABLE, "conclude"), (NOTHING, "conclude"), (UNREADABLE, "extract")]
)
@pytest.mark.parametrize("reply", ["turn", "close"])
def test_clusters_are_asked_for_only_where_a_text_has_none_that_can_be_read(
    reply: str, ending: Ending, then: str
) -> None:
    events = {
        "turn": [turn(1, ending=ending)],
        "close": [DEADLINE, closing(ending=ending)],
    }[reply]

    assert ids(fold([OPENED, PREPARED, *events])) == [then]


def test_an_extraction_adds_clusters_to_the_diagnosis_that_is_there() -> None:
    extracted = replace(READABLE, diagnosis=Text(text="[]"))
    last = fold(
        [OPENED, PREPARED, turn(1, ending=UNREADABLE), closing(Purpose.EXTRACT, ending=extracted)]
    )

    assert last.ending is not None
    assert last.ending.diagnosis == UNREADABLE.diagnosis
    assert last.ending.clusters == READABLE.clusters
    assert ids(last) == ["conclude"]


def test_an_extraction_that_finds_nothing_keeps_the_diagnosis() -> None:
    text = [OPENED, PREPARED, turn(1, ending=UNREADABLE)]

    for last in (closing(Purpose.EXTRACT), stopped(0, Purpose.EXTRACT)):
        session = fold([*text, last])
        assert session.ending == UNREADABLE
        assert ids(session) == ["conclude"]


def test_a_turn_that_fails_for_good_is_followed_by_the_closing_call() -> None:
    session = fold([OPENED, PREPARED, stopped(1)])

    assert ids(session) == ["close"]
    assert (session.stop, session.stop_detail, session.faults) == (
        Stop.BUDGET,
        "no room",
        ("no room",),
    )


def test_a_teachers_own_run_is_judged_before_its_call_is_complete() -> None:
    asked = fold([OPENED, PREPARED, turn(1, "run_self_on_task")])
    own = ran(1, 0, 0, runner=Runner.TEACHER, needs_judge=True)
    recorded = apply(asked, own)
    last = apply(recorded, judged(1, 0, 0))

    assert ids(asked) == ["call/1.0"]
    assert ids(recorded) == ["judge/1.0.0"]
    assert ids(last) == ["turn/2"]
    assert last.student_runs == 0


# --------------------------------------------------------------------------- what comes too late


def test_what_was_under_way_when_the_time_was_up_is_kept_as_evidence() -> None:
    session = fold([*OUTSTANDING, DEADLINE])
    late = fold([ran(1, 3, 0), judged(1, 3, 1), answer(1, 0)], session)

    assert ids(late) == ids(session) == ["close"]
    assert [run.complete for run in session.runs] == [False, False]
    assert [run.complete for run in late.runs] == [True, True]
    assert (late.stop, late.stop_detail) == (Stop.TIME, "3600000 ms")


def test_a_turn_that_was_under_way_when_the_time_was_up_is_kept_and_its_calls_are_not_made() -> (
    None
):
    session = fold([OPENED, PREPARED, DEADLINE])
    late = apply(session, turn(1, "list_traces", ending=READABLE))

    assert ids(late) == ids(session) == ["close"]
    assert [call.refused for call in late.turns[0].calls] == [Stop.TIME]
    assert (late.tool_calls, late.ending) == (0, None)


def test_a_closing_reply_that_comes_after_a_cancel_is_kept_and_changes_nothing() -> None:
    cancelled = fold([OPENED, PREPARED, DEADLINE, CANCEL])
    late = apply(cancelled, closing(ending=READABLE))

    assert late.closings == (closing(ending=READABLE),)
    assert (late.phase, late.stop, late.ending) == (Phase.CONCLUDING, Stop.CANCELLED, None)


def test_a_bundle_that_is_ready_too_late_is_kept_and_starts_nothing() -> None:
    late = fold([OPENED, DEADLINE, PREPARED])

    assert late.prepared == PREPARED
    assert ids(late) == ["conclude"]
    assert late.stop is Stop.TIME


# ------------------------------------------------------------------- what nobody can have asked for

NOBODY_ASKED: dict[str, tuple[Event, ...]] = {
    "a turn out of order": (PREPARED, turn(2)),
    "a turn twice": (PREPARED, turn(1), turn(1)),
    "a turn before the last one is complete": (PREPARED, turn(1, "a"), turn(2)),
    "a failed turn out of order": (PREPARED, stopped(3)),
    "a turn without a bundle": (DEADLINE, turn(1)),
    "a closing reply in the exploration": (PREPARED, closing(ending=READABLE)),
    "an extraction while closing": (PREPARED, DEADLINE, closing(Purpose.EXTRACT)),
    "a closing reply while extracting": (PREPARED, turn(1, ending=UNREADABLE), closing()),
    "an answer to no call": (PREPARED, turn(1, "a"), answer(1, 1)),
    "an answer to a negative call": (PREPARED, turn(1, "a"), answer(1, -1)),
    "an answer to no turn": (PREPARED, turn(1, "a"), answer(2, 0)),
    "an answer twice": (PREPARED, turn(1, "a", "b"), answer(1, 0), answer(1, 0)),
    "an answer to what became runs": (PREPARED, turn(1, "a"), asks_for(1, 0, 1), answer(1, 0)),
    "runs for an answered call": (PREPARED, turn(1, "a", "b"), answer(1, 0), asks_for(1, 0, 1)),
    "an answer to a refused call": (PREPARED, DEADLINE, turn(1, "a"), answer(1, 0)),
    "runs for a refused call": (PREPARED, DEADLINE, turn(1, "a"), asks_for(1, 0, 1)),
    "a run of no call": (PREPARED, turn(1, "a"), ran(1, 0, 0)),
    "a run beyond the last": (PREPARED, turn(1, "a"), asks_for(1, 0, 1), ran(1, 0, 1)),
    "a negative run": (PREPARED, turn(1, "a"), asks_for(1, 0, 1), ran(1, 0, -1)),
    "a run twice": (PREPARED, turn(1, "a"), asks_for(1, 0, 2), ran(1, 0, 0), ran(1, 0, 0)),
    "a run of another task": (
        PREPARED,
        turn(1, "a"),
        asks_for(1, 0, 1),
        replace(ran(1, 0, 0), spec=RunSpec(task_id="other", attempt=0)),
    ),
    "a student's run in place of the teacher's": (
        PREPARED,
        turn(1, "run_self_on_task"),
        ran(1, 0, 0, runner=Runner.TEACHER),
        ran(1, 0, 0),
    ),
    "a teacher's run after its call was answered": (
        PREPARED,
        turn(1, "run_self_on_task", "a"),
        answer(1, 0),
        ran(1, 0, 0, runner=Runner.TEACHER, needs_judge=True),
    ),
    "an answer after the teacher's run": (
        PREPARED,
        turn(1, "run_self_on_task", "a"),
        ran(1, 0, 0, runner=Runner.TEACHER),
        answer(1, 0),
    ),
    "a verdict on a run that the teacher did not make": (
        PREPARED,
        turn(1, "run_self_on_task"),
        ran(1, 0, 0, runner=Runner.TEACHER, needs_judge=True),
        judged(1, 0, 1),
    ),
    "a turn beyond the last": (opened(max_turns=1), PREPARED, turn(1), turn(2)),
    "a verdict before the run": (PREPARED, turn(1, "a"), asks_for(1, 0, 1), judged(1, 0, 0)),
    "a verdict that no run needs": (
        PREPARED,
        turn(1, "a"),
        asks_for(1, 0, 2),
        ran(1, 0, 0),
        judged(1, 0, 0),
    ),
    "a verdict twice": (
        PREPARED,
        turn(1, "a"),
        asks_for(1, 0, 2),
        ran(1, 0, 0, needs_judge=True),
        judged(1, 0, 0),
        judged(1, 0, 0),
    ),
}


@pytest.mark.parametrize("case", NOBODY_ASKED)
def test_an_answer_that_nobody_asked_for_is_refused_and_changes_nothing(case: str) -> None:
    journal = NOBODY_ASKED[case]
    *before, last = journal if isinstance(journal[0], SessionOpened) else (OPENED, *journal)
    session = fold(before)

    with pytest.raises(IllegalEvent):
        apply(session, last)

    assert session == fold(before)


def test_an_empty_journal_makes_no_session() -> None:
    with pytest.raises(IllegalEvent, match="empty"):
        fold([])


def test_a_journal_starts_with_the_opening() -> None:
    with pytest.raises(IllegalEvent, match="starts with SessionOpened"):
        fold([PREPARED])


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("record", "verdict", "complete", "counts"),
    [
        (None, None, False, False),
        (ran(1, 0, 0), None, True, True),
        (ran(1, 0, 0, needs_judge=True), None, False, False),
        (ran(1, 0, 0, needs_judge=True), judged(1, 0, 0), True, True),
        (
            ran(1, 0, 0, needs_judge=True),
            replace(judged(1, 0, 0), score=None, passed=None),
            True,
            False,
        ),
        (
            replace(ran(1, 0, 0), outcome=RunOutcome.EMPTY, passed=False, score=0.0),
            None,
            True,
            True,
        ),
        (
            replace(ran(1, 0, 0), outcome=RunOutcome.FAULT, passed=None, score=None),
            None,
            True,
            False,
        ),
    ],
    ids=["open", "scored", "unjudged", "judged", "judge failed", "empty", "fault"],
)
def test_a_run_counts_when_it_was_measured(
    record: RunRecorded | None,
    verdict: RunJudged | None,
    complete: bool,
    counts: bool,
) -> None:
    spec = RunSpec(task_id="t", attempt=0)
    run = Run(spec=spec, runner=Runner.STUDENT, record=record, verdict=verdict)

    assert (run.complete, run.counts) == (complete, counts)


def test_the_verdict_of_the_judge_stands_over_the_record() -> None:
    spec = RunSpec(task_id="t", attempt=0)
    record = ran(1, 0, 0, needs_judge=True)
    run = Run(spec=spec, runner=Runner.STUDENT, record=record, verdict=judged(1, 0, 0))

    assert (run.score, run.passed) == (0.0, False)
