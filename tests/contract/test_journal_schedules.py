"""Any calls in any order: what holds after each, and that memory and Redis do the same.

Rule: the machine calls a journal as no sane worker would (old leases, doubled calls, any drive);
what must hold is asked after every call, of what can be seen from outside.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.contract.journals import JournalUnderTest, memory_bench, seen, step, stepped_bench
from worker.core.policy import CONCLUDE_WAIT_MS, LONGEST_GRACE_MS
from worker.ports import (
    Announcement,
    Claim,
    Claimed,
    Commit,
    Committed,
    Lease,
    Record,
    Slice,
    StepRow,
    Wait,
)
from worker.redis_connection import connect
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hypothesis.stateful import MultipleResults

    from tests.contract.journals import Bench

T = TypeVar("T")

LEASE_MS = 4_000
GRACE_MS = 2_000
SESSIONS = ("a", "b")
STEPS = ("prepare", "turn/1", "run/1.0.0", "run/1.0.1", "conclude")

session_ids = st.sampled_from(SESSIONS)
step_ids = st.sampled_from(STEPS)
follows = st.lists(step_ids, max_size=3, unique=True)
#: So that leases run out, back-offs end and deadlines come while others do not.
waits_ms = st.sampled_from(
    [1, CONCLUDE_WAIT_MS, GRACE_MS, LEASE_MS, LEASE_MS + 1, LONGEST_GRACE_MS]
)


class Schedule(RuleBasedStateMachine):
    """Calls every journal of `benches` alike, and checks that they answer alike."""

    benches: ClassVar[Callable[[ManualClock], Sequence[Bench]]]

    leases = Bundle("leases")
    commits = Bundle("commits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.numbers = count(1)
        benches = type(self).benches(self.clock)
        self.journals = [b.journal(lease_ms=LEASE_MS, grace_ms=GRACE_MS) for b in benches]
        self.show_time = [b.elapse for b in benches]
        #: What was seen last.
        self.records: dict[str, tuple[Record, ...]] = dict.fromkeys(SESSIONS, ())
        self.fences: dict[str, int] = dict.fromkeys(SESSIONS, 0)
        self.holders: dict[tuple[str, str], Lease] = {}
        self.live_until_ms: dict[Lease, int] = {}
        self.pruned: set[str] = set()

    def call(self, method: Callable[[JournalUnderTest], T]) -> T:
        """Call every journal; return the answer, which must be one."""
        first, *others = [method(journal) for journal in self.journals]
        for other in others:
            assert other == first
        return first

    # ------------------------------------------------------------------------------------ calls

    @initialize(first=follows)
    def open_one(self, first: list[str]) -> None:
        self.create("a", first, 60_000)

    @rule(session_id=session_ids, first=follows, deadline_ms=st.sampled_from([0, 5_000, 60_000]))
    def create(self, session_id: str, first: list[str], deadline_ms: int) -> None:
        known = bool(self.records[session_id]) or session_id in self.pruned

        created = self.call(
            lambda journal: journal.create(
                session_id,
                [("open", "{}")],
                announcements(session_id, first),
                deadline_ms=deadline_ms,
                labels={"tenant": "acme"},
            )
        )

        assert created.status == ("gone" if known else "ok")

    @rule(
        target=leases,
        session_id=session_ids,
        step_id=step_ids | st.sampled_from(["deadline", "drive", "resume/1", "resume/2"]),
    )
    def claim(self, session_id: str, step_id: str) -> MultipleResults[Lease]:
        token = f"token-{next(self.numbers)}"
        live = self.live_steps(session_id)

        claim = self.call(
            lambda journal: journal.claim(session_id, step_id, owner="w", token=token, since=0)
        )

        if claim.lease is None:
            assert claim.status not in {Claimed.OK, Claimed.POISONED}
            return multiple()
        self.granted(claim, claim.lease, live)
        return multiple(claim.lease)

    def granted(self, claim: Claim, lease: Lease, live: set[str]) -> None:
        others = live - {lease.step_id, "deadline"}
        assert lease.step_id not in live, "a live lease was given away"
        assert lease.step_id != "conclude" or not others, "conclude did not wait"
        assert lease.fence > self.fences[lease.session_id], "the fence did not grow"
        assert lease.step_id not in {record.key for record in claim.records}
        self.fences[lease.session_id] = lease.fence
        self.holders[lease.session_id, lease.step_id] = lease
        self.live_until_ms[lease] = self.clock.now_ms() + LEASE_MS

    def live_steps(self, session_id: str) -> set[str]:
        now_ms = self.clock.now_ms()
        rows = self.journals[0].steps(session_id)
        leased = [row.step_id for row in rows if row.state == "leased"]
        holders = {step_id: self.holders[session_id, step_id] for step_id in leased}
        return {name for name, lease in holders.items() if self.live_until_ms[lease] > now_ms}

    @rule(lease=leases)
    def claim_again(self, lease: Lease) -> None:
        live = self.live_steps(lease.session_id)

        again = self.call(
            lambda journal: journal.claim(
                lease.session_id, lease.step_id, owner="w", token=lease.token, since=0
            )
        )
        if again.lease is None or again.lease == self.holders[lease.session_id, lease.step_id]:
            return
        # The token of a lease that ended is as good as a new one.
        self.granted(again, again.lease, live)

    @rule(some=st.lists(leases, max_size=3))
    def beat(self, some: list[Lease]) -> None:
        lost = self.call(lambda journal: journal.beat(some))

        for lease in some:
            newest = self.holders[lease.session_id, lease.step_id] == lease
            assert newest or lease in lost
            if lease not in lost:
                self.live_until_ms[lease] = self.clock.now_ms() + LEASE_MS

    @rule(
        target=commits,
        lease=leases,
        follow=follows,
        extra=st.booleans(),
        ends=st.booleans(),
        given_up=st.sampled_from(["", "it failed"]),
    )
    def commit(
        self, lease: Lease, follow: list[str], *, extra: bool, ends: bool, given_up: str
    ) -> Commit:
        own = ((lease.step_id, lease.token),)
        others = (("extra", lease.token),) if extra else ()
        commit = Commit(
            lease=lease,
            events=(*others, *own),
            expected_length=len(self.records[lease.session_id]),
            follow=announcements(lease.session_id, follow),
            ends=ends and lease.step_id == "conclude",
            given_up=given_up,
        )
        self.committed(commit)
        return commit

    @rule(commit=commits)
    def commit_again(self, commit: Commit) -> None:
        self.committed(commit)

    def committed(self, commit: Commit) -> None:
        lease = commit.lease
        done = self.call(lambda journal: journal.commit(commit))

        records = self.journals[0].load(lease.session_id).records
        mine = [r for r in records if (r.key, r.body) == (lease.step_id, lease.token)]
        assert (done.status == "ok") is (len(mine) == 1)
        if done.status == "ok":
            assert done.length == len(records)
        else:
            assert records == self.records[lease.session_id]
        self.check_answer(done, lease.session_id)

    @rule(lease=leases, delay_ms=st.sampled_from([0, 1, 1_000, 60_000]))
    def retry(self, lease: Lease, delay_ms: int) -> None:
        held = self.call(lambda journal: journal.retry(lease, delay_ms=delay_ms, error="503"))

        assert not held or self.holders[lease.session_id, lease.step_id] == lease

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        held = self.call(lambda journal: journal.release(lease))

        assert not held or self.holders[lease.session_id, lease.step_id] == lease

    @rule(session_id=session_ids, key=st.sampled_from(["cancel", "turn/1"]))
    def append(self, session_id: str, key: str) -> None:
        appended = self.call(lambda journal: journal.append(session_id, key, "{}"))

        assert appended.must_drive is (appended.status == "ok")

    @rule(session_id=session_ids, follow=follows, ahead=st.sampled_from([0, 0, 0, 1, -1]))
    def drive(self, session_id: str, follow: list[str], ahead: int) -> None:
        length = len(self.records[session_id]) + ahead

        driven = self.call(
            lambda journal: journal.drive(
                session_id, expected_length=length, follow=announcements(session_id, follow)
            )
        )

        assert driven.status in ({"ok", "gone"} if ahead == 0 else {"moved", "gone"})
        if driven.status == "ok":
            ready = [r.step_id for r in self.journals[0].steps(session_id) if r.state == "ready"]
            assert set(ready) <= set(follow)
        self.check_answer(driven, session_id)

    @rule(
        session_id=session_ids,
        numbers=st.sets(st.integers(1, 2), min_size=1),
        longest_ms=st.sampled_from([1_000, LONGEST_GRACE_MS]),
    )
    def rest(self, session_id: str, numbers: set[int], longest_ms: int) -> None:
        """What waits is told to nobody, and the session's time stands still."""
        wait = Wait(longest_ms=longest_ms, needs_nusd=5, scopes=("fleet",))
        follow = [
            Announcement(
                session_id=session_id, step_id=f"resume/{number}", queue="control", wait=wait
            )
            for number in sorted(numbers)
        ]

        driven = self.call(
            lambda journal: journal.drive(
                session_id, expected_length=len(self.records[session_id]), follow=follow
            )
        )

        assert driven.announced == ()

    @rule(session_id=session_ids, step_id=step_ids | st.sampled_from(["resume/1", "resume/2"]))
    def wake(self, session_id: str, step_id: str) -> None:
        woken = self.call(lambda journal: journal.wake(session_id, step_id))

        assert woken is None or step_id.startswith("resume/")

    @rule(session_id=session_ids)
    def prune(self, session_id: str) -> None:
        """Only what has ended goes; everybody else sees nothing of it."""
        journal = self.journals[0]
        status = journal.labels(session_id).get("status")
        others = [name for name in SESSIONS if name != session_id]
        before = seen(journal, *others), seen(journal, session_id)

        gone = self.call(lambda j: j.prune(session_id, outcome="failed", artifacts_uri="s3://b/"))

        assert gone is (status == "ended" and session_id not in self.pruned)
        if not gone:
            assert (seen(journal, *others), seen(journal, session_id)) == before
            return
        self.pruned.add(session_id)
        self.records[session_id] = ()
        assert seen(journal, *others).journals == before[0].journals
        assert seen(journal, *others).steps == before[0].steps
        assert seen(journal, *others).due == before[0].due

    @rule(number=st.integers(1, 5) | st.none())
    def discard(self, number: int | None) -> None:
        before = len(self.journals[0].dead_letters())

        gone = self.call(lambda journal: journal.discard(number))

        assert len(self.journals[0].dead_letters()) == before - gone

    @rule(limit=st.integers(1, 4))
    def sweep(self, limit: int) -> None:
        now_ms = self.clock.now_ms()
        overdue = sorted((at, name, step_id) for name, step_id, at in self.due() if at <= now_ms)

        told = self.call(lambda journal: journal.sweep(limit=limit))

        named = [(announcement.session_id, announcement.step_id) for announcement in told]
        assert named == [(name, step_id) for _, name, step_id in overdue[:limit]]
        assert all(at > now_ms for name, step_id, at in self.due() if (name, step_id) in named)

    @rule(by_ms=waits_ms)
    def wait(self, by_ms: int) -> None:
        self.clock.advance(by_ms)
        for show in self.show_time:
            show(0)

    # --------------------------------------------------------------------------------- what holds

    def due(self) -> tuple[tuple[str, str, int], ...]:
        return self.journals[0].overdue()

    def check_answer(self, answer: Committed, session_id: str) -> None:
        """Announced is what is open and ready; who must drive is told by the due set too."""
        ready = {r.step_id for r in self.journals[0].steps(session_id) if r.state == "ready"}
        assert {announcement.step_id for announcement in answer.announced} <= ready
        assert not answer.must_drive or (session_id, "drive") in {row[:2] for row in self.due()}

    @invariant()
    def what_must_hold(self) -> None:
        now = self.call(lambda journal: seen(journal, *SESSIONS))
        waiting = self.call(lambda journal: journal.waiting())
        open_steps = {
            (n, row.step_id) for n, s in zip(SESSIONS, now.steps, strict=True) for row in s
        }
        assert {(one.session_id, one.step_id) for one in waiting} == {
            place for place in open_steps if place[1].startswith("resume/")
        }
        resting = {one.session_id for one in waiting}
        assert (
            not resting & {n for n, step_id, _ in now.due if step_id == "deadline"} - self.at_it()
        )
        due = {(session_id, step_id): at for session_id, step_id, at in now.due}
        shown = zip(SESSIONS, now.journals, now.steps, now.labels, strict=True)
        for session_id, journal, steps, labels in shown:
            self.check_journal(session_id, journal)
            named = {step_id: at for (name, step_id), at in due.items() if name == session_id}
            self.check_due(steps, named, length=journal.length, status=labels.get("status"))

    def at_it(self) -> set[str]:
        """Return the sessions whose deadline somebody has claimed: its lease is due by itself."""
        return {name for name, step_id in self.holders if step_id == "deadline"}

    def check_journal(self, session_id: str, journal: Slice) -> None:
        """A journal only grows, and holds each key once."""
        before = self.records[session_id]
        keys = [record.key for record in journal.records]
        assert journal.records[: len(before)] == before
        assert len(set(keys)) == len(keys) == journal.length
        self.records[session_id] = journal.records

    @staticmethod
    def check_due(
        steps: Sequence[StepRow], named: Mapping[str, int], *, length: int, status: str | None
    ) -> None:
        """An open session is due, at all of its steps; with none it waits to be driven."""
        assert bool(named) is (status == "open")
        assert status == "open" or not steps
        rows = {row.step_id: row.due_ms for row in steps}
        assert {name: named[name] for name in named.keys() - {"drive", "deadline"}} == rows
        # A session that was created with no step, and never touched, is due at its deadline.
        assert steps or "drive" in named or status != "open" or length == 1

    def teardown(self) -> None:
        """Let time pass and sweep: whatever was done, all that is open is told in the end."""
        self.wait(LONGEST_GRACE_MS)
        told = self.call(lambda journal: journal.sweep(limit=1_000))
        named = {(announcement.session_id, announcement.step_id) for announcement in told}
        for session_id in SESSIONS:
            for row in self.journals[0].steps(session_id):
                assert (session_id, row.step_id) in named


def announcements(session_id: str, names: Sequence[str]) -> tuple[Announcement, ...]:
    return tuple(step(name, session_id=session_id) for name in names)


def run(make: Callable[[ManualClock], Sequence[Bench]], *, examples: int, steps: int) -> None:
    """Run many schedules on the benches that `make` returns."""

    class Made(Schedule):
        benches = staticmethod(make)

    within = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.reuse, Phase.generate, Phase.shrink],  # to explain takes minutes
    )
    run_state_machine_as_test(Made, settings=within)


def test_memory_keeps_its_word_under_any_schedule() -> None:
    run(lambda clock: [memory_bench(clock)], examples=200, steps=40)


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(180)
def test_redis_does_what_memory_does_under_any_schedule(redis_url: str) -> None:
    with connect(redis_url) as client:
        run(
            lambda clock: [memory_bench(clock), stepped_bench(client, clock)],
            examples=100,
            steps=30,
        )
