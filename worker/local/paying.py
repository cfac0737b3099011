"""Paying for an engine's calls: bounds where the model has a price, estimates where it has none.

Rule: no call without a reservation, and the engine's own `cost_usd` is the truth. A call is held at
the bound of its model's price, or at the dearest call so far if that is more. An engine that charges
more than any bound (or has no price) can pass the cap by one such call; none is made after it.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from worker.core.bounds import cache_writes, call_bound_nusd
from worker.core.prices import Price, cost_nusd, price_of
from worker.core.values import Usage
from worker.errors import BudgetDenied, TeacherFault, UnknownModel
from worker.paid import PaidReply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.teaching import TeacherRequest
    from worker.core.values import CallKind
    from worker.local.engine import EngineReply, EngineTeacher
    from worker.ports import Ledger

__all__ = ["EnginePayer", "price_or_none"]

#: What a call of a model without a price is held at before any has been paid: one tenth of a cent.
FIRST_ESTIMATE_NUSD = 1_000_000
#: Longer than any engine's own time-out.
DEADLINE_MS = 3_600_000


def price_or_none(model: str) -> Price | None:
    """Return a model's price, None where it has none."""
    try:
        return price_of(model)
    except UnknownModel:
        return None


class EnginePayer:
    """`PaidTeacher` for an engine: the same `call`."""

    def __init__(self, teacher: EngineTeacher, ledger: Ledger) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self._dearest_nusd = FIRST_ESTIMATE_NUSD
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def call(
        self,
        request: TeacherRequest,
        *,
        reservation_id: str,
        scopes: Sequence[str],
        kind: CallKind,
        step_id: str,
        prompt_bound_tokens: int,
        stopped: Callable[[], bool],
        replaces: str | None = None,
    ) -> PaidReply:
        """Make one call and pay for it; see `PaidTeacher.call`.

        Raises:
            BudgetDenied: The cap does not carry it; nothing was sent.
            TeacherFault: The engine raised; charged at its bound.
        """
        del stopped
        price = price_or_none(request.model)
        amount_nusd = self._bound_nusd(request, price, prompt_bound_tokens)
        self._ledger.reserve(
            reservation_id,
            amount_nusd,
            scopes,
            kind=kind,
            model=request.model,
            step_id=step_id,
            price_version="local",
            deadline_ms=DEADLINE_MS,
            replaces=replaces,
        )
        self._ledger.sent(reservation_id)
        try:
            answered = self._teacher.generate(request, next(self._numbers))
        except TeacherFault as exc:
            self._failed(reservation_id, price, exc)
            raise
        paid_nusd = _paid_nusd(answered, price)
        self._settle(reservation_id, amount_nusd, paid_nusd, scopes, answered, kind)
        with self._lock:
            self._dearest_nusd = max(self._dearest_nusd, paid_nusd)
        return PaidReply(reply=answered.reply, cost_nusd=paid_nusd, max_tokens=request.max_tokens)

    def _settle(  # noqa: PLR0917 - one reservation's facts
        self,
        reservation_id: str,
        amount_nusd: int,
        paid_nusd: int,
        scopes: Sequence[str],
        answered: EngineReply,
        kind: CallKind,
    ) -> None:
        """Charge what the engine says; what is above the hold takes a reservation of its own.

        Only where not even that fits is the cap passed, and the account freezes.
        """
        usage = answered.reply.usage
        excess_nusd = paid_nusd - amount_nusd
        if excess_nusd <= 0:
            self._ledger.settle(reservation_id, paid_nusd, usage=usage)
            return
        excess_id = f"{reservation_id}.excess"
        try:
            self._ledger.reserve(
                excess_id,
                excess_nusd,
                scopes,
                kind=kind,
                model=answered.reply.model,
                step_id="excess",
                price_version="local",
                deadline_ms=DEADLINE_MS,
            )
        except BudgetDenied:
            self._ledger.settle(reservation_id, paid_nusd, usage=usage)
            return
        self._ledger.sent(excess_id)
        self._ledger.settle(excess_id, excess_nusd, usage=Usage())
        self._ledger.settle(reservation_id, amount_nusd, usage=usage)

    def _bound_nusd(
        self, request: TeacherRequest, price: Price | None, prompt_bound_tokens: int
    ) -> int:
        with self._lock:
            dearest_nusd = self._dearest_nusd
        if price is None:
            return dearest_nusd
        writes = cache_writes(system=request.system, messages=request.messages, tools=request.tools)
        bound_nusd = call_bound_nusd(
            price,
            prompt_bound_tokens,
            request.max_tokens,
            has_5m=writes.has_5m,
            has_1h=writes.has_1h,
        )
        return max(bound_nusd, dearest_nusd)

    def _failed(self, reservation_id: str, price: Price | None, fault: TeacherFault) -> None:
        """Charge the bound of a call that raised; an estimate is not a bound and is given back."""
        if price is None:
            self._ledger.void(reservation_id, fault.message)
        else:
            self._ledger.charge_unknown(reservation_id, fault.message)


def _paid_nusd(answered: EngineReply, price: Price | None) -> int:
    """Return what a call cost: as the engine says, else by its tokens, else nothing is known."""
    if answered.cost_nusd:
        return answered.cost_nusd
    return cost_nusd(price, answered.reply.usage) if price is not None else 0
