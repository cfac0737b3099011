"""The ledger in Redis or Valkey: one Lua script a transition.

Rule: no logic here. A method checks its arguments, runs its script, unpacks the reply. A script
that runs again because its reply was lost changes nothing and answers as the first time.
"""

from __future__ import annotations

import json
import uuid
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worker.core.values import Usage
from worker.ledger import refusals
from worker.ledger.keys import (
    KEEP_MS,
    prefix_of,
    session_scope,
    valid_amount,
    valid_reservation_id,
    valid_scope,
    valid_scopes,
)
from worker.ports import Account, Entry, EntryState, Room, Transition
from worker.redis_connection import Script, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import redis

    from worker.core.values import CallKind

__all__ = ["RedisLedger"]

_LUA = Path(__file__).parent / "lua"
_OPERATIONS = (
    "accounts",
    "charge_unknown",
    "entries",
    "expire_overdue",
    "extend",
    "forget_part",
    "kill",
    "mark",
    "narrow",
    "next_part",
    "open_account",
    "promise",
    "refund",
    "release",
    "reserve",
    "restore",
    "rooms",
    "sent",
    "set_cap",
    "settle",
    "void",
)
_FIELDS = ("cap", "posted", "held", "unknown", "breach", "frozen", "closed")


class RedisLedger:
    """`ports.Ledger` on Redis 7, Valkey 7.2 or newer, with `appendfsync always` and `noeviction`."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str = "diagnosis",
        keep_ms: int = KEEP_MS,
        trusted: Callable[[], AbstractContextManager[str]] | None = None,
    ) -> None:
        """Take the server.

        Args:
            client: Connects to it.
            prefix: Of all keys.
            keep_ms: How long what has ended is kept.
            trusted: The epoch in which a reservation may be made, for as long as making it takes
                (`Epoch.trusted`); it raises where the server is not to be trusted. None asks nothing.
        """
        self._client = client
        self._trusted = trusted
        self._prefix = prefix_of(prefix)
        self._keep_ms = keep_ms
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in _OPERATIONS
        }

    def _run(self, name: str, *args: str | int) -> Any:  # noqa: ANN401 - see Script
        return self._scripts[name]([self._prefix], args)

    # ------------------------------------------------------------------------------- accounts

    def open_account(self, scope: str, cap_nusd: int) -> bool:
        """Create an account; False where it exists (its cap then stays as it is)."""
        return bool(
            self._run("open_account", valid_scope(scope), valid_amount(cap_nusd), self._keep_ms)
        )

    def set_cap(self, scope: str, cap_nusd: int) -> Account:
        """Change a cap. Below `posted + held` it blocks new reservations until those fit again.

        Raises:
            BadInput: There is no such account.
        """
        return self._changed(scope, "set_cap", valid_amount(cap_nusd))

    def close_account(self, scope: str) -> Account:
        """Take no more reservations, for good; what is open still ends as it must.

        Raises:
            BadInput: There is no such account.
        """
        return self._changed(scope, "mark", "closed", 1)

    def freeze(self, scope: str) -> Account:
        """Take no more reservations until `unfreeze`.

        Raises:
            BadInput: There is no such account.
        """
        return self._changed(scope, "mark", "frozen", 1)

    def unfreeze(self, scope: str) -> Account:
        """Take reservations again, after a breach too; what was breached stays on record.

        Raises:
            BadInput: There is no such account.
        """
        return self._changed(scope, "mark", "frozen", 0)

    def _changed(self, scope: str, script: str, *args: str | int) -> Account:
        account = _account(scope, self._run(script, valid_scope(scope), *args))
        if account is None:
            raise refusals.no_account(scope)
        return account

    def kill(self, *, on: bool) -> None:
        """Stop all spending at once, or let it go on: no reservation, and nothing is sent."""
        self._run("kill", int(on))

    def killed(self) -> bool:
        """Whether the kill switch is on."""
        with translated("reading the kill switch"):
            value: Any = self._client.hget(f"{self._prefix}meta", "kill")
        return value == "1"

    def account(self, scope: str) -> Account | None:
        """Return an account, None where there is none."""
        with translated("reading an account"):
            row: Any = self._client.hmget(f"{self._prefix}a:{valid_scope(scope)}", _FIELDS)
        return _account(scope, row)

    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts but the sessions', by name."""
        rows = (_account(scope, row) for scope, *row in sorted(self._run("accounts")))
        return tuple(account for account in rows if account is not None)

    # --------------------------------------------------------------------------- reservations

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
            Unavailable: The server is not trusted now, or too many transitions wait for the archive, or
                it did not answer.
        """
        valid_amount(amount_nusd, least=1)
        with self._trusted() if self._trusted else nullcontext("") as epoch:
            reply = self._run(
                "reserve",
                valid_reservation_id(reservation_id),
                amount_nusd,
                valid_amount(deadline_ms),
                self._keep_ms,
                replaces or "",
                kind,
                model,
                step_id,
                price_version,
                epoch,
                *valid_scopes(scopes),
            )
            if reply == ["epoch"]:
                raise refusals.other_epoch(epoch)
        match reply:
            case ["ok"]:
                return
            case ["other"]:
                raise refusals.other_amount(reservation_id)
            case ["used", state, scope]:
                raise refusals.used(reservation_id, scope, state)
            case ["behind", count]:
                raise refusals.unarchived(int(count))
            case [why, scope, free]:
                raise refusals.denied(why, scope, amount_nusd=amount_nusd, free_nusd=int(free))
            case _:
                raise AssertionError(reply)

    def sent(self, reservation_id: str) -> None:
        """Say that the request is about to go out. One caller is let through, once.

        Raises:
            BudgetDenied: The reservation is no longer held, somebody else sends under it, or the
                kill switch is on: do not send.
            Unavailable: The server has lost the reservation: do not send.
        """
        reply = self._run("sent", valid_reservation_id(reservation_id), uuid.uuid4().hex)
        match reply:
            case ["ok"]:
                return
            case ["killed", scope]:
                raise refusals.denied("killed", scope, amount_nusd=0, free_nusd=0)
            case [_, "unknown", _] if self._trusted is not None:
                raise refusals.forgotten(reservation_id)
            case [_, state, scope]:
                raise refusals.used(reservation_id, scope, state)
            case _:
                raise AssertionError(reply)

    def narrow(self, reservation_id: str, amount_nusd: int, request_id: str = "") -> None:
        """Lower the hold to a better bound, a higher one is ignored; note the request's id, if any."""
        self._run(
            "narrow", valid_reservation_id(reservation_id), valid_amount(amount_nusd), request_id
        )

    def extend(self, reservation_id: str, deadline_ms: int) -> bool:
        """Move the deadline to `deadline_ms` from now; False where it is no longer open."""
        return bool(
            self._run("extend", valid_reservation_id(reservation_id), valid_amount(deadline_ms))
        )

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
        over = self._run(
            "settle",
            valid_reservation_id(reservation_id),
            valid_amount(actual_nusd),
            json.dumps(asdict(usage)),
            request_id,
            message_id,
            self._keep_ms,
        )
        if over == "-":
            raise refusals.no_reservation(reservation_id)
        return over == "0"

    def void(self, reservation_id: str, why: str) -> None:
        """Free what was proven not billed: a hold, or what was charged as unknown.

        The hold that an open call took the place of stands again.
        """
        self._run("void", valid_reservation_id(reservation_id), why, self._keep_ms)

    def refund(self, reservation_id: str, why: str) -> bool:
        """Give back what was charged for an unknown outcome; False where it was not charged so."""
        return bool(self._run("refund", valid_reservation_id(reservation_id), why, self._keep_ms))

    def charge_unknown(self, reservation_id: str, why: str, request_id: str = "") -> None:
        """Charge an open reservation at its bound now: its outcome is unknown.

        Raises:
            BadInput: There is no such reservation.
        """
        done = self._run(
            "charge_unknown", valid_reservation_id(reservation_id), why, request_id, self._keep_ms
        )
        if done < 0:
            raise refusals.no_reservation(reservation_id)

    def rooms(self, scopes: Sequence[str]) -> Mapping[str, Room]:
        """Return what each account could still take."""
        names = tuple(dict.fromkeys(map(valid_scope, scopes)))
        row = self._run("rooms", *names) if names else ()
        return {
            scope: Room(free_nusd=int(row[2 * at]), promised_nusd=int(row[2 * at + 1]))
            for at, scope in enumerate(names)
        }

    def promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session that it may use so much of `scopes`, of all of them or of none.

        Raises:
            BudgetDenied: An account has less left beside what it promised others.
        """
        session_scope(session_id)
        amount = valid_amount(amount_nusd, least=1)
        why, *facts = self._run("promise", session_id, amount, 0, *valid_scopes(scopes))
        if why != "ok":
            scope, free = facts
            raise refusals.denied(why, scope, amount_nusd=amount_nusd, free_nusd=int(free))

    def restore_promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session again what a ledger that was lost had promised it, whatever is left."""
        session_scope(session_id)
        amount = valid_amount(amount_nusd, least=1)
        self._run("promise", session_id, amount, 1, *valid_scopes(scopes))

    def release(self, session_id: str, scopes: Sequence[str]) -> None:
        """Forget what a session was promised. Idempotent."""
        session_scope(session_id)
        self._run("release", session_id, *valid_scopes(scopes))

    def restore(self, entry: Entry, *, deadline_ms: int) -> bool:
        """Put back a reservation of a ledger that was lost; return whether that changed anything.

        One that is known stays as it is. One that ended is charged as it was, whatever the caps
        say. One that was only held is held again, until `deadline_ms` from now, where it fits.

        Raises:
            BadInput: It was sent and has not ended, or one of its accounts does not exist.
        """
        if entry.state is EntryState.SENT:
            raise refusals.not_ended(entry.reservation_id)
        done, *missing = self._run(
            "restore",
            valid_reservation_id(entry.reservation_id),
            entry.state.value,
            valid_amount(entry.amount_nusd),
            valid_amount(entry.actual_nusd),
            json.dumps(asdict(entry.usage)) if entry.usage else "",
            entry.request_id,
            entry.message_id,
            entry.why,
            entry.kind,
            entry.model,
            entry.step_id,
            entry.price_version,
            entry.created_ms,
            entry.ended_ms,
            valid_amount(deadline_ms),
            self._keep_ms,
            *valid_scopes(entry.scopes),
        )
        if missing:
            raise refusals.no_account(missing[0])
        return bool(done)

    def expire_overdue(self, *, limit: int) -> int:
        """End reservations past their deadline: held -> void, sent -> charged. Returns how many."""
        return int(self._run("expire_overdue", limit, self._keep_ms))

    def entries(self, session_id: str) -> tuple[Entry, ...]:
        """Return a session's reservations in the order in which they were made."""
        session_scope(session_id)
        return tuple(_entry(row) for row in self._run("entries", session_id))

    # ---------------------------------------------------------------------------- transitions

    def unarchived(self) -> int:
        """Return how many transitions wait for the archive."""
        with translated("counting the transitions"):
            return self._client.xlen(f"{self._prefix}j")

    def next_part(self, *, most: int, age_ms: int) -> tuple[str, str] | None:
        """Return (first id, last id) of what is to be archived next; None where nothing is yet.

        Args:
            most: So many transitions make a part.
            age_ms: With fewer, the first of them waits this long.
        """
        found = self._run("next_part", most, age_ms)
        return (found[0], found[1]) if found else None

    def transitions(self, first: str, last: str) -> tuple[Transition, ...]:
        """Return the transitions from one id to another, both included."""
        with translated("reading the transitions"):
            rows: Any = self._client.xrange(f"{self._prefix}j", first, last)
        return tuple(Transition(transition_id=name, fields=fields) for name, fields in rows)

    def forget_part(self, last: str) -> None:
        """Drop the transitions of the part that ends with `last`: they are archived."""
        self._run("forget_part", last)


