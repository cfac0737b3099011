"""Core and journal together: a fleet that loses hints, dies and stalls still ends every session once.

Rule: the fleet here is the smallest that can be: it folds what a claim brings, asks the core, and
commits an answer with what follows. Whatever it survives, it survives by core and journal alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.contract.journals import SESSION, memory_bench, stepped_bench
from tests.unit.core.strategies import answers, spec_with, specs
from worker.core import policy
from worker.core.commands import CallTool, Command, Conclude, TakeTurn, queue_of, step_id_of
from worker.core.events import (
    CallExpanded,
    CancelRequested,
    DeadlinePassed,
    SessionEnded,
    SessionOpened,
    TeacherReplied,
)
from worker.core.failures import failure_of
from worker.core.machine import apply, fold, is_crowded, least_under_way, wanted
from worker.core.values import Limits, RunSpec, Text, ToolCall
from worker.core.values import Phase as SessionPhase
from worker.journal.keys import DRIVE
from worker.ports import Announcement, Claimed, Commit
from worker.redis_connection import connect
from worker.testing import CollectedHints
from worker.wire.journal import decode_all, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.contract.journals import Bench
    from worker.core.events import Event
    from worker.core.machine import Session
    from worker.core.values import SessionSpec
    from worker.ports import Lease

T = TypeVar("T")

TO_HINTS = ("hear", "hear twice", "lose")
TO_WORK = ("finish", "give back", "stall", "die", "kill")
TO_ANY = ("sweep", "wait", "wait long", "beat", "drive")
#: What may happen at any moment; the usual more often than the rare.
MISHAPS = (*["hear", "finish", "sweep"] * 6, *TO_HINTS, *TO_WORK, *TO_ANY)
#: A calm fleet needs fewer rounds than this to end any session of these limits.
CALM_ROUNDS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A step that a worker has begun, with what the worker knows."""

    lease: Lease
    session: Session
    length: int
    command: Command


