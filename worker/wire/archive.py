"""A whole journal as one file, for when it leaves Redis: `journal.jsonl`.

Rule: an event's text is kept byte for byte, so that a journal that is read from its file is the
journal that was in Redis. Lines of another kind than those known here are left to who knows them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worker.errors import UnknownVersion
from worker.ports import Note, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["VERSION", "archive", "archived_notes", "archived_records"]

VERSION = 1


def archive(records: Iterable[Record], notes: Iterable[Note] = ()) -> bytes:
    """Return a journal as JSON Lines: its records in order, then its notes."""
    rows = [
        {"v": VERSION},
        *(
            {
                "key": record.key,
                "at_ms": record.at_ms,
                "owner": record.owner,
                "attempt": record.attempt,
                "body": record.body,
            }
            for record in records
        ),
        *(
            {
                "note": note.text,
                "step_id": note.step_id,
                "at_ms": note.at_ms,
                "owner": note.owner,
                "attempt": note.attempt,
            }
            for note in notes
        ),
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def archived_records(body: bytes) -> tuple[Record, ...]:
    """Return the records of `archive`'s text.

    Raises:
        UnknownVersion: It is of another version, or no journal.
    """
    return tuple(
        Record(
            key=row["key"],
            body=row["body"],
            at_ms=row["at_ms"],
            owner=row["owner"],
            attempt=row["attempt"],
        )
        for row in _rows(body)
        if "body" in row
    )


def archived_notes(body: bytes) -> tuple[Note, ...]:
    """Return the notes of `archive`'s text.

    Raises:
        UnknownVersion: It is of another version, or no journal.
    """
    return tuple(
        Note(
            at_ms=row["at_ms"],
            step_id=row["step_id"],
            attempt=row["attempt"],
            owner=row["owner"],
            text=row["note"],
        )
        for row in _rows(body)
        if "note" in row
    )


def _rows(body: bytes) -> list[dict[str, Any]]:
    # Not `splitlines`: a text may hold characters that it takes for line ends.
    lines = body.decode().split("\n")
    try:
        head, *rows = [json.loads(line) for line in lines if line]
        version = head["v"]
    except (ValueError, KeyError, TypeError) as exc:
        raise UnknownVersion(f"{body[:80]!r} begins no journal", version="") from exc
    if version != VERSION:
        raise UnknownVersion(
            f"a journal file of version {version!r} (this one reads {VERSION}): upgrade diagnosis",
            version=repr(version),
        )
    return rows
