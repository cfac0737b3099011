"""Whether Redis still holds all that it was told, from what it says and what the object store knows.

Rule: only a Redis that has every mark that was ever stored is trusted. A mark is written to Redis
first and to the object store after it, with a number and a word that nobody guesses; so a server that
lacks the newest stored one has lost something since, however far it has gone on. A restart that lost
nothing changes no mark and raises no alarm.

An epoch is the time between two losses: it begins when a fleet is set up, and anew each time Redis was
rebuilt. The object store has all of them, so a copy from before the last rebuilding is known as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["NO_MARK", "Mark", "Position", "Stored", "Verdict", "epoch_number", "judge"]


class Verdict(StrEnum):
    """What may be done with this Redis."""

    #: It has all that was stored: go on.
    WHOLE = "whole"
    #: Neither place has an epoch: a fleet that was never set up. The first one begins.
    NEW = "new"
    #: It has no epoch, and the object store has: an empty server, or one that was flushed.
    EMPTY = "empty"
    #: It lacks what was stored: a backup, or a replica that had fallen behind.
    OLDER = "older"
    #: It is another fleet's, or the bucket is: nothing may be mixed.
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that Redis has passed, within an epoch."""

    #: From 1; 0 for the beginning of the epoch.
    number: int
    #: Tells it from the mark of that number in another history.
    nonce: str


#: Where an epoch begins.
NO_MARK = Mark(0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What Redis says."""

    #: Empty where it knows of none.
    epoch: str = ""
    #: Why somebody found that it is an older copy and has begun to rebuild it; empty otherwise.
    doubt: str = ""
    mark: Mark = NO_MARK
    #: The one before it.
    before: Mark = NO_MARK
    #: How old the mark is.
    mark_age_ms: int = 0
    #: The newest transition of the ledger, empty where there is none.
    newest: str = ""
    #: Whether the transition that the asker saw last is still there; True where it cannot be told.
    has_seen: bool = True
    killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the object store says."""

    #: Empty where it knows of none.
    newest: str = ""
    #: The newest mark of that epoch; `NO_MARK` where none is stored.
    mark: Mark = NO_MARK
    #: Whether it knows the epoch that Redis names.
    knows: bool = True
    #: Whether its epochs are those of this fleet.
    ours: bool = True


def judge(standing: Position, stored: Stored, *, evidence: str = "") -> Verdict:
    """Return what this Redis is.

    Args:
        standing: What Redis says.
        stored: What the object store says, read while Redis did not move on.
        evidence: What else proves that something is lost, in words; empty where nothing does.
    """
    if not stored.ours:
        return Verdict.FOREIGN
    if not stored.newest:
        return Verdict.FOREIGN if standing.epoch else Verdict.NEW
    if not standing.epoch:
        return Verdict.EMPTY
    if standing.epoch != stored.newest:
        return Verdict.OLDER if stored.knows else Verdict.FOREIGN
    if standing.doubt or evidence or not standing.has_seen:
        return Verdict.OLDER
    return Verdict.WHOLE if _has(standing, stored.mark) else Verdict.OLDER


def epoch_number(epoch: str) -> int:
    """Return which epoch this is, from 1; 0 where it is none."""
    number = epoch.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _has(standing: Position, mark: Mark) -> bool:
    """Whether Redis has passed a mark that was stored.

    Redis is at most one mark ahead of the store; where it is further, the store has lost its marks,
    which says nothing about Redis.
    """
    if mark.number == standing.mark.number:
        return mark == standing.mark
    if mark.number == standing.before.number:
        return mark == standing.before
    return mark.number < standing.mark.number
