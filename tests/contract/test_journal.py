"""What every journal does: in memory, and in Redis on a clock that is moved and on its own.

Rule: a test says one promise of `ports.Journal` and holds for all of them. Where a test lets time
pass and needs to know exactly how much, it asks for `exact`, whose time stands still by itself.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.contract.journals import (
    HOUR_MS,
    SESSION,
    Bench,
    commit_of,
    due,
    lease_of,
    memory_bench,
    open_session,
    seen,
    server_time_bench,
    step,
    stepped_bench,
    tokens,
)
from worker.core.policy import CONCLUDE_WAIT_MS, LONGEST_GRACE_MS, POISON_DEATHS
from worker.errors import Unavailable
from worker.journal.redis import RedisJournal
from worker.ports import Claimed, Commit, DeadLetter, Lease, Note, Record
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.ports import Journal

#: Short enough to be waited for.
LEASE_MS = 200
GRACE_MS = 100
OTHER = "s-2"

_REDIS = [pytest.mark.integration, pytest.mark.enable_socket]


def _bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield memory_bench()
        return
    url: str = request.getfixturevalue("redis_url")
    with connect(url) as client:
        yield stepped_bench(client) if request.param == "redis" else server_time_bench(client)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=_REDIS),
        pytest.param("redis-server-time", marks=_REDIS),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Every journal there is."""
    yield from _bench(request)


