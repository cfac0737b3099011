"""When the runner lets a spooled reply go: at the commit of its step, or at a sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.runner.desk import SESSION, Desk, usual
from tests.unit.spool.test_spool import SPOOLED
from worker.errors import Unavailable
from worker.ports import EntryState
from worker.spool.spool import FRESH_MS, LOOK_AGAIN_MS

if TYPE_CHECKING:
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.ports import Entry
    from worker.steps.context import Step
    from worker.wire.spool import Spooled

SCOPES = ("fleet", f"session:{SESSION}")


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for scope in SCOPES:
        desk.ledger.open_account(scope, 10**12)
    desk.open()
    desk.play("prepare")
    return desk


def heard(desk: Desk, *, session_id: str = SESSION) -> Spooled:
    """Have a reply to turn 1 on the disk, under a reservation that was sent."""
    rid = f"{session_id}/turn/1/1.1"
    desk.ledger.reserve(
        rid,
        SPOOLED.cost_nusd,
        SCOPES,
        kind="explore",
        model="claude-opus-4-6",
        step_id="turn/1",
        price_version="v",
        deadline_ms=60_000,
    )
    desk.ledger.sent(rid)
    return desk.spool.keep(replace(SPOOLED, session_id=session_id, reservation_id=rid))


def entry(desk: Desk) -> Entry:
    (entry,) = desk.ledger.entries(SESSION)
    return entry


def test_a_committed_step_takes_its_settled_reply_along(desk: Desk) -> None:
    def paid(command: Command, step: Step) -> Event:
        desk.spool.settled(heard(desk))
        return usual(command, step)

    desk.then(paid)
    desk.play("turn/1")

    assert dict(desk.folder.list()) == {}


def test_a_step_that_failed_for_now_leaves_its_reply_for_the_next_attempt(desk: Desk) -> None:
    def paid(_: Command, __: Step) -> Event:
        desk.spool.settled(heard(desk))
        raise Unavailable("S3 is away")

    desk.then(paid)
    assert desk.work("turn/1").status == "retry"

    desk.clock.advance(FRESH_MS)
    desk.runner.sweep()
    assert len(desk.folder.list()) == 1
    desk.play("turn/1")
    assert dict(desk.folder.list()) == {}


def test_the_sweep_settles_for_the_dead_before_it_charges_bounds(desk: Desk) -> None:
    heard(desk)
    desk.clock.advance(60_000)

    desk.runner.sweep()

    assert entry(desk).state is EntryState.SETTLED
    assert len(desk.folder.list()) == 1  # the turn still wants it


def test_the_sweep_removes_what_a_committed_step_left(desk: Desk) -> None:
    heard(desk)
    desk.play("turn/1")
    assert len(desk.folder.list()) == 1
    desk.clock.advance(FRESH_MS)

    desk.runner.sweep()

    assert entry(desk).state is EntryState.SETTLED
    assert dict(desk.folder.list()) == {}


def test_the_sweep_keeps_what_a_lost_session_may_come_back_for(desk: Desk) -> None:
    heard(desk, session_id="s-lost")
    desk.clock.advance(FRESH_MS)
    desk.runner.sweep()
    assert len(desk.folder.list()) == 1

    desk.clock.advance(3_600_000)
    desk.runner.sweep()
    assert dict(desk.folder.list()) == {}


def test_the_sweep_removes_what_a_pruned_session_left(desk: Desk) -> None:
    heard(desk)
    desk.play("turn/1", "call/1.0", "turn/2", "conclude")
    assert desk.journal.prune(SESSION, outcome="concluded", artifacts_uri="s3://b/x/")
    desk.clock.advance(LOOK_AGAIN_MS)

    desk.runner.sweep()

    assert dict(desk.folder.list()) == {}
