"""A session that stands still: it wants nothing but to be told that it may go on, and ends all the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given

from tests.unit.core.strategies import histories
from tests.unit.core.test_machine import (
    CANCEL,
    DEADLINE,
    MANY,
    OPENED,
    PREPARED,
    READABLE,
    answer,
    closing,
    expired,
    ids,
    paused,
    replay,
    resumed,
    turn,
)
from worker.core import policy
from worker.core.commands import CallTool, JudgeRun, TakeTurn
from worker.core.events import Event, SessionPaused
from worker.core.evidence import conclude_outcome
from worker.core.machine import apply, fold
from worker.core.values import Cause, Outcome, Phase, Purpose, Stop, ToolCall
from worker.errors import BudgetDenied, IllegalEvent

CALL = ToolCall(call_id="c", tool="run_self_on_task", arguments_json="{}")


@given(history=histories())
@MANY
def test_a_session_that_stands_still_wants_one_thing_and_begins_nothing(
    history: tuple[Event, ...],
) -> None:
    for session in replay(history):
        if session.paused is None:
            assert not any(step.startswith("resume/") for step in ids(session))
        else:
            assert ids(session) == [f"resume/{session.paused.number}"]


@given(history=histories(finished=True))
@MANY
def test_every_pause_is_resumed_expires_or_is_left_by_the_sessions_end(
    history: tuple[Event, ...],
) -> None:
    assert fold(history).paused is None
    for before, after in pairwise(replay(history)):
        if before.paused is not None and after.paused is None:
            assert after.phase in {Phase.CONCLUDING, Phase.ENDED} or after.pause is None
    numbers = [event.number for event in history if isinstance(event, SessionPaused)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_resumed_session_wants_what_it_wanted_before() -> None:
    before = fold([OPENED, PREPARED, turn(1, "a", "b"), answer(1, 0)])
    still = apply(before, paused())
    after = apply(still, resumed())

    assert ids(still) == ["resume/1"]
    assert ids(after) == ids(before) == ["call/1.1"]


def test_what_was_under_way_is_taken_while_the_session_stands_still() -> None:
    still = fold([OPENED, PREPARED, turn(1, "a", "b"), paused(), answer(1, 0), answer(1, 1)])

    assert ids(still) == ["resume/1"]
    assert ids(apply(still, resumed())) == ["turn/2"]


@pytest.mark.parametrize(
    ("cause", "stop"),
    [(Cause.MONEY, Stop.BUDGET), (Cause.ASKED, Stop.PAUSED), (Cause.FUNDS, Stop.FUNDS)],
)
def test_a_pause_that_nobody_ends_leads_to_the_closing_call(cause: Cause, stop: Stop) -> None:
    late = fold([OPENED, PREPARED, paused(cause=cause), expired()])

    assert ids(late) == ["close"]
    assert (late.stop, late.stop_detail) == (stop, "a day went by")


def test_a_session_that_never_started_ends_as_inconclusive_and_says_why() -> None:
    never = fold([OPENED, paused(cause=Cause.FUNDS), expired()])

    assert ids(never) == ["conclude"]
    assert conclude_outcome(never, ()) == (
        Outcome.INCONCLUSIVE,
        "The session never started (a day went by).",
    )


def test_a_session_that_stands_still_can_be_cancelled_and_its_time_can_be_up() -> None:
    assert ids(fold([OPENED, PREPARED, paused(), CANCEL])) == ["conclude"]
    assert ids(fold([OPENED, PREPARED, paused(), DEADLINE])) == ["resume/1"]
    assert ids(fold([OPENED, PREPARED, paused(), DEADLINE, resumed()])) == ["close"]


def test_a_session_with_nothing_left_to_do_but_to_write_does_not_wait() -> None:
    done = fold([OPENED, PREPARED, turn(1, "submit"), paused(), answer(1, 0, ending=READABLE)])
    closed = fold([OPENED, PREPARED, DEADLINE, paused(), closing(ending=READABLE)])

    assert ids(done) == ids(closed) == ["conclude"]
    assert done.paused is closed.paused is None


def test_a_later_pause_takes_the_place_of_the_one_that_stands() -> None:
    twice = fold([OPENED, PREPARED, paused(1, Cause.MONEY), paused(2)])

    assert ids(apply(twice, resumed(1))) == ["resume/2"]
    assert ids(apply(twice, resumed(2))) == ["turn/1"]
    with pytest.raises(IllegalEvent):
        apply(twice, resumed(3))
    with pytest.raises(IllegalEvent):
        apply(twice, paused(2))


@pytest.mark.parametrize(
    ("why", "pauses"),
    [("cap", True), ("frozen", True), ("killed", True), ("closed", False), ("no_account", False)],
)
def test_a_session_pauses_where_money_can_mend_it_and_it_was_asked_for(
    why: str, *, pauses: bool
) -> None:
    denied = BudgetDenied("no", scope="fleet", free_nusd=0, why=why)
    asks = replace(OPENED.spec, when_money_lacks="pause")
    explores = TakeTurn(turn=1, purpose=Purpose.EXPLORE)
    others = (CallTool(turn=1, index=0, call=CALL), JudgeRun(turn=1, index=0, ordinal=0))

    assert policy.pauses(asks, explores, denied) is pauses
    assert all(policy.pauses(asks, command, denied) is pauses for command in others)
    assert not policy.pauses(OPENED.spec, explores, denied)
    for purpose in (Purpose.CLOSE, Purpose.EXTRACT):
        assert not policy.pauses(asks, TakeTurn(turn=0, purpose=purpose), denied)
