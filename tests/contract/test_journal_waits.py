"""Steps that wait, in every journal: nobody is told of them, the session's time stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.contract.journals import (
    HOUR_MS,
    SESSION,
    Bench,
    commit_of,
    due,
    lease_of,
    open_session,
    seen,
    step,
)
from tests.contract.test_journal import bench, claim_status, exact
from worker.ports import Announcement, Claimed, Wait, Waiting

if TYPE_CHECKING:
    from worker.ports import Journal

__all__ = ["bench", "exact"]

SCOPES = ("fleet", "tenant:t")


def waits(
    step_id: str = "resume/1",
    *,
    longest_ms: int = HOUR_MS,
    needs_nusd: int = 5,
    escrow: bool = False,
    session_id: str = SESSION,
) -> Announcement:
    wait = Wait(longest_ms=longest_ms, needs_nusd=needs_nusd, scopes=SCOPES, escrow=escrow)
    return Announcement(session_id=session_id, step_id=step_id, queue="control", wait=wait)


def rest(journal: Journal, *steps: Announcement) -> None:
    length = journal.load(SESSION).length
    driven = journal.drive(SESSION, expected_length=length, follow=steps)
    assert driven.status == "ok"
    assert all(told.wait is None for told in driven.announced)


def test_nobody_is_told_of_a_step_that_waits_before_its_longest_time(exact: Bench) -> None:
    journal = exact.journal(grace_ms=100)
    open_session(journal, "turn/1", deadline_ms=10_000)

    rest(journal, waits(longest_ms=50_000))

    assert due(journal) == {"resume/1": exact.now_ms() + 50_000}
    assert claim_status(journal, "resume/1") is Claimed.WAIT
    exact.elapse(49_999)
    assert journal.sweep(limit=9) == ()
    exact.elapse(1)
    assert [told.step_id for told in journal.sweep(limit=9)] == ["resume/1"]
    assert claim_status(journal, "resume/1") is Claimed.OK


def test_the_sessions_time_stands_still_as_long_as_a_step_waits(exact: Bench) -> None:
    journal = exact.journal()
    begun_ms = exact.now_ms()
    open_session(journal, "turn/1", deadline_ms=10_000)
    exact.elapse(4_000)
    rest(journal, waits())

    exact.elapse(60_000)
    assert claim_status(journal, "deadline") is Claimed.WAIT
    rest(journal, step("turn/1"))

    assert due(journal)["deadline"] == begun_ms + 10_000 + 60_000
    exact.elapse(6_000)
    assert claim_status(journal, "deadline") is Claimed.OK


def test_one_wait_that_takes_the_place_of_another_stops_the_time_once(exact: Bench) -> None:
    journal = exact.journal()
    begun_ms = exact.now_ms()
    open_session(journal, "turn/1", deadline_ms=10_000)
    rest(journal, waits("resume/1"))
    exact.elapse(1_000)
    rest(journal, waits("resume/2"))
    exact.elapse(1_000)
    rest(journal, waits("resume/2"), waits("resume/3"))
    exact.elapse(1_000)

    assert [one.step_id for one in journal.waiting()] == ["resume/2", "resume/3"]
    rest(journal, step("turn/1"))

    assert due(journal)["deadline"] == begun_ms + 10_000 + 3_000
    assert journal.waiting() == ()


def test_a_session_can_begin_at_rest(exact: Bench) -> None:
    journal = exact.journal()
    journal.create(SESSION, [("open", "{}")], [waits()], deadline_ms=10_000, labels={})
    exact.elapse(20_000)

    assert set(due(journal)) == {"resume/1"}
    assert journal.waiting() == (
        Waiting(
            session_id=SESSION,
            step_id="resume/1",
            since_ms=exact.now_ms() - 20_000,
            needs_nusd=5,
            scopes=SCOPES,
        ),
    )


def test_who_waits_for_money_is_listed_the_longest_first(exact: Bench) -> None:
    journal = exact.journal()
    for name in ("b", "a", "c"):
        first = [waits(session_id=name, escrow=name == "a", needs_nusd=0 if name == "c" else 7)]
        journal.create(name, [("open", "{}")], first, deadline_ms=1, labels={})
        exact.elapse(10)

    assert [(one.session_id, one.escrow) for one in journal.waiting()] == [
        ("b", False),
        ("a", True),
    ]


def test_a_step_that_waits_is_woken_once_and_told_again_where_that_was_lost(exact: Bench) -> None:
    journal = exact.journal(grace_ms=100)
    open_session(journal)
    rest(journal, waits())

    assert journal.wake(SESSION, "resume/1") == step("resume/1", queue="control")
    assert journal.wake(SESSION, "resume/1") is None
    exact.elapse(100)
    assert [told.step_id for told in journal.sweep(limit=9)] == ["resume/1"]
    lease = lease_of(journal, "resume/1")
    assert journal.wake(SESSION, "resume/1") is None

    journal.retry(lease, delay_ms=5_000, error="still short", counts=False)
    assert due(journal)["resume/1"] == exact.now_ms() + 5_000
    assert journal.wake(SESSION, "resume/1") is not None


def test_only_a_step_that_waits_is_woken(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "turn/1")

    assert journal.wake(SESSION, "turn/1") is None
    assert journal.wake(SESSION, "resume/1") is None
    assert journal.wake("nobody", "resume/1") is None


def test_the_end_of_a_wait_lets_the_session_go_on(exact: Bench) -> None:
    journal = exact.journal()
    begun_ms = exact.now_ms()
    open_session(journal, "turn/1", deadline_ms=10_000)
    rest(journal, waits())
    exact.elapse(500)
    journal.wake(SESSION, "resume/1")

    done = journal.commit(commit_of(lease_of(journal, "resume/1"), "turn/1"))

    assert [told.step_id for told in done.announced] == ["turn/1"]
    assert due(journal)["deadline"] == begun_ms + 10_500
    assert journal.waiting() == ()


def test_a_word_from_outside_ends_a_wait_at_the_next_drive(exact: Bench) -> None:
    journal = exact.journal()
    open_session(journal, "turn/1", deadline_ms=10_000)
    rest(journal, waits())
    exact.elapse(500)

    journal.append(SESSION, "resume/1", "{}", expected_length=1)
    assert claim_status(journal, "resume/1") is not Claimed.OK
    rest(journal, step("turn/1"))

    assert "deadline" in due(journal)
    assert journal.waiting() == ()


def test_a_session_that_ends_while_it_rests_leaves_nothing_due(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "conclude")
    rest(journal, step("conclude"), waits())

    journal.commit(commit_of(lease_of(journal, "conclude"), ends=True))

    assert due(journal) == {}
    assert journal.waiting() == ()


def test_an_event_that_was_decided_on_another_journal_changes_nothing(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "turn/1")
    before = seen(journal)

    said = journal.append(SESSION, "pause/1", "{}", expected_length=2)

    assert (said.status, said.length) == ("moved", 1)
    assert seen(journal) == before
    assert journal.append(SESSION, "pause/1", "{}", expected_length=1).status == "ok"


def test_a_step_that_was_told_to_stop_and_is_wanted_again_is_told_no_more(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "turn/1")
    lease = lease_of(journal, "turn/1")
    rest(journal, waits())
    assert journal.beat([lease]) == (lease,)

    driven = journal.drive(SESSION, expected_length=1, follow=[step("turn/1")])

    assert driven.announced == ()
    assert journal.beat([lease]) == ()
