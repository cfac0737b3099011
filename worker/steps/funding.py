"""The money that a session has before it starts: a promise of what it may cost, and its closing call's hold.

Rule: all of it or nothing. It may be said twice, by the door and by whoever starts a session that
waited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.policy import closing_hold_ms
from worker.errors import BudgetDenied
from worker.steps.context import closing_hold_id

if TYPE_CHECKING:
    from worker.core.values import SessionSpec
    from worker.ports import Ledger

__all__ = ["fund", "hold_closing", "shared"]


def fund(ledger: Ledger, spec: SessionSpec) -> None:
    """Give a session its money: what it expects of its accounts, and its closing call's hold.

    Raises:
        BudgetDenied: Some account cannot carry it; nothing is promised or held.
    """
    if spec.expected_cost_nusd > 0:
        ledger.promise(spec.session_id, spec.expected_cost_nusd, shared(spec))
    try:
        hold_closing(ledger, spec)
    except BudgetDenied:
        ledger.release(spec.session_id, shared(spec))
        raise


def hold_closing(ledger: Ledger, spec: SessionSpec) -> None:
    """Hold the closing call's money. Said again after it was used, it changes nothing.

    Raises:
        BudgetDenied: Some account has no room for it.
    """
    try:
        ledger.reserve(
            closing_hold_id(spec.session_id),
            spec.closing_hold_nusd,
            spec.scopes,
            kind="close",
            model=spec.teacher_model,
            step_id="close",
            price_version=spec.price_version,
            deadline_ms=closing_hold_ms(spec.limits),
        )
    except BudgetDenied as exc:
        if exc.why != "closed":
            raise


def shared(spec: SessionSpec) -> tuple[str, ...]:
    """Return the accounts that a session shares with others."""
    return spec.scopes[:-1]
