"""What was spent, added up by campaign, tenant, model, kind and night.

Rule: whole nano-dollars from the first to the last addition. What was charged without knowing the
outcome is in every total, and is told apart; what is only held is in none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, get_args

from worker.core.values import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DIMENSIONS", "Charge", "Cost", "Dimension", "Sum", "plus", "summed", "total", "unknown"]

Dimension = Literal["campaign", "tenant", "model", "kind", "night", "session"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
#: Requests that went out and count as calls.
_CALLS = frozenset({"sent", "settled", "expired", "refunded"})
_OPEN = frozenset({"held", "sent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One reservation, as the ledger has it; `costs.jsonl` has those of its session's end."""

    reservation_id: str
    step_id: str
    #: A `CallKind`.
    kind: str
    model: str
    #: `held`, `sent`, `settled`, `expired`, `void` or `refunded`.
    state: str
    #: The bound that was held.
    amount_nusd: int
    #: What is charged.
    actual_nusd: int
    usage: Usage | None = None
    request_id: str = ""
    #: Why it was voided or expired; empty otherwise.
    why: str = ""
    #: By the ledger's clock; 0 where that is not known.
    created_ms: int = 0
    #: When its outcome was known or given up; 0 for not yet, or not known, or where nothing was
    #: sent: a hold that is given back at the end is given back later where a worker died.
    ended_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge(Cost):
    """A reservation with whose it is, wherever it was read."""

    session: str
    tenant: str
    campaign: str
    #: The day, noon to noon UTC, in which it was made; `unknown` where that is not known.
    night: str


@dataclass(slots=True, kw_only=True)
class Sum:
    """What the charges that agree in some dimensions add up to."""

    #: The values of those dimensions, in the order in which they were asked for.
    key: tuple[str, ...]
    #: Requests that went out.
    calls: int = 0
    cost_nusd: int = 0
    #: Of `calls`, those of which nobody knows whether they were billed; charged at their bounds.
    unknown_calls: int = 0
    #: Of `cost_nusd`, what those were charged.
    unknown_nusd: int = 0
    #: Held for calls that have not ended, in no other number.
    held_nusd: int = 0
    #: Of the calls whose usage is known.
    usage: Usage = field(default_factory=Usage)

    def add(self, charge: Charge) -> None:
        """Count a charge."""
        self.calls += charge.state in _CALLS
        self.cost_nusd += charge.actual_nusd
        self.held_nusd += charge.amount_nusd if charge.state in _OPEN else 0
        if charge.state == "expired":
            self.unknown_calls += 1
            self.unknown_nusd += charge.actual_nusd
        if charge.usage is not None:
            self.usage = plus(self.usage, charge.usage)


def plus(one: Usage, other: Usage) -> Usage:
    """Return the sum of two usages, class by class."""
    names = (each.name for each in fields(Usage))
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in names})


def summed(charges: Iterable[Charge], by: Sequence[Dimension]) -> tuple[Sum, ...]:
    """Return a sum for each combination of `by`, sorted by it; none where there is no charge."""
    sums: dict[tuple[str, ...], Sum] = {}
    for charge in charges:
        key = tuple(str(getattr(charge, name)) for name in by)
        sums.setdefault(key, Sum(key=key)).add(charge)
    return tuple(sorted(sums.values(), key=attrgetter("key")))


def total(charges: Iterable[Charge]) -> Sum:
    """Return the sum of all of them."""
    whole = Sum(key=())
    for charge in charges:
        whole.add(charge)
    return whole


def unknown(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """Return those that were charged without knowing the outcome, the oldest first."""
    found = (charge for charge in charges if charge.state == "expired")
    return tuple(sorted(found, key=attrgetter("created_ms", "session", "reservation_id")))
