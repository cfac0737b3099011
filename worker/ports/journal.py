"""The journal of sessions, their due steps, and the hints that tell workers of them.

Rule: a commit and what follows from it enter in one step. Times are the server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from worker.core.checkpoints import FIRST_LIFE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = [
    "Announcement",
    "Claim",
    "Claimed",
    "Commit",
    "Committed",
    "DeadLetter",
    "Hints",
    "Journal",
    "Lease",
    "Note",
    "Record",
    "Slice",
    "StepRow",
    "Wait",
    "Waiting",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of a journal: an event as JSON text, and who committed it when."""

    key: str
    #: The event, as `wire.journal` wrote it.
    body: str
    #: Server time of the commit. For reports only: no decision reads it.
    at_ms: int
    #: The worker that committed it; empty for the outside.
    owner: str
    #: Which attempt of the step this was, from 1; 0 for events that end no step.
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a step waits for that stands for a session at rest."""

    #: At the longest: then somebody is told of the step.
    longest_ms: int
    #: What all of `scopes` must have free before it is worth a look; 0 where money is not the matter.
    needs_nusd: int = 0
    scopes: tuple[str, ...] = ()
    #: What was promised to others counts as spent (`Ledger.promise`).
    escrow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A step that should be told to a worker: on which queue."""

    session_id: str
    step_id: str
    queue: str
    #: None for a step that is due now. As long as one that waits is there, the session's time
    #: stands still.
    wait: Wait | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's claim on a step. The fence grows with every claim of the step."""

    session_id: str
    step_id: str
    fence: int
    #: Chosen by the claimer, so that a claim or commit retried after a lost reply is recognised.
    token: str


class Claimed(StrEnum):
    """What a claim came to."""

    #: The step is ours.
    OK = "ok"
    #: The step is ours, but it has killed its workers too often: commit its failure instead.
    POISONED = "poisoned"
    #: Another worker holds it.
    BUSY = "busy"
    #: Not before a later time (back-off, or other steps must leave first).
    WAIT = "wait"
    #: Already in the journal, never announced, or the session has ended.
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The answer to a claim."""

    status: Claimed
    lease: Lease | None = None
    #: From 1: how often this step was claimed in this life of its session, whether or not it was wanted
    #: all the time. No two claims have the same, so that it can be a part of what a claim pays for.
    attempt: int = 0
    #: How often a claim of this step ended without a word: its worker died or stalled.
    deaths: int = 0
    #: How often this step was put back with an error that counts.
    retries: int = 0
    #: Number of records in the journal.
    length: int = 0
    #: Records from the asked-for position on.
    records: tuple[Record, ...] = ()
    #: Which life of the session this is (`core.checkpoints`): of another one, nothing known holds.
    life: str = FIRST_LIFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a journal, from a position to its end. `length` is 0 for an unknown session."""

    length: int
    records: tuple[Record, ...]
    #: Which life of the session this is.
    life: str = FIRST_LIFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a worker has done: events by key, and the steps that follow."""

    lease: Lease
    #: (key, event JSON), in order. The first one under a key wins.
    events: tuple[tuple[str, str], ...]
    #: Length of the journal that `follow` was decided on.
    expected_length: int
    follow: tuple[Announcement, ...] = ()
    #: The session has ended: nothing of it stays due.
    ends: bool = False
    #: Why the step was given up: it becomes a dead letter as well. Empty for a step that was done.
    given_up: str = ""
    #: How many steps should be under way at least, where others wait for the session's widths: with
    #: fewer, and a journal that moved on meanwhile, somebody must drive the session.
    least_open: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The answer to a commit, an append or a drive."""

    #: `ok`: in the journal (also when said twice). `fenced`: the lease was lost, nothing changed.
    status: Literal["ok", "fenced", "gone", "moved"]
    length: int = 0
    #: Steps that this commit made due now: tell the workers.
    announced: tuple[Announcement, ...] = ()
    #: The journal moved on meanwhile and nothing, or less than could be, is under way: somebody must
    #: drive the session.
    must_drive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A step that is due or under way, for status and doctor."""

    step_id: str
    queue: str
    state: Literal["ready", "leased"]
    owner: str
    attempt: int
    deaths: int
    retries: int
    #: When somebody will be told next: announcement, back-off or end of the lease.
    due_ms: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What befell one attempt of a step. For people: no decision reads it."""

    at_ms: int
    step_id: str
    #: Which attempt, from 1.
    attempt: int
    #: The worker whose attempt it was.
    owner: str
    #: The error that it was given back with, or from whom it took over.
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A step that waits for money."""

    session_id: str
    step_id: str
    #: When it was announced: who came first goes first.
    since_ms: int
    needs_nusd: int
    scopes: tuple[str, ...]
    escrow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A step that was given up; its failure is in the session's journal, which went on."""

    #: Never used for another letter.
    number: int
    at_ms: int
    session_id: str
    step_id: str
    attempt: int
    deaths: int
    reason: str


