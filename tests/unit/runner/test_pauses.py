"""A session stands still for money or a word, and goes on when it comes: the runner's part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.strategies import answers, spec_with
from tests.unit.runner.desk import SESSION, Desk, usual
from tests.unit.runner.test_runner import FAULTS, MOST_FAULTS, NO_MONEY
from worker.core import policy
from worker.core.events import SessionOpened, SessionPaused
from worker.core.values import Cause, Limits, Phase, SessionSpec, Stop
from worker.errors import BudgetDenied, RequestInvalid
from worker.ports import EntryState
from worker.status import view
from worker.steps.context import closing_hold_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.steps.context import Step

HOUR_MS = 3_600_000
LIMITS = Limits(max_duration_ms=HOUR_MS, max_pause_ms=10 * HOUR_MS)
SHORT = BudgetDenied("no room", scope="tenant:default", free_nusd=3, why="cap", amount_nusd=50)


def pausing() -> SessionSpec:
    return replace(spec_with(LIMITS), when_money_lacks="pause", closing_hold_nusd=10)


def raising(error: Exception) -> Callable[[Command, Step], Event]:
    def act(command: Command, step: Step) -> Event:
        raise error

    return act


@pytest.fixture
def desk() -> Desk:
    """A session whose first turn is due; every account has 100 but for the tenant's 3."""
    desk = Desk()
    for scope in pausing().scopes:
        desk.ledger.open_account(scope, 3 if scope.startswith("tenant") else 100)
    desk.runner.open(pausing(), {})
    desk.play("prepare")
    desk.told()
    return desk


def short_of_money(desk: Desk) -> None:
    desk.then(raising(SHORT))
    worked = desk.work("turn/1")
    assert (worked.status, worked.detail) == ("dropped", "paused: no room")


def test_a_session_that_lacks_money_stands_still_and_says_what_it_needs(desk: Desk) -> None:
    short_of_money(desk)

    pause = desk.session.paused
    assert pause is not None
    assert (pause.cause, pause.needed_nusd, pause.scope) == (Cause.MONEY, 50, "tenant:default")
    assert [step for _, step, _ in desk.journal.overdue()] == ["resume/1"]
    assert desk.told() == []
    seen = view(SESSION, desk.runner, desk.journal, desk.ledger)
    assert seen is not None
    assert seen.paused is not None
    assert seen.paused.words == (
        "paused: needs $0.00000005, and the tightest account 'tenant:default' has $0.000000003; "
        "`diagnosis budget set` lets it go on"
    )
    assert seen.paused.until_ms == seen.paused.since_ms + LIMITS.max_pause_ms


def test_nobody_is_told_of_a_session_that_waits_until_there_is_money(desk: Desk) -> None:
    short_of_money(desk)

    for _ in range(100):
        desk.clock.advance(60_000)
        desk.runner.sweep()

    assert desk.told() == []
    desk.ledger.set_cap("tenant:default", 60)
    desk.clock.advance(policy.WAKE_MS)
    desk.runner.sweep()
    assert desk.told() == ["resume/1"]
    desk.play("resume/1", "turn/1")
    assert desk.keys == ["open", "prepare", "pause/1", "resume/1", "turn/1"]


def test_a_tool_that_lacks_money_pauses_the_session_and_is_called_again_later(desk: Desk) -> None:
    desk.play("turn/1")
    desk.then(raising(SHORT))
    desk.work("call/1.0")

    assert desk.keys[-1] == "pause/1"
    desk.runner.resume(SESSION, "there is money")
    desk.play("call/1.0")
    assert desk.keys[-1] == "call/1.0"


def test_money_that_went_to_others_meanwhile_is_waited_for_again(desk: Desk) -> None:
    short_of_money(desk)
    desk.ledger.set_cap("tenant:default", 60)
    desk.runner.sweep()
    desk.ledger.set_cap("tenant:default", 3)

    worked = desk.work("resume/1")

    assert worked.status == "dropped"
    assert "'tenant:default' has $0.000000003" in worked.detail
    assert desk.session.paused is not None
    (due,) = desk.journal.overdue()
    assert due[2] == desk.clock.now_ms() + LIMITS.max_pause_ms


