"""The laws of forks: the same session up to the turn, and nothing of what came after it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.strategies import World, answers, histories, spec_with
from worker.core.commands import TakeTurn, step_id_of
from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    CancelRequested,
    DeadlinePassed,
    Event,
    PauseExpired,
    SessionEnded,
    SessionOpened,
    SessionPaused,
    SessionResumed,
    TeacherReplied,
    key_of,
)
from worker.core.forking import (
    blobs_of,
    forked,
    inherited_nusd,
    last_turn,
    prefix,
    turn_before,
)
from worker.core.machine import Session, fold, wanted
from worker.core.values import Blob, Fork, Limits, Phase, Purpose, Text, ToolCall
from worker.errors import RequestInvalid
from worker.wire.journal import encode_all

if TYPE_CHECKING:
    from collections.abc import Iterable

MANY = settings(max_examples=200, deadline=None)
#: Events that befall a session from outside, and are no answers.
OUTSIDE = (DeadlinePassed, CancelRequested, SessionPaused, SessionResumed, PauseExpired)


def child_of(history: Iterable[Event], at_turn: int | None, *without: str) -> tuple[Event, ...]:
    opened, *_ = events = tuple(history)
    assert isinstance(opened, SessionOpened)
    fork = Fork(session_id="s-1", at_turn=at_turn, without=without)
    spec = replace(opened.spec, session_id="s-2", forked=fork)
    return forked(spec, prefix(events, at_turn, without))


def as_parent(session: Session) -> Session:
    """Return a session but for what names it."""
    return replace(session, spec=replace(session.spec, session_id="s-1", forked=None))


@given(history=histories(), data=st.data())
@MANY
def test_a_fork_is_its_parent_up_to_the_turn_apart_from_ids(
    history: tuple[Event, ...], data: st.DataObject
) -> None:
    """Up to the turn: before the parent said anything more, and without what came from outside."""
    at_turn = data.draw(st.integers(0, last_turn(history)))
    child = child_of(history, at_turn)

    ours = [event for event in history if key_of(event) in set(map(key_of, child))]
    assert encode_all(child[1:]) == encode_all(ours[1:])
    assert as_parent(fold(child)) == fold(ours)
    upto = next(
        (
            position
            for position, event in enumerate(history)
            if isinstance(event, OUTSIDE)
            or (isinstance(event, TeacherReplied) and not 1 <= event.turn <= at_turn)
        ),
        None,
    )
    if upto is None and not isinstance(history[-1], SessionEnded):
        assert as_parent(fold(child)) == fold(history[: len(child)])


@given(history=histories(finished=True), data=st.data())
@MANY
def test_a_fork_of_an_ended_session_goes_on_and_ends_once(
    history: tuple[Event, ...], data: st.DataObject
) -> None:
    at_turn = data.draw(st.integers(0, last_turn(history)))
    world = World.replayed(child_of(history, at_turn))
    assert not world.over

    while not world.over and len(world.journal) < 300:
        step_id = data.draw(st.sampled_from(sorted(map(step_id_of, wanted(world.session)))))
        world.take(data.draw(answers(world.asked[step_id])))

    assert world.session.phase is Phase.ENDED
    assert [isinstance(event, SessionEnded) for event in world.journal].count(True) == 1


@given(history=histories(finished=True))
@MANY
def test_a_fork_of_everything_lacks_nothing_but_the_end(history: tuple[Event, ...]) -> None:
    child = child_of(history, None)

    assert as_parent(fold(child)) == fold(history[:-1])
    assert [step_id_of(command) for command in wanted(fold(child))] == ["conclude"]


@given(history=histories(finished=True), data=st.data())
@MANY
def test_a_step_that_is_left_out_is_wanted_again_and_its_turn_is_not(
    history: tuple[Event, ...], data: st.DataObject
) -> None:
    session = fold(history)
    ends = [
        key_of(event)
        for event in history
        if isinstance(event, CallAnswered) and event.ending is None
    ]
    if not ends or session.prepared is None:
        return
    step_id = data.draw(st.sampled_from(ends))
    at_turn, without = turn_before(step_id, last_turn(history))
    assert at_turn is not None

    child = fold(child_of(history, at_turn, *without))

    if child.phase is Phase.EXPLORING:
        assert step_id in {step_id_of(command) for command in wanted(child)}
    assert len(child.turns) == at_turn


@pytest.mark.parametrize(
    ("step_id", "expected"),
    [
        ("prepare", (0, ("prepare",))),
        ("turn/1", (0, ())),
        ("turn/7", (6, ())),
        ("call/3.1", (3, ("call/3.1",))),
        ("run/3.1.12", (3, ("run/3.1.12",))),
        ("judge/3.1.12", (3, ("judge/3.1.12",))),
        ("close", (9, ())),
        ("extract", (9, ())),
        ("conclude", (None, ())),
    ],
)
def test_a_dead_step_is_done_again_after_all_that_was_done_before_it(
    step_id: str, expected: tuple[int | None, tuple[str, ...]]
) -> None:
    assert turn_before(step_id, 9) == expected


def turn(number: int, *tools: str, cost_nusd: int = 0) -> TeacherReplied:
    calls = tuple(ToolCall(call_id="c", tool=tool, arguments_json="{}") for tool in tools)
    return TeacherReplied(
        turn=number,
        purpose=Purpose.EXPLORE,
        content=Blob(sha256="a" * 64, size_bytes=9),
        stop_reason="tool_use",
        calls=calls,
        cost_nusd=cost_nusd,
    )


def test_what_is_taken_over_says_what_it_had_cost_and_where_its_texts_are() -> None:
    events = (
        BundlePrepared(brief=Text(text="b"), traces=1, tasks=1),
        turn(1, "run_self_on_task", cost_nusd=5),
        CallAnswered(turn=1, index=0, result=Blob(sha256="b" * 64, size_bytes=9), cost_nusd=7),
    )

    assert inherited_nusd(events) == 12
    assert [blob.sha256[0] for blob in blobs_of(events)] == ["a", "b"]


@given(history=histories())
def test_limits_below_what_was_used_are_refused_by_name(history: tuple[Event, ...]) -> None:
    opened = history[0]
    assert isinstance(opened, SessionOpened)
    turns = last_turn(history)
    if turns < 2:
        return
    small = replace(opened.spec, limits=replace(opened.spec.limits, max_turns=turns - 1))

    with pytest.raises(RequestInvalid, match="could not have gone as they did"):
        forked(small, prefix(history, turns))


def test_a_fork_with_more_turns_goes_on_where_its_parent_was_stopped() -> None:
    history = (
        SessionOpened(spec=replace(spec_with(Limits()), limits=Limits(max_turns=1))),
        BundlePrepared(brief=Text(text="b"), traces=1, tasks=1),
        turn(1),
    )
    assert fold(history).phase is Phase.CLOSING
    spec = replace(spec_with(Limits()), limits=Limits(max_turns=2))

    child = fold(forked(spec, prefix(history, 1)))

    assert wanted(child) == (TakeTurn(turn=2, purpose=Purpose.EXPLORE),)
