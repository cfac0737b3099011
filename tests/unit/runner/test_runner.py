"""The shell carries out what the core wants: once, in order, to an end, whatever happens to it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.strategies import answers
from tests.unit.runner.desk import SESSION, Desk, usual
from worker.core import policy
from worker.core.events import (
    CallExpanded,
    CancelRequested,
    RunRecorded,
    TeacherReplied,
    TeacherStopped,
)
from worker.core.values import (
    Limits,
    Phase,
    Purpose,
    RunOutcome,
    RunSpec,
    Stop,
    Text,
    ToolCall,
)
from worker.errors import (
    BadInput,
    BudgetDenied,
    Cancelled,
    Misconfigured,
    NotYet,
    RateLimited,
    StudentFault,
    TeacherFault,
    Unavailable,
    UnknownVersion,
)
from worker.journal.memory import MemoryJournal
from worker.runner import CACHED_SESSIONS, CONCLUDE_TRIES, DRIVES, LONGEST_WAIT_MS
from worker.testing import ManualClock
from worker.wire.journal import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.checkpoints import Checkpoints
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.ports import Announcement, Committed
    from worker.steps.context import Step

    Act = Callable[[Command, Step], Event]


def raising(fault: Exception) -> Act:
    """Return a step that fails so."""

    def act(command: Command, step: Step) -> Event:
        raise fault

    return act


def later(retry_after_ms: int | None = None) -> TeacherFault:
    """Return a fault that passes."""
    return TeacherFault(
        "529 overloaded", billing="unbilled", retry="later", retry_after_ms=retry_after_ms
    )


BUG = ZeroDivisionError("division by zero")
REFUSED_KEY = TeacherFault("401", billing="unbilled", retry="stop")
NO_MONEY = BudgetDenied("no", scope="fleet", free_nusd=0, why="cap")


@pytest.fixture
def desk() -> Desk:
    """A session that was opened; its first step was told."""
    desk = Desk()
    assert desk.open()
    assert desk.told() == ["prepare"]
    return desk


# -------------------------------------------------------------------------------------- good days


def test_a_session_goes_from_step_to_step_to_its_end(desk: Desk) -> None:
    for step_id in ("prepare", "turn/1", "call/1.0", "turn/2"):
        desk.play(step_id)

    assert desk.told() == ["turn/1", "call/1.0", "turn/2", "conclude"]
    desk.play("conclude")
    assert desk.keys == ["open", "prepare", "turn/1", "call/1.0", "turn/2", "conclude"]
    assert desk.session.phase is Phase.ENDED
    assert not desk.journal.overdue()


def test_opening_twice_is_one_session_and_drives_it(desk: Desk) -> None:
    assert not desk.open()

    assert desk.keys == ["open"]
    assert desk.told() == []


def test_a_hint_that_comes_twice_is_worked_on_once(desk: Desk) -> None:
    desk.play("prepare")

    assert desk.work("prepare").status == "dropped"
    assert desk.begun == ["prepare"]


@pytest.mark.parametrize("step_id", ["turn/9", "conclude", "run/1.0.0", "deadline/1"])
def test_a_hint_at_a_step_that_nobody_asked_for_is_dropped(desk: Desk, step_id: str) -> None:
    assert desk.work(step_id).status == "dropped"
    assert desk.begun == []


def test_a_hint_at_no_session_is_dropped(desk: Desk) -> None:
    assert desk.runner.work("nobody", "prepare").status == "dropped"
    assert desk.runner.work("nobody", "drive").status == "done"
    assert desk.runner.session("nobody") is None


# ------------------------------------------------------------------------------------------ faults


def test_a_fault_that_passes_is_tried_again_after_its_back_off(desk: Desk) -> None:
    desk.play("prepare")
    desk.told()
    desk.then(raising(later()))

    assert desk.work("turn/1").status == "retry"

    (row,) = desk.journal.steps(SESSION)
    assert (row.step_id, row.retries, row.last_error) == ("turn/1", 1, "529 overloaded")
    assert row.due_ms == desk.clock.now_ms() + 1_000, "the first back-off, with all of its jitter"
    assert desk.work("turn/1").status == "dropped", "not before"
    assert desk.runner.sweep() == 0
    desk.clock.advance(1_000)
    assert desk.runner.sweep() == 1
    assert desk.told() == ["turn/1"]
    desk.play("turn/1")


def test_the_servers_own_word_is_never_undercut(desk: Desk) -> None:
    desk.play("prepare")
    desk.then(raising(later(retry_after_ms=30_000)))

    desk.work("turn/1")

    (row,) = desk.journal.steps(SESSION)
    assert row.due_ms == desk.clock.now_ms() + 30_000


def test_a_server_that_asks_to_wait_for_a_day_is_given_up(desk: Desk) -> None:
    desk.play("prepare")
    desk.then(raising(later(retry_after_ms=LONGEST_WAIT_MS + 1)))

    assert desk.work("turn/1").status == "failed"
    assert desk.session.stop is Stop.FAULT


def test_a_fault_that_stays_is_given_up_after_its_patience(desk: Desk) -> None:
    desk.play("prepare")
    tries = 0

    while (worked := _fails(desk, "turn/1", later())) == "retry":
        tries += 1
        desk.clock.advance(60_000)

    assert worked == "failed"
    assert tries == 8
    assert desk.session.phase is Phase.CLOSING
    assert desk.session.faults == ("529 overloaded",)


@pytest.mark.parametrize("fault", [REFUSED_KEY, BadInput("no bound")], ids=["stop", "never"])
def test_what_will_fail_again_is_not_tried_again(desk: Desk, fault: Exception) -> None:
    desk.play("prepare")

    assert _fails(desk, "turn/1", fault) == "failed"

    assert desk.session.stop is Stop.FAULT
    assert desk.told() == ["turn/1", "close"], "the closing call follows"


def test_money_that_is_short_is_a_limit_and_no_fault(desk: Desk) -> None:
    desk.play("prepare")

    _fails(desk, "turn/1", NO_MONEY)

    assert desk.session.stop is Stop.BUDGET


def test_a_bug_is_tried_twice_more_and_then_told(desk: Desk) -> None:
    desk.play("prepare")
    outcomes: list[str] = []
    for _ in range(3):
        outcomes.append(_fails(desk, "turn/1", BUG))
        desk.clock.advance(10_000)

    assert outcomes == ["retry", "retry", "failed"]
    assert "ZeroDivisionError" in desk.session.faults[0]


@pytest.mark.parametrize(
    "outage", [Unavailable("S3"), Misconfigured("no key"), NotYet("money")], ids=str
)
def test_an_outage_of_ours_is_waited_out_and_counts_as_no_try(
    desk: Desk, outage: Exception
) -> None:
    desk.play("prepare")

    for _ in range(50):
        assert _fails(desk, "turn/1", outage) == "retry"
        desk.clock.advance(15_000)

    (row,) = desk.journal.steps(SESSION)
    assert row.retries == 0
    desk.play("turn/1")


def test_a_step_that_must_wait_its_turn_leaves_and_comes_back_then(desk: Desk) -> None:
    desk.play("prepare")
    wait = RateLimited("waits for teacher a: requests", retry_after_ms=1_234, why="requests")

    for _ in range(50):
        assert _fails(desk, "turn/1", wait) == "retry"
        desk.clock.advance(1_233)
        assert desk.work("turn/1").detail == "wait"
        desk.clock.advance(1)

    (row,) = desk.journal.steps(SESSION)
    assert (row.retries, row.last_error) == (0, "waits for teacher a: requests")
    assert [note.text for note in desk.journal.notes(SESSION)] == ["waits for teacher a: requests"]
    desk.play("turn/1")


def test_a_pause_of_a_day_is_given_up(desk: Desk) -> None:
    desk.play("prepare")

    outcome = _fails(desk, "turn/1", RateLimited("x", retry_after_ms=86_400_000, why="pause"))

    assert outcome == "failed"


def test_a_students_fault_is_recorded_and_is_no_answer(desk: Desk) -> None:
    asks = ToolCall(call_id="1", tool="run_student_on_task", arguments_json='{"task_id": "t"}')
    fault = StudentFault("503", reason="server_error", retryable=False, status=503)
    desk.play("prepare")
    desk.then(_turn_with(asks), _expanded)
    desk.play("turn/1", "call/1.0")

    assert _fails(desk, "run/1.0.0", fault) == "failed"

    (run,) = desk.session.runs
    assert isinstance(run.record, RunRecorded)
    assert run.record.outcome is RunOutcome.FAULT
    assert (run.record.why, run.passed, run.counts) == ("503", None, False)


def test_a_conclusion_outlasts_every_fault(desk: Desk) -> None:
    desk.play("prepare", "turn/1", "call/1.0", "turn/2")

    for fault in (BadInput("no"), BUG, BUG, BUG, BUG, REFUSED_KEY):
        assert _fails(desk, "conclude", fault) == "retry"
        desk.clock.advance(policy.LONGEST_GRACE_MS)

    desk.play("conclude")


def test_a_conclusion_that_fails_for_minutes_is_asked_for_the_least(desk: Desk) -> None:
    given_up: list[str] = []

    def fails(command: Command, step: Step) -> Event:
        given_up.append(step.given_up)
        raise BUG

    desk.play("prepare", "turn/1", "call/1.0", "turn/2")
    desk.then(*[fails] * (CONCLUDE_TRIES + 1))
    for _ in range(CONCLUDE_TRIES + 1):
        assert desk.work("conclude").status == "retry"
        desk.clock.advance(policy.LONGEST_GRACE_MS)

    assert given_up == ["", *[""] * (CONCLUDE_TRIES - 1), f"it failed {CONCLUDE_TRIES} times"]
    desk.play("conclude")


def test_an_outage_never_makes_a_conclusion_poorer(desk: Desk) -> None:
    desk.play("prepare", "turn/1", "call/1.0", "turn/2")
    for _ in range(3 * CONCLUDE_TRIES):
        _fails(desk, "conclude", Unavailable("S3 is away"))
        desk.clock.advance(policy.LONGEST_GRACE_MS)

    def whole(command: Command, step: Step) -> Event:
        assert step.given_up == ""
        return usual(command, step)

    desk.then(whole)
    desk.play("conclude")


def _fails(desk: Desk, step_id: str, fault: Exception) -> str:
    desk.then(raising(fault))
    return desk.work(step_id).status


def _turn_with(*calls: ToolCall) -> Act:
    def act(command: Command, step: Step) -> Event:
        return TeacherReplied(
            turn=1,
            purpose=Purpose.EXPLORE,
            content=Text(text="[]"),
            stop_reason="tool_use",
            calls=calls,
        )

    return act


def _expanded(command: Command, step: Step) -> Event:
    return CallExpanded(turn=1, index=0, runs=(RunSpec(task_id="t", attempt=0),))


# -------------------------------------------------------------------------------- leases and deaths


def test_a_step_that_kills_its_workers_is_given_up(desk: Desk) -> None:
    desk.play("prepare")
    for _ in range(policy.POISON_DEATHS + 1):
        claim = desk.journal.claim(SESSION, "turn/1", owner="doomed", token="x", since=0)
        assert claim.lease is not None
        desk.clock.advance(policy.LEASE_MS)
        desk.journal.claim(SESSION, "turn/1", owner="also", token="y", since=0)
        desk.clock.advance(policy.LEASE_MS)

    worked = desk.work("turn/1")

    assert worked.status == "failed"
    assert desk.begun == ["prepare"], "it is not begun once more"
    assert "workers and is not tried again" in desk.session.faults[0]


def test_who_has_lost_the_lease_commits_nothing(desk: Desk) -> None:
    other = Desk(journal=desk.journal, clock=desk.clock)

    def stalls(command: Command, step: Step) -> Event:
        desk.clock.advance(policy.LEASE_MS)
        other.play("prepare")
        return usual(command, step)

    desk.then(stalls)

    assert desk.work("prepare").status == "dropped"
    assert desk.keys == ["open", "prepare"]
    assert other.told() == ["turn/1"]


def test_two_workers_never_have_one_step(desk: Desk) -> None:
    other = Desk(journal=desk.journal, clock=desk.clock)

    def meanwhile(command: Command, step: Step) -> Event:
        assert other.work("prepare").status == "dropped"
        return usual(command, step)

    desk.then(meanwhile)

    desk.play("prepare")
    assert other.begun == []


def test_a_fold_that_is_behind_catches_up(desk: Desk) -> None:
    other = Desk(journal=desk.journal, clock=desk.clock)
    desk.play("prepare")
    other.play("turn/1", "call/1.0")

    desk.play("turn/2")

    assert desk.told()[-1] == "conclude"
    assert desk.session == other.session


@pytest.mark.parametrize("how", ["by a drive", "by a claim"])
def test_an_older_copy_of_a_journal_is_believed_and_compared_with_what_is_stored(how: str) -> None:
    clock = ManualClock()
    ahead, behind = Desk(clock=clock), Desk(clock=clock)
    for desk in (ahead, behind):
        desk.open()
        desk.play("prepare")
    ahead.play("turn/1", "call/1.0")
    compared: list[str] = []
    ahead.runner._checkpoints = cast("Checkpoints", SimpleNamespace(save=compared.append))

    ahead.runner._journal = behind.journal
    if how == "by a drive":
        ahead.runner.drive(SESSION)
    else:
        ahead.play("turn/1")

    assert compared[0] == SESSION
    assert len(ahead.session.turns) == (how == "by a claim")
    ahead.play(*(["turn/1"] if how == "by a drive" else []), "call/1.0", "turn/2", "conclude")
    assert ahead.session.ended is not None


def test_nothing_that_was_known_of_another_server_is_held_against_the_journal_of_this_one() -> None:
    """An older copy that went on by itself may be as long as what is known, and yet another journal."""
    clock = ManualClock()
    ours, theirs = Desk(clock=clock), Desk(clock=clock)
    for desk in (ours, theirs):
        desk.open()
        desk.play("prepare", "turn/1")
    theirs.then(lambda command, step: replace(usual(command, step), result=Text(text="[1]")))
    for desk in (ours, theirs):
        desk.play("call/1.0")
    assert len(theirs.keys) == len(ours.keys)
    assert theirs.session != ours.session

    ours.runner._journal = theirs.journal
    assert ours.session != theirs.session, "the same server has the same journal"
    ours.server = 1

    assert ours.session == theirs.session
    ours.play("turn/2", "conclude")
    assert ours.session == theirs.session


def test_no_more_folds_are_kept_than_were_promised(desk: Desk) -> None:
    for number in range(CACHED_SESSIONS + 5):
        spec = desk.session.spec
        session_id = f"n-{number}"
        desk.journal.create(
            session_id,
            [encode(decode(desk.journal.load(SESSION).records[0].body))],
            [],
            deadline_ms=spec.limits.max_duration_ms,
            labels={},
        )
        assert desk.runner.session(session_id) is not None

    assert len(desk.runner._known) == CACHED_SESSIONS


def test_a_step_that_is_told_to_stop_leaves_it(desk: Desk) -> None:
    desk.play("prepare")

    def cancelled(command: Command, step: Step) -> Event:
        desk.runner.cancel(SESSION, "enough")
        desk.runner._heart.beat()
        assert step.stopped()
        raise Cancelled("told to stop")

    desk.then(cancelled)

    assert desk.work("turn/1").status == "dropped"
    assert [row.step_id for row in desk.journal.steps(SESSION)] == ["conclude"]


def test_a_step_that_only_fears_for_its_lease_comes_back(desk: Desk) -> None:
    desk.play("prepare")
    desk.told()
    desk.then(raising(Cancelled("the lease may be gone")))

    assert desk.work("turn/1").status == "dropped"

    assert desk.runner.sweep() == 1
    assert desk.told() == ["turn/1"]
    desk.play("turn/1")


# ---------------------------------------------------------------------------- what comes in between


def test_a_cancel_in_the_middle_of_a_step_ends_the_session(desk: Desk) -> None:
    desk.play("prepare")

    def meanwhile(command: Command, step: Step) -> Event:
        assert desk.runner.cancel(SESSION, "enough")
        return usual(command, step)

    desk.then(meanwhile)

    desk.play("turn/1")

    assert desk.keys == ["open", "prepare", "cancel", "turn/1"]
    assert desk.session.phase is Phase.CONCLUDING
    _until_quiet(desk)
    assert desk.begun == ["prepare", "turn/1", "conclude"], "what the turn asked for is not begun"


def test_a_cancel_that_nobody_drove_is_driven_by_the_next_commit(desk: Desk) -> None:
    desk.play("prepare")
    desk.told()

    def meanwhile(command: Command, step: Step) -> Event:
        key, body = encode(CancelRequested(reason="enough"))
        desk.journal.append(SESSION, key, body)
        return usual(command, step)

    desk.then(meanwhile)

    desk.play("turn/1")
    assert "conclude" not in desk.told(), "what follows was decided on an older journal"
    _until_quiet(desk)

    assert desk.session.phase is Phase.ENDED


def test_two_runs_that_end_in_the_same_moment_are_joined_at_once(desk: Desk) -> None:
    other = Desk(journal=desk.journal, clock=desk.clock)
    asks = ToolCall(call_id="1", tool="run_student_on_task", arguments_json="{}")
    desk.play("prepare")
    desk.then(_turn_with(asks), _expanded_twice)
    desk.play("turn/1", "call/1.0")
    desk.told()

    def meanwhile(command: Command, step: Step) -> Event:
        other.play("run/1.0.1")
        return usual(command, step)

    desk.then(meanwhile)
    desk.play("run/1.0.0")

    assert other.told() == [], "it saw the first run still open"
    assert desk.told() == ["turn/2"]


def _expanded_twice(command: Command, step: Step) -> Event:
    runs = tuple(RunSpec(task_id="t", attempt=attempt) for attempt in range(2))
    return CallExpanded(turn=1, index=0, runs=runs)


def test_a_width_is_filled_again_by_who_commits_last() -> None:
    desk = Desk()
    desk.open(Limits(max_parallel_runs=2))
    wide = CallExpanded(
        turn=1, index=0, runs=tuple(RunSpec(task_id="t", attempt=n) for n in range(5))
    )
    desk.play("prepare", "turn/1")
    desk.then(lambda _command, _step: wide)
    desk.play("call/1.0")

    def while_another_ends(command: Command, step: Step) -> Event:
        desk.play("run/1.0.1")
        return usual(command, step)

    desk.then(while_another_ends)
    desk.play("run/1.0.0")

    rows = {row.step_id for row in desk.journal.steps(SESSION)}
    assert rows == {"run/1.0.2", "run/1.0.3"}
    assert desk.told()[-2:] == ["run/1.0.2", "run/1.0.3"]


def test_a_session_that_is_unknown_or_has_ended_cannot_be_cancelled(desk: Desk) -> None:
    desk.play("prepare", "turn/1", "call/1.0", "turn/2", "conclude")

    assert not desk.runner.cancel("nobody", "x")
    assert not desk.runner.cancel(SESSION, "x")


def test_the_deadline_ends_the_exploration_and_its_waiting_steps(desk: Desk) -> None:
    desk.play("prepare")
    _fails(desk, "turn/1", later(retry_after_ms=600_000))
    desk.clock.advance(Limits().max_duration_ms)

    assert desk.work("deadline").status == "done"

    assert desk.session.stop is Stop.TIME
    assert [row.step_id for row in desk.journal.steps(SESSION)] == ["close"]


def test_a_step_that_is_not_wanted_any_more_is_given_back(desk: Desk) -> None:
    key, body = encode(CancelRequested(reason="enough"))
    desk.journal.append(SESSION, key, body)

    worked = desk.work("prepare")

    assert (worked.status, worked.detail) == ("dropped", "not wanted any more")
    assert desk.begun == []


class MovingJournal(MemoryJournal):
    """Grows just before every drive."""

    driven = 0

    def drive(
        self, session_id: str, *, expected_length: int, follow: Sequence[Announcement]
    ) -> Committed:
        self.driven += 1
        _, body = encode(CancelRequested(reason="enough"))
        self.append(session_id, f"cancel-{self.driven}", body)
        return super().drive(session_id, expected_length=expected_length, follow=follow)


def test_a_drive_under_which_the_journal_moves_is_repeated_and_then_left_to_the_sweep() -> None:
    clock = ManualClock()
    journal = MovingJournal(clock)
    desk = Desk(journal=journal, clock=clock)
    desk.open()

    desk.runner.drive(SESSION)

    assert journal.driven == DRIVES
    assert (SESSION, "drive") in [(row[0], row[1]) for row in journal.overdue()]


# --------------------------------------------------------------------------------- other versions


def test_a_journal_of_a_newer_version_is_left_to_a_newer_worker(desk: Desk) -> None:
    desk.journal.append(SESSION, "nap", '{"v":2,"type":"TeacherSlept","data":{}}')
    desk.told()

    with pytest.raises(UnknownVersion, match="upgrade it"):
        desk.work("prepare")

    (row,) = desk.journal.steps(SESSION)
    assert row.step_id == "prepare"
    assert row.due_ms == desk.clock.now_ms() + policy.LONGEST_GRACE_MS
    assert desk.begun == []


def test_the_sweep_also_ends_reservations_that_nobody_ends(desk: Desk) -> None:
    desk.ledger.open_account("fleet", 1_000)
    desk.ledger.reserve(
        f"{SESSION}/turn/1/1.1",
        400,
        ["fleet"],
        kind="explore",
        model="m",
        step_id="turn/1",
        price_version="1",
        deadline_ms=1_000,
    )
    desk.clock.advance(1_000)

    desk.runner.sweep()

    account = desk.ledger.account("fleet")
    assert account is not None
    assert account.held_nusd == 0


# ----------------------------------------------------------------------------------------- the law

FAULTS: tuple[Exception, ...] = (
    later(),
    later(retry_after_ms=120_000),
    REFUSED_KEY,
    NO_MONEY,
    BUG,
    BadInput("no"),
    StudentFault("503", reason="server_error", retryable=True),
    Unavailable("S3 is away"),
    Misconfigured("no key"),
    NotYet("money is under way"),
    Cancelled("the lease may be gone"),
)
#: After so many faults the world is well again.
MOST_FAULTS = 60


@given(data=st.data())
def test_whatever_befalls_its_steps_a_session_ends_once(data: st.DataObject) -> None:
    desk = Desk()
    faults = 0

    def befallen(command: Command, step: Step) -> Event:
        nonlocal faults
        faults += 1
        fault = data.draw(st.none() | st.sampled_from(FAULTS)) if faults < MOST_FAULTS else None
        if fault is not None:
            raise fault
        return data.draw(answers(command))

    desk.then(*[befallen] * 2_000)
    desk.open(Limits(max_turns=3, max_tool_calls=4, max_student_runs=4))
    _until_quiet(desk)

    assert desk.session.phase is Phase.ENDED
    assert desk.keys.count("conclude") == 1
    assert len(desk.keys) == len(set(desk.keys))
    assert not desk.journal.overdue()


def _until_quiet(desk: Desk) -> None:
    """Deliver every hint, and let time pass where none is left, until nothing is due."""
    for _ in range(5_000):
        hints: tuple[Announcement, ...] = desk.hints.take()
        for hint in hints:
            desk.runner.work(hint.session_id, hint.step_id)
        if hints:
            continue
        if not desk.journal.overdue():
            return
        desk.clock.advance(5_000)
        desk.runner.sweep()
    raise AssertionError(f"the session is not quiet: {desk.session.phase}, {desk.keys[-5:]}")


def test_a_stopped_turn_is_told_to_the_report(desk: Desk) -> None:
    desk.play("prepare")
    _fails(desk, "turn/1", REFUSED_KEY)

    record = desk.journal.load(SESSION).records[-1]

    assert decode(record.body) == TeacherStopped(
        turn=1, purpose=Purpose.EXPLORE, stop=Stop.FAULT, detail="401"
    )
