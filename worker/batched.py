"""Paying for a call in a batch of the provider: bought once, asked about by whoever comes next.

Rule: nothing waits here. Every call of `call` does what is next (`core.batches`) and returns the
reply, or None where an ordinary call is to be made, or leaves with `InBatch`, so that a step that
waits for a day holds no slot of a worker. One reservation is one batch of one request; what is held
for it is half of what the same call would hold, and its outcome is what the provider says of it:

| what happened                                          | ledger                                   |
|--------------------------------------------------------|------------------------------------------|
| the provider refused to make a batch                   | void                                     |
| nobody heard whether one was made, or its id was lost  | stays `sent`, and is looked for          |
| it is nowhere ten minutes later                        | charged at its bound                     |
| it succeeded                                           | settled at half of its exact price       |
| `errored`, `canceled`, `expired`                       | void: not billed                         |
| the provider knows nothing of it, or only after 26 h   | charged at its bound                     |
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from worker.core import batches as core
from worker.core.batches import Next
from worker.core.prices import cost_nusd, halved, price_of
from worker.errors import (
    BudgetDenied,
    DiagnosisError,
    InBatch,
    TeacherFault,
    Unavailable,
)
from worker.paid import PATIENCE_MS, PaidReply, bounded, insist, noted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.teaching import TeacherRequest
    from worker.core.values import CallKind
    from worker.ports import Batch, BatchAnswer, Batches, Clock, Entry, Ledger

__all__ = ["BatchedTeacher"]

_T = TypeVar("_T")

#: The provider's clock and ours are never further apart.
_CLOCKS_MS = 120_000
#: A hold whose request was never sent ends after so long; so does one that cannot be found.
_KEPT_MS = core.FIND_MS + _CLOCKS_MS
#: The end of a session asks about its batches this often.
_CLOSING_POLL_MS = 1_000
_WHY_CHARS = 200

_WAITS = "waits for a batch of the provider, which may take a day"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Nowhere(Exception):
    """A call is in no batch."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a call beside its reservation."""

    max_tokens: int
    prompt_bound_tokens: int


