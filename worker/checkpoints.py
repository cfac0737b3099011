"""Journals written a second time, to the object store, so that Redis may lose everything.

Rule: nothing waits for it but the end of a session. A part that could not be written is part of the
next one; the store, not this process, says up to where a journal is stored.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.core import keys
from worker.core.checkpoints import base_of
from worker.core.events import SessionOpened
from worker.errors import Misconfigured, Unavailable
from worker.ports import EntryState
from worker.wire.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint, encode_sent
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.ports import Account, Artifacts, Clock, Entry, Journal, Ledger, Record, Slice

__all__ = ["Checkpoints", "changed_since", "given"]

_JSON_LINES = "application/x-ndjson"
#: Sessions of which is remembered up to where they are stored.
REMEMBERED = 1_024
#: Read from here on, a journal only says how long it is.
_BEYOND = 10**8
#: Another worker that writes the same part wins the race; it cannot win it for ever.
TRIES = 8


@dataclass(frozen=True, slots=True)
class _Stored:
    life: str
    #: The first position that is not stored.
    next: int
    #: Key and time of the record before it; None where this life has stored none.
    last: tuple[str, int] | None
    #: The session's labels, and the accounts' caps and states, as this process has stored them in this
    #: life; nothing until it has. They hardly change, and are not said again in each part.
    labels: frozenset[tuple[str, str]] = frozenset()
    accounts: frozenset[tuple[str, int, bool]] = frozenset()


class Checkpoints:
    """Stores journals. One a process; every method may be called from many threads."""

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        artifacts: Artifacts,
        clock: Clock,
        *,
        doubt: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what is stored, and where.

        Args:
            journal: Has the sessions.
            ledger: Has their money.
            artifacts: The object store.
            clock: For notes.
            doubt: Told what proves that Redis has lost something (`Epoch.doubt`).
        """
        self._doubt = doubt
        self._journal = journal
        self._ledger = ledger
        self._artifacts = artifacts
        self._clock = clock
        self._stored: OrderedDict[str, _Stored] = OrderedDict()
        self._lock = threading.Lock()

    def save(self, session_id: str) -> None:
        """Store what the journal holds and the store does not; returns once it is there.

        Raises:
            Unavailable: Redis or the store did not answer; the next part will hold this one too.
            Misconfigured: Redis holds an older copy of the journal than the store does; it is
                doubted from now on.
        """
        stored = self._remembered(session_id)
        for _ in range(TRIES):
            part = self._journal.load(session_id, _before(stored))
            if part.length == 0:
                return
            if stored is None or stored.life != part.life:
                stored = self._look(session_id, part.life, stored)
                continue
            self._check_not_older(session_id, stored, part)
            if part.length == stored.next:
                self._remember(session_id, stored)
                return
            if (written := self._write(session_id, stored, part)) is not None:
                self._remember(session_id, written)
                return
            stored = self._look(session_id, part.life, stored)
        raise Unavailable(
            f"others stored parts of session {session_id!r} {TRIES} times while this one tried"
        )

    def note_sent(self, entry: Entry) -> None:
        """Say that a reservation's request may go out now; returns once that is stored.

        Whatever else is lost, its bound is charged again when the session is restored.

        A reservation's id is used for one request, ever. One that was noted before, by somebody else,
        went out in a history that Redis does not know any more: it must not go out again.

        Raises:
            Unavailable: The store did not answer, or has the note already: do not send.
        """
        session_ids = (scope for scope in entry.scopes if scope.startswith("session:"))
        session_id = next(session_ids).removeprefix("session:")
        noted = replace(entry, state=EntryState.SENT, created_ms=self._clock.now_ms())
        key, raw = keys.sent(session_id, entry.reservation_id), encode_sent(noted)
        if self._artifacts.put_new(key, raw, content_type="application/json"):
            return
        # A write whose answer was lost is sent again, and finds itself.
        if self._artifacts.get(key) != raw:
            said = f"the request of reservation {entry.reservation_id!r} went out before"
            self._doubt(said)
            raise Unavailable(f"{said}, and Redis does not know it: it has lost data")

    def _check_not_older(self, session_id: str, stored: _Stored, part: Slice) -> None:
        """Refuse a journal that lacks what is stored of it, or went on from before it.

        Raises:
            Misconfigured: It does.
        """
        at = stored.next - 1 - (part.length - len(part.records))
        known = _name(part.records[at]) if 0 <= at < len(part.records) else None
        if stored.last is None or known == stored.last:
            return
        said = (
            f"Redis holds an older copy of session {session_id!r} than the object store, where "
            f"{stored.next} records of it are: it was restored from a backup or a replica that had "
            "fallen behind"
        )
        self._doubt(said)
        raise Misconfigured(
            f"{said}. Workers bring it forward by themselves, unless the settings say otherwise: then "
            "say `diagnosis recover --all`",
            session_id=session_id,
            stored=stored.next,
            length=part.length,
        )

    def _look(self, session_id: str, life: str, known: _Stored | None) -> _Stored:
        """Ask the store up to where a life of a session is stored."""
        names = self._artifacts.list(keys.checkpoints(session_id, life))
        raw = self._artifacts.get(names[-1]) if names else None
        if raw is None:
            return _Stored(life, base_of(life), None)
        part = decode_checkpoint(raw)
        there = _Stored(life, part.next, _name(part.records[-1]))
        if known is None or known.life != life:
            return there
        return replace(there, labels=known.labels, accounts=known.accounts)

    def _write(self, session_id: str, stored: _Stored, part: Slice) -> _Stored | None:
        """Write one part; return up to where is stored now, None where another worker was faster."""
        key = keys.checkpoint(session_id, stored.life, stored.next)
        # Every worker of the fleet stores a turn's end now and then, and knows of its own parts only:
        # without a look, each would send again all that the others have stored meanwhile.
        if self._artifacts.exists(key):
            return None
        before, records = _split(part, stored.next)
        entries = self._ledger.entries(session_id)
        accounts = self._accounts(entries[0].scopes if entries else _opened_for(records))
        states = frozenset((one.scope, one.cap_nusd, one.frozen) for one in accounts)
        labels = given(self._journal.labels(session_id))
        pairs = frozenset(labels.items())
        body = Checkpoint(
            session_id=session_id,
            life=stored.life,
            first=stored.next,
            records=records,
            labels=labels if pairs != stored.labels else {},
            entries=changed_since(before, records, entries),
            accounts=accounts if states != stored.accounts else (),
        )
        if not self._artifacts.put_new(key, encode_checkpoint(body), content_type=_JSON_LINES):
            return None
        return _Stored(stored.life, body.next, _name(records[-1]), pairs, states)

    def _accounts(self, scopes: Iterable[str]) -> tuple[Account, ...]:
        accounts = (self._ledger.account(scope) for scope in scopes)
        return tuple(account for account in accounts if account is not None)

    def _remembered(self, session_id: str) -> _Stored | None:
        with self._lock:
            return self._stored.get(session_id)

    def _remember(self, session_id: str, stored: _Stored) -> None:
        with self._lock:
            self._stored[session_id] = stored
            self._stored.move_to_end(session_id)
            while len(self._stored) > REMEMBERED:
                self._stored.popitem(last=False)


