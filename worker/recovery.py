"""Sessions that Redis lost, rebuilt from the object store: journal, money, and on they go.

Rule: money first, then the journal, then a drive: whoever finds the session finds its money. Each of
the three may be done twice, and whatever is uncertain is charged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from worker.checkpoints import given
from worker.core import keys
from worker.core.checkpoints import Delta, began_ms, join
from worker.core.machine import fold
from worker.door import HOLD_GRACE_MS
from worker.errors import RequestInvalid
from worker.ports import EntryState
from worker.steps.context import closing_hold_id
from worker.wire.checkpoint import decode_checkpoint, decode_sent
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.core.machine import Session
    from worker.ports import Account, Artifacts, Entry, Journal, Ledger, Record
    from worker.runner import Runner
    from worker.wire.checkpoint import Checkpoint

__all__ = ["Recovered", "Recovery", "Stored", "charged", "lost"]

_LOST = "Redis was lost before its outcome was known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All that the object store holds of a session."""

    session: Session
    records: tuple[Record, ...]
    labels: dict[str, str]
    #: As they are to be charged.
    entries: tuple[Entry, ...]
    accounts: tuple[Account, ...]
    #: When the newest life that is stored began.
    began_ms: int

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.session.ended is not None

    @property
    def left_ms(self) -> int:
        """What was left of the session's time: it stood still while the session was lost."""
        used_ms = self.records[-1].at_ms - self.records[0].at_ms
        return max(self.session.spec.limits.max_duration_ms - used_ms, 0)

    @property
    def posted_nusd(self) -> int:
        """What is charged, the unknown included."""
        return sum(entry.actual_nusd for entry in self.entries)

    @property
    def unknown_nusd(self) -> int:
        """What is charged because nobody knows the outcome."""
        expired = (e for e in self.entries if e.state is EntryState.EXPIRED)
        return sum(entry.actual_nusd for entry in expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of one session."""

    session_id: str
    #: `known`: Redis has it. `ended`: it has nothing left to do, and was left where it is.
    status: Literal["restored", "known", "ended", "found"]
    stored: Stored | None = None


class Recovery:
    """Rebuilds sessions. Harmless twice, and beside others that do the same."""

    def __init__(
        self, *, runner: Runner, journal: Journal, ledger: Ledger, artifacts: Artifacts
    ) -> None:
        self._runner = runner
        self._journal = journal
        self._ledger = ledger
        self._artifacts = artifacts

    def lost(self) -> tuple[str, ...]:
        """Return the sessions that are stored, ended or not, and that Redis does not know."""
        return lost(self._journal, self._artifacts)

    def stored(self, session_id: str) -> Stored | None:
        """Return what is stored of a session, None where that is nothing.

        Raises:
            CheckpointsDamaged: A part of its journal is missing, or was changed.
            UnknownVersion: A newer worker stored it.
        """
        names = self._artifacts.list(keys.checkpoints(session_id))
        parts = _in_order(self._part(name) for name in names)
        records = join(Delta(life=p.life, first=p.first, records=p.records) for p in parts)
        if not records:
            return None
        session = fold(decode_all(records))
        notes = self._artifacts.list(keys.sent_all(session_id))
        noted = [decode_sent(self._object(name)) for name in notes]
        told = [entry for part in parts for entry in part.entries]
        accounts = {account.scope: account for part in parts for account in part.accounts}
        return Stored(
            session=session,
            records=records,
            labels=given(parts[-1].labels),
            entries=charged(
                told, noted, keep=None if session.ended else closing_hold_id(session_id)
            ),
            accounts=tuple(accounts.values()),
            began_ms=max(began_ms(part.life) for part in parts),
        )

    def recover(self, session_id: str, *, ended: bool = True, dry_run: bool = False) -> Recovered:
        """Put a session back if Redis does not know it, and have it go on.

        Args:
            session_id: The session.
            ended: Whether to put it back where it has nothing left to do: for its money in the
                shared accounts, and so that nobody pays for it again.
            dry_run: Only say what is stored.

        Raises:
            RequestInvalid: Neither Redis nor the object store knows it.
            CheckpointsDamaged, UnknownVersion: As `stored` says.
            Unavailable: Redis or the store did not answer; it can be said again.
        """
        if self._journal.labels(session_id):
            return Recovered(session_id=session_id, status="known")
        stored = self.stored(session_id)
        if stored is None:
            raise RequestInvalid(f"nothing is stored of session {session_id!r}: enqueue it again")
        if stored.ended and not ended:
            return Recovered(session_id=session_id, status="ended", stored=stored)
        if dry_run:
            return Recovered(session_id=session_id, status="found", stored=stored)
        status = "restored" if self._restore(session_id, stored) else "known"
        return Recovered(session_id=session_id, status=status, stored=stored)

    def reopen(self, session_id: str) -> bool:
        """Put a session back that is asked for again, if it is stored; False where it is not.

        Raises:
            CheckpointsDamaged, UnknownVersion, Unavailable: As `recover` says.
        """
        if not self._artifacts.list(keys.checkpoints(session_id)):
            return False
        self.recover(session_id)
        return True

    def _restore(self, session_id: str, stored: Stored) -> bool:
        for account in stored.accounts:
            self._ledger.open_account(account.scope, account.cap_nusd)
        for entry in stored.entries:
            self._ledger.restore(entry, deadline_ms=stored.left_ms + HOLD_GRACE_MS)
        for account in stored.accounts:
            if account.frozen:
                self._ledger.freeze(account.scope)
        restored = self._journal.restore(
            session_id,
            stored.records,
            labels=stored.labels,
            deadline_ms=stored.left_ms,
            after_ms=stored.began_ms,
            ends=stored.ended,
        )
        self._runner.drive(session_id)
        return restored.status == "ok"

    def _part(self, name: str) -> Checkpoint:
        return decode_checkpoint(self._object(name))

    def _object(self, name: str) -> bytes:
        return self._artifacts.get(name) or b""


def lost(journal: Journal, artifacts: Artifacts) -> tuple[str, ...]:
    """Return the sessions that are stored, ended or not, and that Redis does not know."""
    names = artifacts.list(keys.checkpoints())
    session_ids = (session_id for session_id, _ in groupby(names, _session_of))
    return tuple(one for one in session_ids if not journal.labels(one))


def charged(
    told: Iterable[Entry], noted: Iterable[Entry], *, keep: str | None
) -> tuple[Entry, ...]:
    """Return a session's reservations as a new ledger must know them, in the order of their making.

    Args:
        told: As the stored parts have them; a later one of the same id is the truth.
        noted: Those whose requests may have gone out.
        keep: The hold that goes on being held; others that were never sent are dropped.
    """
    known = {entry.reservation_id: entry for entry in told}
    sent = {entry.reservation_id: entry for entry in noted}
    known = {**sent, **known}
    entries = (_charged(entry, sent=name in sent) for name, entry in known.items())
    kept = (e for e in entries if e.state is not EntryState.HELD or e.reservation_id == keep)
    return tuple(sorted(kept, key=lambda entry: entry.created_ms))


def _charged(entry: Entry, *, sent: bool) -> Entry:
    """Return an entry with an outcome; what may have gone out and has none is charged whole."""
    if entry.state is EntryState.SENT or (sent and entry.state is EntryState.HELD):
        return replace(
            entry, state=EntryState.EXPIRED, actual_nusd=entry.amount_nusd, usage=None, why=_LOST
        )
    return entry


def _session_of(name: str) -> str:
    return keys.checkpointed(name)[0]


def _in_order(parts: Iterable[Checkpoint]) -> list[Checkpoint]:
    return sorted(parts, key=lambda part: (part.life, part.first))
