"""Paying for a call to the teacher: wait for the rate, reserve, say so, send, account for the outcome.

Rule: nothing else calls a `Teacher`. One reservation is one HTTP request, and whatever happens to
the request, the ledger holds at least what the provider may bill for it. Before it is sent, its bound
is noted outside of the ledger's server too, which may lose everything:

| outcome                                              | ledger                                     |
|------------------------------------------------------|--------------------------------------------|
| a whole reply                                        | settled at its exact cost                  |
| a refusal that the provider does not charge          | settled at 0, with its usage               |
| a fault that proves that nothing was billed          | void                                       |
| a fault that proves nothing, a reply without an end  | charged at the bound, narrowed if it began |
| any other exception, also a stop of the thread       | the same, at once if the ledger answers    |
| the process dies                                     | stays `sent`; the sweep charges the bound  |
| the process dies, the whole reply lies in the spool  | settled; whoever makes the call adopts it  |

A reservation's deadline is near, and moved on while its call is under way: so the sweep knows a call
whose process died within seconds, and a session need not wait for the time-out of a call that
nobody makes any more.
"""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from worker.core.bounds import (
    MIN_USEFUL_OUTPUT_TOKENS,
    CacheWrites,
    affordable_output_tokens,
    cache_writes,
    call_bound_nusd,
    started_bound_nusd,
    why_unbounded,
)
from worker.core.prices import PRICE_VERSION, Price, cost_nusd, price_of
from worker.core.rates import ending_of_reply
from worker.errors import BadInput, BudgetDenied, DiagnosisError, TeacherFault, Unavailable
from worker.limits.gate import Passed
from worker.ports import Entry, EntryState
from worker.prefixes.lead import Led
from worker.wire.spool import Spooled, asked_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from worker.core.values import CallKind, Usage
    from worker.limits.gate import TeacherGate
    from worker.ports import Ledger, Teacher, TeacherReply, TeacherRequest
    from worker.prefixes.lead import Lead
    from worker.spool import Spool

__all__ = ["BoundCall", "PaidReply", "PaidTeacher", "bounded", "insist", "noted"]

_T = TypeVar("_T")

#: How far ahead the deadline of a call under way is kept. Longer than a connection takes to open,
#: while nobody is asked; one that is missed is charged at its bound until its reply settles it.
KEPT_MS = 15_000
#: How long a transition that must not be lost is tried again while the ledger does not answer.
PATIENCE_MS = 30_000

#: How much of a fault's words stands in the ledger.
_WHY_CHARS = 200
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
#: A reservation's deadline is moved on this often within its length, so that two lost tries hurt not.
_EXTENSIONS = 4

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidReply:
    """A reply and what was paid for it."""

    reply: TeacherReply
    cost_nusd: int
    #: The output limit that was sent: smaller than asked for where money was short.
    max_tokens: int
    #: The truth was above the bound, in money or in prompt tokens: the bound is wrong. The truth
    #: was charged; where the money was above, the accounts are frozen.
    breach: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundCall:
    """A call with all that its bound is made from."""

    reservation_id: str
    request: TeacherRequest
    price: Price
    prompt_bound_tokens: int
    writes: CacheWrites

    @property
    def bound_nusd(self) -> int:
        """The most that it can cost."""
        return call_bound_nusd(
            self.price,
            self.prompt_bound_tokens,
            self.request.max_tokens,
            has_5m=self.writes.has_5m,
            has_1h=self.writes.has_1h,
        )

    def shrunk_to(self, free_nusd: int) -> BoundCall | None:
        """Return the call with as much output as `free_nusd` carries; None where that is no use."""
        fits = affordable_output_tokens(
            self.price,
            self.prompt_bound_tokens,
            free_nusd,
            has_5m=self.writes.has_5m,
            has_1h=self.writes.has_1h,
        )
        if fits < MIN_USEFUL_OUTPUT_TOKENS:
            return None
        return replace(self, request=replace(self.request, max_tokens=fits))


