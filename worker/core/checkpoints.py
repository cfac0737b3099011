"""Which parts of a journal are stored a second time, and how they make one journal again.

Rule: what cannot be joined without a guess is an error that names the place: a journal with a hole
would go on as another session.

A session has one life after the other: it begins, and each time Redis loses it and it is restored a
new life begins, at the position up to which it was known then. What a late writer of an older life
adds beyond that position never happened.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.core.commands import Conclude, TakeTurn
from worker.core.events import BundlePrepared, SessionEnded, SessionResumed, TeacherReplied
from worker.core.keys import valid_life
from worker.errors import DiagnosisError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.core.commands import Command
    from worker.core.events import Event

__all__ = [
    "FIRST_LIFE",
    "CheckpointsDamaged",
    "Delta",
    "base_of",
    "began_ms",
    "is_boundary",
    "join",
    "life_of",
]

T = TypeVar("T")

#: Committing one of these is worth a delta, whatever follows.
_BOUNDARIES = (BundlePrepared, TeacherReplied, SessionResumed, SessionEnded)


class CheckpointsDamaged(DiagnosisError):
    """The stored parts of a journal contradict each other, or one is missing. Nothing is restored.

    Cure: restore the objects that the message names from a backup of the bucket.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(Generic[T]):
    """Records of one life of a session, from a position on."""

    life: str
    first: int
    records: tuple[T, ...]

    @property
    def next(self) -> int:
        """The position after the last record."""
        return self.first + len(self.records)


def life_of(began_ms: int, base: int) -> str:
    """Return the name of a life that began then, at that position of the journal."""
    return valid_life(f"{began_ms:013d}-{base:08d}")


#: The life of a session that was never lost.
FIRST_LIFE = life_of(0, 0)


def base_of(life: str) -> int:
    """Return the position at which a life began."""
    return int(valid_life(life).partition("-")[2])


def began_ms(life: str) -> int:
    """Return when a life began; 0 for the first one."""
    return int(valid_life(life).partition("-")[0])


def is_boundary(event: Event, follow: Iterable[Command]) -> bool:
    """Whether the journal should be stored once `event` is in it and `follow` is announced.

    It should where a turn is over or its calls have become known: up to there it was paid for.
    """
    return isinstance(event, _BOUNDARIES) or any(
        isinstance(command, TakeTurn | Conclude) for command in follow
    )


def join(deltas: Iterable[Delta[T]]) -> tuple[T, ...]:
    """Return the one journal that deltas are parts of, in whatever order they come.

    Raises:
        CheckpointsDamaged: A part is missing, or two of one life disagree.
    """
    lives: defaultdict[str, list[Delta[T]]] = defaultdict(list)
    for delta in deltas:
        lives[delta.life].append(delta)
    joined: list[T] = []
    for life in sorted(lives):
        base = base_of(life)
        _no_hole(life, at=len(joined), first=base)
        del joined[base:]
        for delta in sorted(lives[life], key=lambda delta: (delta.first, delta.next)):
            _add(joined, delta)
    return tuple(joined)


def _add(joined: list[T], delta: Delta[T]) -> None:
    _no_hole(delta.life, at=len(joined), first=delta.first)
    known = joined[delta.first : delta.next]
    if tuple(known) != delta.records[: len(known)]:
        raise CheckpointsDamaged(
            f"the part of life {delta.life} that begins at {delta.first} says something else than "
            "the parts before it: one of them was changed after it was written",
            life=delta.life,
            first=delta.first,
        )
    joined.extend(delta.records[len(known) :])


def _no_hole(life: str, *, at: int, first: int) -> None:
    if first > at:
        raise CheckpointsDamaged(
            f"the records from {at} to {first - 1} are missing: the next part, of life {life}, "
            f"begins at {first}",
            life=life,
            missing_from=at,
            missing_to=first - 1,
        )
