"""Sessions that stand still and sessions that begin where others were, on a real fleet."""

from __future__ import annotations

import json
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.fleets import Harness, airline_home, harness
from tests.waiting import until
from worker.core.events import SessionPaused, SessionResumed
from worker.core.values import Cause
from worker.doctor.fleet import backlog
from worker.ports import EntryState
from worker.status import SessionView, view
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from worker.core.events import Event

__all__ = ["airline_home", "harness"]

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket, pytest.mark.timeout("180")]


def _said(harness: Harness, *args: str, code: int = 0) -> str:
    """Return what a command prints as one line."""
    return " ".join(harness.said(*args, code=code).split())


def _seen(harness: Harness, session_id: str) -> SessionView | None:
    system = harness.system
    return view(session_id, system.runner, system.journal, system.ledger)


def _stands_still(harness: Harness, session_id: str) -> bool:
    seen = _seen(harness, session_id)
    return seen is not None and seen.paused is not None


def _lacks_money(harness: Harness, session_id: str) -> bool:
    """Whether it stands still for money that none of its own calls can give back any more."""
    seen = _seen(harness, session_id)
    if seen is None or seen.paused is None or seen.paused.free_nusd >= seen.paused.needed_nusd:
        return False
    held = [e for e in harness.system.ledger.entries(session_id) if e.state is EntryState.HELD]
    return len(held) == 1 and seen.open_steps == 1 and seen.held_nusd == held[0].amount_nusd


def _events(harness: Harness, session_id: str) -> tuple[Event, ...]:
    return decode_all(harness.system.journal.load(session_id).records)


def _new(name: str) -> tuple[str, str]:
    """Return ids of a session and of a campaign of its own."""
    mark = uuid.uuid4().hex[:8]
    return f"{name}-{mark}", f"{name}-{mark}"


def _restful(harness: Harness, session_id: str) -> None:
    """Nobody is at the session, and nobody is told of it."""
    before = harness.system.journal.notes(session_id)
    (due,) = [row for row in harness.system.journal.overdue() if row[0] == session_id]
    assert due[1].startswith("resume/")
    threading.Event().wait(3.0)
    assert harness.system.journal.notes(session_id) == before
    assert [row.state for row in harness.system.journal.steps(session_id)] == ["ready"]


def test_a_session_that_runs_out_of_money_goes_on_by_itself_when_the_cap_is_raised(
    harness: Harness,
) -> None:
    session_id, campaign = _new("short")
    _said(harness, "budget", "set", f"campaign:{campaign}", "0.9")
    request = harness.request(session_id, campaign=campaign, when_money_lacks="pause")
    harness.client.enqueue(request)
    until("the pause", lambda: _lacks_money(harness, session_id))

    shown = _said(harness, "status", session_id)
    assert "paused while exploring" in shown
    assert f"the tightest account 'campaign:{campaign}' has $" in shown
    found = {one.name: one for one in backlog(harness.fleet.settings())}["money"]
    assert (found.state, found.found.split(",")[0]) == ("warn", "1 sessions wait for it")
    _restful(harness, session_id)
    _said(harness, "budget", "set", f"campaign:{campaign}", "20")

    result = harness.wait(session_id)
    assert result.outcome == "concluded"
    events = _events(harness, session_id)
    pauses = [event for event in events if isinstance(event, SessionPaused)]
    resumed = [event for event in events if isinstance(event, SessionResumed)]
    assert {pause.cause for pause in pauses} == {Cause.MONEY}
    assert len(resumed) == len(pauses)
    account = harness.system.ledger.account(f"session:{session_id}")
    assert account is not None
    assert account.posted_nusd == result.cost_nusd
    told = _said(harness, "explain", session_id)
    assert "paused (money)" in told
    assert "each of them asked for" in _said(harness, "replay", session_id)


