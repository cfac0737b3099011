"""Sessions that wait for money: who goes before whom, and who is told to look again.

Rule: who may go is decided in `core.waiting`, on one reading of the journal and the ledger. Whoever is
told looks again: money that was seen here may be gone by then.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from worker.core import policy
from worker.core.waiting import may_go
from worker.ports import Waiting
from worker.steps.funding import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.values import SessionSpec
    from worker.ports import Hints, Journal, Ledger

__all__ = ["Waking"]


class Waking:
    """Looks after those who wait. One a process; safe to call from many threads."""

    def __init__(
        self, journal: Journal, ledger: Ledger, hints: Hints, *, now_s: Callable[[], float]
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._hints = hints
        self._now_s = now_s
        self._next_s = 0.0
        self._lock = threading.Lock()

    def goes_first(self, spec: SessionSpec) -> bool:
        """Whether nobody waits before a new session for what it needs.

        Raises:
            Unavailable: The journal or the ledger did not answer.
        """
        waiting = self._journal.waiting()
        if not waiting:
            return True
        new = Waiting(
            session_id=spec.session_id,
            step_id="",
            since_ms=waiting[-1].since_ms + 1,
            needs_nusd=spec.expected_cost_nusd,
            scopes=shared(spec),
            escrow=True,
        )
        return new in self._going((*waiting, new))

    def wake(self, *, every_ms: int = policy.WAKE_MS) -> int:
        """Tell the steps that wait for money and may have it now; return how many.

        Args:
            every_ms: Not more often than this; 0 looks at once.

        Raises:
            Unavailable: The journal or the ledger did not answer.
        """
        with self._lock:
            now_s = self._now_s()
            if every_ms and now_s < self._next_s:
                return 0
            self._next_s = now_s + every_ms / 1000
        going = self._going(self._journal.waiting())
        woken = [self._journal.wake(one.session_id, one.step_id) for one in going]
        told = [one for one in woken if one is not None]
        self._hints.tell(told)
        return len(told)

    def _going(self, waiting: Sequence[Waiting]) -> Sequence[Waiting]:
        scopes = tuple(dict.fromkeys(scope for one in waiting for scope in one.scopes))
        return may_go(waiting, self._ledger.rooms(scopes)) if scopes else ()
