"""The journal in memory: for the in-process runner, the unit tests and the crash sweep.

Rule: the same transitions as `lua/*.lua`, name by name; `tests/contract/test_journal.py` holds both
to one suite. One lock makes every method atomic.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from worker.core import policy
from worker.core.checkpoints import FIRST_LIFE, life_of
from worker.journal.keys import DRIVE
from worker.ports import (
    Announcement,
    Claim,
    Claimed,
    Clock,
    Commit,
    Committed,
    DeadLetter,
    Lease,
    Note,
    Record,
    Slice,
    StepRow,
    Wait,
    Waiting,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["MemoryJournal"]

#: As many as `lua/prelude.lua` keeps.
_NOTES = 500
_DEAD_LETTERS = 1_000
_FENCED = Committed(status="fenced")

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(slots=True)
class _Row:
    queue: str
    not_before: int
    leased: bool = False
    fence: int = 0
    token: str = ""
    owner: str = ""
    lease_until: int = 0
    attempt: int = 0
    deaths: int = 0
    retries: int = 0
    tells: int = 0
    stop: bool = False
    last_error: str = ""
    wait: Wait | None = None
    since_ms: int = 0


@dataclass(slots=True)
class _Session:
    created_ms: int
    labels: dict[str, str]
    fence: int = 0
    life: str = FIRST_LIFE
    #: How often the sweep said that the session must be driven, since it last was.
    tells: int = 0
    ended_ms: int | None = None
    #: Since when its time stands still; None while it passes.
    halted_ms: int | None = None
    #: What `labels` says beside, of a session that was pruned.
    tombstone: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[Note] = field(default_factory=list[Note])
    journal: list[Record] = field(default_factory=list[Record])
    #: key -> token of the commit
    index: dict[str, str] = field(default_factory=dict[str, str])
    rows: dict[str, _Row] = field(default_factory=dict[str, _Row])
    #: Step that was begun and taken back -> its attempts.
    attempts: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def open_steps(self) -> list[str]:
        return [step_id for step_id in self.rows if step_id != "deadline"]

    def note(self, note: Note) -> None:
        self.notes.append(note)
        del self.notes[:-_NOTES]

    def put(self, record: Record, token: str) -> None:
        if record.key not in self.index:
            self.index[record.key] = token
            self.journal.append(record)

    def holds(self, lease: Lease) -> _Row | None:
        row = self.rows.get(lease.step_id)
        return row if row and row.leased and row.fence == lease.fence else None


def _atomic(
    method: Callable[Concatenate[MemoryJournal, _P], _R],
) -> Callable[Concatenate[MemoryJournal, _P], _R]:
    @wraps(method)
    def locked(self: MemoryJournal, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


class MemoryJournal:
    """`ports.Journal` in one process; gone with it."""

    def __init__(
        self,
        clock: Clock,
        *,
        lease_ms: int = policy.LEASE_MS,
        grace_ms: int = policy.GRACE_MS,
    ) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._lease_ms = lease_ms
        self._grace_ms = grace_ms
        self._sessions: dict[str, _Session] = {}
        self._due: dict[tuple[str, str], int] = {}
        self._dead: dict[int, DeadLetter] = {}
        self._last_dead = 0

    @_atomic
    def create(
        self,
        session_id: str,
        events: Sequence[tuple[str, str]],
        follow: Sequence[Announcement],
        *,
        deadline_ms: int,
        labels: Mapping[str, str],
    ) -> Committed:
        """Start a session; `gone` where it exists already."""
        if session_id in self._sessions:
            return Committed(status="gone")
        now_ms = self._clock.now_ms()
        session = _Session(created_ms=now_ms, labels=dict(labels))
        self._sessions[session_id] = session
        for key, body in events:
            session.put(_outside(key, body, now_ms), "-")
        session.rows["deadline"] = _Row(queue="control", not_before=now_ms + deadline_ms)
        self._due[session_id, "deadline"] = now_ms + deadline_ms
        announced = self._announce(session_id, session, follow)
        return Committed(status="ok", length=len(session.journal), announced=announced)

    @_atomic
    def restore(
        self,
        session_id: str,
        records: Sequence[Record],
        *,
        labels: Mapping[str, str],
        deadline_ms: int,
        after_ms: int,
        ends: bool,
        replaces: bool = False,
    ) -> Committed:
        """Put a session back that was lost; `gone` where it is known, or pruned."""
        old = self._sessions.get(session_id)
        if old is not None and (not replaces or bool(old.tombstone)):
            return Committed(status="gone")
        now_ms = self._clock.now_ms()
        began_ms = max(now_ms, after_ms + 1, old.fence + 1 if old else 0)
        session = _Session(created_ms=records[0].at_ms, labels=dict(labels), fence=began_ms)
        if old is not None:
            session.notes = old.notes
            for step_id in (*old.rows, DRIVE):
                self._due.pop((session_id, step_id), None)
        self._sessions[session_id] = session
        for record in records:
            session.put(record, "-")
        session.life = life_of(began_ms, len(records))
        if ends:
            session.ended_ms = records[-1].at_ms
            return Committed(status="ok", length=len(records))
        if "deadline" not in session.index:
            session.rows["deadline"] = _Row(queue="control", not_before=now_ms + deadline_ms)
            self._due[session_id, "deadline"] = now_ms + deadline_ms
        self._due[session_id, DRIVE] = now_ms
        return Committed(status="ok", length=len(records), must_drive=True)

    @_atomic
    def load(self, session_id: str, since: int = 0) -> Slice:
        """Return the records from position `since` on."""
        session = self._sessions.get(session_id)
        if session is None:
            return Slice(length=0, records=())
        journal = session.journal
        return Slice(length=len(journal), records=tuple(journal[since:]), life=session.life)

    @_atomic
    def claim(self, session_id: str, step_id: str, *, owner: str, token: str, since: int) -> Claim:
        """Take the lease on a due step and return the records from `since` on."""
        session = self._sessions.get(session_id)
        row = session.rows.get(step_id) if session else None
        if session is None or row is None or session.ended_ms is not None:
            return Claim(status=Claimed.GONE)
        if step_id == "deadline" and session.halted_ms is not None:
            return Claim(status=Claimed.WAIT)
        if step_id in session.index:
            # Its key came from elsewhere: nobody else would notice that the step is over.
            self._forget(session_id, session, step_id)
            self._drive_if_below(session_id, session, 1)
            return Claim(status=Claimed.GONE)
        if not (row.leased and row.token == token):
            refusal = self._refusal(session_id, session, step_id, row)
            if refusal is not None:
                return Claim(status=refusal)
            dead = row.owner if row.leased else None
            self._due[session_id, step_id] = self._lease(session, row, owner, token)
            if dead is not None:
                text = f"took over from {dead}, whose lease ran out"
                session.note(self._noted(step_id, row, text))
        poisoned = row.deaths >= policy.POISON_DEATHS
        return Claim(
            status=Claimed.POISONED if poisoned else Claimed.OK,
            lease=Lease(session_id=session_id, step_id=step_id, fence=row.fence, token=token),
            attempt=row.attempt,
            deaths=row.deaths,
            retries=row.retries,
            length=len(session.journal),
            records=tuple(session.journal[since:]),
            life=session.life,
        )

    def _noted(self, step_id: str, row: _Row, text: str) -> Note:
        return Note(
            at_ms=self._clock.now_ms(),
            step_id=step_id,
            attempt=row.attempt,
            owner=row.owner,
            text=text,
        )

    def _refusal(
        self, session_id: str, session: _Session, step_id: str, row: _Row
    ) -> Claimed | None:
        now_ms = self._clock.now_ms()
        if row.leased and row.lease_until > now_ms:
            return Claimed.BUSY
        if not row.leased and row.not_before > now_ms:
            return Claimed.WAIT
        others = (session.rows[name] for name in session.open_steps if name != step_id)
        if step_id == "conclude" and any(o.leased and o.lease_until > now_ms for o in others):
            row.not_before = now_ms + policy.CONCLUDE_WAIT_MS
            self._due[session_id, step_id] = row.not_before
            return Claimed.WAIT
        return None

    def _lease(self, session: _Session, row: _Row, owner: str, token: str) -> int:
        row.deaths += row.leased
        session.fence += 1
        row.attempt += 1
        row.leased, row.fence, row.token, row.owner = True, session.fence, token, owner
        row.tells = 0
        row.lease_until = self._clock.now_ms() + self._lease_ms
        return row.lease_until

    @_atomic
    def beat(self, leases: Sequence[Lease]) -> tuple[Lease, ...]:
        """Renew leases; return those that are lost or whose session wants them to stop."""
        return tuple(lease for lease in leases if not self._renew(lease))

    def _renew(self, lease: Lease) -> bool:
        row = self._held(lease)
        if row is None or row.stop:
            return False
        row.lease_until = self._clock.now_ms() + self._lease_ms
        self._due[lease.session_id, lease.step_id] = row.lease_until
        return True

    def _held(self, lease: Lease) -> _Row | None:
        session = self._sessions.get(lease.session_id)
        return session.holds(lease) if session else None

    @_atomic
    def commit(self, commit: Commit) -> Committed:
        """Put events into the journal, end the step, make its followers due."""
        lease = commit.lease
        session = self._sessions.get(lease.session_id)
        if session is None:
            return Committed(status="gone")
        token = session.index.get(lease.step_id)
        if token is not None:
            return self._again(session, commit) if token == lease.token else _FENCED
        if session.ended_ms is not None:
            return Committed(status="gone")
        row = session.holds(lease)
        if row is None:
            return _FENCED
        now_ms = self._clock.now_ms()
        for key, body in commit.events:
            record = Record(key=key, body=body, at_ms=now_ms, owner=row.owner, attempt=row.attempt)
            session.put(record, lease.token)
        if commit.given_up:
            self._bury(lease, row, commit.given_up)
        self._take_back(lease.session_id, session, lease.step_id)
        return self._followed(session, commit, now_ms)

    def _bury(self, lease: Lease, row: _Row, reason: str) -> None:
        self._last_dead += 1
        self._dead[self._last_dead] = DeadLetter(
            number=self._last_dead,
            at_ms=self._clock.now_ms(),
            session_id=lease.session_id,
            step_id=lease.step_id,
            attempt=row.attempt,
            deaths=row.deaths,
            reason=reason,
        )
        self._dead.pop(self._last_dead - _DEAD_LETTERS, None)

    def _again(self, session: _Session, commit: Commit) -> Committed:
        """Answer a commit that is said twice: its first reply was lost."""
        rows = session.rows
        told = (step for step in commit.follow if step.step_id in rows)
        idle = session.ended_ms is None and self._drive_if_below(
            commit.lease.session_id, session, 1
        )
        return Committed(
            status="ok",
            length=len(session.journal),
            announced=tuple(step for step in told if not rows[step.step_id].leased),
            must_drive=idle,
        )

    def _followed(self, session: _Session, commit: Commit, now_ms: int) -> Committed:
        session_id = commit.lease.session_id
        length = len(session.journal)
        if commit.ends:
            session.ended_ms = now_ms
            for step_id in list(session.rows):
                self._forget(session_id, session, step_id)
            self._due.pop((session_id, DRIVE), None)
            return Committed(status="ok", length=length)
        announced = self._announce(session_id, session, commit.follow)
        return Committed(
            status="ok",
            length=length,
            announced=announced,
            must_drive=self._drive_if_below(session_id, session, _least_open(commit, length)),
        )

    @_atomic
    def retry(self, lease: Lease, *, delay_ms: int, error: str, counts: bool = True) -> bool:
        """Give the step back, due again after `delay_ms`; False where the lease was lost."""
        session = self._sessions.get(lease.session_id)
        row = session.holds(lease) if session else None
        if session is None or row is None:
            return False
        if counts or row.last_error != error:
            session.note(self._noted(lease.step_id, row, error))
        row.leased, row.token, row.owner, row.last_error = False, "", "", error
        row.retries += counts
        row.not_before = self._clock.now_ms() + delay_ms
        if row.stop:
            self._take_back(lease.session_id, session, lease.step_id)
            self._drive_if_below(lease.session_id, session, 1)
        else:
            self._due[lease.session_id, lease.step_id] = row.not_before
        return True

    @_atomic
    def release(self, lease: Lease) -> bool:
        """Give up a step that nobody wants any more; False where the lease was lost."""
        session = self._sessions.get(lease.session_id)
        if session is None or session.holds(lease) is None:
            return False
        self._take_back(lease.session_id, session, lease.step_id)
        if session.ended_ms is None:
            self._drive_if_below(lease.session_id, session, 1)
        return True

    @_atomic
    def append(
        self, session_id: str, key: str, body: str, *, expected_length: int | None = None
    ) -> Committed:
        """Put an outside event into the journal; the session must then be driven."""
        session = self._sessions.get(session_id)
        if session is None or session.ended_ms is not None:
            return Committed(status="gone")
        if expected_length not in {None, len(session.journal)}:
            return Committed(status="moved", length=len(session.journal))
        now_ms = self._clock.now_ms()
        session.put(_outside(key, body, now_ms), "-")
        self._due[session_id, DRIVE] = now_ms
        return Committed(status="ok", length=len(session.journal), must_drive=True)

    @_atomic
    def drive(
        self, session_id: str, *, expected_length: int, follow: Sequence[Announcement]
    ) -> Committed:
        """Make due exactly what `follow` says; `moved` where the journal is longer."""
        session = self._sessions.get(session_id)
        if session is None or session.ended_ms is not None:
            self._due.pop((session_id, DRIVE), None)
            return Committed(status="gone")
        length = len(session.journal)
        if length != expected_length:
            self._due[session_id, DRIVE] = self._clock.now_ms()
            return Committed(status="moved", length=length, must_drive=True)
        self._keep_only(session_id, session, {step.step_id for step in follow})
        announced = self._announce(session_id, session, follow)
        if session.open_steps:
            self._due.pop((session_id, DRIVE), None)
            session.tells = 0
        else:
            # Only a worker of another version wants nothing of an open session: it stays in sight.
            self._due.setdefault((session_id, DRIVE), self._clock.now_ms() + self._grace_ms)
        return Committed(status="ok", length=length, announced=announced)

    def _keep_only(self, session_id: str, session: _Session, keep: set[str]) -> None:
        for step_id in session.open_steps:
            if step_id in keep:
                session.rows[step_id].stop = False
                continue
            if session.rows[step_id].leased:
                session.rows[step_id].stop = True
            else:
                self._take_back(session_id, session, step_id)

    def _take_back(self, session_id: str, session: _Session, step_id: str) -> None:
        """Forget a step that is over.

        One that is not done may be wanted again, such as after a pause: its attempts are counted on,
        since an attempt's number is in the names of what it has paid for.
        """
        attempt = session.rows[step_id].attempt
        if attempt > 0 and step_id not in session.index:
            session.attempts[step_id] = attempt
        self._forget(session_id, session, step_id)

    @_atomic
    def wake(self, session_id: str, step_id: str) -> Announcement | None:
        """Make a step that waits due now, and return it to be told; None where it does not wait."""
        now_ms = self._clock.now_ms()
        session = self._sessions.get(session_id)
        row = session.rows.get(step_id) if session else None
        if row is None or row.wait is None or row.leased or row.not_before <= now_ms:
            return None
        row.not_before, row.tells = now_ms, 0
        self._due[session_id, step_id] = now_ms + self._grace_ms
        return Announcement(session_id=session_id, step_id=step_id, queue=row.queue)

    @_atomic
    def waiting(self) -> tuple[Waiting, ...]:
        """Return all steps that wait for money, the longest first."""
        rows = (
            Waiting(
                session_id=session_id,
                step_id=step_id,
                since_ms=row.since_ms,
                needs_nusd=row.wait.needs_nusd,
                scopes=row.wait.scopes,
                escrow=row.wait.escrow,
            )
            for session_id, session in self._sessions.items()
            for step_id, row in session.rows.items()
            if row.wait is not None and row.wait.needs_nusd > 0
        )
        return tuple(sorted(rows, key=lambda row: (row.since_ms, row.session_id, row.step_id)))

    @_atomic
    def sweep(self, *, limit: int) -> tuple[Announcement, ...]:
        """Return what is overdue, to be told."""
        now_ms = self._clock.now_ms()
        due = sorted((at_ms, name) for name, at_ms in self._due.items() if at_ms <= now_ms)
        told = (self._tell(name, now_ms) for _, name in due[:limit])
        return tuple(announcement for announcement in told if announcement)

    def _tell(self, name: tuple[str, str], now_ms: int) -> Announcement | None:
        session_id, step_id = name
        session = self._sessions[session_id]
        row = session.rows.get(step_id)
        if row is None and step_id != DRIVE:
            del self._due[name]
            return None
        counts = row or session
        counts.tells += 1
        again_ms = min(self._grace_ms * 2 ** min(counts.tells, 10), policy.LONGEST_GRACE_MS)
        self._due[name] = now_ms + again_ms
        queue = row.queue if row else "control"
        return Announcement(session_id=session_id, step_id=step_id, queue=queue)

    @_atomic
    def steps(self, session_id: str) -> tuple[StepRow, ...]:
        """Return the session's steps that are due or under way, by name."""
        session = self._sessions.get(session_id)
        if session is None:
            return ()
        return tuple(
            self._step_row(session_id, step_id, session.rows[step_id])
            for step_id in sorted(session.open_steps)
        )

    def _step_row(self, session_id: str, step_id: str, row: _Row) -> StepRow:
        return StepRow(
            step_id=step_id,
            queue=row.queue,
            state="leased" if row.leased else "ready",
            owner=row.owner,
            attempt=row.attempt,
            deaths=row.deaths,
            retries=row.retries,
            due_ms=self._due.get((session_id, step_id), 0),
            last_error=row.last_error,
        )

    @_atomic
    def labels(self, session_id: str) -> Mapping[str, str]:
        """Return what `create` was given, with `status`, `created_ms` and, at last, `ended_ms`."""
        session = self._sessions.get(session_id)
        if session is None:
            return {}
        ended = {} if session.ended_ms is None else {"ended_ms": str(session.ended_ms)}
        status = "open" if session.ended_ms is None else "ended"
        return {
            **session.labels,
            "status": status,
            "created_ms": str(session.created_ms),
            **ended,
            **session.tombstone,
        }

    @_atomic
    def sessions(self, *, limit: int = 100) -> tuple[str, ...]:
        """Return session ids, the newest first."""
        known = (name for name, session in self._sessions.items() if not session.tombstone)
        return tuple(reversed(tuple(known)))[:limit]

    @_atomic
    def notes(self, session_id: str) -> tuple[Note, ...]:
        """Return what befell the session's attempts, the newest 500, in order."""
        session = self._sessions.get(session_id)
        return tuple(session.notes) if session else ()

    @_atomic
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the steps that were given up, the newest 1,000, in order."""
        return tuple(self._dead.values())

    @_atomic
    def discard(self, number: int | None) -> int:
        """Forget a dead letter, or all where `number` is None; return how many there were."""
        gone = [known for known in self._dead if number in {None, known}]
        for known in gone:
            del self._dead[known]
        return len(gone)

    @_atomic
    def ended(self, *, before_ms: int) -> tuple[str, ...]:
        """Return the sessions that ended before that time and are not pruned, oldest first."""
        return tuple(
            name
            for name, session in self._sessions.items()
            if session.ended_ms is not None
            and session.ended_ms < before_ms
            and not session.tombstone
        )

    @_atomic
    def prune(self, session_id: str, *, outcome: str, artifacts_uri: str) -> bool:
        """Forget all of an ended session but its labels; False where it is open or unknown."""
        session = self._sessions.get(session_id)
        if session is None or session.ended_ms is None or session.tombstone:
            return False
        self._sessions[session_id] = _Session(
            created_ms=session.created_ms,
            labels=session.labels,
            ended_ms=session.ended_ms,
            life=session.life,
            tombstone={
                "pruned_ms": str(self._clock.now_ms()),
                "outcome": outcome,
                "artifacts_uri": artifacts_uri,
            },
        )
        return True

    @_atomic
    def overdue(self) -> tuple[tuple[str, str, int], ...]:
        """Return (session id, step id, due_ms) of the whole due set, by time."""
        rows = ((session_id, step_id, at) for (session_id, step_id), at in self._due.items())
        return tuple(sorted(rows, key=lambda row: row[2]))

    def _announce(
        self, session_id: str, session: _Session, follow: Iterable[Announcement]
    ) -> tuple[Announcement, ...]:
        now_ms = self._clock.now_ms()
        new: list[Announcement] = []
        for step in follow:
            if step.step_id in session.index or step.step_id in session.rows:
                continue
            if step.wait is not None:
                self._wait(session_id, session, step, step.wait)
                continue
            attempt = session.attempts.get(step.step_id, 0)
            session.rows[step.step_id] = _Row(queue=step.queue, not_before=now_ms, attempt=attempt)
            self._due[session_id, step.step_id] = now_ms + self._grace_ms
            new.append(step)
        return tuple(new)

    def _wait(self, session_id: str, session: _Session, step: Announcement, wait: Wait) -> None:
        now_ms = self._clock.now_ms()
        at_ms = now_ms + wait.longest_ms
        session.rows[step.step_id] = _Row(
            queue=step.queue,
            not_before=at_ms,
            attempt=session.attempts.get(step.step_id, 0),
            wait=wait,
            since_ms=now_ms,
        )
        self._due[session_id, step.step_id] = at_ms
        if session.halted_ms is None:
            session.halted_ms = now_ms
            self._due.pop((session_id, "deadline"), None)

    def _forget(self, session_id: str, session: _Session, step_id: str) -> None:
        row = session.rows.pop(step_id, None)
        self._due.pop((session_id, step_id), None)
        waits = any(other.wait is not None for other in session.rows.values())
        if row is None or row.wait is None or waits or session.halted_ms is None:
            return
        deadline = session.rows.get("deadline")
        if deadline is not None:
            deadline.not_before += self._clock.now_ms() - session.halted_ms
            self._due[session_id, "deadline"] = deadline.not_before
        session.halted_ms = None

    def _drive_if_below(self, session_id: str, session: _Session, least: int) -> bool:
        if len(session.open_steps) >= least:
            return False
        self._due[session_id, DRIVE] = self._clock.now_ms()
        return True


def _least_open(commit: Commit, length: int) -> int:
    """Return how many steps must be under way, that nobody need drive the session."""
    knew_all = length == commit.expected_length + len(commit.events)
    return 1 if knew_all else max(1, commit.least_open)


def _outside(key: str, body: str, at_ms: int) -> Record:
    return Record(key=key, body=body, at_ms=at_ms, owner="", attempt=0)
