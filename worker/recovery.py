"""Sessions that Redis lost, rebuilt from the object store: journal, money, and on they go.

Rule: money first, then the journal, then a drive: whoever finds the session finds its money. Each of
the three may be done twice, and whatever is uncertain is charged.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import structlog

from worker.checkpoints import given
from worker.core import keys
from worker.core.checkpoints import Delta, began_ms, join
from worker.core.machine import fold
from worker.core.policy import HOLD_GRACE_MS
from worker.core.values import Cause, Usage
from worker.errors import BadInput, Misconfigured, RequestInvalid
from worker.ports import EntryState
from worker.refunds import notes_of
from worker.steps.conclude import read_result
from worker.steps.context import closing_hold_id
from worker.steps.funding import shared
from worker.wire.checkpoint import decode_checkpoint, decode_sent
from worker.wire.journal import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from worker.core.machine import Session
    from worker.ports import Account, Artifacts, Entry, Journal, Ledger, Record
    from worker.runner import Runner
    from worker.wire.checkpoint import Checkpoint
    from worker.wire.costs import Refund
    from worker.wire.result import DiagnoseResult

__all__ = ["Recovered", "Recovery", "Stored", "charged", "lost"]

#: Read from here on, a journal only says which life it is.
_BEYOND = 10**8
_log = structlog.get_logger(__name__)

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
        used_ms = self.records[-1].at_ms - self.records[0].at_ms - _rested_ms(self.records)
        return max(self.session.spec.limits.max_duration_ms - used_ms, 0)

    @property
    def hold_ms(self) -> int:
        """For how long the closing call's money is held again."""
        rests_ms = self.session.spec.limits.max_pause_ms if self.session.paused else 0
        return self.left_ms + HOLD_GRACE_MS + rests_ms

    @property
    def promised_nusd(self) -> int:
        """What the accounts that it shares had promised it; 0 before its start and after its end."""
        pause = self.session.paused
        waits = pause is not None and pause.cause is Cause.FUNDS
        return 0 if self.ended or waits else self.session.spec.expected_cost_nusd

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
    #: `known`: Redis has it. `ended`: it has nothing left to do, and was left where it is. `charged`: its
    #: journal is damaged, and what may have been paid for it stands on its accounts. `failed`: nothing.
    status: Literal["restored", "known", "ended", "found", "charged", "failed"]
    stored: Stored | None = None
    #: Why it could not be rebuilt; empty where it could.
    why: str = ""


