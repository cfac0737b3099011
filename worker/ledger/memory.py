"""The ledger in memory: for the in-process runner and the unit tests.

Rule: the same transitions as `lua/*.lua`, name by name; `tests/contract/test_ledger.py` holds both
to one suite, and a random schedule compares them step by step. One lock makes every method atomic.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from worker.ledger import refusals
from worker.ledger.keys import (
    is_session,
    session_scope,
    valid_amount,
    valid_reservation_id,
    valid_scope,
    valid_scopes,
)
from worker.ports import Account, Entry, EntryState, Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.core.values import CallKind, Usage
    from worker.ports import Clock

__all__ = ["MemoryLedger"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OPEN = frozenset({EntryState.HELD, EntryState.SENT})
_GIVEN_BACK = frozenset({EntryState.VOID, EntryState.REFUNDED})


@dataclass(slots=True)
class _Account:
    cap: int
    posted: int = 0
    held: int = 0
    unknown: int = 0
    breach: int = 0
    frozen: bool = False
    closed: bool = False

    def shown_as(self, scope: str) -> Account:
        return Account(
            scope=scope,
            cap_nusd=self.cap,
            posted_nusd=self.posted,
            held_nusd=self.held,
            unknown_nusd=self.unknown,
            breach_nusd=self.breach,
            frozen=self.frozen,
        )


@dataclass(slots=True, kw_only=True)
class _Reservation:
    amount: int
    scopes: tuple[str, ...]
    kind: CallKind
    model: str
    step_id: str
    price_version: str
    created_ms: int
    deadline_ms: int
    state: EntryState = EntryState.HELD
    actual: int = 0
    #: How far the truth was above the bound.
    over: int = 0
    usage: Usage | None = None
    request_id: str = ""
    message_id: str = ""
    why: str = ""
    ended_ms: int = 0
    replaced_by: str = ""
    #: The hold that this call took the place of, the first of several.
    stands_for: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in _OPEN

    def shown_as(self, reservation_id: str) -> Entry:
        return Entry(
            reservation_id=reservation_id,
            state=self.state,
            amount_nusd=self.amount,
            actual_nusd=self.actual,
            scopes=self.scopes,
            kind=self.kind,
            model=self.model,
            step_id=self.step_id,
            price_version=self.price_version,
            created_ms=self.created_ms,
            usage=self.usage,
            request_id=self.request_id,
            message_id=self.message_id,
            why=self.why,
            ended_ms=self.ended_ms,
        )


@dataclass(slots=True)
class _Books:
    accounts: dict[str, _Account] = field(default_factory=dict[str, _Account])
    reservations: dict[str, _Reservation] = field(default_factory=dict[str, _Reservation])
    #: scope -> session -> what it may expect of the account
    promises: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    killed: bool = False


def _atomic(
    method: Callable[Concatenate[MemoryLedger, _P], _R],
) -> Callable[Concatenate[MemoryLedger, _P], _R]:
    @wraps(method)
    def locked(self: MemoryLedger, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


class MemoryLedger:
    """`ports.Ledger` for threads of one process. It ends with the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._books = _Books()
        self.lock = threading.Lock()

    # ------------------------------------------------------------------------------- accounts

    @_atomic
    def open_account(self, scope: str, cap_nusd: int) -> bool:
        """Create an account; False where it exists (its cap then stays as it is)."""
        valid_amount(cap_nusd)
        if valid_scope(scope) in self._books.accounts:
            return False
        self._books.accounts[scope] = _Account(cap=cap_nusd)
        return True

    @_atomic
    def set_cap(self, scope: str, cap_nusd: int) -> Account:
        """Change a cap. Below `posted + held` it blocks new reservations until those fit again.

        Raises:
            BadInput: There is no such account.
        """
        account = self._existing(scope)
        account.cap = valid_amount(cap_nusd)
        return account.shown_as(scope)

    @_atomic
    def close_account(self, scope: str) -> Account:
        """Take no more reservations, for good; what is open still ends as it must.

        Raises:
            BadInput: There is no such account.
        """
        account = self._existing(scope)
        account.closed = True
        return account.shown_as(scope)

    @_atomic
    def freeze(self, scope: str) -> Account:
        """Take no more reservations until `unfreeze`.

        Raises:
            BadInput: There is no such account.
        """
        account = self._existing(scope)
        account.frozen = True
        return account.shown_as(scope)

    @_atomic
    def unfreeze(self, scope: str) -> Account:
        """Take reservations again, after a breach too; what was breached stays on record.

        Raises:
            BadInput: There is no such account.
        """
        account = self._existing(scope)
        account.frozen = False
        return account.shown_as(scope)

    def _existing(self, scope: str) -> _Account:
        account = self._books.accounts.get(valid_scope(scope))
        if account is None:
            raise refusals.no_account(scope)
        return account

    @_atomic
    def kill(self, *, on: bool) -> None:
        """Stop all spending at once, or let it go on: no reservation, and nothing is sent."""
        self._books.killed = on

    @_atomic
    def killed(self) -> bool:
        """Whether the kill switch is on."""
        return self._books.killed

    @_atomic
    def account(self, scope: str) -> Account | None:
        """Return an account, None where there is none."""
        account = self._books.accounts.get(valid_scope(scope))
        return account and account.shown_as(scope)

    @_atomic
    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts but the sessions', by name."""
        return tuple(
            account.shown_as(scope)
            for scope, account in sorted(self._books.accounts.items())
            if not is_session(scope)
        )

    # --------------------------------------------------------------------------- reservations

    @_atomic
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
        """Hold `amount_nusd` in all `scopes` at once, or in none.

        Raises:
            BudgetDenied: Some scope has no room, is frozen or closed, or has no account; or the id
                was used: its request went out, or it was given up.
            BadInput: Another reservation is held under this id.
        """
        valid_amount(amount_nusd, least=1)
        wanted = _Reservation(
            amount=amount_nusd,
            scopes=valid_scopes(scopes),
            kind=kind,
            model=model,
            step_id=step_id,
            price_version=price_version,
            created_ms=self._clock.now_ms(),
            deadline_ms=self._clock.now_ms() + valid_amount(deadline_ms),
        )
        standing = self._books.reservations.get(valid_reservation_id(reservation_id))
        if standing is not None:
            _check_repeat(reservation_id, standing, wanted)
            return
        name, old = self._hold_of(replaces)
        self._check_room(wanted, old)
        if old is not None:
            self._free_again(old, "replaced")
            old.replaced_by = reservation_id
            wanted.stands_for = old.stands_for or name
        self._add(wanted.scopes, held=amount_nusd)
        self._books.reservations[reservation_id] = wanted

    def _hold_of(self, name: str | None) -> tuple[str, _Reservation | None]:
        """Return the hold that stands in for `name`: itself, or the last that replaced it."""
        while name and (reservation := self._books.reservations.get(name)):
            if reservation.state is EntryState.HELD:
                return name, reservation
            name = reservation.replaced_by
        return "", None

    def _check_room(self, wanted: _Reservation, old: _Reservation | None) -> None:
        if self._books.killed:
            raise refusals.denied(
                "killed", wanted.scopes[0], amount_nusd=wanted.amount, free_nusd=0
            )
        rooms = [(self._room(scope, wanted, old), scope) for scope in wanted.scopes]
        free, scope = min(rooms, key=lambda room: room[0])
        if wanted.amount > free:
            raise refusals.denied("cap", scope, amount_nusd=wanted.amount, free_nusd=free)

    def _room(self, scope: str, wanted: _Reservation, old: _Reservation | None) -> int:
        account = self._books.accounts.get(scope)
        if account is None:
            raise refusals.denied("no_account", scope, amount_nusd=wanted.amount, free_nusd=0)
        given_back = old.amount if old is not None and scope in old.scopes else 0
        free = max(account.cap - account.posted - account.held + given_back, 0)
        for why, no in (("closed", account.closed), ("frozen", account.frozen)):
            if no:
                raise refusals.denied(why, scope, amount_nusd=wanted.amount, free_nusd=free)
        return free

    @_atomic
    def sent(self, reservation_id: str) -> None:
        """Say that the request is about to go out. One caller is let through, once.

        Raises:
            BudgetDenied: The reservation is no longer held, somebody else sends under it, or the
                kill switch is on: do not send.
        """
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation is None:
            raise refusals.used(reservation_id, "", "unknown")
        if reservation.state is not EntryState.HELD:
            raise refusals.used(reservation_id, reservation.scopes[0], reservation.state.value)
        if self._books.killed:
            raise refusals.denied("killed", reservation.scopes[0], amount_nusd=0, free_nusd=0)
        reservation.state = EntryState.SENT

    @_atomic
    def narrow(self, reservation_id: str, amount_nusd: int, request_id: str = "") -> None:
        """Lower the hold to a better bound, a higher one is ignored; note the request's id, if any."""
        valid_amount(amount_nusd)
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation is None or not reservation.is_open:
            return
        reservation.request_id = request_id or reservation.request_id
        if amount_nusd >= reservation.amount:
            return
        self._add(reservation.scopes, held=amount_nusd - reservation.amount)
        reservation.amount = amount_nusd

    @_atomic
    def extend(self, reservation_id: str, deadline_ms: int) -> bool:
        """Move the deadline to `deadline_ms` from now; False where it is no longer open."""
        valid_amount(deadline_ms)
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation is None or not reservation.is_open:
            return False
        reservation.deadline_ms = self._clock.now_ms() + deadline_ms
        return True

    @_atomic
    def settle(
        self,
        reservation_id: str,
        actual_nusd: int,
        *,
        usage: Usage,
        request_id: str = "",
        message_id: str = "",
    ) -> bool:
        """Charge the truth and free the rest, from any state; the first truth stays.

        Returns False for a breach: the truth was above the bound; it is charged, and the scopes
        are frozen.

        Raises:
            BadInput: There is no such reservation.
        """
        valid_amount(actual_nusd)
        reservation = self._recorded(reservation_id)
        if reservation.state is EntryState.SETTLED:
            return reservation.over == 0
        if reservation.state in _GIVEN_BACK and actual_nusd == 0:
            return True
        self._post(reservation, actual_nusd)
        reservation.usage = usage
        reservation.request_id = request_id
        reservation.message_id = message_id
        return reservation.over == 0

    def _post(self, reservation: _Reservation, actual: int) -> None:
        bound = reservation.amount
        if reservation.is_open:
            self._add(reservation.scopes, held=-bound, posted=actual)
        elif reservation.state is EntryState.EXPIRED:
            self._add(reservation.scopes, posted=actual - bound, unknown=-bound)
        else:
            self._add(reservation.scopes, posted=actual)
            bound = 0
        reservation.state = EntryState.SETTLED
        reservation.actual = actual
        reservation.why = ""
        reservation.ended_ms = self._clock.now_ms()
        reservation.over = max(actual - bound, 0)
        if reservation.over:
            self._breach(reservation)

    def _breach(self, reservation: _Reservation) -> None:
        for account in self._charged(reservation.scopes):
            account.breach += reservation.over
            account.frozen = True

    @_atomic
    def void(self, reservation_id: str, why: str) -> None:
        """Free what was proven not billed: a hold, or what was charged as unknown.

        The hold that an open call took the place of stands again.
        """
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation and (reservation.is_open or reservation.state is EntryState.EXPIRED):
            self._give_back(reservation, why)

    @_atomic
    def refund(self, reservation_id: str, why: str) -> bool:
        """Give back what was charged for an unknown outcome; False where it was not charged so."""
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation is None or reservation.state is not EntryState.EXPIRED:
            return reservation is not None and reservation.state is EntryState.REFUNDED
        ended_ms = reservation.ended_ms
        self._free_again(reservation, why)
        reservation.state, reservation.ended_ms = EntryState.REFUNDED, ended_ms
        return True

    @_atomic
    def charge_unknown(self, reservation_id: str, why: str, request_id: str = "") -> None:
        """Charge an open reservation at its bound now: its outcome is unknown.

        Raises:
            BadInput: There is no such reservation.
        """
        reservation = self._recorded(reservation_id)
        if reservation.is_open:
            self._charge_bound(reservation, why)
            reservation.request_id = request_id or reservation.request_id

    @_atomic
    def rooms(self, scopes: Sequence[str]) -> Mapping[str, Room]:
        """Return what each account could still take."""
        return {scope: self._room_of(valid_scope(scope)) for scope in scopes}

    def _room_of(self, scope: str) -> Room:
        account = self._books.accounts.get(scope)
        shut = account is None or account.frozen or account.closed or self._books.killed
        free = 0 if account is None or shut else account.cap - account.posted - account.held
        return Room(free_nusd=max(free, 0), promised_nusd=self._promised(scope, ""))

    def _promised(self, scope: str, session_id: str) -> int:
        """Return what was promised to others than `session_id`, and is not used yet."""
        promises = self._books.promises.get(scope, {})
        return sum(
            max(amount - self._used(name), 0)
            for name, amount in promises.items()
            if name != session_id
        )

    def _used(self, session_id: str) -> int:
        account = self._books.accounts.get(session_scope(session_id))
        return account.posted + account.held if account else 0

    @_atomic
    def promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session that it may use so much of `scopes`, of all of them or of none.

        Raises:
            BudgetDenied: An account has less left beside what it promised others.
        """
        session_scope(session_id)
        valid_amount(amount_nusd, least=1)
        names = valid_scopes(scopes)
        if self._has_promise(session_id, names):
            return
        if self._books.killed:
            raise refusals.denied("killed", names[0], amount_nusd=amount_nusd, free_nusd=0)
        rooms = [(self._unpromised(name, session_id, amount_nusd), name) for name in names]
        free, scope = min(rooms, key=lambda room: room[0])
        if amount_nusd > free:
            raise refusals.denied("cap", scope, amount_nusd=amount_nusd, free_nusd=free)
        self._put_promise(session_id, amount_nusd, names)

    @_atomic
    def restore_promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session again what a ledger that was lost had promised it, whatever is left."""
        session_scope(session_id)
        valid_amount(amount_nusd, least=1)
        names = valid_scopes(scopes)
        if not self._has_promise(session_id, names):
            self._put_promise(session_id, amount_nusd, names)

    def _has_promise(self, session_id: str, scopes: Sequence[str]) -> bool:
        return session_id in self._books.promises.get(scopes[0], {})

    def _put_promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        for scope in scopes:
            self._books.promises.setdefault(scope, {})[session_id] = amount_nusd

    def _unpromised(self, scope: str, session_id: str, amount_nusd: int) -> int:
        account = self._books.accounts.get(scope)
        if account is None:
            raise refusals.denied("no_account", scope, amount_nusd=amount_nusd, free_nusd=0)
        room = account.cap - account.posted - account.held - self._promised(scope, session_id)
        for why, no in (("closed", account.closed), ("frozen", account.frozen)):
            if no:
                raise refusals.denied(why, scope, amount_nusd=amount_nusd, free_nusd=max(room, 0))
        return max(room, 0)

    @_atomic
    def release(self, session_id: str, scopes: Sequence[str]) -> None:
        """Forget what a session was promised. Idempotent."""
        session_scope(session_id)
        for scope in valid_scopes(scopes):
            self._books.promises.get(scope, {}).pop(session_id, None)

    @_atomic
    def restore(self, entry: Entry, *, deadline_ms: int) -> bool:
        """Put back a reservation of a ledger that was lost; return whether that changed anything.

        One that is known stays as it is. One that ended is charged as it was, whatever the caps
        say. One that was only held is held again, until `deadline_ms` from now, where it fits.

        Raises:
            BadInput: It was sent and has not ended, or one of its accounts does not exist.
        """
        if entry.state is EntryState.SENT:
            raise refusals.not_ended(entry.reservation_id)
        accounts = [self._existing(scope) for scope in valid_scopes(entry.scopes)]
        name = valid_reservation_id(entry.reservation_id)
        if name in self._books.reservations:
            return False
        is_held = entry.state is EntryState.HELD
        if is_held and any(a.posted + a.held + entry.amount_nusd > a.cap for a in accounts):
            return False
        self._add(
            entry.scopes,
            held=entry.amount_nusd if is_held else 0,
            posted=entry.actual_nusd,
            unknown=entry.actual_nusd if entry.state is EntryState.EXPIRED else 0,
        )
        self._books.reservations[name] = self._restored(entry, deadline_ms)
        return True

    def _restored(self, entry: Entry, deadline_ms: int) -> _Reservation:
        is_settled = entry.state is EntryState.SETTLED
        return _Reservation(
            amount=entry.amount_nusd,
            scopes=entry.scopes,
            kind=entry.kind,
            model=entry.model,
            step_id=entry.step_id,
            price_version=entry.price_version,
            created_ms=entry.created_ms,
            deadline_ms=self._clock.now_ms() + deadline_ms,
            state=entry.state,
            actual=entry.actual_nusd,
            over=max(entry.actual_nusd - entry.amount_nusd, 0) if is_settled else 0,
            usage=entry.usage,
            request_id=entry.request_id,
            message_id=entry.message_id,
            why=entry.why,
            ended_ms=entry.ended_ms,
        )

    @_atomic
    def expire_overdue(self, *, limit: int) -> int:
        """End reservations past their deadline: held -> void, sent -> charged. Returns how many."""
        ended = 0
        # Again: a hold that stands again for one that was never sent may be overdue too.
        while overdue := self._overdue(limit - ended):
            for reservation in overdue:
                if reservation.state is EntryState.HELD:
                    self._give_back(reservation, "never sent")
                else:
                    self._charge_bound(reservation, "deadline")
            ended += len(overdue)
        return ended

    def _overdue(self, limit: int) -> list[_Reservation]:
        now_ms = self._clock.now_ms()
        overdue = sorted(
            (reservation.deadline_ms, name)
            for name, reservation in self._books.reservations.items()
            if reservation.is_open and reservation.deadline_ms <= now_ms
        )
        return [self._books.reservations[name] for _, name in overdue[:limit]]

    @_atomic
    def entries(self, session_id: str) -> tuple[Entry, ...]:
        """Return a session's reservations in the order in which they were made."""
        scope = session_scope(session_id)
        return tuple(
            reservation.shown_as(name)
            for name, reservation in self._books.reservations.items()
            if scope in reservation.scopes
        )

    # ------------------------------------------------------------------------------ accounting

    def _recorded(self, reservation_id: str) -> _Reservation:
        reservation = self._books.reservations.get(valid_reservation_id(reservation_id))
        if reservation is None:
            raise refusals.no_reservation(reservation_id)
        return reservation

    def _charged(self, scopes: Iterable[str]) -> Iterable[_Account]:
        return (self._books.accounts[scope] for scope in scopes)

    def _add(
        self, scopes: Iterable[str], *, held: int = 0, posted: int = 0, unknown: int = 0
    ) -> None:
        for account in self._charged(scopes):
            account.held += held
            account.posted += posted
            account.unknown += unknown

    def _give_back(self, reservation: _Reservation, why: str) -> None:
        """Give back what was not billed; the hold that an open call took the place of stands again."""
        was_open = reservation.is_open
        self._free_again(reservation, why)
        hold = self._books.reservations.get(reservation.stands_for)
        if was_open and hold is not None and hold.state is EntryState.VOID:
            self._hold_again(hold, reservation)

    def _hold_again(self, hold: _Reservation, call: _Reservation) -> None:
        """Hold it whole where there is room, and at least as far as what the call held."""
        rooms: list[int] = []
        for scope in hold.scopes:
            account = self._books.accounts[scope]
            had = call.amount if scope in call.scopes else 0
            rooms.append(max(account.cap - account.posted - account.held, had))
        again = min(hold.amount, *rooms)
        if again <= 0:
            return
        self._add(hold.scopes, held=again)
        hold.state, hold.amount, hold.why, hold.replaced_by = EntryState.HELD, again, "", ""
        hold.ended_ms = 0

    def _free_again(self, reservation: _Reservation, why: str) -> None:
        """Give a hold back, or what was charged for an unknown outcome."""
        amount = reservation.amount
        if reservation.state is EntryState.EXPIRED:
            self._add(reservation.scopes, posted=-amount, unknown=-amount)
        else:
            self._add(reservation.scopes, held=-amount)
        reservation.state = EntryState.VOID
        reservation.actual = 0
        reservation.why = why
        reservation.ended_ms = self._clock.now_ms()

    def _charge_bound(self, reservation: _Reservation, why: str) -> None:
        amount = reservation.amount
        self._add(reservation.scopes, held=-amount, posted=amount, unknown=amount)
        reservation.state = EntryState.EXPIRED
        reservation.actual = amount
        reservation.why = why
        reservation.ended_ms = self._clock.now_ms()


def _check_repeat(reservation_id: str, standing: _Reservation, wanted: _Reservation) -> None:
    """Let a repeat of a hold pass.

    Raises:
        BudgetDenied: The id was used: its request went out, or it was given up.
        BadInput: What is held is another reservation.
    """
    if standing.state is not EntryState.HELD:
        raise refusals.used(reservation_id, wanted.scopes[0], standing.state.value)
    if (standing.amount, standing.scopes) != (wanted.amount, wanted.scopes):
        raise refusals.other_amount(reservation_id)
