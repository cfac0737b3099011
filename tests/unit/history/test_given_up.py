"""What a runner leaves for people: why a step was tried again, and which steps were given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.unit.history.sessions import open_session
from worker.core.events import BundlePrepared
from worker.core.policy import LEASE_MS, POISON_DEATHS
from worker.core.values import Text
from worker.errors import BundleInvalid, Unavailable
from worker.heart import Heart
from worker.journal.memory import MemoryJournal
from worker.ledger import refusals
from worker.runner import Runner
from worker.testing import CollectedHints, ManualClock

if TYPE_CHECKING:
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.steps.context import Ports, Step

PREPARED = BundlePrepared(brief=Text(text="3 traces"), traces=3, tasks=4)


class Desk:
    """One session, and a worker whose step does what the test says."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal(self.clock)
        self.does: list[Exception | Event] = []
        self._heart = Heart(self.journal, beat_ms=None)
        self._tokens = iter(f"token-{number}" for number in range(100))
        self._runner = Runner(
            journal=self.journal,
            hints=CollectedHints(),
            # No step of these tests looks outside.
            ports=cast("Ports", SimpleNamespace(ledger=None)),
            owner="w-1",
            new_token=lambda: next(self._tokens),
            chance=lambda: 0.5,
            heart=self._heart,
            perform=self._perform,
        )
        open_session(self.journal, "s-1")

    def _perform(self, command: Command, step: Step) -> Event:
        del command, step
        done = self.does.pop(0)
        if isinstance(done, Exception):
            raise done
        return done

    def work(self) -> str:
        """Work on the step when it is due; return what came of it."""
        self.clock.advance(60_000)
        return self._runner.work("s-1", "prepare").status

    def die(self) -> None:
        """Take the step, and never be heard of again."""
        self.journal.claim("s-1", "prepare", owner="w-0", token=next(self._tokens), since=0)
        self.clock.advance(LEASE_MS)

    @property
    def dead(self) -> list[tuple[str, int, int, str]]:
        """The dead letters: step, attempt, deaths, reason."""
        letters = self.journal.dead_letters()
        return [(one.step_id, one.attempt, one.deaths, one.reason) for one in letters]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_why_a_step_was_tried_again_is_known_when_it_has_succeeded(desk: Desk) -> None:
    desk.does = [Unavailable("S3 did not answer"), Unavailable("S3 is slow"), PREPARED]

    assert [desk.work() for _ in range(3)] == ["retry", "retry", "done"]

    notes = [(note.attempt, note.owner, note.text) for note in desk.journal.notes("s-1")]
    assert notes == [(1, "w-1", "S3 did not answer"), (2, "w-1", "S3 is slow")]
    assert desk.journal.steps("s-1")[0].step_id == "turn/1"
    assert desk.dead == []


def test_a_step_that_kills_its_workers_is_a_dead_letter_when_its_failure_is_committed(
    desk: Desk,
) -> None:
    for _ in range(POISON_DEATHS):
        desk.die()
        assert desk.dead == []

    assert desk.work() == "failed"

    reason = f"it killed {POISON_DEATHS} workers and is not tried again"
    assert desk.dead == [("prepare", POISON_DEATHS + 1, POISON_DEATHS, reason)]
    assert [row.step_id for row in desk.journal.steps("s-1")] == ["conclude"]


@pytest.mark.parametrize(
    ("errors", "attempt", "reason"),
    [
        ([BundleInvalid("it holds no traces")], 1, "it holds no traces"),
        ([ZeroDivisionError("a bug")] * 3, 3, "ZeroDivisionError: a bug"),
    ],
)
def test_a_step_that_fails_for_good_is_a_dead_letter(
    desk: Desk, errors: list[Any], attempt: int, reason: str
) -> None:
    desk.does = list(errors)

    assert [desk.work() for _ in errors][-1] == "failed"

    assert desk.dead == [("prepare", attempt, 0, reason)]


def test_a_limit_that_was_reached_is_nothing_that_anybody_has_to_look_at(desk: Desk) -> None:
    desk.does = [refusals.denied("cap", "fleet", amount_nusd=2, free_nusd=1)]

    assert desk.work() == "failed"

    assert desk.dead == []
