"""The money: accounts, reservations, their transitions, and the epoch in which they hold.

Rule: amounts are whole nano-dollars; every change is whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.core.epoch import Position
    from worker.core.values import CallKind, Usage
    from worker.core.waiting import Room

__all__ = [
    "Account",
    "Entry",
    "EntryState",
    "Ledger",
    "Register",
    "Transition",
    "TransitionLog",
]


class EntryState(StrEnum):
    """Where a reservation stands: `held` -> `sent` -> `settled` | `expired`, or `void`.

    An `expired` one may still become `settled`, `void` or `refunded`, as the truth turns out.
    """

    HELD = "held"
    SENT = "sent"
    SETTLED = "settled"
    #: The outcome is unknown: charged at its bound.
    EXPIRED = "expired"
    VOID = "void"
    #: It was `expired`, and the provider's own figures show that it was not billed.
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A scope's money, all in nano-dollars. `posted + held <= cap` unless there was a breach."""

    scope: str
    cap_nusd: int
    posted_nusd: int
    held_nusd: int
    #: The part of `posted` that was charged without knowing the outcome.
    unknown_nusd: int = 0
    #: How far the truth ever went above a bound; more than 0 freezes the account.
    breach_nusd: int = 0
    frozen: bool = False

    @property
    def free_nusd(self) -> int:
        """What may still be reserved, never negative."""
        return max(self.cap_nusd - self.posted_nusd - self.held_nusd, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One reservation: one HTTP request, or one that was never sent."""

    reservation_id: str
    state: EntryState
    #: The bound that was held.
    amount_nusd: int
    #: What is charged: 0 while held or sent and for void, the bound for expired.
    actual_nusd: int
    scopes: tuple[str, ...]
    kind: CallKind
    model: str
    step_id: str
    price_version: str
    created_ms: int
    usage: Usage | None = None
    request_id: str = ""
    message_id: str = ""
    #: Why it was voided, expired or refunded; empty otherwise.
    why: str = ""
    #: When it was settled, charged at its bound or given back; 0 for not yet, or not known. For
    #: reports only, so two ledgers that say the same may say it at different times.
    ended_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of the ledger, as its script wrote it down."""

    #: Grows with every transition: milliseconds, a dash, a number.
    transition_id: str
    fields: Mapping[str, str]


class TransitionLog(Protocol):
    """The ledger's transitions that are not archived yet.

    All raise `Unavailable` when the server does not answer.
    """

    def unarchived(self) -> int:
        """Return how many transitions wait for the archive."""
        ...

    def next_part(self, *, most: int, age_ms: int) -> tuple[str, str] | None:
        """Return (first id, last id) of what is to be archived next; None where nothing is yet.

        Everybody is told the same until `forget_part` was said.

        Args:
            most: So many transitions make a part.
            age_ms: With fewer, the first of them waits this long.
        """
        ...

    def transitions(self, first: str, last: str) -> tuple[Transition, ...]:
        """Return the transitions from one id to another, both included."""
        ...

    def forget_part(self, last: str) -> None:
        """Drop the transitions of the part that ends with `last`: they are archived."""
        ...


class Ledger(Protocol):
    """Accounts and reservations. Every method is one atomic, idempotent transition.

    All raise `Unavailable` when the server does not answer.
    """

    def open_account(self, scope: str, cap_nusd: int) -> bool:
        """Create an account; False where it exists (its cap then stays as it is)."""
        ...

    def set_cap(self, scope: str, cap_nusd: int) -> Account:
        """Change a cap. Below `posted + held` it blocks new reservations until those fit again.

        Raises:
            BadInput: There is no such account.
        """
        ...

    def reserve(
        self,
        reservation_id: str,
        amount_nusd: int,
        scopes: Sequence[str],
        *,
        kind: CallKind,
        model: str,
        step_id: str,
        price_version: str,
        deadline_ms: int,
        replaces: str | None = None,
    ) -> None:
        """Hold `amount_nusd` (> 0) in all `scopes` at once, or in none.

        `replaces` names a held reservation that is voided in the same instant (the closing hold).
        A repeat with the same id and amount does nothing. `deadline_ms` counts from now; a
        reservation that is still open then is expired by the sweep.

        Raises:
            BudgetDenied: Some scope has no room, is frozen or closed, or has no account.
            Unavailable: Too many transitions wait for the archive; or the server did not answer.
        """
        ...

    def sent(self, reservation_id: str) -> None:
        """Say that the request is about to go out: from here on its outcome may be unknown.

        Raises:
            BudgetDenied: The reservation is no longer held (it expired): do not send.
        """
        ...

    def narrow(self, reservation_id: str, amount_nusd: int, request_id: str = "") -> None:
        """Lower the hold to a better bound, a higher one is ignored; note the request's id, if any.

        Both only while the reservation is open. `request_id` is the provider's: whatever becomes of
        the call, and of the process that makes it, the provider can be asked about it.
        """
        ...

    def extend(self, reservation_id: str, deadline_ms: int) -> bool:
        """Move the deadline to `deadline_ms` from now; False where it is no longer open."""
        ...

    def settle(
        self,
        reservation_id: str,
        actual_nusd: int,
        *,
        usage: Usage,
        request_id: str = "",
        message_id: str = "",
    ) -> bool:
        """Charge the truth and free the rest; also from `expired`. Idempotent.

        Returns False for a breach: the truth was above the bound; it is charged, and the scopes
        are frozen.
        """
        ...

    def void(self, reservation_id: str, why: str) -> None:
        """Free a hold whose request was proven not billed. Idempotent.

        A hold that an open call had taken the place of (the closing hold) stands again: whole where
        there is room, and at least as far as what the call held.
        """
        ...

    def refund(self, reservation_id: str, why: str) -> bool:
        """Give back what was charged for an unknown outcome; False where it was not charged so.

        Idempotent: said twice, it answers the same.
        """
        ...

    def charge_unknown(self, reservation_id: str, why: str, request_id: str = "") -> None:
        """Charge a sent reservation at its bound now: its outcome is unknown. Idempotent.

        Without a `request_id`, the one that was noted before stays.
        """
        ...

    def rooms(self, scopes: Sequence[str]) -> Mapping[str, Room]:
        """Return what each account could still take."""
        ...

    def promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session that it may use so much (> 0) of `scopes`, of all of them or of none.

        What is promised is set apart from other promises alone: reservations do not ask for it. It
        shrinks by what the session has posted and held. A repeat does nothing.

        Raises:
            BudgetDenied: As `reserve` does; an account has less left beside what it promised others.
        """
        ...

    def restore_promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session again what a ledger that was lost had promised it, whatever is left.

        A repeat does nothing.
        """
        ...

    def release(self, session_id: str, scopes: Sequence[str]) -> None:
        """Forget what a session was promised. Idempotent."""
        ...

    def restore(self, entry: Entry, *, deadline_ms: int) -> bool:
        """Put back a reservation of a ledger that was lost; return whether that changed anything.

        One that is known stays as it is. One that ended is charged as it was, whatever the caps
        say. One that was only held is held again, until `deadline_ms` from now, where it fits.

        Raises:
            BadInput: It was sent and has not ended, or one of its accounts does not exist.
        """
        ...

    def expire_overdue(self, *, limit: int) -> int:
        """End reservations past their deadline: held -> void, sent -> charged. Returns how many."""
        ...

    def account(self, scope: str) -> Account | None:
        """Return an account, None where there is none."""
        ...

    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts but the sessions', by name."""
        ...

    def freeze(self, scope: str) -> Account:
        """Take no more reservations until somebody unfreezes the account.

        Raises:
            BadInput: There is no such account.
        """
        ...

    def entries(self, session_id: str) -> tuple[Entry, ...]:
        """Return a session's reservations in the order in which they were made."""
        ...


class Register(Protocol):
    """Where Redis keeps which epoch it is in. Every method is one atomic transition.

    All raise `Unavailable` when the server does not answer.
    """

    def standing(self, seen: str = "") -> Position:
        """Return how Redis stands, and whether it has the transition `seen`, where one is given."""
        ...

    def begin(self, epoch: str, *, expected: str) -> bool:
        """Begin an epoch without marks and doubts; False where another one stands than expected."""
        ...

    def doubt(self, epoch: str, why: str) -> bool:
        """Have nothing reserved in an epoch any more; False where another one stands."""
        ...

    def advance(self, epoch: str, number: int, nonce: str) -> bool:
        """Pass from mark `number` to the next; False where Redis is somewhere else, or doubted."""
        ...

    def take_turn(self, duty: str, owner: str, *, for_ms: int) -> bool:
        """Take over a duty for a while, or keep it; False while it is another's."""
        ...