class Journal(Protocol):
    """Sessions' event lists, the leases on their steps, and what is due. See `journal/lua`.

    Every method is one atomic transition. Times are the server's. All raise `Unavailable` when the
    server does not answer.
    """

    def create(
        self,
        session_id: str,
        events: Sequence[tuple[str, str]],
        follow: Sequence[Announcement],
        *,
        deadline_ms: int,
        labels: Mapping[str, str],
    ) -> Committed:
        """Start a session; `gone` where it exists already. `deadline_ms` counts from now."""
        ...

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
        """Put a session back that was lost, and let it be driven; `gone` where it is known.

        `replaces` says that an older copy of it makes room; only a pruned one is `gone` then.

        Its records keep their times and workers. A new life of it begins, later than `after_ms`:
        no lease of an earlier one commits anything. `deadline_ms` counts from now; `ends` says that
        the session has ended, and nothing of it becomes due.
        """
        ...

    def load(self, session_id: str, since: int = 0) -> Slice:
        """Return the records from position `since` on."""
        ...

    def claim(self, session_id: str, step_id: str, *, owner: str, token: str, since: int) -> Claim:
        """Take the lease on a due step and return the records from `since` on."""
        ...

    def beat(self, leases: Sequence[Lease]) -> tuple[Lease, ...]:
        """Renew leases; return those that are lost or whose session wants them to stop."""
        ...

    def commit(self, commit: Commit) -> Committed:
        """Put events into the journal, end the step, make its followers due."""
        ...

    def retry(self, lease: Lease, *, delay_ms: int, error: str, counts: bool = True) -> bool:
        """Give the step back, due again after `delay_ms`; False where the lease was lost.

        `counts` is False where nobody failed but a server of ours, or a step waits for its turn:
        that wears no patience out, and is noted once for each reason.
        """
        ...

    def release(self, lease: Lease) -> bool:
        """Give up a step that nobody wants any more; False where the lease was lost."""
        ...

    def append(
        self, session_id: str, key: str, body: str, *, expected_length: int | None = None
    ) -> Committed:
        """Put an outside event (a cancel) into the journal; the session must then be driven.

        `moved`, and nothing changed, where the journal is not of that length.
        """
        ...

    def drive(
        self, session_id: str, *, expected_length: int, follow: Sequence[Announcement]
    ) -> Committed:
        """Make due exactly what `follow` says; `moved` where the journal is longer than expected.

        Steps that are due or under way already stay as they are; those that are not in `follow`
        are taken back: ready ones go, leased ones are told to stop at their next beat, and are
        told no more where they are wanted again.
        """
        ...

    def wake(self, session_id: str, step_id: str) -> Announcement | None:
        """Make a step that waits due now, and return it to be told; None where it does not wait."""
        ...

    def waiting(self) -> tuple[Waiting, ...]:
        """Return all steps that wait for money, the longest first."""
        ...

    def sweep(self, *, limit: int) -> tuple[Announcement, ...]:
        """Return what is overdue (lost hints, ended back-offs, dead leases, timers) to be told."""
        ...

    def steps(self, session_id: str) -> tuple[StepRow, ...]:
        """Return the session's steps that are due or under way."""
        ...

    def labels(self, session_id: str) -> Mapping[str, str]:
        """Return what `create` was given, with `status` and `created_ms`; empty if unknown.

        An ended session has `ended_ms`; a pruned one `pruned_ms`, `outcome` and `artifacts_uri`.
        """
        ...

    def sessions(self, *, limit: int = 100) -> tuple[str, ...]:
        """Return session ids, the newest first; pruned ones are not among them."""
        ...

    def notes(self, session_id: str) -> tuple[Note, ...]:
        """Return what befell the session's attempts, the newest 500, in order."""
        ...

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the steps that were given up, the newest 1,000, in order."""
        ...

    def discard(self, number: int | None) -> int:
        """Forget a dead letter, or all where `number` is None; return how many there were."""
        ...

    def ended(self, *, before_ms: int) -> tuple[str, ...]:
        """Return the sessions that ended before that time and are not pruned, oldest first."""
        ...

    def prune(self, session_id: str, *, outcome: str, artifacts_uri: str) -> bool:
        """Forget all of an ended session but its labels, which then say these two as well.

        It can never be created again. False, and nothing changed, where it is open or unknown.
        """
        ...


class Hints(Protocol):
    """Tells workers about due steps. May lose, delay or double: the sweep heals it."""

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Tell the workers of each queue. Never raises: what is not told is swept."""
        ...
