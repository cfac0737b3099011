"""Which of the sessions that wait for money may go on.

Rule: first come, first served, account by account. Whoever does not fit keeps the accounts in which it
lacks money for itself: what comes free there is not handed to a later and smaller one, so nobody
starves. Accounts in which it has enough are not held up by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Room", "Waiter", "may_go"]


class Waiter(Protocol):
    """Somebody who waits for money."""

    @property
    def needs_nusd(self) -> int:
        """What all of its accounts must have free."""
        ...

    @property
    def scopes(self) -> tuple[str, ...]:
        """Its accounts."""
        ...

    @property
    def escrow(self) -> bool:
        """Whether what was promised to others counts as spent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What an account could still take."""

    #: 0 for an account that is frozen, closed or missing, and for all while the kill switch is on.
    free_nusd: int
    #: The part of it that sessions under way were promised and have not used.
    promised_nusd: int = 0


_W = TypeVar("_W", bound=Waiter)


def may_go(waiters: Iterable[_W], rooms: Mapping[str, Room]) -> tuple[_W, ...]:
    """Return who may go on now, in the order in which they came.

    Args:
        waiters: In the order in which they came.
        rooms: By account. One that is not there has nothing.
    """
    left = dict(rooms)
    taken: set[str] = set()
    going: list[_W] = []
    for waiter in waiters:
        short = {
            scope for scope in waiter.scopes if _left(left.get(scope), waiter) < waiter.needs_nusd
        }
        if not short and not taken.intersection(waiter.scopes):
            going.append(waiter)
            for scope in waiter.scopes:
                had = left[scope]
                left[scope] = Room(
                    free_nusd=had.free_nusd - waiter.needs_nusd, promised_nusd=had.promised_nusd
                )
        taken |= short
    return tuple(going)


def _left(room: Room | None, waiter: Waiter) -> int:
    if room is None:
        return 0
    return room.free_nusd - (room.promised_nusd if waiter.escrow else 0)
