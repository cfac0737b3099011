"""The step that looks whether a session at rest may go on.

Rule: it waits for nothing. Where what the pause waits for is not there, it says for how much longer the
session may wait, and leaves its slot. A session that starts has its money first: what it is expected to
cost is promised, and its closing call held, before its start is in the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.events import PauseExpired, SessionResumed
from worker.core.prices import usd
from worker.core.values import Cause
from worker.errors import BudgetDenied, StillWaiting
from worker.steps.funding import fund

if TYPE_CHECKING:
    from worker.core.events import SessionPaused
    from worker.steps.context import Step

__all__ = ["await_resume"]


def await_resume(step: Step) -> SessionResumed | PauseExpired:
    """Return that the session goes on, or that it has waited for too long.

    Raises:
        StillWaiting: Neither.
        Unavailable: The ledger did not answer.
    """
    pause = step.session.paused
    assert pause is not None, "only a session at rest wants this"
    lacks = _lacks(step, pause)
    if not lacks:
        return SessionResumed(number=pause.number, detail="there is enough money now")
    longest_ms = step.session.spec.limits.max_pause_ms
    left_ms = longest_ms - _waited_ms(step, pause)
    if left_ms > 0:
        raise StillWaiting(lacks, left_ms=left_ms)
    detail = f"{_hours(longest_ms)} went by, and {lacks}"
    return PauseExpired(number=pause.number, detail=detail)


def _lacks(step: Step, pause: SessionPaused) -> str:
    """Return what the session still waits for; empty where it may go on."""
    match pause.cause:
        case Cause.ASKED:
            return f"nobody resumed it ({pause.detail})"
        case Cause.MONEY:
            return _short(step, pause)
        case Cause.FUNDS:
            try:
                fund(step.ports.ledger, step.session.spec)
            except BudgetDenied as exc:
                return str(exc)
            return ""


def _short(step: Step, pause: SessionPaused) -> str:
    rooms = step.ports.ledger.rooms(step.session.spec.scopes)
    scope = min(rooms, key=lambda name: rooms[name].free_nusd)
    free_nusd = rooms[scope].free_nusd
    if free_nusd >= pause.needed_nusd:
        return ""
    return f"it needs {usd(pause.needed_nusd)}, and {scope!r} has {usd(free_nusd)}"


def _waited_ms(step: Step, pause: SessionPaused) -> int:
    records = step.ports.records(step.session_id)
    began_ms = next(r.at_ms for r in records if r.key == f"pause/{pause.number}")
    return step.ports.clock.now_ms() - began_ms


def _hours(span_ms: int) -> str:
    hours = span_ms / 3_600_000
    return f"{hours:g} hours" if hours >= 1 else f"{span_ms / 60_000:g} minutes"
