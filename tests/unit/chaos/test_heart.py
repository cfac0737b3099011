"""A lease as its step sees it: told, stale, or good."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.contract.journals import lease_of, open_session
from worker.core import policy
from worker.errors import Unavailable
from worker.heart import Heart
from worker.journal.memory import MemoryJournal
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import Lease

LEASE_S = policy.LEASE_MS / 1000


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.s = 100.0

    def now_s(self) -> float:
        return self.s


class SilentJournal(MemoryJournal):
    """Does not answer beats while it is `silent`."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.silent = False
        self.asked = threading.Event()

    def beat(self, leases: Sequence[Lease]) -> tuple[Lease, ...]:
        self.asked.set()
        if self.silent:
            raise Unavailable("the journal is away")
        return super().beat(leases)


@pytest.fixture
def journal() -> SilentJournal:
    journal = SilentJournal(ManualClock())
    open_session(journal, "turn/1")
    return journal


def test_a_step_goes_on_while_its_lease_is_good(journal: SilentJournal) -> None:
    clock = Clock()
    heart = Heart(journal, beat_ms=None, now_s=clock.now_s)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=clock.s) as kept:
        for _ in range(5):
            clock.s += LEASE_S - 0.1
            assert not kept.stopped()
            heart.beat()

        assert not kept.told


def test_a_step_that_was_stopped_for_a_lease_begins_nothing(journal: SilentJournal) -> None:
    clock = Clock()
    heart = Heart(journal, beat_ms=None, now_s=clock.now_s)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=clock.s) as kept:
        clock.s += LEASE_S

        assert kept.stopped()
        assert not kept.told


def test_the_time_that_the_claim_took_counts(journal: SilentJournal) -> None:
    clock = Clock()
    heart = Heart(journal, beat_ms=None, now_s=clock.now_s)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=clock.s - LEASE_S) as kept:
        assert kept.stopped()


def test_a_beat_that_nobody_answered_renews_nothing(journal: SilentJournal) -> None:
    clock = Clock()
    heart = Heart(journal, beat_ms=None, now_s=clock.now_s)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=clock.s) as kept:
        clock.s += LEASE_S - 0.1
        journal.silent = True
        heart.beat()
        clock.s += 0.2
        assert kept.stopped()
        journal.silent = False
        heart.beat()

        assert not kept.stopped(), "the lease was still there"


def test_a_step_whose_lease_was_taken_is_told(journal: SilentJournal) -> None:
    bench_clock = ManualClock()
    journal = SilentJournal(bench_clock)
    open_session(journal, "turn/1")
    heart = Heart(journal, beat_ms=None, now_s=Clock().now_s)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=100.0) as kept:
        bench_clock.advance(policy.LEASE_MS + 1)
        lease_of(journal, "turn/1", owner="w-2")
        heart.beat()

        assert kept.told
        assert kept.stopped()


def test_a_heart_beats_by_itself_until_it_is_closed(journal: SilentJournal) -> None:
    heart = Heart(journal, beat_ms=1)

    with heart.keeping(lease_of(journal, "turn/1"), since_s=heart.now_s()) as kept:
        assert journal.asked.wait(5)
        assert not kept.stopped()

    heart.close()
    journal.asked.clear()
    assert not journal.asked.wait(0.02)
