"""Paying for an engine's calls: bounds where the model has a price, estimates where it has none.

Rule: no call without a reservation, and the engine's own `cost_usd` is the truth. A model with a
price is held at the bound of the call, so the cap is never passed unless the engine charges more
than that price allows. A model without one is held at its dearest call so far, and the exploration
leaves enough for one more, the closing call; it can pass the cap by the calls under way.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.core.bounds import (
    MIN_USEFUL_OUTPUT_TOKENS,
    affordable_output_tokens,
    cache_writes,
    call_bound_nusd,
    json_bytes,
)
from worker.core.bounds import prompt_bound_tokens as bound_of_bytes
from worker.core.prices import Price, cost_nusd, price_or_none, usd
from worker.core.values import Usage
from worker.errors import BudgetDenied, TeacherFault
from worker.paid import PaidReply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.teaching import TeacherRequest
    from worker.core.values import CallKind
    from worker.local.engine import EngineReply, EngineTeacher
    from worker.ports import Ledger

__all__ = ["EnginePayer"]

#: What a call of a model without a price is held at before any has been paid: the least there is.
FIRST_ESTIMATE_NUSD = 1
#: Longer than any engine's own time-out.
DEADLINE_MS = 3_600_000
#: Kinds of calls that come after the exploration.
_LAST = frozenset({"close", "extract"})
#: How much of a fault's words stands in the ledger.
_WHY_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call and the reservation that it is made under."""

    reservation_id: str
    request: TeacherRequest
    scopes: Sequence[str]
    kind: CallKind
    step_id: str
    price: Price | None
    prompt_bound_tokens: int

    @property
    def bound_nusd(self) -> int:
        """The most that the model's price allows; 0 where it has none."""
        if self.price is None:
            return 0
        writes = self._cache_writes
        return call_bound_nusd(
            self.price, self.prompt_bound_tokens, self.request.max_tokens, **writes
        )

    def shrunk_to(self, free_nusd: int) -> _Call | None:
        """Return the call with as much output as `free_nusd` carries; None where that is no use."""
        if self.price is None:
            return None
        writes = self._cache_writes
        fits = affordable_output_tokens(self.price, self.prompt_bound_tokens, free_nusd, **writes)
        if fits < min(MIN_USEFUL_OUTPUT_TOKENS, self.request.max_tokens):
            return None
        return replace(self, request=replace(self.request, max_tokens=fits))

    @property
    def _cache_writes(self) -> dict[str, bool]:
        request = self.request
        writes = cache_writes(system=request.system, messages=request.messages, tools=request.tools)
        return {"has_5m": writes.has_5m, "has_1h": writes.has_1h}


