"""Events as JSON, and back.

Rule: a journal is read for years. A line says its version and type; fields are only ever added; an
unknown version or type is refused and kept, never guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import TypeAdapter
from pydantic_core import from_json

from worker.core import events
from worker.core.events import Event, key_of
from worker.errors import UnknownVersion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.ports import Record

__all__ = ["decode", "decode_all", "encode", "encode_all"]

VERSION = 1

_CLASSES = {
    cls.__name__: cls
    for cls in (
        events.SessionOpened,
        events.BundlePrepared,
        events.PreparationFailed,
        events.TeacherReplied,
        events.TeacherStopped,
        events.CallAnswered,
        events.CallExpanded,
        events.RunRecorded,
        events.RunJudged,
        events.DeadlinePassed,
        events.CancelRequested,
        events.SessionPaused,
        events.SessionResumed,
        events.PauseExpired,
        events.SessionEnded,
    )
}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(cls) for name, cls in _CLASSES.items()}
#: version -> type -> reader
_READERS = {VERSION: _ADAPTERS}


def encode(event: Event) -> tuple[str, str]:
    """Return (key, JSON text) of an event. Defaults are left out: they are the reader's."""
    name = type(event).__name__
    data = _ADAPTERS[name].dump_json(event, exclude_defaults=True).decode()
    return key_of(event), f'{{"v":{VERSION},"type":"{name}","data":{data}}}'


def decode(body: str) -> Event:
    """Return the event of a journal line.

    Raises:
        UnknownVersion: A newer worker wrote it, or it is no event at all.
    """
    try:
        line = from_json(body)
        adapter = _READERS[line["v"]][line["type"]]
        return adapter.validate_python(line["data"])
    except (ValueError, KeyError, TypeError, pydantic.ValidationError) as exc:
        raise UnknownVersion(
            f"this worker (journal version {VERSION}) cannot read the event {body[:200]!r}: "
            "upgrade it to the version that wrote the journal",
            version=VERSION,
        ) from exc


def encode_all(happened: Iterable[Event]) -> tuple[tuple[str, str], ...]:
    """Return (key, JSON text) of each event, in order."""
    return tuple(encode(event) for event in happened)


def decode_all(records: Iterable[Record]) -> tuple[Event, ...]:
    """Return the events of journal records, in order.

    Raises:
        UnknownVersion: A newer worker wrote one of them.
    """
    return tuple(decode(record.body) for record in records)