class BatchedTeacher:
    """The only way to call a teacher in a batch. Safe to share among threads."""

    def __init__(
        self,
        batches: Batches,
        ledger: Ledger,
        clock: Clock,
        *,
        first_poll_ms: int,
        patience_ms: int = PATIENCE_MS,
        note: Callable[[Entry], None] | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take a teacher's batches and who pays for them.

        Args:
            batches: Makes them, and asks about them.
            ledger: Holds the money.
            clock: The time; it need not be the ledger's to the second.
            first_poll_ms: The first pause before a batch is asked about.
            patience_ms: How long what must not be lost is said again.
            note: Stores that a request may go out now (`Checkpoints.note_sent`).
            sleep: Sleeps for so many seconds.
        """
        self._batches = batches
        self._ledger = ledger
        self._clock = clock
        self._first_poll_ms = first_poll_ms
        self._patience_ms = patience_ms
        self._note = note
        self._sleep = sleep

    def call(
        self,
        request: TeacherRequest,
        *,
        reservation_id: str,
        session_id: str,
        scopes: Sequence[str],
        kind: CallKind,
        step_id: str,
        prompt_bound_tokens: int,
        check: Callable[[], None],
        fresh: bool = False,
    ) -> PaidReply | None:
        """Do what is next for the one call of a step; None where an ordinary one is to be made.

        Args:
            request: The call: the same one at every attempt of the step.
            reservation_id: Never used before; used where the call is bought now.
            session_id: Whose step it is.
            scopes: The accounts.
            kind: What the call is for.
            step_id: The step that makes it.
            prompt_bound_tokens: The most tokens its prompt can have.
            check: Raises where the step may not begin anything.
            fresh: Nobody has tried this step before.

        Raises:
            InBatch: It is in a batch that has not ended, or may be in one.
            TeacherFault: The provider took no batch, and may take one later, or refuses the key.
            Unavailable: The ledger or the notes did not answer.
            UnknownModel, BadInput: The call has no price, or no bound.
        """
        entries = () if fresh else self._ledger.entries(session_id)
        last = _newest(entries, step_id)
        match _next(last):
            case Next.ALONE:
                return None
            case Next.ASK | Next.FIND:
                assert last is not None, "only a reservation is asked about"
                known = frozenset(entry.request_id for entry in entries)
                return self._go_on(last, known, _Sent(request.max_tokens, prompt_bound_tokens))
            case Next.DROP:
                assert last is not None, "only a hold is dropped"
                self._ledger.void(last.reservation_id, "not sent")
            case Next.BUY:
                pass
        entry = _entry(
            request,
            reservation_id=reservation_id,
            scopes=scopes,
            kind=kind,
            step_id=step_id,
            prompt_bound_tokens=prompt_bound_tokens,
        )
        return self._buy(entry, request, check)

    def close(self, entry: Entry, *, known: frozenset[str]) -> None:
        """End a call that nobody waits for any more: its batch is cancelled, then paid for.

        Args:
            entry: A reservation that was sent and has not ended.
            known: Ids of the session's batches.

        Raises:
            InBatch: Its batch has not ended yet, and may cost something.
            Unavailable: The ledger did not answer.
        """
        try:
            if entry.request_id and not self._batches.look(entry.request_id).ended:
                self._batches.cancel(entry.request_id)
            self._go_on(entry, known, None)
        except (TeacherFault, InBatch) as exc:
            raise self._later(exc.message, _CLOSING_POLL_MS) from exc

    # -------------------------------------------------------------------------------------- buying

    def _buy(self, entry: Entry, request: TeacherRequest, check: Callable[[], None]) -> None:
        check()
        try:
            self._ledger.reserve(
                entry.reservation_id,
                entry.amount_nusd,
                entry.scopes,
                kind=entry.kind,
                model=entry.model,
                step_id=entry.step_id,
                price_version=entry.price_version,
                deadline_ms=_KEPT_MS,
            )
        except BudgetDenied:
            return  # An ordinary call may be made smaller; else it says what money said.
        try:
            if self._note is not None:
                self._note(entry)
            check()
            self._ledger.sent(entry.reservation_id)
        except DiagnosisError:
            with suppress(Unavailable):
                self._ledger.void(entry.reservation_id, "not sent")
            raise
        self._post(entry, request)

    def _post(self, entry: Entry, request: TeacherRequest) -> None:
        reservation_id = entry.reservation_id
        try:
            batch_id = self._batches.create(request, custom_id=core.custom_id(reservation_id))
        except TeacherFault as fault:
            if fault.billing == "unknown":
                raise self._later(_WAITS) from fault
            why = fault.message[:_WHY_CHARS]
            self._insist(lambda: self._ledger.void(reservation_id, why))
            if fault.retry == "never":
                return  # This provider, or this request, takes no batch.
            raise
        self._adopt(entry, batch_id)
        raise self._later(_WAITS)

    def _adopt(self, entry: Entry, batch_id: str) -> Entry:
        """Store which batch a call is in, for whoever goes on, and hold its money that long."""

        def store() -> None:
            self._ledger.narrow(entry.reservation_id, entry.amount_nusd, batch_id)
            self._ledger.extend(entry.reservation_id, core.HELD_MS)

        self._insist(store)
        return replace(entry, request_id=batch_id)

    # -------------------------------------------------------------------------------------- asking

    def _go_on(self, entry: Entry, known: frozenset[str], sent: _Sent | None) -> PaidReply | None:
        waited_ms = max(self._clock.now_ms() - entry.created_ms, 0)
        try:
            found = self._asked(entry) if entry.request_id else self._found(entry, known)
        except TeacherFault as fault:
            if fault.retry == "stop":
                raise
            if fault.retry == "never":
                return self._charge(entry, f"its batch cannot be read: {fault.message}")
            found = None
        except _Nowhere:
            return self._charge(entry, "it is in none of the provider's batches")
        if found is not None:
            return self._end(*found, sent)
        if waited_ms > core.ASKED_AT_MOST_MS:
            return self._charge(entry, "its batch brought no answer")
        raise self._later(_WAITS, core.poll_ms(waited_ms, first_ms=self._first_poll_ms))

    def _asked(self, entry: Entry) -> tuple[Entry, BatchAnswer] | None:
        """Return what became of a call whose batch is known; None while it has not ended."""
        batch = self._batches.look(entry.request_id)
        if not batch.ended:
            return None
        answer = self._answer_in(batch, entry)
        if answer is None:
            raise TeacherFault(
                f"the batch {batch.batch_id!r} does not hold its request",
                billing="unknown",
                retry="never",
            )
        return entry, answer

    def _found(self, entry: Entry, known: frozenset[str]) -> tuple[Entry, BatchAnswer] | None:
        """Return what became of a call that may be in a batch whose id was lost.

        A batch says what it holds only once it has ended, so those that have not are waited for.

        Raises:
            _Nowhere: It is in none, and none will appear any more.
        """
        candidates = self._candidates(entry, known)
        for batch in candidates:
            answer = self._answer_if_readable(batch, entry) if batch.ended else None
            if answer is not None:
                return self._adopt(entry, batch.batch_id), answer
        late = self._clock.now_ms() - entry.created_ms > core.FIND_MS
        if late and all(batch.ended for batch in candidates):
            raise _Nowhere
        return None

    def _candidates(self, entry: Entry, known: frozenset[str]) -> tuple[Batch, ...]:
        recent = self._batches.recent(since_ms=entry.created_ms - _CLOCKS_MS)
        until_ms = entry.created_ms + _KEPT_MS
        return tuple(
            batch
            for batch in recent
            if batch.requests == 1 and batch.created_ms <= until_ms and batch.batch_id not in known
        )

    def _answer_if_readable(self, batch: Batch, entry: Entry) -> BatchAnswer | None:
        """Return what `_answer_in` does; somebody else's results may be gone, and say nothing."""
        try:
            return self._answer_in(batch, entry)
        except TeacherFault as fault:
            if fault.retry != "never":
                raise
            return None

    def _answer_in(self, batch: Batch, entry: Entry) -> BatchAnswer | None:
        custom_id = core.custom_id(entry.reservation_id)
        return self._batches.answer(batch, custom_id=custom_id)

    # -------------------------------------------------------------------------------------- ending

    def _end(self, entry: Entry, answer: BatchAnswer, sent: _Sent | None) -> PaidReply | None:
        reservation_id = entry.reservation_id
        if core.fate_of(answer.answered) == "void":
            why = f"{answer.answered.value}: {answer.why}"[:_WHY_CHARS]
            self._insist(lambda: self._ledger.void(reservation_id, why))
            return None
        reply = answer.reply
        assert reply is not None, "what succeeded has a reply"
        paid_nusd = 0 if reply.unbilled else cost_nusd(halved(price_of(entry.model)), reply.usage)
        within = self._insist(
            lambda: self._ledger.settle(
                reservation_id,
                paid_nusd,
                usage=reply.usage,
                request_id=entry.request_id,
                message_id=reply.message_id,
            )
        )
        longer = sent is not None and reply.usage.prompt_tokens > sent.prompt_bound_tokens
        if longer or not within:
            _log.error(
                "batched call above its bound",
                reservation_id=reservation_id,
                cost_nusd=paid_nusd,
                bound_nusd=entry.amount_nusd,
                prompt_tokens=reply.usage.prompt_tokens,
                prompt_bound_tokens=sent.prompt_bound_tokens if sent else None,
            )
        return PaidReply(
            reply=reply,
            cost_nusd=paid_nusd,
            max_tokens=sent.max_tokens if sent else reply.usage.output_tokens,
            breach=longer or not within,
        )

    def _charge(self, entry: Entry, why: str) -> None:
        self._insist(lambda: self._ledger.charge_unknown(entry.reservation_id, why[:_WHY_CHARS]))

    def _later(self, why: str, after_ms: int | None = None) -> InBatch:
        return InBatch(why, retry_after_ms=after_ms or self._first_poll_ms)

    def _insist(self, transition: Callable[[], _T]) -> _T:
        return insist(
            transition,
            patience_ms=self._patience_ms,
            now_s=lambda: self._clock.now_ms() / 1000,
            sleep=self._sleep,
        )


def _newest(entries: Sequence[Entry], step_id: str) -> Entry | None:
    mine = [one for one in entries if one.step_id == step_id and core.is_batched(one.kind)]
    return mine[-1] if mine else None


def _next(last: Entry | None) -> Next:
    if last is None:
        return core.next_of(None, batch_id="")
    return core.next_of(last.state.value, batch_id=last.request_id)


def _entry(
    request: TeacherRequest,
    *,
    reservation_id: str,
    scopes: Sequence[str],
    kind: CallKind,
    step_id: str,
    prompt_bound_tokens: int,
) -> Entry:
    """Return the reservation that a call needs: the bound of an ordinary call at half the price.

    Raises:
        UnknownModel: The model has no price.
        BadInput: Something in the request has no bound.
    """
    price = halved(price_of(request.model))
    call = bounded(request, reservation_id, prompt_bound_tokens, price=price)
    return noted(call, scopes, kind=kind, step_id=step_id)
