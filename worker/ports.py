"""What the session needs from the outside, as protocols and the values they exchange.

Rule: a port speaks the project's words; vendor types stay behind it. Every adapter of a port, fake
or real, passes the same contract suite (`tests/contract`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from worker.core.batches import Answered  # noqa: TC001 - dataclass field
from worker.core.checkpoints import FIRST_LIFE
from worker.core.teaching import JudgeRequest, TeacherReply, TeacherRequest, Verdict
from worker.core.waiting import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from worker.core.epoch import Position
    from worker.core.rates import Ask, Ending, Limits, Rates, Standing
    from worker.core.values import CallKind, RunOutcome, Usage

__all__ = [
    "Account",
    "Announcement",
    "Artifacts",
    "Batch",
    "BatchAnswer",
    "Batches",
    "Claim",
    "Claimed",
    "Clock",
    "Commit",
    "Committed",
    "DeadLetter",
    "Entry",
    "EntryState",
    "GroupView",
    "Hints",
    "Journal",
    "JudgeRequest",
    "Lease",
    "Ledger",
    "Going",
    "Limiter",
    "Prefixes",
    "Note",
    "Record",
    "Register",
    "Room",
    "Slice",
    "StepRow",
    "Student",
    "StudentAnswer",
    "Teacher",
    "TeacherReply",
    "TeacherRequest",
    "Transition",
    "TransitionLog",
    "Verdict",
    "Wait",
    "Waiting",
]


class Clock(Protocol):
    """The only source of time for the shell."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        ...


# --------------------------------------------------------------------------------------- journal


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
    #: From 1: how often this step was claimed.
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


# ---------------------------------------------------------------------------------------- ledger