class PaidTeacher:
    """The only way to call a teacher."""

    def __init__(
        self,
        teacher: Teacher,
        ledger: Ledger,
        *,
        kept_ms: int = KEPT_MS,
        patience_ms: int = PATIENCE_MS,
        now_s: Callable[[], float] = time.monotonic,
        note: Callable[[Entry], None] | None = None,
        gate: TeacherGate | None = None,
        lead: Lead | None = None,
        spool: Spool | None = None,
    ) -> None:
        """Take a teacher and who pays for it.

        Args:
            teacher: Sends the requests.
            ledger: Holds the money.
            kept_ms: How far ahead a reservation's deadline is kept.
            patience_ms: How long what must not be lost is said again.
            now_s: This process's clock.
            note: Stores that a request may go out now (`Checkpoints.note_sent`).
            gate: The account's rate; None lets every call go at once.
            lead: Has first calls go one by one while the shared prefix is in no cache; None never.
            spool: Where whole replies lie until their steps are committed.
        """
        self._teacher = teacher
        self._ledger = ledger
        self._kept_ms = kept_ms
        self._patience_ms = patience_ms
        self._now_s = now_s
        self._note = note
        self._gate = gate
        self._lead = lead
        self._spool = spool

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
        """Make one HTTP request and pay for it from all `scopes`.

        None is made where an earlier attempt heard its reply on this machine, and could not commit it.

        Args:
            request: The call. Where the scopes cannot carry it, its `max_tokens` is lowered once to
                what they can, but never below `MIN_USEFUL_OUTPUT_TOKENS`.
            reservation_id: Never used before: one for each attempt.
            scopes: The accounts.
            kind: What the call is for.
            step_id: The step that makes it.
            prompt_bound_tokens: The most tokens its prompt can have (`worker.core.bounds`).
            stopped: Asked while the reply streams; True ends the call with an unknown outcome.
            replaces: A hold that makes room for this call, if it still stands.

        Raises:
            RateLimited: The provider's rate has no room now. Nothing was sent, nothing is held.
            BudgetDenied: The scopes cannot carry the call. Nothing was sent, nothing is held.
            TeacherFault: The call failed. The ledger has been put right.
            Unavailable: The ledger or the notes did not answer: before the call, and nothing was
                sent; or the ledger after it for longer than the patience, and then its reply or
                fault is lost. The reservation stays as it is and the sweep ends it: charged if it
                was sent.
            UnknownModel: The model has no price.
            BadInput: The request has no bound, or the reservation id cannot be one.
        """
        call = bounded(request, reservation_id, prompt_bound_tokens)
        adopted = self._adopt(call, scopes, step_id)
        if adopted is not None:
            return adopted
        with (
            self._going(request, reservation_id) as led,
            self._passing(request, reservation_id) as passed,
        ):
            call = self._reserve(call, scopes, kind=kind, step_id=step_id, replaces=replaces)
            self._go_ahead(call, noted(call, scopes, kind=kind, step_id=step_id))
            passed.begun()
            reply = self._send(call, stopped, led)
            passed.ending = ending_of_reply(reply)
            paid_nusd = 0 if reply.unbilled else cost_nusd(call.price, reply.usage)
            spooled = self._write_ahead(call, reply, paid_nusd, scopes, step_id)
        paid = self._settle(call, reply, paid_nusd)
        if self._spool is not None and spooled is not None:
            self._spool.settled(spooled)
        return paid

    # ------------------------------------------------------------------------------ the spool

    def _adopt(self, call: BoundCall, scopes: Sequence[str], step_id: str) -> PaidReply | None:
        """Pay for a reply that lies in the spool, and go on from it; None where there is none."""
        if self._spool is None:
            return None
        spooled = self._spool.find(
            _session_of(scopes),
            step_id,
            reservation_id=call.reservation_id,
            asked_sha256=asked_sha256(call.request),
        )
        if spooled is None:
            return None
        sent = replace(
            call,
            reservation_id=spooled.reservation_id,
            request=replace(call.request, max_tokens=spooled.max_tokens),
        )
        try:
            paid = self._settle(sent, spooled.reply, spooled.cost_nusd)
        except BadInput as exc:
            self._spool.discard(spooled, str(exc))
            return None
        self._spool.adopted(spooled)
        return paid

    def _write_ahead(
        self,
        call: BoundCall,
        reply: TeacherReply,
        paid_nusd: int,
        scopes: Sequence[str],
        step_id: str,
    ) -> Spooled | None:
        """Have a reply survive this process; nothing depends on it but what a crash costs."""
        if self._spool is None:
            return None
        return self._spool.keep(
            Spooled(
                session_id=_session_of(scopes),
                step_id=step_id,
                reservation_id=call.reservation_id,
                asked_sha256=asked_sha256(call.request),
                max_tokens=call.request.max_tokens,
                cost_nusd=paid_nusd,
                price_version=PRICE_VERSION,
                reply=reply,
            )
        )

    def _going(self, request: TeacherRequest, reservation_id: str) -> AbstractContextManager[Led]:
        """Let one session's first call write what all of them share, before the others read it."""
        if self._lead is None:
            return nullcontext(Led())
        return self._lead.going(request, reservation_id.rpartition("/")[0])

    def _passing(
        self, request: TeacherRequest, reservation_id: str
    ) -> AbstractContextManager[Passed]:
        """Wait for the provider's rate, before any money is held."""
        if self._gate is None:
            return nullcontext(Passed())
        # `session/step/attempt`: a step keeps its place in the line through all attempts.
        return self._gate.passing(request, reservation_id.rpartition("/")[0])

    # ------------------------------------------------------------------------------ before

    def _reserve(
        self,
        call: BoundCall,
        scopes: Sequence[str],
        *,
        kind: CallKind,
        step_id: str,
        replaces: str | None,
    ) -> BoundCall:
        """Hold the call's bound, or a smaller one; return the call that was paid for."""

        def hold(call: BoundCall) -> BoundCall:
            self._ledger.reserve(
                call.reservation_id,
                call.bound_nusd,
                scopes,
                kind=kind,
                model=call.request.model,
                step_id=step_id,
                price_version=PRICE_VERSION,
                deadline_ms=self._kept_ms,
                replaces=replaces,
            )
            return call

        try:
            return hold(call)
        except BudgetDenied as denied:
            smaller = call.shrunk_to(denied.free_nusd) if denied.why == "cap" else None
            if smaller is None:
                raise
            return hold(smaller)
        except Unavailable:
            self._drop(call)
            raise

    def _go_ahead(self, call: BoundCall, noted: Entry) -> None:
        try:
            self._note_down(noted)
            self._ledger.sent(call.reservation_id)
        except BudgetDenied as denied:
            if denied.why == "killed":
                self._drop(call)
            raise
        except DiagnosisError:
            self._drop(call)
            raise

    def _note_down(self, noted: Entry) -> None:
        """Store that the request may go out; the hold must outlast a slow store.

        Raises:
            Unavailable: The store did not answer, or not before the hold ended.
        """
        if self._note is None:
            return
        began_s = self._now_s()
        self._note(noted)
        slow = self._now_s() - began_s > self._kept_ms / 1000 / _EXTENSIONS
        if slow and not self._ledger.extend(noted.reservation_id, self._kept_ms):
            raise Unavailable("the object store was slow, and the call's hold ended meanwhile")

    def _drop(self, call: BoundCall) -> None:
        """Give back what may be held for a request that was not sent; if that fails the sweep does."""
        with suppress(Unavailable):
            self._ledger.void(call.reservation_id, "not sent")

    # ------------------------------------------------------------------------------ during

    def _send(self, call: BoundCall, stopped: Callable[[], bool], led: Led) -> TeacherReply:
        def started(usage: Usage) -> None:
            led.began()
            self._narrow(call, usage)

        try:
            reply = self._teacher.send(
                call.request,
                on_answer=lambda request_id: self._answered(call, request_id),
                on_start=started,
                stopped=self._kept_alive(call, stopped),
            )
            _check_ended(reply)
        except TeacherFault as fault:
            self._account_for(call, fault)
            raise
        except BaseException as exc:
            # Once, without patience: the thread is being stopped, or a bug is on its way up.
            with suppress(Unavailable):
                self._ledger.charge_unknown(call.reservation_id, type(exc).__name__)
            raise
        return reply

    def _answered(self, call: BoundCall, request_id: str) -> None:
        """Note the provider's id of the request, by which it can be asked about the outcome."""
        if request_id:
            with suppress(Unavailable):
                self._ledger.narrow(call.reservation_id, call.bound_nusd, request_id)

    def _narrow(self, call: BoundCall, started: Usage) -> None:
        """Lower the hold to what the exact prompt leaves possible."""
        if started.prompt_tokens == 0:
            return  # Some gateways tell the prompt's size only at the end, and 0 here.
        bound_nusd = started_bound_nusd(call.price, started, call.request.max_tokens)
        with suppress(Unavailable):
            self._ledger.narrow(call.reservation_id, bound_nusd)

    def _kept_alive(self, call: BoundCall, stopped: Callable[[], bool]) -> Callable[[], bool]:
        """Return `stopped`, but each question also keeps the reservation's deadline ahead."""
        pause_s = self._kept_ms / 1000 / _EXTENSIONS
        next_s = self._now_s() + pause_s

        def asked() -> bool:
            nonlocal next_s
            if self._now_s() >= next_s:
                next_s = self._now_s() + pause_s
                with suppress(Unavailable):
                    self._ledger.extend(call.reservation_id, self._kept_ms)
            return stopped()

        return asked

    # ------------------------------------------------------------------------------ after

    def _account_for(self, call: BoundCall, fault: TeacherFault) -> None:
        """Charge a failed call at its bound, or give the hold back where that is proven right."""
        why = fault.message[:_WHY_CHARS]
        if fault.billing == "unbilled":
            self._insist(lambda: self._ledger.void(call.reservation_id, why))
        else:
            request_id = fault.request_id or ""
            self._insist(lambda: self._ledger.charge_unknown(call.reservation_id, why, request_id))

    def _settle(self, call: BoundCall, reply: TeacherReply, paid_nusd: int) -> PaidReply:
        within = self._insist(
            lambda: self._ledger.settle(
                call.reservation_id,
                paid_nusd,
                usage=reply.usage,
                request_id=reply.request_id,
                message_id=reply.message_id,
            )
        )
        breach = not within or reply.usage.prompt_tokens > call.prompt_bound_tokens
        if breach:
            _log.error(
                "teacher call above its bound",
                reservation_id=call.reservation_id,
                request_id=reply.request_id,
                cost_nusd=paid_nusd,
                bound_nusd=call.bound_nusd,
                prompt_tokens=reply.usage.prompt_tokens,
                prompt_bound_tokens=call.prompt_bound_tokens,
                output_tokens=reply.usage.output_tokens,
                max_tokens=call.request.max_tokens,
            )
        return PaidReply(
            reply=reply,
            cost_nusd=paid_nusd,
            max_tokens=call.request.max_tokens,
            breach=breach,
        )

    def _insist(self, transition: Callable[[], _T]) -> _T:
        return insist(transition, patience_ms=self._patience_ms, now_s=self._now_s)


