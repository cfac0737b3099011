"""The ledger told once more, from nothing but its transitions.

Rule: what the accounts show must follow from the stream alone; otherwise the archive is no record.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.ports import Account, Transition

__all__ = ["Retold"]


@dataclass
class _Reservation:
    amount: int
    scopes: tuple[str, ...]
    state: str = "held"


@dataclass
class Retold:
    """The books as the transitions tell them."""

    caps: dict[str, int] = field(default_factory=dict[str, int])
    posted: Counter[str] = field(default_factory=Counter[str])
    held: Counter[str] = field(default_factory=Counter[str])
    unknown: Counter[str] = field(default_factory=Counter[str])
    breach: Counter[str] = field(default_factory=Counter[str])
    marks: dict[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    killed: bool = False
    reservations: dict[str, _Reservation] = field(default_factory=dict[str, _Reservation])

    def hear(self, transitions: Iterable[Transition]) -> None:
        """Take transitions, in their order."""
        for transition in transitions:
            self._one(dict(transition.fields))

    def shows(self, account: Account) -> bool:
        """Whether an account is as the transitions say."""
        scope = account.scope
        return (
            account.cap_nusd,
            account.posted_nusd,
            account.held_nusd,
            account.unknown_nusd,
            account.breach_nusd,
            account.frozen,
        ) == (
            self.caps[scope],
            self.posted[scope],
            self.held[scope],
            self.unknown[scope],
            self.breach[scope],
            self.marks.get((scope, "frozen"), False),
        )

    def _one(self, row: dict[str, str]) -> None:
        match row["op"]:
            case "open" | "cap":
                self.caps[row["scope"]] = int(row["cap"])
            case "mark":
                scope = row["scope"]
                self.marks |= {(scope, n): v == "1" for n, v in row.items() if v in "01"}
            case "kill":
                self.killed = row["value"] == "1"
            case "restore":
                self._restored(row)
            case "reserve" | "hold_again":
                self._held(row)
            case "promise" | "release":
                pass  # They move no money.
            case _:
                self._moved(row, self.reservations[row["id"]])

    def _held(self, row: dict[str, str]) -> None:
        scopes = tuple(row["scopes"].split())
        self.reservations[row["id"]] = _Reservation(int(row["amount"]), scopes)
        self._add(self.held, scopes, int(row["amount"]))

    def _restored(self, row: dict[str, str]) -> None:
        scopes, amount, actual = tuple(row["scopes"].split()), row["amount"], int(row["actual"])
        self.reservations[row["id"]] = _Reservation(int(amount), scopes, row["state"])
        self._add(self.held, scopes, int(amount) if row["state"] == "held" else 0)
        self._add(self.posted, scopes, actual)
        self._add(self.unknown, scopes, actual if row["state"] == "expired" else 0)

    def _moved(self, row: dict[str, str], r: _Reservation) -> None:
        assert row.get("from", r.state) == r.state
        match row["op"]:
            case "sent":
                r.state = "sent"
            case "narrow":
                self._add(self.held, r.scopes, int(row["amount"]) - r.amount)
                r.amount = int(row["amount"])
            case "expire":
                self._leave(r)
                self._add(self.posted, r.scopes, r.amount)
                self._add(self.unknown, r.scopes, r.amount)
                r.state = "expired"
            case "void" | "refund":
                self._leave(r)
                r.state = {"void": "void", "refund": "refunded"}[row["op"]]
            case "settle":
                self._leave(r)
                self._add(self.posted, r.scopes, int(row["actual"]))
                self._breached(r, int(row["over"]))
                r.state = "settled"
            case op:
                raise AssertionError(op)

    def _leave(self, r: _Reservation) -> None:
        """Take a reservation's money off the accounts, wherever it stands."""
        if r.state == "expired":
            self._add(self.posted, r.scopes, -r.amount)
            self._add(self.unknown, r.scopes, -r.amount)
        elif r.state in {"held", "sent"}:
            self._add(self.held, r.scopes, -r.amount)

    def _breached(self, r: _Reservation, over: int) -> None:
        if over:
            self._add(self.breach, r.scopes, over)
            self.marks |= {(scope, "frozen"): True for scope in r.scopes}

    def _add(self, counter: Counter[str], scopes: tuple[str, ...], amount: int) -> None:
        for scope in scopes:
            counter[scope] += amount