class Fleet:
    """Workers of one session on one journal; `data` decides what each of them meets."""

    def __init__(self, bench: Bench, spec: SessionSpec, data: st.DataObject) -> None:
        self.bench = bench
        self.data = data
        self.journal = bench.journal(lease_ms=policy.LEASE_MS, grace_ms=policy.GRACE_MS)
        self.hints = CollectedHints()
        self.heard: list[Announcement] = []
        self.working: list[Work] = []
        self.tokens = (f"token-{number}" for number in count(1))
        opening = SessionOpened(spec=spec)
        created = self.journal.create(
            SESSION,
            [encode(opening)],
            announcements(wanted(fold([opening]))),
            deadline_ms=data.draw(st.sampled_from([3_600_000, 60_000, 10_000])),
            labels={},
        )
        self.hints.tell(created.announced)

    @property
    def ended(self) -> bool:
        return self.journal.labels(SESSION)["status"] == "ended"

    # --------------------------------------------------------------------------- a worker's part

    def hear(self, hint: Announcement) -> None:
        """Claim what the hint says; what is wanted stays in `working` until it is finished."""
        if hint.step_id == DRIVE:
            self.drive()
            return
        claim = self.journal.claim(
            SESSION, hint.step_id, owner="w", token=next(self.tokens), since=0
        )
        if claim.lease is None:
            return
        session = fold(decode_all(claim.records))
        if hint.step_id == "deadline":
            self.commit(claim.lease, session, claim.length, DeadlinePassed())
            self.drive()
            return
        command = next((c for c in wanted(session) if step_id_of(c) == hint.step_id), None)
        if command is None:
            self.journal.release(claim.lease)
        elif claim.status is Claimed.POISONED and not isinstance(command, Conclude):
            failed = failure_of(command, "it kills")
            assert failed is not None
            self.commit(claim.lease, session, claim.length, failed)
        else:
            work = Work(lease=claim.lease, session=session, length=claim.length, command=command)
            self.working.append(work)

    def finish(self, work: Work) -> None:
        self.commit(work.lease, work.session, work.length, self.data.draw(answers(work.command)))

    def commit(self, lease: Lease, session: Session, length: int, event: Event) -> None:
        after = apply(session, event)
        before = () if is_crowded(after) else wanted(session)
        follow = [command for command in wanted(after) if command not in before]
        committed = self.journal.commit(
            Commit(
                lease=lease,
                events=(encode(event),),
                expected_length=length,
                follow=announcements(follow),
                ends=isinstance(event, SessionEnded),
                least_open=least_under_way(after),
            )
        )
        self.hints.tell(committed.announced)
        if committed.must_drive:
            self.drive()

    def drive(self) -> None:
        part = self.journal.load(SESSION)
        driven = self.journal.drive(
            SESSION,
            expected_length=part.length,
            follow=announcements(wanted(fold(decode_all(part.records)))),
        )
        self.hints.tell(driven.announced)

    # ---------------------------------------------------------------------------- what happens

    def suffer(self, mishap: str) -> None:
        """Let one thing happen, if it can."""
        self.heard += self.hints.take()
        if mishap in TO_HINTS:
            if self.heard:
                self.suffer_hint(mishap)
        elif mishap in TO_WORK:
            if self.working:
                self.suffer_work(mishap, self.pick(self.working))
        else:
            self.suffer_time(mishap)

    def suffer_hint(self, mishap: str) -> None:
        match mishap:
            case "hear":
                self.hear(self.pick(self.heard))
            case "hear twice":
                self.hear(self.data.draw(st.sampled_from(self.heard)))
            case _:
                self.pick(self.heard)

    def suffer_work(self, mishap: str, work: Work) -> None:
        match mishap:
            case "finish":
                self.finish(work)
            case "give back":
                self.journal.retry(work.lease, delay_ms=1_000, error="503")
            case "stall":
                # Its lease runs out, another takes over, and both go on.
                self.take_over(work)
                self.working.append(work)
            case "die":
                self.take_over(work)
            case _:
                # Each that takes over dies too, but for the last, who is told that it is poison.
                for _ in range(policy.POISON_DEATHS):
                    self.take_over(work)
                    self.working = [
                        w for w in self.working if w.lease.step_id != work.lease.step_id
                    ]
                self.take_over(work)

    def take_over(self, work: Work) -> None:
        self.bench.elapse(policy.LEASE_MS)
        self.hints.tell(self.journal.sweep(limit=10))
        self.hear(announcements([work.command])[0])

    def suffer_time(self, mishap: str) -> None:
        match mishap:
            case "sweep":
                self.hints.tell(self.journal.sweep(limit=10))
            case "wait":
                self.bench.elapse(policy.SWEEP_MS)
            case "wait long":
                self.bench.elapse(policy.LONGEST_GRACE_MS)
            case "beat":
                self.beat()
            case _:
                self.drive()

    def pick(self, items: list[T]) -> T:
        return items.pop(self.data.draw(st.integers(0, len(items) - 1)))

    def beat(self) -> None:
        """Beat for all; who is told to stop gives up, or does not listen."""
        lost = self.journal.beat([work.lease for work in self.working])
        for work in [work for work in self.working if work.lease in lost]:
            if self.data.draw(st.booleans()):
                self.working.remove(work)
                self.journal.release(work.lease)

    def cancel(self) -> None:
        self.journal.append(SESSION, *encode(CancelRequested(reason="enough")))

    def check_nothing_is_forgotten(self) -> None:
        """Check that what is wanted has its row, but for a quarter of a width, or will be driven."""
        session = fold(decode_all(self.journal.load(SESSION).records))
        rows = {row.step_id for row in self.journal.steps(SESSION)}
        steps = {step_id_of(c) for c in wanted(session)}
        driven = DRIVE in {step_id for _, step_id, _ in self.journal.overdue()}
        assert len(rows & steps) >= len(steps) * 3 // 4 or driven

    def work_in_peace(self) -> None:
        """Nothing goes wrong any more: hints arrive, workers live, the sweep sweeps."""
        self.working.clear()
        for _ in range(CALM_ROUNDS):
            if self.ended:
                return
            self.hints.tell(self.journal.sweep(limit=100))
            for hint in self.hints.take():
                self.hear(hint)
            while self.working:
                self.finish(self.working.pop())
            if not self.ended:
                next_ms = min(at for _, _, at in self.journal.overdue())
                self.bench.elapse(max(next_ms - self.bench.now_ms(), policy.SWEEP_MS))
        pytest.fail(f"the session did not end: {self.journal.overdue()}")