def test_somebody_pauses_a_session_and_lets_it_go_on(harness: Harness) -> None:
    session_id, _ = _new("asked")
    harness.client.enqueue(harness.request(session_id))
    until("a turn", lambda: (seen := _seen(harness, session_id)) and seen.turns >= 1)

    _said(harness, "pause", session_id, "--reason", "the GPU is needed")

    until("the steps under way", lambda: len(harness.system.journal.steps(session_id)) == 1)
    seen = _seen(harness, session_id)
    assert seen is not None
    assert seen.paused is not None
    assert seen.paused.words.startswith("paused: the GPU is needed")
    threading.Event().wait(1.0)
    assert _seen(harness, session_id) == seen
    _said(harness, "resume", session_id)
    assert harness.wait(session_id).outcome == "concluded"


def test_a_session_waits_for_its_start_until_its_campaign_can_carry_it(harness: Harness) -> None:
    session_id, campaign = _new("waits")
    _said(harness, "budget", "set", f"campaign:{campaign}", "0.5")
    harness.client.enqueue(harness.request(session_id, campaign=campaign, when_funds_lack="wait"))
    until("the wait", lambda: _stands_still(harness, session_id))

    assert "waiting to start" in _said(harness, "status", session_id)
    assert harness.system.ledger.entries(session_id) == ()
    _restful(harness, session_id)
    _said(harness, "budget", "set", f"campaign:{campaign}", "20")

    assert harness.wait(session_id).outcome == "concluded"
    rooms = harness.system.ledger.rooms([f"campaign:{campaign}", "fleet"])
    assert all(room.promised_nusd == 0 for room in rooms.values())


def test_a_session_that_waited_too_long_says_so_in_its_artifacts(harness: Harness) -> None:
    session_id, campaign = _new("late")
    _said(harness, "budget", "set", f"campaign:{campaign}", "0.5")

    result = harness.run(
        session_id, campaign=campaign, when_funds_lack="wait", limits={"max_pause_s": 2}
    )

    assert result.outcome == "inconclusive"
    assert result.reason.startswith("The session never started")
    assert result.cost_nusd == 0


def test_a_fork_goes_on_from_a_turn_of_an_ended_session_and_of_a_pruned_one(
    harness: Harness,
) -> None:
    session_id, _ = _new("parent")
    parent = harness.run(session_id)
    before = harness.system.journal.load(session_id)
    billed = harness.system.ledger.account(f"session:{session_id}")

    shown = _said(harness, "fork", session_id, "--at-turn", "2")
    child_id = f"{session_id}-fork-t2"
    assert shown.startswith(f"enqueued {child_id}: {session_id} up to turn 2, which had cost $")
    child = harness.wait(child_id)

    assert child.outcome == "concluded"
    assert 0 < child.cost_nusd < parent.cost_nusd
    assert harness.system.journal.load(session_id) == before
    assert harness.system.ledger.account(f"session:{session_id}") == billed
    assert _bodies(harness, child_id, 2) == _bodies(harness, session_id, 2)
    session = json.loads(harness.artifacts(child_id)["session.json"])
    assert session["forked"]["from_session"] == session_id
    assert session["forked"]["at_turn"] == 2
    inherited = session["forked"]["inherited_nusd"]
    assert inherited == sum(getattr(event, "cost_nusd", 0) for event in _taken(harness, child_id))
    assert "- Forked: from" in harness.artifacts(child_id)["diagnosis.md"]
    assert "forked from" in _said(harness, "explain", child_id)
    _said(harness, "prune", "--older-than-days", "0")
    assert harness.system.journal.load(session_id).length == 0

    _said(harness, "fork", session_id, "--at-turn", "1", "--session-id", f"{session_id}-again")

    assert harness.wait(f"{session_id}-again").outcome == "concluded"


def _taken(harness: Harness, child_id: str) -> list[Event]:
    """Return the events that a fork was made with: those that no worker committed."""
    records = harness.system.journal.load(child_id).records
    return list(decode_all(record for record in records if not record.owner))


def _bodies(harness: Harness, session_id: str, turns: int) -> list[tuple[str, str]]:
    """Return the answers of a session's first turns as they stand in its journal."""
    records = harness.system.journal.load(session_id).records
    wanted = ("turn/", "call/", "run/", "judge/")
    return [
        (record.key, record.body)
        for record in records
        if record.key.startswith(wanted)
        and int(record.key.partition("/")[2].partition(".")[0]) <= turns
    ]