@pytest.fixture(params=["memory", pytest.param("redis", marks=_REDIS)])
def exact(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The journals whose time passes only when the test says so."""
    yield from _bench(request)


def claim_status(journal: Journal, step_id: str, *, session_id: str = SESSION) -> Claimed:
    return journal.claim(session_id, step_id, owner="w-2", token=tokens(), since=0).status


def keys(journal: Journal, session_id: str = SESSION) -> list[str]:
    return [record.key for record in journal.load(session_id).records]


def die(bench: Bench, journal: Journal, step_id: str) -> Lease:
    """Claim a step, and say no more until the lease has run out."""
    lease = lease_of(journal, step_id)
    bench.elapse(LEASE_MS)
    return lease


# ----------------------------------------------------------------------------------------- create


def test_a_session_is_created_once(bench: Bench) -> None:
    journal = bench.journal()

    first = open_session(journal, "prepare")
    before = seen(journal)
    second = journal.create(
        SESSION, [("open", "other")], [step("turn/1")], deadline_ms=1, labels={"tenant": "other"}
    )

    assert (first.status, first.length, first.must_drive) == ("ok", 1, False)
    assert first.announced == (step("prepare"),)
    assert (second.status, second.announced) == ("gone", ())
    assert seen(journal) == before


def test_a_new_session_is_due_at_its_first_steps_and_at_its_deadline(exact: Bench) -> None:
    journal = exact.journal(grace_ms=GRACE_MS)
    now_ms = exact.now_ms()

    open_session(journal, "prepare", deadline_ms=5_000)

    assert due(journal) == {"prepare": now_ms + GRACE_MS, "deadline": now_ms + 5_000}
    assert [row.step_id for row in journal.steps(SESSION)] == ["prepare"]


def test_a_session_that_starts_with_no_step_is_due_at_its_deadline(bench: Bench) -> None:
    journal = bench.journal()

    open_session(journal)

    assert list(due(journal)) == ["deadline"]
    assert journal.steps(SESSION) == ()


def test_the_first_of_two_opening_events_under_one_key_wins(bench: Bench) -> None:
    journal = bench.journal()

    created = journal.create(
        SESSION, [("open", "1"), ("open", "2"), ("x", "3")], [], deadline_ms=1, labels={}
    )

    assert created.length == 2
    assert [(r.key, r.body) for r in journal.load(SESSION).records] == [("open", "1"), ("x", "3")]


def test_sessions_know_nothing_of_each_other(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    open_session(journal, "prepare", session_id=OTHER)
    before = seen(journal, OTHER)

    journal.commit(commit_of(lease_of(journal, "prepare"), "turn/1"))
    journal.append(SESSION, "cancel", "{}")

    after = seen(journal, OTHER)
    assert (after.journals, after.steps) == (before.journals, before.steps)
    assert claim_status(journal, "prepare", session_id=OTHER) is Claimed.OK


# ------------------------------------------------------------------------------------------- load


def test_records_come_back_as_they_were_written(bench: Bench) -> None:
    journal = bench.journal()
    body = '{"text": "two\nlines, \\u00e9é \U0001f600, a - and  blanks "}'
    before_ms = bench.now_ms()
    open_session(journal, "prepare")

    lease = lease_of(journal, "prepare", owner="-host-1@7-")
    journal.commit(commit_of(lease, body=body))

    opening, prepared = journal.load(SESSION).records
    assert (opening.key, opening.owner, opening.attempt) == ("open", "", 0)
    assert (prepared.key, prepared.body) == ("prepare", body)
    assert (prepared.owner, prepared.attempt) == ("-host-1@7-", 1)
    assert before_ms <= opening.at_ms <= prepared.at_ms <= bench.now_ms()


@pytest.mark.parametrize(("since", "loaded"), [(0, ["open", "a", "b"]), (2, ["b"]), (3, [])])
def test_a_journal_is_read_from_any_position_on(
    bench: Bench, since: int, loaded: list[str]
) -> None:
    journal = bench.journal()
    open_session(journal)
    journal.append(SESSION, "a", "{}")
    journal.append(SESSION, "b", "{}")

    part = journal.load(SESSION, since)

    assert ([record.key for record in part.records], part.length) == (loaded, 3)


def test_an_unknown_session_has_an_empty_journal_and_nothing_else(bench: Bench) -> None:
    journal = bench.journal()

    nothing = journal.load("unknown")

    assert (nothing.length, nothing.records) == (0, ())
    assert journal.steps("unknown") == ()
    assert dict(journal.labels("unknown")) == {}
    assert journal.sessions() == ()


def test_a_slice_that_is_read_while_others_write_ends_where_it_says(bench: Bench) -> None:
    """A reader folds `records` and believes `length`: one record missed is never read again."""
    journal = bench.journal()
    open_session(journal)
    wrong: list[tuple[int, int, int]] = []
    written = threading.Event()

    def read() -> None:
        position = 1
        while not written.is_set() or position < 301:
            part = journal.load(SESSION, position)
            if part.length != position + len(part.records):
                wrong.append((position, part.length, len(part.records)))
                return
            position = part.length

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(300):
            journal.append(SESSION, f"key/{number}", "{}")
        written.set()
        for reader in readers:
            reader.result(timeout=20)

    assert wrong == []


# ------------------------------------------------------------------------------------------ claim


def test_a_claim_brings_the_lease_and_what_the_claimer_has_not_read(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "x")
    journal.commit(commit_of(lease_of(journal, "x")))

    claim = journal.claim(SESSION, "prepare", owner="w-1", token="t", since=1)

    assert claim.status is Claimed.OK
    assert claim.lease is not None
    assert (claim.lease.session_id, claim.lease.step_id) == (SESSION, "prepare")
    assert (claim.attempt, claim.deaths, claim.retries) == (1, 0, 0)
    assert (claim.length, [record.key for record in claim.records]) == (2, ["x"])


def test_a_claim_said_twice_brings_the_same_lease_and_counts_nothing(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    token = tokens()

    first = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)
    before = seen(journal)
    second = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)

    assert second == first
    assert seen(journal) == before


def test_a_claim_said_twice_after_its_lease_ran_out_is_still_ours_if_nobody_took_it(
    bench: Bench,
) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    token = tokens()

    first = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)
    bench.elapse(LEASE_MS)
    second = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)

    assert second == first


def test_a_step_is_held_by_one_worker(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    lease_of(journal, "prepare")
    before = seen(journal)

    assert claim_status(journal, "prepare") is Claimed.BUSY
    assert seen(journal) == before


def test_of_many_claims_at_once_one_succeeds(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    start = threading.Barrier(8)

    def race() -> Claimed:
        start.wait()
        return claim_status(journal, "prepare")

    with ThreadPoolExecutor(8) as pool:
        claims = [pool.submit(race) for _ in range(8)]
        statuses = sorted(claim.result() for claim in claims)

    assert statuses == [*[Claimed.BUSY] * 7, Claimed.OK]


def test_there_is_nothing_to_claim_where_nothing_was_announced_or_all_is_done(
    bench: Bench,
) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "x")
    journal.commit(commit_of(lease_of(journal, "prepare")))

    assert claim_status(journal, "prepare") is Claimed.GONE
    assert claim_status(journal, "never") is Claimed.GONE
    assert claim_status(journal, "open") is Claimed.GONE
    assert claim_status(journal, "prepare", session_id="unknown") is Claimed.GONE
    assert set(due(journal)) == {"x", "deadline"}


def test_a_lease_that_ran_out_goes_to_the_next_worker_with_a_higher_fence(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")

    lost = die(bench, journal, "prepare")
    claim = journal.claim(SESSION, "prepare", owner="w-2", token=tokens(), since=0)

    assert claim.status is Claimed.OK
    assert claim.lease is not None
    assert claim.lease.fence > lost.fence
    assert (claim.attempt, claim.deaths, claim.retries) == (2, 1, 0)
    assert [row.owner for row in journal.steps(SESSION)] == ["w-2"]


def test_fences_grow_over_all_steps_of_a_session(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "a", "b", "c")

    fences = [lease_of(journal, step_id).fence for step_id in "bca"]

    assert fences == sorted(set(fences))


def test_a_step_that_keeps_killing_its_workers_is_poisoned(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")

    statuses: list[Claimed] = []
    for _ in range(POISON_DEATHS + 1):
        claim = journal.claim(SESSION, "prepare", owner="w-1", token=tokens(), since=0)
        statuses.append(claim.status)
        bench.elapse(LEASE_MS)

    assert statuses == [*[Claimed.OK] * POISON_DEATHS, Claimed.POISONED]


def test_a_poisoned_step_is_ours_to_fail_and_stays_poisoned_when_its_claim_is_repeated(
    bench: Bench,
) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    for _ in range(POISON_DEATHS):
        die(bench, journal, "prepare")
    token = tokens()

    claims = [journal.claim(SESSION, "prepare", owner="w", token=token, since=0) for _ in range(2)]

    assert claims[0] == claims[1]
    assert (claims[0].status, claims[0].deaths) == (Claimed.POISONED, POISON_DEATHS)
    assert claims[0].lease is not None
    assert journal.commit(commit_of(claims[0].lease)).status == "ok"


def test_a_step_that_is_given_back_kills_nobody(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    for _ in range(POISON_DEATHS + 1):
        journal.retry(lease_of(journal, "prepare"), delay_ms=0, error="503")

    claim = journal.claim(SESSION, "prepare", owner="w-1", token=tokens(), since=0)

    assert claim.status is Claimed.OK
    assert (claim.deaths, claim.retries) == (0, POISON_DEATHS + 1)


# ----------------------------------------------------------------------------------- conclude waits


def test_conclude_waits_while_another_step_is_held(exact: Bench) -> None:
    journal = exact.journal(grace_ms=GRACE_MS)
    open_session(journal, "run/1.0.0", "conclude")
    held = lease_of(journal, "run/1.0.0")

    waited = claim_status(journal, "conclude")
    again_ms = due(journal)["conclude"]
    exact.elapse(CONCLUDE_WAIT_MS - 1)
    still = claim_status(journal, "conclude")
    journal.commit(commit_of(held))
    exact.elapse(1)

    assert (waited, still) == (Claimed.WAIT, Claimed.WAIT)
    assert again_ms == exact.now_ms()
    assert step("conclude") in journal.sweep(limit=10)
    assert claim_status(journal, "conclude") is Claimed.OK


def test_conclude_waits_for_nobody_who_is_dead_or_has_not_begun(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "run/1.0.0", "run/1.0.1", "conclude")
    die(bench, journal, "run/1.0.0")

    assert claim_status(journal, "conclude") is Claimed.OK


def test_conclude_that_died_waits_like_a_new_one(exact: Bench) -> None:
    journal = exact.journal(lease_ms=LEASE_MS)
    open_session(journal, "run/1.0.0", "conclude")
    die(exact, journal, "conclude")
    lease_of(journal, "run/1.0.0")

    assert claim_status(journal, "conclude") is Claimed.WAIT
    exact.elapse(LEASE_MS + CONCLUDE_WAIT_MS)
    claim = journal.claim(SESSION, "conclude", owner="w-2", token=tokens(), since=0)
    assert (claim.status, claim.deaths) == (Claimed.OK, 1)


# ------------------------------------------------------------------------------------------- beat


def test_a_beat_renews_the_lease(exact: Bench) -> None:
    journal = exact.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare")

    for _ in range(5):
        exact.elapse(LEASE_MS - 1)
        assert journal.beat([lease]) == ()
        assert claim_status(journal, "prepare") is Claimed.BUSY
        assert due(journal)["prepare"] == exact.now_ms() + LEASE_MS
    exact.elapse(LEASE_MS)

    assert claim_status(journal, "prepare") is Claimed.OK


def test_a_lease_that_ran_out_but_that_nobody_took_can_be_renewed(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")

    lease = die(bench, journal, "prepare")

    assert journal.beat([lease]) == ()


def test_a_beat_names_the_leases_that_are_lost_and_renews_the_others(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "taken", "done", "given back", "given up", "unwanted", "kept")
    open_session(journal, "kept", session_id=OTHER)
    taken = die(bench, journal, "taken")
    lease_of(journal, "taken")
    done, back, up, unwanted, kept = (
        lease_of(journal, name) for name in ("done", "given back", "given up", "unwanted", "kept")
    )
    elsewhere = lease_of(journal, "kept", session_id=OTHER)
    never = Lease(session_id="unknown", step_id="x", fence=1, token="t")
    journal.commit(commit_of(done))
    journal.retry(back, delay_ms=0, error="503")
    journal.release(up)
    wanted = [step("kept"), step("taken"), step("given back")]
    assert journal.drive(SESSION, expected_length=2, follow=wanted).status == "ok"

    lost = journal.beat([taken, kept, done, back, elsewhere, up, unwanted, never])

    assert lost == (taken, done, back, up, unwanted, never)
    assert journal.beat([]) == ()


# ----------------------------------------------------------------------------------------- commit


def test_a_commit_enters_its_events_ends_its_step_and_makes_its_followers_due(
    exact: Bench,
) -> None:
    journal = exact.journal(grace_ms=GRACE_MS)
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare", owner="w-7")

    committed = journal.commit(
        Commit(
            lease=lease,
            events=(("extra", "1"), ("prepare", "2")),
            expected_length=1,
            follow=(step("turn/1", queue="teacher"),),
        )
    )

    assert (committed.status, committed.length, committed.must_drive) == ("ok", 3, False)
    assert committed.announced == (step("turn/1", queue="teacher"),)
    assert keys(journal) == ["open", "extra", "prepare"]
    assert {record.owner for record in journal.load(SESSION, 1).records} == {"w-7"}
    (row,) = journal.steps(SESSION)
    assert (row.step_id, row.queue, row.state) == ("turn/1", "teacher", "ready")
    assert row.due_ms == exact.now_ms() + GRACE_MS


def test_a_commit_said_twice_answers_ok_and_doubles_nothing(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    commit = commit_of(lease_of(journal, "prepare"), "turn/1")

    first = journal.commit(commit)
    before = seen(journal)
    second = journal.commit(commit)

    assert second == first
    assert seen(journal) == before


def test_a_commit_said_twice_brings_no_follower_back(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    commit = commit_of(lease_of(journal, "prepare"), "a", "b")
    journal.commit(commit)
    journal.commit(commit_of(lease_of(journal, "a"), "c"))
    before = seen(journal)

    second = journal.commit(commit)

    assert (second.status, second.length) == ("ok", 3)
    assert seen(journal) == before


def test_a_commit_said_twice_says_again_that_somebody_must_drive(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    commit = commit_of(lease_of(journal, "prepare"))

    assert journal.commit(commit).must_drive
    assert journal.commit(commit).must_drive


def test_a_commit_said_twice_answers_ok_when_the_session_has_ended_meanwhile(
    bench: Bench,
) -> None:
    journal = bench.journal()
    open_session(journal, "run/1.0.0", "conclude")
    commit = commit_of(lease_of(journal, "run/1.0.0"), "turn/2")
    journal.commit(commit)
    journal.commit(commit_of(lease_of(journal, "conclude"), ends=True))
    before = seen(journal)

    second = journal.commit(commit)

    assert (second.status, second.announced, second.must_drive) == ("ok", (), False)
    assert seen(journal) == before


def test_whose_commit_it_was_is_not_guessed_from_a_part_of_its_token(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare", "x")
    zombie = journal.claim(SESSION, "prepare", owner="w-1", token="1", since=0)
    bench.elapse(LEASE_MS)
    winner = journal.claim(SESSION, "prepare", owner="w-2", token="12", since=0)
    assert zombie.lease is not None
    assert winner.lease is not None

    assert journal.commit(commit_of(winner.lease)).status == "ok"
    assert journal.commit(commit_of(zombie.lease)).status == "fenced"


def test_a_commit_after_the_lease_was_lost_is_fenced_and_changes_nothing(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    zombie = die(bench, journal, "prepare")
    winner = lease_of(journal, "prepare")
    before = seen(journal)

    fenced = journal.commit(commit_of(zombie, "turn/1"))

    assert (fenced.status, fenced.announced) == ("fenced", ())
    assert seen(journal) == before
    assert journal.commit(commit_of(winner)).status == "ok"
    after = seen(journal)
    assert journal.commit(commit_of(zombie, "turn/1")).status == "fenced"
    assert seen(journal) == after


@pytest.mark.parametrize("leave", ["retry", "release"])
def test_a_commit_after_the_step_was_given_away_is_fenced(bench: Bench, leave: str) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "x")
    lease = lease_of(journal, "prepare")
    if leave == "retry":
        journal.retry(lease, delay_ms=0, error="503")
    else:
        journal.release(lease)
    before = seen(journal)

    assert journal.commit(commit_of(lease, "turn/1")).status == "fenced"
    assert seen(journal) == before


def test_a_lease_that_ran_out_still_commits_if_nobody_took_the_step(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")

    lease = die(bench, journal, "prepare")

    assert journal.commit(commit_of(lease)).status == "ok"


def test_the_first_event_under_a_key_wins(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "x")
    lease = lease_of(journal, "prepare")
    journal.append(SESSION, "cancel", "first")

    committed = journal.commit(
        Commit(
            lease=lease,
            events=(("cancel", "second"), ("prepare", "third"), ("prepare", "fourth")),
            expected_length=1,
        )
    )

    assert (committed.status, committed.length) == ("ok", 3)
    bodies = {record.key: record.body for record in journal.load(SESSION).records}
    assert bodies == {"open": '{"spec": 1}', "cancel": "first", "prepare": "third"}


def test_a_step_whose_key_was_taken_by_others_is_over_and_the_session_goes_on(
    bench: Bench,
) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    journal.append(SESSION, "prepare", "from outside")
    journal.drive(SESSION, expected_length=2, follow=[step("prepare")])

    assert claim_status(journal, "prepare") is Claimed.GONE
    assert journal.steps(SESSION) == ()
    assert "drive" in due(journal)


def test_followers_are_announced_once_while_they_are_open_and_never_when_they_are_done(
    bench: Bench,
) -> None:
    journal = bench.journal()
    open_session(journal, "a", "b", "c")
    first = journal.commit(commit_of(lease_of(journal, "a"), "next", "b", "c"))
    second = journal.commit(commit_of(lease_of(journal, "b"), "next", "a", "b", "c"))
    third = journal.commit(commit_of(lease_of(journal, "next"), "a", "b", "next"))

    assert first.announced == (step("next"),)
    assert second.announced == third.announced == ()
    assert [row.step_id for row in journal.steps(SESSION)] == ["c"]


def test_somebody_must_drive_when_a_commit_leaves_nothing_under_way(bench: Bench) -> None:
    """Two runs end at once: neither sees the other's record, so neither knows the next turn."""
    journal = bench.journal()
    open_session(journal, "run/1.0.0", "run/1.0.1")
    one, other = lease_of(journal, "run/1.0.0"), lease_of(journal, "run/1.0.1")

    first = journal.commit(commit_of(one, "run/1.0.1"))
    assert "drive" not in due(journal)
    last = journal.commit(commit_of(other, "run/1.0.0"))

    assert not first.must_drive
    assert last.must_drive
    assert set(due(journal)) == {"drive", "deadline"}


def test_a_commit_that_has_followers_needs_nobody_to_drive(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")

    assert not journal.commit(commit_of(lease_of(journal, "prepare"), "turn/1")).must_drive


def test_the_end_leaves_nothing_due_and_takes_nothing_more(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "run/1.0.0", "ready", "conclude")
    open_session(journal, "prepare", session_id=OTHER)
    zombie, conclude = lease_of(journal, "run/1.0.0"), None
    journal.append(SESSION, "cancel", "{}")
    journal.retry(zombie, delay_ms=0, error="told to stop")
    conclude = commit_of(lease_of(journal, "conclude"), "after the end", ends=True)
    zombie = lease_of(journal, "run/1.0.0")

    ended = journal.commit(conclude)

    assert (ended.status, ended.announced, ended.must_drive) == ("ok", (), False)
    assert {session_id for session_id, _, _ in journal.overdue()} == {OTHER}
    assert journal.steps(SESSION) == ()
    after = seen(journal, SESSION, OTHER)
    assert journal.commit(conclude) == ended
    assert journal.commit(commit_of(zombie)).status == "gone"
    assert journal.append(SESSION, "late", "{}").status == "gone"
    assert journal.drive(SESSION, expected_length=3, follow=[step("x")]).status == "gone"
    assert claim_status(journal, "ready") is Claimed.GONE
    assert not journal.retry(zombie, delay_ms=0, error="")
    assert not journal.release(zombie)
    assert journal.beat([zombie]) == (zombie,)
    assert journal.commit(commit_of(zombie, ends=True)).status == "gone"
    assert seen(journal, SESSION, OTHER) == after
    assert keys(journal) == ["open", "cancel", "conclude"]


def test_a_commit_to_an_unknown_session_is_gone(bench: Bench) -> None:
    journal = bench.journal()
    lease = Lease(session_id="unknown", step_id="x", fence=1, token="t")

    assert journal.commit(commit_of(lease)).status == "gone"
    assert journal.overdue() == ()


# ------------------------------------------------------------------------------- retry and release


def test_a_step_that_is_given_back_waits_and_is_then_told(exact: Bench) -> None:
    journal = exact.journal(grace_ms=GRACE_MS)
    open_session(journal, "prepare")

    assert journal.retry(lease_of(journal, "prepare"), delay_ms=1_000, error="503, twice")

    (row,) = journal.steps(SESSION)
    assert (row.state, row.owner, row.retries, row.last_error) == ("ready", "", 1, "503, twice")
    assert row.due_ms == exact.now_ms() + 1_000
    exact.elapse(999)
    assert claim_status(journal, "prepare") is Claimed.WAIT
    assert journal.sweep(limit=10) == ()
    exact.elapse(1)
    assert journal.sweep(limit=10) == (step("prepare"),)
    claim = journal.claim(SESSION, "prepare", owner="w-2", token=tokens(), since=0)
    assert (claim.status, claim.attempt, claim.retries) == (Claimed.OK, 2, 1)


def test_a_step_that_is_given_back_comes_back_on_the_servers_time(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare")
    given_back_ms = bench.now_ms()
    journal.retry(lease, delay_ms=GRACE_MS, error="503")

    early = claim_status(journal, "prepare")
    in_time = bench.now_ms() < given_back_ms + GRACE_MS
    bench.elapse(GRACE_MS)

    assert early is Claimed.WAIT or not in_time
    assert journal.sweep(limit=10) == (step("prepare"),)
    assert claim_status(journal, "prepare") is Claimed.OK


@pytest.mark.parametrize("how", ["retry", "release"])
def test_a_lease_that_was_lost_gives_nothing_back_or_up(bench: Bench, how: str) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    lost = die(bench, journal, "prepare")
    lease_of(journal, "prepare")
    before = seen(journal)

    if how == "retry":
        assert not journal.retry(lost, delay_ms=0, error="503")
    else:
        assert not journal.release(lost)

    assert seen(journal) == before


def test_the_token_of_a_step_that_was_given_back_claims_it_anew(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    token = tokens()
    first = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)
    assert first.lease is not None
    journal.retry(first.lease, delay_ms=0, error="503")

    second = journal.claim(SESSION, "prepare", owner="w-1", token=token, since=0)

    assert second.lease is not None
    assert second.lease.fence > first.lease.fence
    assert second.attempt == 2


def test_a_step_that_is_given_up_is_gone_and_may_be_announced_again(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "x")

    assert journal.release(lease_of(journal, "prepare"))

    assert set(due(journal)) == {"x", "deadline"}
    assert claim_status(journal, "prepare") is Claimed.GONE
    driven = journal.drive(SESSION, expected_length=1, follow=[step("prepare"), step("x")])
    assert driven.announced == (step("prepare"),)


@pytest.mark.parametrize("how", ["retry", "release"])
def test_the_last_step_that_leaves_without_a_word_leaves_a_drive(bench: Bench, how: str) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare")
    if how == "retry":
        journal.drive(SESSION, expected_length=1, follow=[])  # tells it to stop
        assert journal.retry(lease, delay_ms=HOUR_MS, error="stopped")
    else:
        assert journal.release(lease)

    assert journal.steps(SESSION) == ()
    assert set(due(journal)) == {"drive", "deadline"}


# ----------------------------------------------------------------------------------------- append


def test_an_outside_event_is_appended_once_and_the_session_must_be_driven(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")

    first = journal.append(SESSION, "cancel", "1")
    second = journal.append(SESSION, "cancel", "2")

    for committed in (first, second):
        assert (committed.status, committed.length, committed.must_drive) == ("ok", 2, True)
    assert journal.load(SESSION).records[1].body == "1"
    assert step("drive", queue="control") in journal.sweep(limit=10)


def test_an_outside_event_for_an_unknown_session_is_gone(bench: Bench) -> None:
    journal = bench.journal()

    assert journal.append("unknown", "cancel", "{}").status == "gone"
    assert journal.load("unknown").length == 0
    assert journal.overdue() == ()


# ------------------------------------------------------------------------------------------ drive


def test_a_drive_makes_due_exactly_what_is_wanted(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "ready", "stays", "held", "kept")
    held, kept = lease_of(journal, "held"), lease_of(journal, "kept")
    journal.append(SESSION, "cancel", "{}")

    wanted = [step("kept"), step("stays"), step("new", queue="artifacts")]
    driven = journal.drive(SESSION, expected_length=2, follow=wanted)

    assert (driven.status, driven.length, driven.must_drive) == ("ok", 2, False)
    assert driven.announced == (step("new", queue="artifacts"),)
    assert [row.step_id for row in journal.steps(SESSION)] == ["held", "kept", "new", "stays"]
    assert set(due(journal)) == {"held", "kept", "new", "stays", "deadline"}
    assert claim_status(journal, "ready") is Claimed.GONE
    assert journal.beat([held, kept]) == (held,)


@pytest.mark.parametrize("how", ["ready", "retry", "release", "commit"])
def test_a_step_that_is_wanted_again_counts_its_attempts_on(bench: Bench, how: str) -> None:
    """What an attempt has paid for bears its number: no other attempt may have it."""
    journal = bench.journal()
    open_session(journal, "turn/1")
    lease = lease_of(journal, "turn/1")
    if how == "ready":
        journal.retry(lease, delay_ms=HOUR_MS, error="529")
    if how == "commit":
        pause = ("pause/1", "{}")
        journal.commit(Commit(lease=lease, events=(pause,), expected_length=1))
    length = journal.load(SESSION).length
    journal.drive(SESSION, expected_length=length, follow=[step("resume/1")])
    if how == "retry":
        journal.retry(lease, delay_ms=HOUR_MS, error="stopped")
    if how == "release":
        journal.release(lease)
    assert [row.step_id for row in journal.steps(SESSION)] == ["resume/1"]

    journal.drive(SESSION, expected_length=length, follow=[step("turn/1")])

    (row,) = journal.steps(SESSION)
    assert (row.attempt, row.retries, row.deaths) == (1, 0, 0)
    claimed = journal.claim(SESSION, "turn/1", owner="w2", token="again", since=0)
    assert claimed.attempt == 2


def test_a_second_drive_does_nothing_more(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", "held")
    lease_of(journal, "held")
    wanted = [step("prepare"), step("turn/1")]
    journal.drive(SESSION, expected_length=1, follow=wanted)
    before = seen(journal)

    again = journal.drive(SESSION, expected_length=1, follow=wanted)

    assert (again.status, again.announced) == ("ok", ())
    assert seen(journal) == before


@pytest.mark.parametrize("expected_length", [0, 1, 3])
def test_a_drive_that_was_decided_on_another_journal_changes_nothing(
    bench: Bench, expected_length: int
) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    journal.append(SESSION, "cancel", "{}")
    before = seen(journal)

    moved = journal.drive(SESSION, expected_length=expected_length, follow=[step("x")])

    assert (moved.status, moved.length, moved.must_drive) == ("moved", 2, True)
    assert moved.announced == ()
    after = seen(journal)
    assert (after.journals, after.steps) == (before.journals, before.steps)
    assert set(due(journal)) == {"prepare", "drive", "deadline"}


def test_what_is_done_is_not_made_due_again(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    journal.commit(commit_of(lease_of(journal, "prepare"), "turn/1"))

    follow = [step("prepare"), step("turn/1")]
    assert journal.drive(SESSION, expected_length=2, follow=follow).announced == ()
    assert claim_status(journal, "prepare") is Claimed.GONE


def test_a_step_that_was_told_to_stop_may_still_commit_what_it_has(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "run/1.0.0")
    lease = lease_of(journal, "run/1.0.0")
    journal.drive(SESSION, expected_length=1, follow=[step("conclude")])

    assert journal.beat([lease]) == (lease,)
    assert journal.commit(commit_of(lease)).status == "ok"
    assert keys(journal) == ["open", "run/1.0.0"]


def test_a_session_that_is_driven_to_nothing_stays_due_after_its_deadline(bench: Bench) -> None:
    """An open session is never out of sight, whatever a worker of another version thinks of it."""
    journal = bench.journal()
    open_session(journal, deadline_ms=0)
    journal.commit(commit_of(lease_of(journal, "deadline")))

    assert journal.drive(SESSION, expected_length=2, follow=[]).status == "ok"

    assert set(due(journal)) == {"drive"}


def test_an_unknown_session_cannot_be_driven(bench: Bench) -> None:
    journal = bench.journal()

    assert journal.drive("unknown", expected_length=0, follow=[step("x")]).status == "gone"
    assert journal.overdue() == ()


def test_that_somebody_must_drive_is_no_step_to_claim(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    journal.append(SESSION, "cancel", "{}")

    assert claim_status(journal, "drive") is Claimed.GONE
    assert "drive" in due(journal)


# ------------------------------------------------------------------------------------------ sweep


def test_the_sweep_tells_a_step_whose_hint_was_lost(bench: Bench) -> None:
    journal = bench.journal(grace_ms=GRACE_MS)
    open_session(journal, "prepare")

    bench.elapse(GRACE_MS)

    assert journal.sweep(limit=10) == (step("prepare"),)


def test_nothing_is_told_before_its_time(exact: Bench) -> None:
    journal = exact.journal(grace_ms=GRACE_MS, lease_ms=LEASE_MS)
    open_session(journal, "prepare", "held", deadline_ms=1_000)
    lease_of(journal, "held")

    exact.elapse(GRACE_MS - 1)
    assert journal.sweep(limit=10) == ()
    exact.elapse(1)
    assert journal.sweep(limit=10) == (step("prepare"),)
    assert journal.sweep(limit=10) == ()


def test_the_sweep_tells_a_step_whose_worker_died(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")

    die(bench, journal, "prepare")

    assert journal.sweep(limit=10) == (step("prepare"),)


def told_at(bench: Bench, journal: Journal, *, for_ms: int, every_ms: int) -> list[int]:
    """Sweep for a while; return how long after the start something was told."""
    start_ms = bench.now_ms()
    times: list[int] = []
    while bench.now_ms() - start_ms < for_ms:
        bench.elapse(every_ms)
        times += [bench.now_ms() - start_ms] * len(journal.sweep(limit=10))
    return times


def doubling(grace_ms: int) -> list[int]:
    """Return when a step is told: after one grace, and then after twice as long each time."""
    times: list[int] = [grace_ms]
    wait_ms = grace_ms
    while times[-1] <= 300_000:
        wait_ms = min(wait_ms * 2, LONGEST_GRACE_MS)
        times.append(times[-1] + wait_ms)
    return times[:-1]


def test_a_step_that_waits_in_a_long_queue_is_told_ever_more_seldom(exact: Bench) -> None:
    journal = exact.journal(grace_ms=2_000)
    open_session(journal, "prepare")

    times = told_at(exact, journal, for_ms=300_000, every_ms=2_000)

    assert times == doubling(2_000)
    assert times[:6] == [2_000, 6_000, 14_000, 30_000, 62_000, 122_000]


def test_a_drive_that_nobody_does_is_told_ever_more_seldom(exact: Bench) -> None:
    journal = exact.journal(grace_ms=2_000)
    open_session(journal, "prepare")
    journal.commit(commit_of(lease_of(journal, "prepare")))

    # it is due at once: the first sweep tells it
    assert told_at(exact, journal, for_ms=300_000, every_ms=2_000) == doubling(2_000)


def test_a_session_that_was_driven_is_told_promptly_the_next_time(exact: Bench) -> None:
    journal = exact.journal(grace_ms=2_000)
    open_session(journal, "prepare")
    journal.commit(commit_of(lease_of(journal, "prepare")))
    told_at(exact, journal, for_ms=120_000, every_ms=2_000)
    journal.drive(SESSION, expected_length=2, follow=[step("turn/1")])
    journal.append(SESSION, "cancel", "{}")

    # the drive at once, the new step after its grace; both a second time after two graces
    assert told_at(exact, journal, for_ms=6_000, every_ms=400) == [400, 2_000, 4_400, 6_000]


def test_a_claim_makes_a_step_young_again(exact: Bench) -> None:
    journal = exact.journal(grace_ms=2_000, lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    told_at(exact, journal, for_ms=120_000, every_ms=2_000)
    die(exact, journal, "prepare")

    assert told_at(exact, journal, for_ms=5_000, every_ms=400) == [400, 4_400]


def test_the_sweep_tells_no_more_than_it_is_asked_for_and_the_rest_next(bench: Bench) -> None:
    journal = bench.journal(grace_ms=0)
    open_session(journal, "a", "b", "c")

    # with no grace at all everything stays due: what was told goes to the end of the line
    bench.elapse(1)
    told = [announcement.step_id for announcement in journal.sweep(limit=2)]

    assert told == ["a", "b"]


def test_what_the_sweep_left_is_told_by_the_next(exact: Bench) -> None:
    journal = exact.journal(grace_ms=GRACE_MS)
    open_session(journal, "a", "b", "c")
    exact.elapse(GRACE_MS)

    assert journal.sweep(limit=2) == (step("a"), step("b"))
    assert journal.sweep(limit=2) == (step("c"),)


def test_the_deadline_is_told_at_its_time_and_can_be_claimed_then(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", deadline_ms=GRACE_MS)
    bench.elapse(GRACE_MS)

    assert journal.sweep(limit=10) == (step("deadline", queue="control"),)
    committed = journal.commit(commit_of(lease_of(journal, "deadline"), "close"))

    assert committed.announced == (step("close"),)
    assert keys(journal) == ["open", "deadline"]
    assert "deadline" not in due(journal)


def test_the_deadline_cannot_be_claimed_before_its_time(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare", deadline_ms=HOUR_MS)

    assert claim_status(journal, "deadline") is Claimed.WAIT


def test_the_deadline_is_no_step_that_anybody_waits_for(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare")

    assert [row.step_id for row in journal.steps(SESSION)] == ["prepare"]
    journal.drive(SESSION, expected_length=1, follow=[step("prepare")])
    assert "deadline" in due(journal)
    assert journal.commit(commit_of(lease)).must_drive


# ----------------------------------------------------------------------------------- what is shown


def test_steps_show_who_is_at_what_by_name(exact: Bench) -> None:
    journal = exact.journal(lease_ms=LEASE_MS, grace_ms=GRACE_MS)
    open_session(journal, "run/1.0.1", "run/1.0.0")
    die(exact, journal, "run/1.0.1")
    lease_of(journal, "run/1.0.1", owner="host@1")

    ready, held = journal.steps(SESSION)

    assert (ready.step_id, ready.state, ready.owner) == ("run/1.0.0", "ready", "")
    assert (ready.attempt, ready.deaths, ready.retries, ready.last_error) == (0, 0, 0, "")
    assert (held.step_id, held.state, held.owner) == ("run/1.0.1", "leased", "host@1")
    assert (held.attempt, held.deaths, held.queue) == (2, 1, "tools")
    assert held.due_ms == exact.now_ms() + LEASE_MS


def test_labels_show_what_was_given_and_where_the_session_stands(bench: Bench) -> None:
    journal = bench.journal()
    labels = {"tenant": "acme", "fence": "7", "tells": "x", "status": "mine", "created_ms": "0"}
    before_ms = bench.now_ms()
    journal.create(SESSION, [], [step("conclude")], deadline_ms=HOUR_MS, labels=labels)
    journal.append(SESSION, "cancel", "{}")
    journal.sweep(limit=10)

    opened = dict(journal.labels(SESSION))
    journal.commit(commit_of(lease_of(journal, "conclude"), ends=True))
    ended = dict(journal.labels(SESSION))

    created_ms = opened.pop("created_ms")
    assert opened == {"tenant": "acme", "fence": "7", "tells": "x", "status": "open"}
    assert before_ms <= int(created_ms) <= int(ended.pop("ended_ms")) <= bench.now_ms()
    assert ended == {**opened, "status": "ended", "created_ms": created_ms}


def test_sessions_are_listed_the_newest_first(bench: Bench) -> None:
    journal = bench.journal()
    for name in ("a", "c", "b"):
        open_session(journal, session_id=name)
        bench.elapse(2)

    assert journal.sessions() == ("b", "c", "a")
    assert journal.sessions(limit=2) == ("b", "c")


# -------------------------------------------------------------------------------- notes of attempts


def test_a_takeover_and_an_error_are_noted_with_whose_attempt_it_was(exact: Bench) -> None:
    journal = exact.journal(lease_ms=LEASE_MS)
    open_session(journal, "turn/1", "prepare")
    die(exact, journal, "turn/1")

    lease = lease_of(journal, "turn/1", owner="w-2")
    taken_ms = exact.now_ms()
    exact.elapse(10)
    journal.retry(lease, delay_ms=0, error="529, in\ntwo lines")
    journal.commit(commit_of(lease_of(journal, "turn/1", owner="w-3")))

    assert journal.notes(SESSION) == (
        Note(
            at_ms=taken_ms,
            step_id="turn/1",
            attempt=2,
            owner="w-2",
            text="took over from w-1, whose lease ran out",
        ),
        Note(
            at_ms=taken_ms + 10,
            step_id="turn/1",
            attempt=2,
            owner="w-2",
            text="529, in\ntwo lines",
        ),
    )
    assert journal.notes("unknown") == journal.notes(OTHER) == ()


def test_a_claim_said_twice_and_a_lost_lease_note_nothing(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "prepare")
    lost = die(bench, journal, "prepare")
    journal.claim(SESSION, "prepare", owner="w-2", token="one", since=0)

    journal.claim(SESSION, "prepare", owner="w-2", token="one", since=0)
    journal.retry(lost, delay_ms=0, error="too late")

    assert [note.owner for note in journal.notes(SESSION)] == ["w-2"]


def test_the_newest_500_notes_are_kept(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")

    for number in range(503):
        journal.retry(lease_of(journal, "prepare"), delay_ms=0, error=f"error {number}")

    texts = [note.text for note in journal.notes(SESSION)]
    assert texts == [f"error {number}" for number in range(3, 503)]


def test_a_wait_is_noted_once_for_each_reason(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "run/1.0.0")

    for reason in ("slots", "slots", "pause", "slots"):
        lease = lease_of(journal, "run/1.0.0")
        journal.retry(lease, delay_ms=0, error=reason, counts=False)
    for _ in range(2):
        journal.retry(lease_of(journal, "run/1.0.0"), delay_ms=0, error="slots")

    texts = [note.text for note in journal.notes(SESSION)]
    assert texts == ["slots", "pause", "slots", "slots", "slots"]


# ------------------------------------------------------------------------------------ dead letters


def test_a_step_that_was_given_up_is_a_dead_letter_and_its_session_goes_on(exact: Bench) -> None:
    journal = exact.journal(lease_ms=LEASE_MS)
    open_session(journal, "call/1.0")
    die(exact, journal, "call/1.0")

    commit = commit_of(lease_of(journal, "call/1.0"), "turn/2", given_up="it killed\n2 workers")
    committed = journal.commit(commit)

    assert committed.announced == (step("turn/2"),)
    assert journal.dead_letters() == (
        DeadLetter(
            number=1,
            at_ms=exact.now_ms(),
            session_id=SESSION,
            step_id="call/1.0",
            attempt=2,
            deaths=1,
            reason="it killed\n2 workers",
        ),
    )


def test_only_a_commit_that_counts_leaves_a_dead_letter_and_only_one(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "a", "b")
    lost = die(bench, journal, "a")
    kept = lease_of(journal, "a")

    journal.commit(commit_of(lost, given_up="fenced"))
    journal.commit(commit_of(lease_of(journal, "b")))
    journal.commit(commit_of(kept, given_up="counts"))
    journal.commit(commit_of(kept, given_up="counts"))

    assert [letter.reason for letter in journal.dead_letters()] == ["counts"]


def test_a_dead_letter_is_discarded_by_its_number_which_is_never_used_again(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "a", "b", "c")
    for name in ("a", "b"):
        journal.commit(commit_of(lease_of(journal, name), given_up=name))

    assert journal.discard(2) == 1
    assert journal.discard(2) == journal.discard(7) == 0
    journal.commit(commit_of(lease_of(journal, "c"), given_up="c"))

    assert [(letter.number, letter.reason) for letter in journal.dead_letters()] == [
        (1, "a"),
        (3, "c"),
    ]
    assert journal.discard(None) == 2
    assert journal.discard(None) == 0
    assert journal.dead_letters() == ()


def test_the_newest_1000_dead_letters_are_kept(bench: Bench) -> None:
    journal = bench.journal()
    names = [f"run/1.0.{number}" for number in range(1_003)]
    open_session(journal, *names)

    for name in names:
        claim = journal.claim(SESSION, name, owner="w-1", token=tokens(), since=2_000)
        assert claim.lease is not None
        journal.commit(commit_of(claim.lease, given_up=name))

    letters = journal.dead_letters()
    assert [letter.number for letter in letters] == list(range(4, 1_004))
    assert [letter.reason for letter in letters] == names[3:]


# --------------------------------------------------------------------------------------- retention


def end(journal: Journal, session_id: str = SESSION) -> None:
    """Create a session and end it at once."""
    open_session(journal, "conclude", session_id=session_id)
    lease = lease_of(journal, "conclude", session_id=session_id)
    assert journal.commit(commit_of(lease, ends=True)).status == "ok"


def prune(journal: Journal, session_id: str = SESSION) -> bool:
    return journal.prune(session_id, outcome="concluded", artifacts_uri="s3://b/sessions/x/")


def test_a_pruned_session_leaves_its_labels_and_can_never_be_created_again(bench: Bench) -> None:
    journal = bench.journal(lease_ms=LEASE_MS)
    open_session(journal, "conclude")
    die(bench, journal, "conclude")
    lease = lease_of(journal, "conclude")
    journal.commit(commit_of(lease, ends=True))
    before = dict(journal.labels(SESSION))

    assert prune(journal)

    labels = dict(journal.labels(SESSION))
    assert int(labels.pop("pruned_ms")) >= int(before["ended_ms"])
    tombstone = {"outcome": "concluded", "artifacts_uri": "s3://b/sessions/x/"}
    assert labels == before | tombstone
    assert open_session(journal, "prepare").status == "gone"
    assert journal.load(SESSION).length == 0
    assert journal.notes(SESSION) == ()
    assert journal.sessions() == ()
    assert journal.overdue() == ()


def test_whoever_comes_late_to_a_pruned_session_changes_nothing(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "zombie", "conclude")
    zombie = lease_of(journal, "zombie")
    journal.drive(SESSION, expected_length=1, follow=[step("conclude")])
    journal.release(zombie)
    conclude = lease_of(journal, "conclude")
    journal.commit(commit_of(conclude, ends=True))
    prune(journal)
    before = seen(journal)

    assert journal.commit(commit_of(conclude, ends=True)).status == "gone"
    assert journal.commit(commit_of(zombie)).status == "gone"
    assert journal.append(SESSION, "cancel", "{}").status == "gone"
    assert journal.drive(SESSION, expected_length=0, follow=[step("x")]).status == "gone"
    assert claim_status(journal, "conclude") is Claimed.GONE
    assert not journal.retry(zombie, delay_ms=0, error="")
    assert journal.beat([zombie]) == (zombie,)
    assert not prune(journal)
    assert seen(journal) == before


def restore_ended(journal: Journal) -> str:
    """Put a session back that had ended before it was lost; return what became of it."""
    record = Record(key="conclude", body="{}", at_ms=1_000, owner="w-1", attempt=1)
    restored = journal.restore(
        SESSION, [record], labels={"tenant": "acme"}, deadline_ms=1, after_ms=0, ends=True
    )
    return restored.status


def test_a_pruned_session_is_not_restored(bench: Bench) -> None:
    journal = bench.journal()
    end(journal)
    prune(journal)
    before = seen(journal)

    assert restore_ended(journal) == "gone"

    assert seen(journal) == before


def test_a_session_that_was_restored_after_its_end_can_be_pruned(bench: Bench) -> None:
    journal = bench.journal()
    assert restore_ended(journal) == "ok"
    life = journal.load(SESSION).life

    assert journal.ended(before_ms=2_000) == (SESSION,)
    assert prune(journal)

    left = journal.load(SESSION)
    assert (left.length, left.records, left.life) == (0, (), life)
    assert restore_ended(journal) == "gone"


def test_an_open_session_cannot_be_pruned(bench: Bench) -> None:
    journal = bench.journal()
    open_session(journal, "prepare")
    lease = lease_of(journal, "prepare")
    before = seen(journal)

    assert not prune(journal)
    assert not prune(journal, "unknown")

    assert seen(journal) == before
    assert dict(journal.labels("unknown")) == {}
    assert journal.commit(commit_of(lease)).status == "ok"


def test_the_sessions_that_ended_before_a_time_are_listed_oldest_first(exact: Bench) -> None:
    journal = exact.journal()
    for name in ("b", "a"):
        end(journal, name)
        exact.elapse(10)
    open_session(journal, "prepare")
    end(journal, "pruned")
    prune(journal, "pruned")
    exact.elapse(10)
    end(journal, "late")

    assert journal.ended(before_ms=exact.now_ms()) == ("b", "a")
    assert journal.ended(before_ms=exact.now_ms() + 1) == ("b", "a", "late")
    assert journal.ended(before_ms=exact.now_ms() - 20) == ("b",)


# ---------------------------------------------------------------------------------- a dead server

_LEASE = Lease(session_id=SESSION, step_id="x", fence=1, token="t")
OPERATIONS: dict[str, Callable[[Journal], Any]] = {
    "create": lambda journal: open_session(journal, "prepare"),
    "load": lambda journal: journal.load(SESSION),
    "claim": lambda journal: claim_status(journal, "prepare"),
    "beat": lambda journal: journal.beat([_LEASE]),
    "commit": lambda journal: journal.commit(commit_of(_LEASE)),
    "retry": lambda journal: journal.retry(_LEASE, delay_ms=0, error=""),
    "release": lambda journal: journal.release(_LEASE),
    "append": lambda journal: journal.append(SESSION, "cancel", "{}"),
    "drive": lambda journal: journal.drive(SESSION, expected_length=0, follow=[]),
    "sweep": lambda journal: journal.sweep(limit=1),
    "steps": lambda journal: journal.steps(SESSION),
    "labels": lambda journal: journal.labels(SESSION),
    "sessions": lambda journal: journal.sessions(),
    "notes": lambda journal: journal.notes(SESSION),
    "dead_letters": lambda journal: journal.dead_letters(),
    "discard": lambda journal: journal.discard(None),
    "ended": lambda journal: journal.ended(before_ms=0),
    "prune": lambda journal: journal.prune(SESSION, outcome="failed", artifacts_uri=""),
}


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_server_that_does_not_answer_is_unavailable(operation: str) -> None:
    nobody = redis.Redis(port=1, decode_responses=True, retry=Retry(NoBackoff(), 0))
    with nobody as client, pytest.raises(Unavailable, match="Redis did not answer while"):
        OPERATIONS[operation](RedisJournal(client))