def test_without_the_request_for_it_money_that_lacks_is_a_limit_as_before(desk: Desk) -> None:
    plain = Desk()
    plain.open()
    plain.play("prepare")
    plain.then(raising(NO_MONEY))

    assert plain.work("turn/1").status == "failed"
    assert plain.session.stop is Stop.BUDGET
    assert plain.session.phase is Phase.CLOSING


def test_a_pause_that_is_too_long_ends_the_session_by_its_closing_call(desk: Desk) -> None:
    short_of_money(desk)
    desk.clock.advance(LIMITS.max_pause_ms)
    desk.runner.sweep()
    assert desk.told() == ["resume/1"]

    desk.play("resume/1", "close", "conclude")

    assert desk.session.stop is Stop.BUDGET
    assert "10 hours went by, and it needs $0.00000005" in desk.session.stop_detail
    assert not desk.journal.overdue()


def test_the_closing_calls_money_is_held_for_as_long_as_the_session_may_wait(desk: Desk) -> None:
    desk.ledger.set_cap("tenant:default", 10)
    desk.ledger.reserve(
        closing_hold_id(SESSION),
        10,
        pausing().scopes,
        kind="close",
        model="m",
        step_id="close",
        price_version="1",
        deadline_ms=policy.closing_hold_ms(LIMITS),
    )
    short_of_money(desk)

    desk.clock.advance(LIMITS.max_pause_ms)
    desk.runner.sweep()

    (entry,) = desk.ledger.entries(SESSION)
    assert entry.state is EntryState.HELD


def test_somebody_lets_a_session_stand_still_and_go_on(desk: Desk) -> None:
    assert desk.runner.pause(SESSION, "the GPU is needed")
    assert desk.runner.pause(SESSION, "said twice")
    assert [step for _, step, _ in desk.journal.overdue()] == ["resume/1"]
    assert desk.work("turn/1").status == "dropped"
    desk.clock.advance(5 * HOUR_MS)
    desk.runner.sweep()
    assert desk.told() == []

    assert desk.runner.resume(SESSION, "the GPU is free")
    assert desk.runner.resume(SESSION, "said twice")

    assert desk.told() == ["turn/1"]
    due = {step: at for _, step, at in desk.journal.overdue()}
    assert due["deadline"] == desk.clock.now_ms() + HOUR_MS
    assert desk.keys == ["open", "prepare", "pause/1", "resume/1"]


def test_a_decision_is_not_overruled_by_money(desk: Desk) -> None:
    short_of_money(desk)
    assert desk.runner.pause(SESSION, "look at it first")
    desk.ledger.set_cap("tenant:default", 60)
    desk.clock.advance(policy.WAKE_MS)

    desk.runner.sweep()

    assert desk.told() == []
    desk.runner.resume(SESSION, "looked at")
    assert desk.told() == ["turn/1"]


def test_a_step_under_way_is_finished_and_what_follows_waits(desk: Desk) -> None:
    def paused_meanwhile(command: Command, step: Step) -> Event:
        assert desk.runner.pause(SESSION, "now")
        return usual(command, step)

    desk.then(paused_meanwhile)
    assert desk.work("turn/1").status == "done"

    assert desk.keys[-2:] == ["pause/1", "turn/1"]
    for step_id in desk.told():
        assert desk.work(step_id).status == "dropped"
    assert desk.begun == ["prepare", "turn/1"]
    desk.runner.resume(SESSION, "go on")
    assert desk.told() == ["call/1.0"]


def test_a_step_that_was_put_off_goes_on_after_a_pause_with_its_next_attempt(desk: Desk) -> None:
    desk.then(raising(FAULTS[0]))
    assert desk.work("turn/1").status == "retry"
    desk.runner.pause(SESSION, "until the provider is well")
    desk.runner.resume(SESSION, "it is")
    attempts: list[int] = []

    def noting(command: Command, step: Step) -> Event:
        attempts.append(step.attempt)
        return usual(command, step)

    desk.then(noting)
    desk.work("turn/1")

    assert attempts == [2]


