"""What every journal does with a session that was lost and is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.journals import (
    SESSION,
    Bench,
    commit_of,
    due,
    lease_of,
    memory_bench,
    open_session,
    seen,
    step,
    stepped_bench,
    tokens,
)
from worker.core.checkpoints import FIRST_LIFE, base_of, began_ms
from worker.ports import Claimed, Record
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ports import Committed, Journal

OPENED_MS = 1_600_000_000_000
RECORDS = (
    Record(key="open", body='{"spec": 1}', at_ms=OPENED_MS, owner="", attempt=0),
    Record(key="prepare", body='{"brief": "a\\nb"}', at_ms=OPENED_MS + 5, owner="w-1", attempt=2),
)
ENDED = (*RECORDS, Record(key="conclude", body="{}", at_ms=OPENED_MS + 9, owner="w", attempt=1))


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The journals whose time passes only when the test says so."""
    if request.param == "memory":
        yield memory_bench()
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield stepped_bench(client)


def restore(
    journal: Journal,
    records: tuple[Record, ...] = RECORDS,
    *,
    after_ms: int = 0,
    ends: bool = False,
    replaces: bool = False,
) -> Committed:
    return journal.restore(
        SESSION,
        records,
        labels={"tenant": "acme", "cap_nusd": "5"},
        deadline_ms=5_000,
        after_ms=after_ms,
        ends=ends,
        replaces=replaces,
    )


def test_a_restored_journal_has_its_records_with_their_times_and_workers(bench: Bench) -> None:
    journal = bench.journal()

    restored = restore(journal)

    assert (restored.status, restored.length, restored.must_drive) == ("ok", 2, True)
    assert journal.load(SESSION).records == RECORDS
    assert journal.labels(SESSION) == {
        "tenant": "acme",
        "cap_nusd": "5",
        "status": "open",
        "created_ms": str(OPENED_MS),
    }
    assert journal.sessions() == (SESSION,)


def test_a_restored_session_is_to_be_driven_now_and_has_a_deadline(bench: Bench) -> None:
    journal = bench.journal()

    restore(journal)

    assert due(journal) == {"drive": bench.now_ms(), "deadline": bench.now_ms() + 5_000}


def test_a_deadline_that_passed_before_does_not_pass_again(bench: Bench) -> None:
    journal = bench.journal()
    passed = Record(key="deadline", body="{}", at_ms=OPENED_MS + 7, owner="w", attempt=1)

    restore(journal, (*RECORDS, passed))

    assert due(journal) == {"drive": bench.now_ms()}


def test_a_session_that_is_known_is_not_restored(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    before = seen(journal)

    assert restore(journal).status == "gone"
    assert seen(journal) == before


def test_a_session_is_restored_once(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal)
    before = seen(journal)

    assert restore(journal, RECORDS[:1]).status == "gone"
    assert seen(journal) == before


def test_an_ended_session_stays_ended(bench: Bench) -> None:
    journal = bench.journal()

    restored = restore(journal, ENDED, ends=True)

    assert (restored.status, restored.must_drive) == ("ok", False)
    assert due(journal) == {}
    assert journal.labels(SESSION)["status"] == "ended"
    assert journal.labels(SESSION)["ended_ms"] == str(OPENED_MS + 9)
    assert journal.append(SESSION, "cancel", "{}").status == "gone"


def test_a_step_of_a_restored_session_goes_on(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal)
    journal.drive(SESSION, expected_length=2, follow=[step("turn/1")])

    lease = lease_of(journal, "turn/1")

    assert journal.commit(commit_of(lease, expected_length=2)).length == 3
    assert [record.key for record in journal.load(SESSION).records] == ["open", "prepare", "turn/1"]


def test_a_step_whose_event_was_restored_is_done(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal)

    driven = journal.drive(SESSION, expected_length=2, follow=[step("prepare"), step("turn/1")])

    assert driven.announced == (step("turn/1"),)


def test_a_lease_of_the_life_before_commits_nothing(bench: Bench) -> None:
    lost, journal = bench.journal(), bench.journal()
    open_session(lost, "turn/1")
    old = lease_of(lost, "turn/1")
    restore(journal)
    journal.drive(SESSION, expected_length=2, follow=[step("turn/1")])
    lease_of(journal, "turn/1")
    before = seen(journal)

    assert journal.commit(commit_of(old)).status == "fenced"
    assert journal.beat([old]) == (old,)
    assert seen(journal) == before


def test_a_life_is_told_with_every_claim_and_slice(bench: Bench) -> None:
    lost, journal = bench.journal(), bench.journal()
    open_session(lost, "prepare")
    restore(journal)
    journal.drive(SESSION, expected_length=2, follow=[step("turn/1")])

    claim = journal.claim(SESSION, "turn/1", owner="w", token=tokens(), since=0)

    assert claim.status is Claimed.OK
    assert claim.life == journal.load(SESSION).life
    assert (began_ms(claim.life), base_of(claim.life)) == (bench.now_ms(), 2)
    assert lost.load(SESSION).life == FIRST_LIFE
    assert lost.claim(SESSION, "prepare", owner="w", token="t", since=0).life == FIRST_LIFE


def test_a_life_begins_after_the_one_before_whatever_the_clock_says(bench: Bench) -> None:
    journal = bench.journal()
    ahead_ms = bench.now_ms() + 60_000

    restore(journal, after_ms=ahead_ms)

    assert began_ms(journal.load(SESSION).life) == ahead_ms + 1


def test_an_older_copy_makes_room_with_all_that_was_due_of_it(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "turn/7", "call/7.1")
    old = lease_of(journal, "turn/7")
    notes = journal.notes(SESSION)

    restored = restore(journal, replaces=True)

    assert (restored.status, restored.length) == ("ok", 2)
    assert journal.load(SESSION).records == RECORDS
    assert journal.steps(SESSION) == ()
    assert due(journal) == {"drive": bench.now_ms(), "deadline": bench.now_ms() + 5_000}
    assert journal.notes(SESSION) == notes
    # Whoever worked on the copy is fenced, also where its step is wanted and claimed again.
    journal.drive(SESSION, expected_length=2, follow=[step("turn/7")])
    lease = lease_of(journal, "turn/7")
    assert lease.fence > old.fence
    assert journal.commit(commit_of(old)).status == "fenced"
    assert journal.commit(commit_of(lease, expected_length=2)).status == "ok"


def test_an_older_copy_that_had_ended_goes_on_and_one_that_had_not_ends(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal, ENDED, ends=True)

    assert restore(journal, replaces=True).status == "ok"
    assert journal.labels(SESSION)["status"] == "open"
    assert "ended_ms" not in journal.labels(SESSION)
    assert "drive" in due(journal)

    assert restore(journal, ENDED, ends=True, replaces=True).status == "ok"
    assert journal.labels(SESSION)["status"] == "ended"
    assert due(journal) == {}


def test_each_life_begins_after_the_one_that_makes_room(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal, after_ms=bench.now_ms() + 60_000)
    before = journal.load(SESSION).life

    restore(journal, replaces=True)

    assert began_ms(journal.load(SESSION).life) > began_ms(before)


def test_a_pruned_session_makes_no_room(bench: Bench) -> None:
    journal = bench.journal()
    restore(journal, ENDED, ends=True)
    assert journal.prune(SESSION, outcome="concluded", artifacts_uri="s3://b/x")
    before = seen(journal)

    assert restore(journal, replaces=True).status == "gone"
    assert seen(journal) == before
