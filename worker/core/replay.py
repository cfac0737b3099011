"""A journal told again, event by event: what was wanted after each, and whether it was asked for.

Rule: it decides nothing of its own; `machine.py` says what is wanted. A step's event must have been
wanted at some time before it came: a worker that was told to stop may still commit what it has, but
nobody commits what was never asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.core.commands import step_id_of
from worker.core.events import key_of
from worker.core.machine import apply, wanted
from worker.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.core.machine import Session

__all__ = ["GOOD", "Played", "Verdict", "replay"]

#: `outside`: an event that ends no step (opened, cancelled, paused, deadline). `wanted`: the step was wanted
#: when it came. `late`: it was wanted once, and not any more. `never`: it was never wanted. `again`:
#: its key was taken. `misplaced`: it stands under another key than its own. `illegal`: the session
#: could not take it; the replay ends there.
Verdict = Literal["outside", "wanted", "late", "never", "again", "misplaced", "illegal"]

GOOD: frozenset[Verdict] = frozenset({"outside", "wanted", "late"})
_OUTSIDE = frozenset({"open", "cancel", "deadline", "pause"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One event of a journal, and what the session wanted after it."""

    #: From 0, as in the journal.
    position: int
    key: str
    #: The event's class.
    event: str
    verdict: Verdict
    phase: str
    wanted: tuple[Command, ...]
    #: For `illegal`: why.
    detail: str = ""


def replay(journal: Iterable[tuple[str, Event]]) -> Iterator[Played]:
    """Yield what each event of a journal came to; `journal` has (key, event), in order."""
    session: Session | None = None
    asked: set[str] = set()
    now: set[str] = set()
    taken: set[str] = set()
    for position, (key, event) in enumerate(journal):
        name = type(event).__name__
        try:
            session = apply(session, event)
        except IllegalEvent as exc:
            phase = session.phase.value if session else ""
            yield Played(
                position=position,
                key=key,
                event=name,
                verdict="illegal",
                phase=phase,
                wanted=wanted(session) if session else (),
                detail=str(exc),
            )
            return
        verdict = _verdict(key, event, taken=taken, now=now, asked=asked)
        commands = wanted(session)
        now = {step_id_of(command) for command in commands}
        asked |= now
        taken.add(key)
        yield Played(
            position=position,
            key=key,
            event=name,
            verdict=verdict,
            phase=session.phase.value,
            wanted=commands,
        )


def _verdict(key: str, event: Event, *, taken: set[str], now: set[str], asked: set[str]) -> Verdict:
    if key != key_of(event):
        return "misplaced"
    if key in taken:
        return "again"
    if key.partition("/")[0] in _OUTSIDE:
        return "outside"
    if key in now:
        return "wanted"
    return "late" if key in asked else "never"
