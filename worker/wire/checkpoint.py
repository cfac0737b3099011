"""Stored parts of journals, and what is said of a paid request before it goes out, as JSON; and back.

Rule: one line says what it is and of which version, then one line a record, then the money as it
stood after the last of them. An unknown version is refused and kept, never guessed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from worker.core.values import Usage
from worker.errors import UnknownVersion
from worker.ports import Account, Entry, EntryState, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Checkpoint", "decode_checkpoint", "decode_sent", "encode_checkpoint", "encode_sent"]

T = TypeVar("T")

VERSION = 1
#: A reservation's fields that every reader of version 1 takes. The first of them refuse others, so
#: what came later stands apart, in `more`, where they do not look.
_FIRST_FIELDS = frozenset(
    {
        *("reservation_id", "state", "amount_nusd", "actual_nusd", "scopes", "kind", "model"),
        *("step_id", "price_version", "created_ms", "usage", "request_id", "message_id", "why"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A part of a session's journal, and the session's money as of then."""

    session_id: str
    life: str
    #: Position of the first record.
    first: int
    records: tuple[Record, ...]
    #: Those that the parts before may not have told.
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    #: Reservations that may have changed since the part before.
    entries: tuple[Entry, ...] = ()
    #: All accounts that the session is charged to; none where the parts before tell how they stand.
    accounts: tuple[Account, ...] = ()

    @property
    def next(self) -> int:
        """The position after the last record."""
        return self.first + len(self.records)


def encode_checkpoint(part: Checkpoint) -> bytes:
    """Return the part as JSON lines."""
    head = {
        "v": VERSION,
        "session_id": part.session_id,
        "life": part.life,
        "first": part.first,
        "next": part.next,
        "labels": dict(part.labels),
    }
    money: dict[str, Any] = {
        "entries": [_first_fields(entry) for entry in part.entries],
        "accounts": [asdict(account) for account in part.accounts],
    }
    if later := {e.reservation_id: more for e in part.entries if (more := _later_fields(e))}:
        money["more"] = later
    lines = (head, *(asdict(record) for record in part.records), money)
    return b"".join(_line(line) for line in lines)


def decode_checkpoint(raw: bytes) -> Checkpoint:
    """Return the part that these lines are.

    Raises:
        UnknownVersion: A newer worker wrote them, or they are no part of a journal.
    """
    return _read("part of a journal", raw, _checkpoint)


def encode_sent(entry: Entry) -> bytes:
    """Return what is said of a reservation before its request goes out."""
    return _line({"v": VERSION, "entry": _first_fields(entry), **_more(entry)})


def decode_sent(raw: bytes) -> Entry:
    """Return the reservation whose request may have gone out.

    Raises:
        UnknownVersion: A newer worker wrote it, or it is none.
    """
    return _read(
        "note of a paid request",
        raw,
        lambda lines: _entry(lines[0]["entry"], lines[0].get("more", {})),
    )


def _first_fields(entry: Entry) -> dict[str, Any]:
    """Return a reservation without what is empty: that is the reader's default."""
    row = {name: value for name, value in asdict(entry).items() if name in _FIRST_FIELDS}
    if entry.usage is not None:
        row["usage"] = {name: tokens for name, tokens in row["usage"].items() if tokens}
    return {name: value for name, value in row.items() if value != ""}


def _more(entry: Entry) -> dict[str, Any]:
    later = _later_fields(entry)
    return {"more": later} if later else {}


def _later_fields(entry: Entry) -> dict[str, Any]:
    later = {one.name: one.default for one in fields(entry) if one.name not in _FIRST_FIELDS}
    said = {name: getattr(entry, name) for name in later}
    return {name: value for name, value in said.items() if value != later[name]}


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read(kind: str, raw: bytes, read: Callable[[list[Any]], Any]) -> Any:  # noqa: ANN401 - what `read` returns
    try:
        lines: list[Any] = [json.loads(line) for line in raw.splitlines()]
        if lines[0]["v"] == VERSION:
            return read(lines)
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _unknown(kind, raw) from exc
    raise _unknown(kind, raw)


def _checkpoint(lines: list[Any]) -> Checkpoint:
    head, *records, money = lines
    more: dict[str, Any] = money.get("more", {})
    part = Checkpoint(
        session_id=head["session_id"],
        life=head["life"],
        first=head["first"],
        records=tuple(_known(Record, record) for record in records),
        labels=head["labels"],
        entries=tuple(
            _entry(entry, more.get(entry["reservation_id"], {})) for entry in money["entries"]
        ),
        accounts=tuple(_known(Account, account) for account in money["accounts"]),
    )
    if part.next != head["next"]:
        raise ValueError(head)
    return part


def _entry(first: dict[str, Any], later: dict[str, Any]) -> Entry:
    usage = first["usage"]
    read: dict[str, Any] = {
        **later,
        **first,
        "state": EntryState(first["state"]),
        "scopes": tuple(first["scopes"]),
        "usage": None if usage is None else _known(Usage, usage),
    }
    return _known(Entry, read)


def _known(kind: type[T], said: dict[str, Any]) -> T:
    """Return the value of the fields that this version knows; a later one may have said more."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type] # a dataclass
    return kind(**{name: value for name, value in said.items() if name in names})


def _unknown(kind: str, raw: bytes) -> UnknownVersion:
    return UnknownVersion(
        f"this worker (checkpoint version {VERSION}) cannot read the {kind} {raw[:200]!r}: "
        "upgrade it to the version that wrote it",
        version=VERSION,
    )
