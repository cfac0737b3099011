"""Which part of a journal a new session may begin with, and what that part had cost.

Rule: what is taken over is taken over byte for byte, but for the request: answers to steps, up to and
including a turn. What came from outside (a cancel, a deadline, a pause) belongs to the session to which
it happened, and stays there.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from worker.core.events import (
    BundlePrepared,
    CallAnswered,
    CallExpanded,
    RunJudged,
    RunRecorded,
    SessionEnded,
    SessionOpened,
    TeacherReplied,
    key_of,
)
from worker.core.machine import fold
from worker.core.values import Blob, Purpose
from worker.errors import IllegalEvent, RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.core.events import Event
    from worker.core.values import SessionSpec

__all__ = ["blobs_of", "forked", "inherited_nusd", "last_turn", "prefix", "turn_before"]


def prefix(
    events: Iterable[Event], at_turn: int | None, without: Iterable[str] = ()
) -> tuple[Event, ...]:
    """Return the events that a session takes over, its own request aside.

    Args:
        events: The other session's, in order.
        at_turn: The last turn that is taken over, with all of its calls and runs as far as they are
            there; None takes everything but the end.
        without: Steps whose events are left out, so that they are done again.
    """
    left_out = frozenset(without)
    return tuple(
        event
        for event in events
        if not isinstance(event, SessionOpened | SessionEnded)
        and (at_turn is None or _belongs(event, at_turn))
        and key_of(event) not in left_out
    )


def _belongs(event: Event, at_turn: int) -> bool:
    match event:
        case BundlePrepared():
            return True
        case TeacherReplied():
            return event.purpose is Purpose.EXPLORE and event.turn <= at_turn
        case CallAnswered() | CallExpanded() | RunRecorded() | RunJudged():
            return event.turn <= at_turn
        case _:
            return False


def forked(spec: SessionSpec, taken_over: Sequence[Event]) -> tuple[Event, ...]:
    """Return the journal that a session of `spec` begins with.

    Raises:
        RequestInvalid: What is taken over could not have happened under the new limits.
    """
    journal = (SessionOpened(spec=spec), *taken_over)
    try:
        fold(journal)
    except IllegalEvent as exc:
        raise RequestInvalid(
            "fork: the turns that are taken over could not have gone as they did with these limits "
            f"({exc}): give limits that are not below what was used, and leave max_student_runs as it "
            "was",
            field="fork",
        ) from exc
    return journal


def last_turn(events: Iterable[Event]) -> int:
    """Return the number of the last turn of the exploration; 0 where there was none."""
    turns = (
        event.turn
        for event in events
        if isinstance(event, TeacherReplied) and event.purpose is Purpose.EXPLORE
    )
    return max(turns, default=0)


def inherited_nusd(events: Iterable[Event]) -> int:
    """Return what these events had cost whoever paid for them, as they say themselves."""
    return sum(
        event.cost_nusd
        for event in events
        if isinstance(event, TeacherReplied | CallAnswered | RunRecorded | RunJudged)
    )


def blobs_of(value: object) -> Iterator[Blob]:
    """Yield every long text that events, or whatever they are made of, refer to."""
    if isinstance(value, Blob):
        yield value
    elif isinstance(value, tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType] - whatever it holds
            yield from blobs_of(part)  # pyright: ignore[reportUnknownArgumentType]
    elif is_dataclass(value):
        for each in fields(value):
            yield from blobs_of(getattr(value, each.name))


def turn_before(step_id: str, last: int) -> tuple[int | None, tuple[str, ...]]:
    """Return where to fork a session so that a step that was given up is done again.

    A turn is asked for again after the one before it. Of a turn's calls, runs and judgements only the
    one that died is done again. The closing call and the extraction come after all turns; a
    conclusion after everything.

    Args:
        step_id: The step that was given up.
        last: The session's last turn.

    Returns:
        What `prefix` takes: the last turn that is taken over, and the steps that are left out.
    """
    kind, _, place = step_id.partition("/")
    match kind:
        case "prepare":
            return 0, ("prepare",)
        case "turn":
            return int(place) - 1, ()
        case "call" | "run" | "judge":
            return int(place.partition(".")[0]), (step_id,)
        case "conclude":
            return None, ()
        case _:
            return last, ()