class EnginePayer:
    """`PaidTeacher` for an engine: the same `call`, from many threads."""

    def __init__(self, teacher: EngineTeacher, ledger: Ledger) -> None:
        self._teacher = teacher
        self._ledger = ledger
        self._lock = threading.Lock()
        #: The dearest call of a model without a price, or above the bound of its price.
        self._dearest_nusd = 0
        #: Whether the last turn's usage is known, which the bound of the next one is made from.
        self._says_usage = False
        #: Whether calls were made that may have cost something, and nobody knows what.
        self.unknown_costs = False

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
            TeacherFault: The engine raised; charged at its bound, unless nothing was sent.
        """
        del stopped
        call = _Call(
            reservation_id=reservation_id,
            request=request,
            scopes=scopes,
            kind=kind,
            step_id=step_id,
            price=price_or_none(request.model),
            prompt_bound_tokens=self._prompt_bound_tokens(request, prompt_bound_tokens),
        )
        call, held_nusd = self._reserve(call, replaces)
        answered = self._send(call)
        return self._settle(call, held_nusd, answered)

    # ------------------------------------------------------------------------------ before

    def _prompt_bound_tokens(self, request: TeacherRequest, given: int) -> int:
        if self._says_usage:
            return given
        parts = (request.system, request.messages, request.tools)
        return max(bound_of_bytes(sum(json_bytes(part) for part in parts)), given)

    def _reserve(self, call: _Call, replaces: str | None) -> tuple[_Call, int]:
        """Hold what the call may cost, with less output where money is short; return both."""
        with self._lock:
            try:
                return call, self._hold(call, replaces)
            except BudgetDenied as denied:
                smaller = call.shrunk_to(denied.free_nusd)
                if smaller is None:
                    raise
                return smaller, self._hold(smaller, replaces)

    def _hold(self, call: _Call, replaces: str | None) -> int:
        """Reserve what the call may cost; return it.

        Raises:
            BudgetDenied: The cap does not carry it.
        """
        last = call.kind in _LAST
        amount_nusd = max(call.bound_nusd, FIRST_ESTIMATE_NUSD)
        if call.price is None or not last:
            amount_nusd = max(amount_nusd, self._dearest_nusd)
        if call.price is None and not last:
            self._leave_enough(call, amount_nusd)
        try:
            self._ledger.reserve(
                call.reservation_id,
                amount_nusd,
                call.scopes,
                kind=call.kind,
                model=call.request.model,
                step_id=call.step_id,
                price_version="local",
                deadline_ms=DEADLINE_MS,
                replaces=replaces,
            )
        except BudgetDenied as exc:
            raise _denied(amount_nusd, exc.free_nusd, exc) from exc
        return amount_nusd

    def _leave_enough(self, call: _Call, amount_nusd: int) -> None:
        """Keep the money of one more call, which will write the diagnosis.

        Raises:
            BudgetDenied: There is not enough for both.
        """
        account = self._ledger.account(call.scopes[-1])
        assert account is not None, "the accounts of a run are opened at its start"
        if account.free_nusd < amount_nusd + self._dearest_nusd:
            raise _denied(amount_nusd, max(account.free_nusd - self._dearest_nusd, 0), None)

    # ------------------------------------------------------------------------------ after

    def _send(self, call: _Call) -> EngineReply:
        self._ledger.sent(call.reservation_id)
        try:
            return self._teacher.generate(call.request)
        except TeacherFault as fault:
            self._failed(call, fault.message, unbilled=fault.billing == "unbilled")
            raise
        except BaseException as exc:
            self._failed(call, type(exc).__name__, unbilled=False)
            raise

    def _failed(self, call: _Call, why: str, *, unbilled: bool) -> None:
        """Charge the bound of a call that raised; an estimate is no bound, and is given back."""
        if unbilled or call.price is None:
            self._ledger.void(call.reservation_id, why[:_WHY_CHARS])
        else:
            self._ledger.charge_unknown(call.reservation_id, why[:_WHY_CHARS])

    def _settle(self, call: _Call, held_nusd: int, answered: EngineReply) -> PaidReply:
        """Charge what the engine says; what is above the hold takes a reservation of its own.

        Only where not even that fits is the cap passed, and the account freezes.
        """
        paid_nusd = self._paid_nusd(call, answered)
        if paid_nusd > held_nusd and self._charge_excess(call, paid_nusd - held_nusd):
            charged_nusd = held_nusd
        else:
            charged_nusd = paid_nusd
        usage = answered.reply.usage
        within = self._ledger.settle(call.reservation_id, charged_nusd, usage=usage)
        with self._lock:
            if call.kind == "explore":
                self._says_usage = usage.prompt_tokens > 0
            if call.price is None or paid_nusd > held_nusd:
                self._dearest_nusd = max(self._dearest_nusd, paid_nusd)
        return PaidReply(
            reply=answered.reply,
            cost_nusd=paid_nusd,
            max_tokens=call.request.max_tokens,
            breach=not within,
        )

    def _charge_excess(self, call: _Call, excess_nusd: int) -> bool:
        """Charge what a call cost above its hold, where that fits; return whether it did."""
        excess_id = f"{call.reservation_id}.excess"
        try:
            self._ledger.reserve(
                excess_id,
                excess_nusd,
                call.scopes,
                kind=call.kind,
                model=call.request.model,
                step_id=call.step_id,
                price_version="local",
                deadline_ms=DEADLINE_MS,
            )
        except BudgetDenied:
            return False
        self._ledger.sent(excess_id)
        self._ledger.settle(excess_id, excess_nusd, usage=Usage())
        return True

    def _paid_nusd(self, call: _Call, answered: EngineReply) -> int:
        """Return what a call cost: as the engine says, else by its tokens, else nothing is known."""
        if answered.cost_nusd:
            return answered.cost_nusd
        if call.price is not None:
            return cost_nusd(call.price, answered.reply.usage)
        if answered.cost_nusd is None:
            self.unknown_costs = True
        return 0


def _denied(amount_nusd: int, free_nusd: int, exc: BudgetDenied | None) -> BudgetDenied:
    return BudgetDenied(
        f"the next call may cost {usd(amount_nusd)}, and max_cost_usd leaves {usd(free_nusd)}",
        scope="session",
        free_nusd=free_nusd,
        why=exc.why if exc else "cap",
    )
