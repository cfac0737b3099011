"""The imperative shell: claim, fold, perform, commit, tell.

Rule: no decision of a session stands here. The core says what is wanted; the journal says who may do
it; this file carries it out, in Celery and in-process alike. Doing it twice does nothing more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog

from worker.core import policy
from worker.core.checkpoints import is_boundary
from worker.core.commands import AwaitResume, Command, Conclude, queue_of, step_id_of
from worker.core.events import (
    CancelRequested,
    DeadlinePassed,
    SessionEnded,
    SessionOpened,
    SessionPaused,
    SessionResumed,
)
from worker.core.failures import failure_of
from worker.core.machine import Session, apply, fold, is_crowded, least_under_way, wanted
from worker.core.values import Cause, Phase, Stop
from worker.errors import (
    BudgetDenied,
    Cancelled,
    DiagnosisError,
    IllegalEvent,
    Misconfigured,
    NotYet,
    RateLimited,
    RequestInvalid,
    StillWaiting,
    StudentFault,
    TeacherFault,
    Unavailable,
    UnknownVersion,
)
from worker.heart import Heart
from worker.journal.keys import DRIVE
from worker.ports import Announcement, Claim, Claimed, Commit, Wait
from worker.steps import perform
from worker.steps.context import Step, closing_hold_id
from worker.steps.funding import shared
from worker.waking import Waking
from worker.wire.journal import decode_all, encode, encode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from worker.checkpoints import Checkpoints
    from worker.core.events import Event
    from worker.core.values import SessionSpec
    from worker.ports import Hints, Journal, Lease, Record
    from worker.spool import Spool
    from worker.steps.context import Ports

__all__ = ["Runner", "Worked"]

_log = structlog.get_logger(__name__)

#: Sessions whose fold is kept between steps; with the texts in its events a fold is about 80 KB.
CACHED_SESSIONS = 64
#: How often a drive is repeated at once when the journal moves under it; then the sweep goes on.
DRIVES = 5
#: A server that asks for a longer wait than this is not waited for: the step has failed. Without an
#: end to it, one `retry-after: 86400` would hold a session's closing call for more than a week.
LONGEST_WAIT_MS = 900_000
#: How often a conclusion may fail by a fault that is no outage, one minute apart: time for a mended
#: worker to come. Then the least is written, so that whoever waits for the session hears its end.
CONCLUDE_TRIES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What came of one hint."""

    #: `done`: committed. `dropped`: nothing to do (done, held by another, not wanted, lost).
    #: `retry`: failed, due again later. `failed`: failed for good, which is in the journal.
    status: Literal["done", "dropped", "retry", "failed"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Known:
    session: Session
    length: int
    #: Of another life of the session, nothing that is known here holds.
    life: str
    #: Nor of another server, or another run of it: that may be an older copy, which went on by itself.
    server: int
    #: What is wanted now, by step id. Asked for once a fold: a turn may want hundreds of runs.
    steps: Mapping[str, Command]

    @classmethod
    def of(cls, session: Session, length: int, life: str, server: int) -> _Known:
        """Return what is known of a session at this length of its journal."""
        steps = {step_id_of(step): step for step in wanted(session)}
        return cls(session, length, life, server, steps)

    @property
    def age(self) -> tuple[int, str, int]:
        """Of two folds of one session, the greater is the newer one."""
        return self.server, self.life, self.length

    def holds(self, life: str, length: int, server: int) -> bool:
        """Whether a journal of this life and length, on this server, goes on from what is known."""
        return self.life == life and self.length <= length and self.server == server


class Runner:
    """Works on steps. One a process; every method may be called from many threads."""

    def __init__(
        self,
        *,
        journal: Journal,
        hints: Hints,
        ports: Ports,
        owner: str,
        new_token: Callable[[], str],
        chance: Callable[[], float],
        heart: Heart | None = None,
        perform: Callable[[Command, Step], Event] = perform,
        checkpoints: Checkpoints | None = None,
        spool: Spool | None = None,
        server: Callable[[], int] = lambda: 0,
    ) -> None:
        self._journal = journal
        self._hints = hints
        self._ports = ports
        self._owner = owner
        self._new_token = new_token
        self._chance = chance
        self._perform_step = perform
        self._checkpoints = checkpoints
        self._spool = spool
        #: Another number whenever the journal may be another server's (`Epoch.generation`).
        self._server = server
        self._heart = heart or Heart(journal)
        #: Who waits for money, and who goes on.
        self.waking = Waking(journal, ports.ledger, hints, now_s=self._heart.now_s)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, spec: SessionSpec, labels: Mapping[str, str]) -> bool:
        """Start a session; False where it exists already (then it is driven, to be sure).

        Raises:
            Unavailable: The journal did not answer; nothing was started.
        """
        return self.begin([SessionOpened(spec=spec)], labels)

    def begin(self, events: Sequence[Event], labels: Mapping[str, str]) -> bool:
        """Start a session that has a past: it waits for money, or comes from another one.

        Args:
            events: Its journal so far.
            labels: What is shown of it without reading its journal.

        Returns:
            False where it exists already (then it is driven, to be sure).

        Raises:
            Unavailable: The journal did not answer; nothing was started.
        """
        session = fold(events)
        spec = session.spec
        created = self._journal.create(
            spec.session_id,
            encode_all(events),
            _announcements(session, wanted(session)),
            deadline_ms=spec.limits.max_duration_ms,
            labels=labels,
        )
        if created.status == "gone":
            self.drive(spec.session_id)
            return False
        self._hints.tell(created.announced)
        self._checkpoint(spec.session_id)
        return True

    def cancel(self, session_id: str, reason: str) -> bool:
        """Ask a session to stop; False where it is unknown or has ended."""
        key, body = encode(CancelRequested(reason=reason))
        if self._journal.append(session_id, key, body).status == "gone":
            return False
        self.drive(session_id)
        return True

    def pause(self, session_id: str, reason: str) -> bool:
        """Let a session stand still until it is resumed; False where it is unknown or has ended.

        What is under way is finished; nothing else begins, and its time stands still.

        Raises:
            RequestInvalid: It has not started yet.
            Unavailable: The journal did not answer, or moves on too fast; say it again.
        """

        def asked(session: Session) -> Event | None:
            _check_started(session, "pause")
            if session.paused is not None and session.paused.cause is Cause.ASKED:
                return None
            self._keep_closing_money(session)
            return SessionPaused(number=session.pauses + 1, cause=Cause.ASKED, detail=reason)

        return self._say(session_id, asked)

    def resume(self, session_id: str, reason: str) -> bool:
        """Let a session that stands still go on; False where it is unknown or has ended.

        One that waits for money tries again, and waits again where it finds none.

        Raises:
            RequestInvalid: It has not started yet.
            Unavailable: The journal did not answer, or moves on too fast; say it again.
        """

        def asked(session: Session) -> Event | None:
            _check_started(session, "resume")
            if session.paused is None:
                return None
            return SessionResumed(number=session.paused.number, detail=reason)

        return self._say(session_id, asked)

    def _say(self, session_id: str, asked: Callable[[Session], Event | None]) -> bool:
        """Put what somebody asks for into the journal, as decided on all of it; then drive."""
        for _ in range(DRIVES):
            known = self._load(session_id)
            if known is None or known.session.phase in {Phase.CONCLUDING, Phase.ENDED}:
                return False
            event = asked(known.session)
            if event is None:
                self.drive(session_id)
                return True
            key, body = encode(event)
            said = self._journal.append(session_id, key, body, expected_length=known.length)
            if said.status == "gone":
                return False
            if said.status == "ok":
                self.drive(session_id)
                self._checkpoint(session_id)
                return True
        raise Unavailable(f"session {session_id!r} moves on too fast: say it again")

    def _keep_closing_money(self, session: Session) -> None:
        """Keep the closing call's hold for as long as the session may stand still now."""
        kept_ms = policy.closing_hold_ms(session.spec.limits, paused=True)
        self._ports.ledger.extend(closing_hold_id(session.spec.session_id), kept_ms)

    def sweep(self, *, limit: int = 200) -> int:
        """Tell what is overdue, settle and expire reservations, wake who has money again.

        Returns how many steps were told.
        """
        overdue = self._journal.sweep(limit=limit)
        self._hints.tell(overdue)
        if self._spool is not None:
            # First: what it settles is not charged at its bound.
            self._spool.sweep(self._wants)
        self._ports.ledger.expire_overdue(limit=limit)
        return len(overdue) + self.waking.wake()

    def _wants(self, session_id: str, step_id: str) -> bool | None:
        """Whether a session wants a step now; None where nobody can say."""
        try:
            known = self._load(session_id)
        except (UnknownVersion, IllegalEvent):
            return None
        if known is None:
            return False if self.knows(session_id) else None
        if known.session.paused is not None:
            # What it wanted before it is likely to want again.
            return None
        return step_id in known.steps

    def close(self) -> None:
        """Stop beating. Steps that are under way lose their leases after a while."""
        self._heart.close()

    def knows(self, session_id: str) -> bool:
        """Whether there is or was such a session; of a pruned one only this is known."""
        return bool(self._journal.labels(session_id))

    def session(self, session_id: str) -> Session | None:
        """Return a session as its journal says, None where there is none."""
        known = self._load(session_id)
        return known.session if known else None

    def drive(self, session_id: str) -> None:
        """Make due what the session wants now. Anybody may, at any time."""
        for _ in range(DRIVES):
            known = self._load(session_id)
            if known is None:
                return
            driven = self._journal.drive(
                session_id,
                expected_length=known.length,
                follow=_announcements(known.session, known.steps.values()),
            )
            self._hints.tell(driven.announced)
            if driven.status != "moved":
                return

    def work(self, session_id: str, step_id: str) -> Worked:
        """Do one step, if it is due, wanted and free.

        Raises:
            Unavailable: The journal did not answer; the step stays due.
            UnknownVersion: A newer worker wrote the journal; the step stays due.
        """
        if step_id == DRIVE:
            self.drive(session_id)
            return Worked(status="done")
        server, known = self._server(), self._cached(session_id)
        asked_s = self._heart.now_s()
        claim = self._journal.claim(
            session_id,
            step_id,
            owner=self._owner,
            token=self._new_token(),
            since=known.length if known else 0,
        )
        if claim.lease is None:
            return Worked(status="dropped", detail=claim.status.value)
        try:
            now = self._claimed(claim, session_id, known, server)
        except (UnknownVersion, IllegalEvent) as exc:
            # Not for this worker to end: a newer one, or a mended one, goes on from here.
            self._wait(claim.lease, policy.LONGEST_GRACE_MS, str(exc))
            raise
        return self._work_on(claim, claim.lease, now, asked_s)

    def _work_on(self, claim: Claim, lease: Lease, now: _Known, asked_s: float) -> Worked:
        if lease.step_id == "deadline":
            return self._commit(lease, now, DeadlinePassed(), drive=True)
        command = now.steps.get(lease.step_id)
        if command is None:
            self._journal.release(lease)
            return Worked(status="dropped", detail="not wanted any more")
        if claim.status is Claimed.POISONED and not isinstance(command, Conclude):
            return self._fail(lease, now, command, _killed(claim), Stop.FAULT)
        return self._perform(claim, lease, now, command, asked_s)

    def _perform(
        self, claim: Claim, lease: Lease, now: _Known, command: Command, asked_s: float
    ) -> Worked:
        with self._heart.keeping(lease, since_s=asked_s) as kept:
            step = Step(
                session=now.session,
                step_id=lease.step_id,
                attempt=claim.attempt,
                stopped=kept.stopped,
                ports=self._ports,
                life=now.life,
                given_up=_hopeless(claim) if isinstance(command, Conclude) else "",
            )
            try:
                if isinstance(command, Conclude):
                    self._checkpoint_all(lease.session_id)
                step.check()
                event = self._perform_step(command, step)
            except StillWaiting as exc:
                self._wait(lease, exc.left_ms, str(exc))
                return Worked(status="dropped", detail=str(exc))
            except Cancelled as exc:
                if kept.told:
                    self._journal.release(lease)
                else:
                    self._wait(lease, 0, str(exc))
                return Worked(status="dropped", detail=str(exc))
            except DiagnosisError as exc:
                return self._after_error(claim, lease, now, command, exc)
            except Exception as exc:  # noqa: BLE001 - a bug must not wedge the session
                return self._after_error(claim, lease, now, command, exc)
        return self._commit(lease, now, event, given_up=step.given_up)

    def _after_error(
        self, claim: Claim, lease: Lease, now: _Known, command: Command, exc: Exception
    ) -> Worked:
        if isinstance(exc, BudgetDenied) and policy.pauses(now.session.spec, command, exc):
            return self._pause_for_money(lease, now, exc)
        ours = policy.is_ours(exc)
        decision = policy.after_fault(
            policy.patience_for(command, exc),
            retries=claim.attempt - 1 if ours else claim.retries,
            retryable=_retryable(exc),
            retry_after_ms=getattr(exc, "retry_after_ms", None),
            chance=self._chance(),
        )
        reason = _say(exc)
        if isinstance(decision, policy.TryAgain):
            self._journal.retry(lease, delay_ms=decision.delay_ms, error=reason, counts=not ours)
            return Worked(status="retry", detail=reason)
        stop = Stop.BUDGET if isinstance(exc, BudgetDenied) else Stop.FAULT
        return self._fail(lease, now, command, reason, stop)

    def _pause_for_money(self, lease: Lease, now: _Known, denied: BudgetDenied) -> Worked:
        """Let the session stand still; the step is wanted again once it goes on."""
        self._keep_closing_money(now.session)
        event = SessionPaused(
            number=now.session.pauses + 1,
            cause=Cause.MONEY,
            detail=str(denied),
            needed_nusd=max(denied.amount_nusd, 1),
            scope=denied.scope,
        )
        committed = self._journal.commit(
            Commit(lease=lease, events=(encode(event),), expected_length=now.length)
        )
        self._hints.tell(committed.announced)
        # What waits is announced by a drive alone: it has read the whole journal.
        self.drive(lease.session_id)
        self._checkpoint(lease.session_id)
        return Worked(status="dropped", detail=f"paused: {denied}")

    def _fail(self, lease: Lease, now: _Known, command: Command, reason: str, stop: Stop) -> Worked:
        event = failure_of(command, reason, stop=stop)
        if event is None:
            self._journal.retry(lease, delay_ms=policy.LONGEST_GRACE_MS, error=reason)
            return Worked(status="retry", detail=reason)
        # A limit that was reached is an end like any other; a fault is one that somebody looks at.
        given_up = "" if stop is Stop.BUDGET else reason
        committed = self._commit(lease, now, event, given_up=given_up)
        return Worked(status="failed", detail=reason) if committed.status == "done" else committed

    def _wait(self, lease: Lease, delay_ms: int, reason: str) -> None:
        self._journal.retry(lease, delay_ms=delay_ms, error=reason, counts=False)

    def _commit(
        self,
        lease: Lease,
        now: _Known,
        event: Event,
        *,
        drive: bool = False,
        given_up: str = "",
    ) -> Worked:
        after = _Known.of(apply(now.session, event), now.length + 1, now.life, now.server)
        crowded = is_crowded(after.session)
        follow = [c for step, c in after.steps.items() if crowded or step not in now.steps]
        encoded = encode(event)
        assert encoded[0] == lease.step_id, "a step ends with the event of its own key"
        committed = self._journal.commit(
            Commit(
                lease=lease,
                events=(encoded,),
                expected_length=now.length,
                follow=_announcements(after.session, follow),
                ends=isinstance(event, SessionEnded),
                given_up=given_up,
                least_open=least_under_way(after.session),
            )
        )
        if committed.status != "ok":
            return Worked(status="dropped", detail=f"the lease was lost ({committed.status})")
        if committed.length == after.length:
            self._keep(lease.session_id, after)
        self._hints.tell(committed.announced)
        if self._spool is not None:
            self._spool.forget(lease.session_id, lease.step_id)
        if committed.must_drive or drive:
            self.drive(lease.session_id)
        if committed.must_drive or is_boundary(event, follow):
            self._checkpoint(lease.session_id)
        return Worked(status="done")

    # ------------------------------------------------------------------------- checkpoints

    def _checkpoint(self, session_id: str) -> None:
        """Store the journal outside of Redis, if that can be done now; else the next one will."""
        try:
            self._checkpoint_all(session_id)
        except DiagnosisError as exc:
            _log.warning("checkpoint put off", session_id=session_id, error=str(exc))

    def _checkpoint_all(self, session_id: str) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(session_id)

    # ----------------------------------------------------------------------------- folding

    def _load(self, session_id: str) -> _Known | None:
        server, known = self._server(), self._cached(session_id)
        part = self._journal.load(session_id, known.length if known else 0)
        if known is not None and not known.holds(part.life, part.length, self._server()):
            return self._anew(session_id, known)
        if part.length == 0:
            return None
        return self._fold(session_id, known, part.records, part.life, server)

    def _claimed(self, claim: Claim, session_id: str, known: _Known | None, server: int) -> _Known:
        """Return the session that a claim found, from what was known where that still holds."""
        if known is None or known.holds(claim.life, claim.length, self._server()):
            return self._fold(session_id, known, claim.records, claim.life, server)
        anew = self._anew(session_id, known)
        if anew is None:
            raise IllegalEvent(f"a step of session {session_id!r} was due, and its journal is gone")
        return anew

    def _anew(self, session_id: str, known: _Known) -> _Known | None:
        """Fold a session from its start, since what this process knew of it may not hold any more.

        A journal of the same life that has become shorter is an older copy's, such as that of a replica
        which had fallen behind. To go on from what was known would be to wait for ever for steps that
        the copy never heard of. Whether the object store holds more than it is looked at now.
        """
        with self._lock:
            if self._known.get(session_id) is known:
                del self._known[session_id]
        server, part = self._server(), self._journal.load(session_id)
        if part.length == 0:
            return None
        if part.life == known.life and part.length < known.length:
            lengths = {"known": known.length, "length": part.length}
            _log.warning("journal has become shorter", session_id=session_id, **lengths)
            self._checkpoint(session_id)
        return self._fold(session_id, None, part.records, part.life, server)

    def _fold(
        self,
        session_id: str,
        known: _Known | None,
        records: Iterable[Record],
        life: str,
        server: int,
    ) -> _Known:
        events = decode_all(records)
        if known is not None and not events:
            return known
        session = fold(events, known.session if known else None)
        length = (known.length if known else 0) + len(events)
        return self._keep(session_id, _Known.of(session, length, life, server))

    def _cached(self, session_id: str) -> _Known | None:
        with self._lock:
            known = self._known.get(session_id)
            if known is not None:
                self._known.move_to_end(session_id)
            return known

    def _keep(self, session_id: str, known: _Known) -> _Known:
        with self._lock:
            if known.session.phase is Phase.ENDED:
                self._known.pop(session_id, None)
                return known
            current = self._known.get(session_id)
            if current is None or current.age < known.age:
                self._known[session_id] = known
            self._known.move_to_end(session_id)
            while len(self._known) > CACHED_SESSIONS:
                self._known.popitem(last=False)
        return known


