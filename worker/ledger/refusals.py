"""How the ledger says no: the same words from both adapters.

Rule: a refusal names the account, what it had left and what to do about it.
"""

from __future__ import annotations

from worker.core.prices import usd
from worker.errors import BadInput, BudgetDenied, Unavailable

__all__ = [
    "denied",
    "forgotten",
    "no_account",
    "no_reservation",
    "not_ended",
    "other_amount",
    "other_epoch",
    "unarchived",
    "used",
]

_MEANING = {
    "cap": "has too little left: make a smaller call, or raise its cap (`diagnosis budget set`)",
    "frozen": "is frozen: find out why (a call may have cost more than its bound), then unfreeze it",
    "closed": "is closed: its session has ended",
    "killed": "is stopped with all others by the kill switch",
    "no_account": "does not exist: open it first; none is made by being charged",
}


def denied(why: str, scope: str, *, amount_nusd: int, free_nusd: int) -> BudgetDenied:
    """Return the refusal of a hold."""
    return BudgetDenied(
        f"no hold of {usd(amount_nusd)}: the account {scope!r} has {usd(free_nusd)} free and "
        f"{_MEANING[why]}",
        scope=scope,
        free_nusd=free_nusd,
        why=why,
        amount_nusd=amount_nusd,
    )


def used(reservation_id: str, scope: str, state: str) -> BudgetDenied:
    """Return the refusal to reserve or send under an id whose request was sent or given up."""
    return BudgetDenied(
        f"the reservation {reservation_id!r} is {state}: nothing more may be sent under it. "
        f"Take a new id for a new attempt",
        scope=scope,
        free_nusd=0,
        why="closed",
    )


def other_amount(reservation_id: str) -> BadInput:
    """Return the refusal of a second, different reservation under one id."""
    return BadInput(
        f"the reservation {reservation_id!r} is held already, with another amount or other "
        f"accounts. Take a new id for a new call",
        reservation_id=reservation_id,
    )


def no_reservation(reservation_id: str) -> BadInput:
    """Return the refusal to charge what nobody reserved."""
    return BadInput(
        f"there is no reservation {reservation_id!r}, so nobody can be charged for it. If it was "
        f"made, the ledger's server has lost data: stop, and compare with the provider's bill",
        reservation_id=reservation_id,
    )


def not_ended(reservation_id: str) -> BadInput:
    """Return the refusal to restore a reservation whose request may still be billed."""
    return BadInput(
        f"the reservation {reservation_id!r} was sent and has no outcome: restore it as expired, "
        "charged at its bound",
        reservation_id=reservation_id,
    )


def unarchived(count: int) -> Unavailable:
    """Return the refusal of new holds while the stream of transitions may not grow any further."""
    return Unavailable(
        f"{count} transitions of the ledger wait to be archived, and none is dropped before: no new "
        "call is paid for until the object store takes them again (`diagnosis doctor`)",
        unarchived=count,
    )


def no_account(scope: str) -> BadInput:
    """Return the refusal to change an account that does not exist."""
    return BadInput(f"there is no account {scope!r}; open it first", scope=scope)


def other_epoch(epoch: str) -> Unavailable:
    """Return the refusal to hold money on a server that may have lost what was held there."""
    return Unavailable(
        f"Redis is not in epoch {epoch!r} any more, or is doubted: it may have lost data. No money is "
        "held until a worker has looked at it (`diagnosis doctor` says what it found)",
        epoch=epoch,
    )


def forgotten(reservation_id: str) -> Unavailable:
    """Return the refusal to send under a reservation that was just made and is not there."""
    return Unavailable(
        f"Redis does not know the reservation {reservation_id!r} that it just took: it has lost data",
        reservation_id=reservation_id,
    )