class EntryState(StrEnum):
    """Where a reservation stands: `held` -> `sent` -> `settled` | `expired`, or `void`.

    An `expired` one may still become `settled`, `void` or `refunded`, as the truth turns out.
    """

    HELD = "held"
    SENT = "sent"
    SETTLED = "settled"
    #: The outcome is unknown: charged at its bound.
    EXPIRED = "expired"
    VOID = "void"
    #: It was `expired`, and the provider's own figures show that it was not billed.
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A scope's money, all in nano-dollars. `posted + held <= cap` unless there was a breach."""

    scope: str
    cap_nusd: int
    posted_nusd: int
    held_nusd: int
    #: The part of `posted` that was charged without knowing the outcome.
    unknown_nusd: int = 0
    #: How far the truth ever went above a bound; more than 0 freezes the account.
    breach_nusd: int = 0
    frozen: bool = False

    @property
    def free_nusd(self) -> int:
        """What may still be reserved, never negative."""
        return max(self.cap_nusd - self.posted_nusd - self.held_nusd, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One reservation: one HTTP request, or one that was never sent."""

    reservation_id: str
    state: EntryState
    #: The bound that was held.
    amount_nusd: int
    #: What is charged: 0 while held or sent and for void, the bound for expired.
    actual_nusd: int
    scopes: tuple[str, ...]
    kind: CallKind
    model: str
    step_id: str
    price_version: str
    created_ms: int
    usage: Usage | None = None
    request_id: str = ""
    message_id: str = ""
    #: Why it was voided, expired or refunded; empty otherwise.
    why: str = ""
    #: When it was settled, charged at its bound or given back; 0 for not yet, or not known. For
    #: reports only, so two ledgers that say the same may say it at different times.
    ended_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of the ledger, as its script wrote it down."""

    #: Grows with every transition: milliseconds, a dash, a number.
    transition_id: str
    fields: Mapping[str, str]


class TransitionLog(Protocol):
    """The ledger's transitions that are not archived yet.

    All raise `Unavailable` when the server does not answer.
    """

    def unarchived(self) -> int:
        """Return how many transitions wait for the archive."""
        ...

    def next_part(self, *, most: int, age_ms: int) -> tuple[str, str] | None:
        """Return (first id, last id) of what is to be archived next; None where nothing is yet.

        Everybody is told the same until `forget_part` was said.

        Args:
            most: So many transitions make a part.
            age_ms: With fewer, the first of them waits this long.
        """
        ...

    def transitions(self, first: str, last: str) -> tuple[Transition, ...]:
        """Return the transitions from one id to another, both included."""
        ...

    def forget_part(self, last: str) -> None:
        """Drop the transitions of the part that ends with `last`: they are archived."""
        ...


class Ledger(Protocol):
    """Accounts and reservations. Every method is one atomic, idempotent transition.

    All raise `Unavailable` when the server does not answer.
    """

    def open_account(self, scope: str, cap_nusd: int) -> bool:
        """Create an account; False where it exists (its cap then stays as it is)."""
        ...

    def set_cap(self, scope: str, cap_nusd: int) -> Account:
        """Change a cap. Below `posted + held` it blocks new reservations until those fit again.

        Raises:
            BadInput: There is no such account.
        """
        ...

    def reserve(
        self,
        reservation_id: str,
        amount_nusd: int,
        scopes: Sequence[str],
        *,
        kind: CallKind,
        model: str,
        step_id: str,
        price_version: str,
        deadline_ms: int,
        replaces: str | None = None,
    ) -> None:
        """Hold `amount_nusd` (> 0) in all `scopes` at once, or in none.

        `replaces` names a held reservation that is voided in the same instant (the closing hold).
        A repeat with the same id and amount does nothing. `deadline_ms` counts from now; a
        reservation that is still open then is expired by the sweep.

        Raises:
            BudgetDenied: Some scope has no room, is frozen or closed, or has no account.
            Unavailable: Too many transitions wait for the archive; or the server did not answer.
        """
        ...

    def sent(self, reservation_id: str) -> None:
        """Say that the request is about to go out: from here on its outcome may be unknown.

        Raises:
            BudgetDenied: The reservation is no longer held (it expired): do not send.
        """
        ...

    def narrow(self, reservation_id: str, amount_nusd: int, request_id: str = "") -> None:
        """Lower the hold to a better bound, a higher one is ignored; note the request's id, if any.

        Both only while the reservation is open. `request_id` is the provider's: whatever becomes of
        the call, and of the process that makes it, the provider can be asked about it.
        """
        ...

    def extend(self, reservation_id: str, deadline_ms: int) -> bool:
        """Move the deadline to `deadline_ms` from now; False where it is no longer open."""
        ...

    def settle(
        self,
        reservation_id: str,
        actual_nusd: int,
        *,
        usage: Usage,
        request_id: str = "",
        message_id: str = "",
    ) -> bool:
        """Charge the truth and free the rest; also from `expired`. Idempotent.

        Returns False for a breach: the truth was above the bound; it is charged, and the scopes
        are frozen.
        """
        ...

    def void(self, reservation_id: str, why: str) -> None:
        """Free a hold whose request was proven not billed. Idempotent.

        A hold that an open call had taken the place of (the closing hold) stands again: whole where
        there is room, and at least as far as what the call held.
        """
        ...

    def refund(self, reservation_id: str, why: str) -> bool:
        """Give back what was charged for an unknown outcome; False where it was not charged so.

        Idempotent: said twice, it answers the same.
        """
        ...

    def charge_unknown(self, reservation_id: str, why: str, request_id: str = "") -> None:
        """Charge a sent reservation at its bound now: its outcome is unknown. Idempotent.

        Without a `request_id`, the one that was noted before stays.
        """
        ...

    def rooms(self, scopes: Sequence[str]) -> Mapping[str, Room]:
        """Return what each account could still take."""
        ...

    def promise(self, session_id: str, amount_nusd: int, scopes: Sequence[str]) -> None:
        """Promise a session that it may use so much (> 0) of `scopes`, of all of them or of none.

        What is promised is set apart from other promises alone: reservations do not ask for it. It
        shrinks by what the session has posted and held. A repeat does nothing.

        Raises:
            BudgetDenied: As `reserve` does; an account has less left beside what it promised others.
        """
        ...

    def release(self, session_id: str, scopes: Sequence[str]) -> None:
        """Forget what a session was promised. Idempotent."""
        ...

    def restore(self, entry: Entry, *, deadline_ms: int) -> bool:
        """Put back a reservation of a ledger that was lost; return whether that changed anything.

        One that is known stays as it is. One that ended is charged as it was, whatever the caps
        say. One that was only held is held again, until `deadline_ms` from now, where it fits.

        Raises:
            BadInput: It was sent and has not ended, or one of its accounts does not exist.
        """
        ...

    def expire_overdue(self, *, limit: int) -> int:
        """End reservations past their deadline: held -> void, sent -> charged. Returns how many."""
        ...

    def account(self, scope: str) -> Account | None:
        """Return an account, None where there is none."""
        ...

    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts but the sessions', by name."""
        ...

    def freeze(self, scope: str) -> Account:
        """Take no more reservations until somebody unfreezes the account.

        Raises:
            BadInput: There is no such account.
        """
        ...

    def entries(self, session_id: str) -> tuple[Entry, ...]:
        """Return a session's reservations in the order in which they were made."""
        ...


class Register(Protocol):
    """Where Redis keeps which epoch it is in. Every method is one atomic transition.

    All raise `Unavailable` when the server does not answer.
    """

    def standing(self, seen: str = "") -> Position:
        """Return how Redis stands, and whether it has the transition `seen`, where one is given."""
        ...

    def begin(self, epoch: str, *, expected: str) -> bool:
        """Begin an epoch without marks and doubts; False where another one stands than expected."""
        ...

    def doubt(self, epoch: str, why: str) -> bool:
        """Have nothing reserved in an epoch any more; False where another one stands."""
        ...

    def advance(self, epoch: str, number: int, nonce: str) -> bool:
        """Pass from mark `number` to the next; False where Redis is somewhere else, or doubted."""
        ...

    def take_turn(self, duty: str, owner: str, *, for_ms: int) -> bool:
        """Take over a duty for a while, or keep it; False while it is another's."""
        ...


# ------------------------------------------------------------------------------------- artifacts


class Artifacts(Protocol):
    """Objects by key, in S3 or in memory. Keys are made by `worker.core.keys`, never by callers.

    All raise `Unavailable` when the store does not answer.
    """

    def put(self, key: str, body: bytes, *, content_type: str) -> None:
        """Write an object with a checksum, overwriting."""
        ...

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Write an object only if there is none; False where one exists."""
        ...

    def put_file(self, key: str, path: Path, *, content_type: str) -> bool:
        """Write a file as a new object; False where one exists."""
        ...

    def get(self, key: str) -> bytes | None:
        """Return an object, None where there is none."""
        ...

    def get_file(self, key: str, path: Path) -> bool:
        """Write an object to `path`; False where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the keys under a prefix, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...

    def uri(self, key: str) -> str:
        """Return the address a user can follow, `s3://bucket/key`."""
        ...


# --------------------------------------------------------------------------------------- teacher


class Teacher(Protocol):
    """One attempt of one call; retries are the caller's."""

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        """Send the request and return the whole reply.

        `on_answer` is told the provider's request id as soon as the head of its response is there,
        `on_start` the exact usage of the prompt once that is known. `stopped` is asked while the
        reply streams; True ends the call with an unknown outcome.

        Raises:
            TeacherFault: With what the provider did with it and whether to try again.
        """
        ...


# --------------------------------------------------------------------------------------- batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch of requests, as the provider lists it."""

    batch_id: str
    #: Every request in it has ended, and its answers can be read.
    ended: bool
    created_ms: int
    #: How many requests it holds.
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What became of one request of a batch."""

    answered: Answered
    #: None unless it succeeded.
    reply: TeacherReply | None = None
    #: What the provider says of one that did not.
    why: str = ""


class Batches(Protocol):
    """The provider's batches of requests, at half the price. One HTTP request a method.

    All raise `TeacherFault` when that fails: with whether a batch may have been made, and whether
    to ask again.
    """

    def create(self, request: TeacherRequest, *, custom_id: str) -> str:
        """Make a batch of one request; return the provider's id of it."""
        ...

    def look(self, batch_id: str) -> Batch:
        """Return how a batch stands."""
        ...

    def answer(self, batch: Batch, *, custom_id: str) -> BatchAnswer | None:
        """Return what became of a request in a batch that has ended; None where it is not in it."""
        ...

    def recent(self, *, since_ms: int) -> tuple[Batch, ...]:
        """Return the batches that were made since then, the newest first."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch to end early."""
        ...


# --------------------------------------------------------------------------------------- student


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentAnswer:
    """What the student said; a fault of its server is a `StudentFault` instead."""

    outcome: RunOutcome
    #: None for an empty answer.
    content: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: int = 0
    finish_reason: str = ""
    response_id: str = ""
    model: str = ""


class Student(Protocol):
    """One attempt of one run; retries are the caller's."""

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Have the student answer a task.

        Raises:
            StudentFault: With whether the same request may succeed later.
        """
        ...


# ------------------------------------------------------------------------------------------ rates


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """How one group of an account stands, for people."""

    group: str
    #: Calls under way, and how many may be; None: any number.
    under_way: int
    slots: int | None
    #: Steps in the line.
    waiting: int
    #: How long nobody calls yet, and in whose words.
    pause_ms: int
    said: str
    #: The limits that the provider said it has.
    told: Rates


#: What a first call is told: `go`, the prefix is cached or nobody is waited for; `lead`, go and let
#: the others wait; `wait`, ask again.
Going = Literal["go", "lead", "wait"]


class Prefixes(Protocol):
    """Who writes the prefix that sessions share to the provider's cache. All raise `Unavailable`."""

    def ask(self, prefix: str, who: str) -> Going:
        """Say whether a call that begins with the prefix may go, goes first, or waits."""
        ...

    def began(self, prefix: str) -> None:
        """Say that an answer to a call with this prefix has begun: the provider has it now."""
        ...

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        """Say that whoever went first got no answer; `sent` lets all others go at once."""
        ...


class Limiter(Protocol):
    """How fast and how many at once the fleet calls somebody else's servers.

    An account is what shares limits: a provider's key, or a student's server. Every method is one
    atomic transition on the server's time. All raise `Unavailable` when it does not answer.
    """

    def admit(self, account: str, group: str, limits: Limits, ask: Ask) -> Standing:
        """Let a call go, or say when to ask again. A repeat is told the same.

        A call that goes has a slot until it is ended, or for `SLOT_TTL_MS` after it was kept last.
        One that waits has a place in the line under its name, and is told a time of its own.
        """
        ...

    def keep(self, account: str, group: str, grants: Sequence[str]) -> None:
        """Keep the slots of calls that are still under way."""
        ...

    def end(self, account: str, group: str, limits: Limits, grant: str, ending: Ending) -> None:
        """Free the slot, put right what was taken, and learn from how the call ended. Idempotent."""
        ...

    def lift(self, account: str) -> bool:
        """Let an account's calls go again after a stop or in a pause; False where there is none."""
        ...

    def stopped(self, account: str) -> str | None:
        """Return in whose words the account is stopped, None where it is not."""
        ...

    def groups(self, account: str) -> tuple[GroupView, ...]:
        """Return how the account's groups stand, by name."""
        ...