def test_a_session_that_stands_still_is_cancelled_at_once(desk: Desk) -> None:
    short_of_money(desk)

    assert desk.runner.cancel(SESSION, "enough")

    assert desk.told() == ["conclude"]
    desk.play("conclude")
    assert desk.session.phase is Phase.ENDED
    assert desk.journal.waiting() == ()


def test_a_session_that_is_unknown_or_has_nothing_left_to_do_cannot_be_paused(desk: Desk) -> None:
    desk.runner.cancel(SESSION, "enough")

    assert not desk.runner.pause(SESSION, "too late")
    assert not desk.runner.resume(SESSION, "too late")
    assert not desk.runner.pause("nobody", "who")


def test_a_step_that_kills_its_workers_while_it_looks_ends_the_pause(desk: Desk) -> None:
    short_of_money(desk)
    desk.ledger.set_cap("tenant:default", 60)
    desk.runner.sweep()
    for number in range(policy.POISON_DEATHS):
        desk.journal.claim(SESSION, "resume/1", owner="w", token=f"t{number}", since=0)
        desk.clock.advance(policy.LEASE_MS)

    assert desk.work("resume/1").status == "failed"

    assert desk.session.phase is Phase.CLOSING


def test_a_session_that_has_not_started_is_neither_paused_nor_resumed(desk: Desk) -> None:
    spec = replace(pausing(), session_id="s-2")
    funds = SessionPaused(number=1, cause=Cause.FUNDS, detail="no room", needed_nusd=50)
    desk.runner.begin([SessionOpened(spec=spec), funds], {})

    for say in (desk.runner.pause, desk.runner.resume):
        with pytest.raises(RequestInvalid, match="has not started"):
            say("s-2", "now")


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_befalls_it_a_session_that_may_pause_ends_once(data: st.DataObject) -> None:
    """Faults in every step, money that comes and goes, people who pause and resume at any time."""
    desk = Desk()
    spec = replace(pausing(), limits=replace(SMALL, max_pause_ms=60_000))
    for scope in spec.scopes:
        desk.ledger.open_account(scope, 100)
    faults = 0
    attempts: list[tuple[str, int]] = []

    def befallen(command: Command, step: Step) -> Event:
        nonlocal faults
        faults += 1
        attempts.append((step.step_id, step.attempt))
        if faults < MOST_FAULTS:
            fault = data.draw(st.none() | st.sampled_from((*FAULTS, SHORT)))
            if fault is not None:
                raise fault
        return data.draw(answers(command))

    desk.then(*[befallen] * 2_000)
    desk.runner.open(spec, {})
    for turn in range(5_000):
        for hint in desk.hints.take():
            if turn < 60:
                _outside(desk, data.draw(st.sampled_from(["", "", "", *WORDS])))
            desk.runner.work(hint.session_id, hint.step_id)
        if not desk.journal.overdue():
            break
        desk.clock.advance(5_000)
        desk.runner.sweep()

    assert desk.session.phase is Phase.ENDED, desk.keys[-5:]
    assert desk.keys.count("conclude") == 1
    assert len(desk.keys) == len(set(desk.keys))
    assert [one for one, n in Counter(attempts).items() if n > 1] == []
    assert not desk.journal.overdue()
    assert desk.journal.waiting() == ()


def _outside(desk: Desk, word: str) -> None:
    match word:
        case "pause":
            desk.runner.pause(SESSION, "wait")
        case "resume":
            desk.runner.resume(SESSION, "go on")
        case "poor" | "rich":
            desk.ledger.set_cap("fleet", 0 if word == "poor" else 100)
        case _:
            pass


WORDS = ("pause", "resume", "poor", "rich")
SMALL = Limits(max_turns=3, max_tool_calls=4, max_student_runs=4)