def insist(
    transition: Callable[[], _T],
    *,
    patience_ms: int,
    now_s: Callable[[], float],
    sleep: Callable[[float], object] = time.sleep,
) -> _T:
    """Carry out what must not be lost, again and again while the ledger does not answer.

    Raises:
        Unavailable: It did not answer for the whole patience.
    """
    until_s = now_s() + patience_ms / 1000
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return transition()
        except Unavailable:
            if now_s() + pause_s > until_s:
                raise
        sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def bounded(
    request: TeacherRequest,
    reservation_id: str,
    prompt_bound_tokens: int,
    *,
    price: Price | None = None,
) -> BoundCall:
    """Return the call with all that its bound is made from, at `price` or at its model's.

    Raises:
        UnknownModel: The model has no price.
        BadInput: Something in the request has no bound.
    """
    price = price or price_of(request.model)
    reason = why_unbounded(system=request.system, messages=request.messages, tools=request.tools)
    if reason is not None:
        raise BadInput(f"the call's cost cannot be bounded: {reason}", reason=reason)
    return BoundCall(
        reservation_id=reservation_id,
        request=request,
        price=price,
        prompt_bound_tokens=prompt_bound_tokens,
        writes=cache_writes(system=request.system, messages=request.messages, tools=request.tools),
    )


def noted(call: BoundCall, scopes: Sequence[str], *, kind: CallKind, step_id: str) -> Entry:
    """Return what must be known of a call whose request may have gone out."""
    return Entry(
        reservation_id=call.reservation_id,
        state=EntryState.SENT,
        amount_nusd=call.bound_nusd,
        actual_nusd=0,
        scopes=tuple(scopes),
        kind=kind,
        model=call.request.model,
        step_id=step_id,
        price_version=PRICE_VERSION,
        created_ms=0,
    )


def _session_of(scopes: Sequence[str]) -> str:
    """Return the session that an account among `scopes` is of; empty where none is."""
    sessions = (scope for scope in scopes if scope.startswith("session:"))
    return next(sessions, "").removeprefix("session:")


def _check_ended(reply: TeacherReply) -> None:
    """Refuse a reply without a stop reason: its usage is not final.

    Raises:
        TeacherFault: It has none.
    """
    if not reply.stop_reason:
        raise TeacherFault(
            f"the reply {reply.message_id!r} has no stop_reason: the stream was cut",
            billing="unknown",
            retry="later",
            request_id=reply.request_id,
        )
