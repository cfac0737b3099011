"""Charges for unknown outcomes given back, where the provider's export proves that nothing was billed.

Rule: what is proven is decided in `core.reconcile`; here it is only carried out: first in the ledger,
which refuses whatever has got an outcome since, then as a note in the object store, which outlives the
ledger's 30 days and its loss. Carrying it out twice does nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.core import keys
from worker.wire.costs import Refund, read_refund

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.core.costs import Charge
    from worker.ports import Artifacts

__all__ = ["WHY", "Refunded", "carry_out", "note_all", "notes_of"]

#: What stands in the ledger as the reason.
WHY = "its tokens are not in the provider's usage export"


class Refunding(Protocol):
    """What is asked of the ledger."""

    def refund(self, reservation_id: str, why: str) -> bool:
        """Give back what was charged for an unknown outcome; False where it was not charged so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """What became of one proven refund."""

    charge: Charge
    #: False where the ledger no longer knows it, or has learnt its outcome meanwhile.
    done: bool


def carry_out(
    ledger: Refunding, artifacts: Artifacts, charges: Iterable[Charge]
) -> tuple[Refunded, ...]:
    """Give back what was proven unbilled; said twice, it does nothing more.

    Raises:
        Unavailable: Redis or the object store did not answer; it can be said again.
    """
    return tuple(_one(ledger, artifacts, charge) for charge in charges)


def note_all(artifacts: Artifacts, charges: Iterable[Charge]) -> None:
    """Write the notes of all refunds that the ledger knows: one may have died before its note."""
    for charge in charges:
        if charge.state == "refunded":
            _note(artifacts, charge)


def notes_of(artifacts: Artifacts, session_id: str) -> dict[str, Refund]:
    """Return what is noted of a session's refunds, by reservation.

    Raises:
        BadInput: A note is none.
        Unavailable: The object store did not answer; it can be said again.
    """
    names = artifacts.list(keys.refunds(session_id))
    notes = (read_refund(artifacts.get(name) or b"") for name in names)
    return {note.reservation_id: note for note in notes}


def _one(ledger: Refunding, artifacts: Artifacts, charge: Charge) -> Refunded:
    done = ledger.refund(charge.reservation_id, WHY)
    if done:
        _note(artifacts, charge)
    return Refunded(charge=charge, done=done)


def _note(artifacts: Artifacts, charge: Charge) -> None:
    note = Refund(reservation_id=charge.reservation_id, amount_nusd=charge.amount_nusd, why=WHY)
    artifacts.put_new(
        keys.refund(charge.session, charge.reservation_id),
        note.model_dump_json().encode(),
        content_type="application/json",
    )