def _account(scope: str, row: Sequence[Any]) -> Account | None:
    if not row or row[0] is None:
        return None
    cap, posted, held, unknown, breach, frozen, _closed = (int(value or 0) for value in row)
    return Account(
        scope=scope,
        cap_nusd=cap,
        posted_nusd=posted,
        held_nusd=held,
        unknown_nusd=unknown,
        breach_nusd=breach,
        frozen=bool(frozen),
    )


def _entry(row: Sequence[str]) -> Entry:
    fields = dict(zip(row[1::2], row[2::2], strict=True))
    usage = fields.get("usage")
    return Entry(
        reservation_id=row[0],
        state=EntryState(fields["state"]),
        amount_nusd=int(fields["amount"]),
        actual_nusd=int(fields["actual"]),
        scopes=tuple(fields["scopes"].split(" ")),
        kind=cast("CallKind", fields["kind"]),
        model=fields["model"],
        step_id=fields["step"],
        price_version=fields["price_version"],
        created_ms=int(fields["created_ms"]),
        usage=Usage(**json.loads(usage)) if usage else None,
        request_id=fields.get("request_id", ""),
        message_id=fields.get("message_id", ""),
        why=fields.get("why", ""),
        ended_ms=int(fields.get("ended_ms", 0)),
    )