class Recovery:
    """Rebuilds sessions. Harmless twice, and beside others that do the same."""

    def __init__(
        self,
        *,
        runner: Runner,
        journal: Journal,
        ledger: Ledger,
        artifacts: Artifacts,
        save: Callable[[str], None] = lambda _: None,
        publish: Callable[[DiagnoseResult, float], None] | None = None,
    ) -> None:
        """Take what is rebuilt, and from what.

        Args:
            runner: Has sessions go on.
            journal: Where they are put.
            ledger: Where their money is put.
            artifacts: Have all of it.
            save: Stores what Redis knows of a session and the store does not (`Checkpoints.save`).
            publish: Makes the result of a session that had ended readable again, given its runtime in
                seconds: whoever waits for it would wait for ever. None publishes nothing.
        """
        self._save = save
        self._publish = publish
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
        told = {entry.reservation_id: entry for part in parts for entry in part.entries}
        notes = {keys.sent(session_id, name): name for name in told}
        noted = self._artifacts.list(keys.sent_all(session_id))
        # Of what the parts tell the note's name is enough: half of a rescue is waiting for objects.
        untold = [decode_sent(self._object(note)) for note in noted if note not in notes]
        accounts = {account.scope: account for part in parts for account in part.accounts}
        entries = charged(
            (*told.values(), *untold),
            sent={notes[note] for note in noted if note in notes},
            keep=None if session.ended else closing_hold_id(session_id),
        )
        return Stored(
            session=session,
            records=records,
            labels=given({name: said for part in parts for name, said in part.labels.items()}),
            entries=self._given_back(session_id, entries),
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
        self._publish_again(session_id, stored)
        self._restore_money(stored)
        status = "restored" if self._restore(session_id, stored) else "known"
        return Recovered(session_id=session_id, status=status, stored=stored)

    def bring_forward(self, session_id: str) -> Recovered:
        """Bring a session of which Redis holds an older copy to what is stored, in a new life.

        Raises:
            RequestInvalid, CheckpointsDamaged, UnknownVersion, Unavailable: As `recover` says.
        """
        labels = self._journal.labels(session_id)
        if not labels:
            return self.recover(session_id)
        # The copy may know more than was stored, where nobody went on from before that.
        with suppress(Misconfigured):
            self._save(session_id)
        stored = self.stored(session_id)
        if stored is None:
            return Recovered(session_id=session_id, status="known")
        self._restore_money(stored)
        known = {entry.reservation_id: entry.state for entry in self._ledger.entries(session_id)}
        for entry in stored.entries:
            # A hold that does not fit is not there.
            if entry.reservation_id in known:
                self._charge(entry, known[entry.reservation_id])
        has_ended = labels.get("status") == "ended" and stored.ended
        if has_ended or not self._restore(session_id, stored, replaces=True):
            return Recovered(session_id=session_id, status="known", stored=stored)
        self._publish_again(session_id, stored)
        return Recovered(session_id=session_id, status="restored", stored=stored)

    def charge_notes(self, session_id: str) -> int:
        """Charge all requests of a session that may have gone out, at their bounds; return how many.

        For one whose journal is damaged: more than this was never paid for it.

        Raises:
            UnknownVersion: A newer worker wrote a note.
            Unavailable: Redis or the store did not answer; it can be said again.
        """
        names = self._artifacts.list(keys.sent_all(session_id))
        noted = [decode_sent(self._object(name)) for name in names]
        for entry in self._given_back(session_id, charged(noted, sent=(), keep=None)):
            for scope in entry.scopes:
                # One that nobody knows any more takes no reservation until somebody gives it a cap.
                self._ledger.open_account(scope, 0)
            self._ledger.restore(entry, deadline_ms=HOLD_GRACE_MS)
        return len(noted)

    def reopen(self, session_id: str) -> bool:
        """Put a session back that is asked for again, if it is stored; False where it is not.

        Raises:
            CheckpointsDamaged, UnknownVersion, Unavailable: As `recover` says.
        """
        if not self._artifacts.list(keys.checkpoints(session_id)):
            return False
        self.recover(session_id)
        return True

    def _restore_money(self, stored: Stored) -> None:
        for account in stored.accounts:
            self._ledger.open_account(account.scope, account.cap_nusd)
        for entry in stored.entries:
            self._ledger.restore(entry, deadline_ms=stored.hold_ms)
        if stored.promised_nusd > 0:
            spec = stored.session.spec
            self._ledger.restore_promise(spec.session_id, stored.promised_nusd, shared(spec))
        for account in stored.accounts:
            if account.frozen:
                self._ledger.freeze(account.scope)

    def _charge(self, entry: Entry, known: EntryState) -> None:
        """Give a reservation that an older ledger knows otherwise the outcome that is stored."""
        name = entry.reservation_id
        if known is EntryState.VOID and entry.actual_nusd > 0:
            # Given back when its request was refused as a second one: the first is charged beside it,
            # since a truth above what is held would be a breach.
            self._ledger.restore(replace(entry, reservation_id=f"{name}@lost"), deadline_ms=0)
            return
        match entry.state:
            case EntryState.SETTLED:
                self._ledger.settle(
                    name,
                    entry.actual_nusd,
                    usage=entry.usage or Usage(),
                    request_id=entry.request_id,
                    message_id=entry.message_id,
                )
            case EntryState.EXPIRED:
                self._ledger.charge_unknown(name, entry.why, entry.request_id)
            case EntryState.VOID:
                self._ledger.void(name, entry.why)
            case EntryState.REFUNDED:
                self._ledger.charge_unknown(name, entry.why, entry.request_id)
                self._ledger.refund(name, entry.why)
            case EntryState.HELD | EntryState.SENT:
                pass

    def _restore(self, session_id: str, stored: Stored, *, replaces: bool = False) -> bool:
        here = self._journal.load(session_id, _BEYOND).life
        restored = self._journal.restore(
            session_id,
            stored.records,
            labels=stored.labels,
            deadline_ms=stored.left_ms,
            after_ms=max(stored.began_ms, began_ms(here)),
            ends=stored.ended,
            replaces=replaces,
        )
        self._runner.drive(session_id)
        if self._journal.labels(session_id).get("status") == "ended":
            # Somebody else restored it, and it ended before it was promised its money again here.
            self._ledger.release(session_id, shared(stored.session.spec))
        return restored.status == "ok"

    def _given_back(self, session_id: str, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return the entries without the charges that were proven unbilled since."""
        if all(entry.state is not EntryState.EXPIRED for entry in entries):
            return entries
        notes = notes_of(self._artifacts, session_id)
        return tuple(_refunded(entry, notes.get(entry.reservation_id)) for entry in entries)

    def _publish_again(self, session_id: str, stored: Stored) -> None:
        """Publish an ended session's result, before Redis knows the session: then it is done once."""
        if self._publish is None or not stored.ended:
            return
        try:
            result = read_result(self._artifacts, stored.session)
        except BadInput as exc:
            _log.warning("result not published", session_id=session_id, error=str(exc))
            return
        if result is not None:
            used_ms = stored.records[-1].at_ms - stored.records[0].at_ms
            self._publish(result, used_ms / 1000)

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
    known: Iterable[Entry], *, sent: Collection[str], keep: str | None
) -> tuple[Entry, ...]:
    """Return a session's reservations as a new ledger must know them, in the order of their making.

    Args:
        known: As they are stored, each once.
        sent: The ids of those whose requests may have gone out, whatever their state says.
        keep: The hold that goes on being held; others that were never sent are dropped.
    """
    entries = [_charged(entry, sent=entry.reservation_id in sent) for entry in known]
    kept = (e for e in entries if e.state is not EntryState.HELD or e.reservation_id == keep)
    return tuple(sorted(kept, key=lambda entry: entry.created_ms))


def _refunded(entry: Entry, note: Refund | None) -> Entry:
    """Return an entry without its charge, if that was for an unknown outcome and was given back."""
    if note is None or entry.state is not EntryState.EXPIRED:
        return entry
    return replace(entry, state=EntryState.REFUNDED, actual_nusd=0, why=note.why)


def _charged(entry: Entry, *, sent: bool) -> Entry:
    """Return an entry with an outcome; what may have gone out and has none is charged whole."""
    if entry.state is EntryState.SENT or (sent and entry.state is EntryState.HELD):
        return replace(
            entry, state=EntryState.EXPIRED, actual_nusd=entry.amount_nusd, usage=None, why=_LOST
        )
    return entry


def _session_of(name: str) -> str:
    return keys.checkpointed(name)[0]


def _rested_ms(records: Iterable[Record]) -> int:
    """Return for how long a session stood still, as its journal says."""
    rested_ms, since_ms, number, last_ms = 0, None, "", 0
    for record in records:
        kind, _, which = record.key.partition("/")
        last_ms = record.at_ms
        if kind == "pause":
            since_ms, number = last_ms if since_ms is None else since_ms, which
        elif kind == "resume" and since_ms is not None and which == number:
            rested_ms, since_ms = rested_ms + last_ms - since_ms, None
    return rested_ms if since_ms is None else rested_ms + last_ms - since_ms


def _in_order(parts: Iterable[Checkpoint]) -> list[Checkpoint]:
    return sorted(parts, key=lambda part: (part.life, part.first))