def announcements(commands: Iterable[Command]) -> tuple[Announcement, ...]:
    return tuple(
        Announcement(session_id=SESSION, step_id=step_id_of(c), queue=queue_of(c).value)
        for c in commands
    )


def schedules(size: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(MISHAPS), min_size=size, max_size=size)


def play(bench: Bench, data: st.DataObject) -> None:
    """Play a session through mishaps, then in peace; check how it ended."""
    spec = data.draw(specs())
    fleet = Fleet(bench, spec, data)
    cancel_at = data.draw(st.sampled_from([None, None, None, 5, 20]))
    mishaps = data.draw(st.sampled_from([30, 60, 100, 5]).flatmap(schedules))
    for number, mishap in enumerate(mishaps):
        if number == cancel_at:
            fleet.cancel()
        fleet.suffer(mishap)
        fleet.check_nothing_is_forgotten()
    peace_ms = bench.now_ms()
    fleet.work_in_peace()

    # One step may have been told so often that the sweep is slow; no other wait is left.
    assert bench.now_ms() - peace_ms <= 2 * policy.LONGEST_GRACE_MS
    events = decode_all(fleet.journal.load(SESSION).records)
    session = fold(events)
    assert session.phase is SessionPhase.ENDED
    assert [type(event) for event in events].count(SessionEnded) == 1
    assert isinstance(events[-1], SessionEnded)
    assert session.tool_calls <= spec.limits.max_tool_calls
    assert session.student_runs <= spec.limits.max_student_runs
    assert len(session.turns) <= spec.limits.max_turns
    assert fleet.journal.overdue() == ()


@given(data=st.data())
@settings(max_examples=200, deadline=None, phases=[Phase.reuse, Phase.generate, Phase.shrink])
def test_every_session_ends_once_whatever_its_workers_suffer(data: st.DataObject) -> None:
    play(memory_bench(), data)


class WideFleet(Fleet):
    """Its teacher makes calls that all ask for student runs, more than may be under way at once."""

    def finish(self, work: Work) -> None:
        self.commit(work.lease, work.session, work.length, self.answer(work.command))

    def answer(self, command: Command) -> Event:
        match command:
            case TakeTurn():
                calls = tuple(
                    ToolCall(call_id=f"c{index}", tool="run_student_on_tasks", arguments_json="{}")
                    for index in range(3)
                )
                return TeacherReplied(
                    turn=command.turn,
                    purpose=command.purpose,
                    content=Text(text="[]"),
                    stop_reason="tool_use",
                    calls=calls,
                )
            case CallTool():
                wide = self.data.draw(st.integers(1, 6))
                runs = tuple(RunSpec(task_id="t", attempt=attempt) for attempt in range(wide))
                return CallExpanded(turn=command.turn, index=command.index, runs=runs)
            case _:
                return self.data.draw(answers(command))


@given(
    limits=st.builds(
        Limits,
        max_turns=st.just(1),
        max_parallel_calls=st.integers(1, 3),
        max_parallel_runs=st.integers(1, 8),
    ),
    data=st.data(),
)
@settings(max_examples=100, deadline=None, phases=[Phase.reuse, Phase.generate, Phase.shrink])
def test_no_width_stays_half_used_whoever_commits_on_whatever_fold(
    limits: Limits, data: st.DataObject
) -> None:
    fleet = WideFleet(memory_bench(), spec_with(limits), data)
    for _ in range(60):
        fleet.suffer(data.draw(st.sampled_from(["hear", "hear", "finish"])))
        fleet.check_nothing_is_forgotten()


@pytest.mark.integration
@pytest.mark.enable_socket
def test_every_session_ends_once_on_redis_too(redis_url: str) -> None:
    with connect(redis_url) as client:

        @given(data=st.data())
        @settings(
            max_examples=25,
            deadline=None,
            phases=[Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow],
        )
        def played(data: st.DataObject) -> None:
            play(stepped_bench(client), data)

        played()