def given(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a session was given: those of the journal itself are made anew."""
    own = {"status", "created_ms", "ended_ms", "pruned_ms", "outcome", "artifacts_uri"}
    return {name: value for name, value in labels.items() if name not in own}


def changed_since(
    before: Record | None, records: Iterable[Record], entries: Iterable[Entry]
) -> tuple[Entry, ...]:
    """Return the reservations that the parts up to `before` cannot have told for good.

    Those are: what may be under way, what was made later, and what belongs to the steps of
    `records`. A hold that was made earlier and is one still was told as it is. What a lost worker
    settles after its step was done by another is not among them; it stays as its note says, charged
    at its bound.
    """
    if before is None:
        return tuple(entries)
    done = {record.key for record in records}
    return tuple(
        entry
        for entry in entries
        if entry.created_ms >= before.at_ms
        or entry.step_id in done
        or entry.state is EntryState.SENT
    )


def _opened_for(records: Sequence[Record]) -> tuple[str, ...]:
    """Return the accounts of a session that has reserved nothing yet, if its first record is here."""
    first = decode_all(records[:1])
    return next((event.spec.scopes for event in first if isinstance(event, SessionOpened)), ())


def _name(record: Record) -> tuple[str, int]:
    return record.key, record.at_ms


def _before(stored: _Stored | None) -> int:
    """Return where to read from: the last record that is stored tells since when money changed."""
    return _BEYOND if stored is None else max(stored.next - 1, 0)


def _split(part: Slice, first: int) -> tuple[Record | None, tuple[Record, ...]]:
    """Return the record before position `first`, None where it is the first, and those from it on."""
    if first == 0:
        return None, part.records
    at = first - 1 - (part.length - len(part.records))
    return part.records[at], part.records[at + 1 :]