def _announcements(session: Session, commands: Iterable[Command]) -> tuple[Announcement, ...]:
    return tuple(
        Announcement(
            session_id=session.spec.session_id,
            step_id=step_id_of(command),
            queue=queue_of(command).value,
            wait=_wait_of(session) if isinstance(command, AwaitResume) else None,
        )
        for command in commands
    )


def _wait_of(session: Session) -> Wait | None:
    """Return what a session at rest waits for."""
    pause = session.paused
    if pause is None:
        return None
    escrow = pause.cause is Cause.FUNDS
    return Wait(
        longest_ms=session.spec.limits.max_pause_ms,
        needs_nusd=pause.needed_nusd,
        scopes=shared(session.spec) if escrow else session.spec.scopes,
        escrow=escrow,
    )


def _check_started(session: Session, what: str) -> None:
    """Let a session pass that has started.

    Raises:
        RequestInvalid: It waits for its start.
    """
    if session.paused is not None and session.paused.cause is Cause.FUNDS:
        raise RequestInvalid(
            f"session {session.spec.session_id!r} has not started, and there is nothing to {what}: "
            "it starts by itself when its accounts can carry it (`diagnosis budget set`), or is "
            "cancelled"
        )


def _hopeless(claim: Claim) -> str:
    """Return why a conclusion is not tried as before any more; empty where it is."""
    if claim.status is Claimed.POISONED:
        return _killed(claim)
    return f"it failed {claim.retries} times" if claim.retries >= CONCLUDE_TRIES else ""


def _killed(claim: Claim) -> str:
    return f"it killed {claim.deaths} workers and is not tried again"


def _retryable(exc: Exception) -> bool:
    if (getattr(exc, "retry_after_ms", None) or 0) > LONGEST_WAIT_MS:
        return False
    match exc:
        case TeacherFault():
            return exc.retry == "later"
        case StudentFault():
            return exc.retryable
        case Unavailable() | Misconfigured() | NotYet() | RateLimited():
            return True
        case DiagnosisError():
            return False
        case _:
            return True


def _say(exc: Exception) -> str:
    """Return one line for the journal: our own errors speak for themselves, others are named."""
    if isinstance(exc, DiagnosisError):
        return str(exc)[:500]
    return f"{type(exc).__name__}: {exc}"[:500]
