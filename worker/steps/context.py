"""What a step may use: its session, its lease's word to stop, and the ports.

Rule: everything here is given; a step builds no adapter and reads no setting.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from worker.core.checkpoints import FIRST_LIFE, began_ms
from worker.errors import BundleInvalid, Cancelled, RateLimited, RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.batched import BatchedTeacher
    from worker.bundle.benchmark import Sample
    from worker.core.judging import Comparison
    from worker.core.machine import Session
    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import CallKind, Payload
    from worker.paid import PaidReply
    from worker.payloads import Payloads
    from worker.ports import Artifacts, Clock, JudgeRequest, Ledger, Record, Student, Verdict
    from worker.steps.workspace import Workspace
    from worker.wire.result import DiagnoseResult

T = TypeVar("T")

__all__ = ["JudgePort", "Payer", "Ports", "Step", "closing_hold_id"]


#: How often a call that waits within its step looks whether it is told to stop.
_LOOK_S = 0.25
#: For a longer one the step leaves, and pays for its first calls again.
_LONGEST_HELD_MS = 30_000


class Payer(Protocol):
    """Makes one paid call: `PaidTeacher`, or an engine in this process."""

    def call(
        self,
        request: TeacherRequest,
        *,
        reservation_id: str,
        scopes: Sequence[str],
        kind: CallKind,
        step_id: str,
        prompt_bound_tokens: int,
        stopped: Callable[[], bool],
        replaces: str | None = None,
    ) -> PaidReply:
        """Reserve, send and settle; see `PaidTeacher.call`."""
        ...


class JudgePort(Protocol):
    """Scores outputs; `call` makes a paid request where the judge is a model.

    No reasoning that it returns holds the reference answer.
    """

    def score(
        self, request: JudgeRequest, *, model: str, call: Callable[[TeacherRequest], TeacherReply]
    ) -> Verdict:
        """Return the verdict.

        Raises:
            TeacherFault, BudgetDenied: As the paid call met them.
            DiagnosisError: The judge's words could not be read.
        """
        ...

    def compare(
        self,
        *,
        task: str,
        student_output: str,
        teacher_output: str,
        reference: str,
        model: str,
        call: Callable[[TeacherRequest], TeacherReply],
    ) -> Comparison:
        """Return the scores of two outputs of one task; raises as `score` does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside of a worker process, built once by `bootstrap`."""

    ledger: Ledger
    artifacts: Artifacts
    payloads: Payloads
    #: Opens a session's bundle by its URI, from the local cache where it is there.
    workspaces: Callable[[str], Workspace]
    #: By the name that requests use.
    teachers: Mapping[str, Payer]
    #: By the name that requests use.
    students: Mapping[str, Student]
    judge: JudgePort
    clock: Clock
    #: All records of a session's journal: times and workers, for the report.
    records: Callable[[str], tuple[Record, ...]]
    #: Makes a session's result readable to whoever enqueued it; takes its runtime in seconds.
    #: Idempotent.
    publish: Callable[[DiagnoseResult, float], None]
    #: By the name that requests use; a teacher that is not here takes no batches.
    batches: Mapping[str, BatchedTeacher] = field(default_factory=dict[str, "BatchedTeacher"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A claimed step of a session."""

    session: Session
    step_id: str
    #: From 1: how often this step was claimed.
    attempt: int
    #: Whether the lease was lost, or the session wants the step to stop.
    stopped: Callable[[], bool]
    ports: Ports
    #: Which life of the session this is; attempts are counted from 1 in each.
    life: str = FIRST_LIFE
    #: Why doing it the usual way was given up; empty where it was not. Only `conclude` has another.
    given_up: str = ""

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.session.spec.session_id

    def check(self) -> None:
        """Return if the step may begin something.

        Raises:
            Cancelled: It was told to stop, or may have lost its lease.
        """
        if self.stopped():
            raise Cancelled(f"step {self.step_id} of {self.session_id} was told to stop")

    @property
    def workspace(self) -> Workspace:
        """The session's inputs.

        Raises:
            BundleInvalid: There is no such bundle, or it is damaged.
            Unavailable: The object store did not answer.
        """
        return self.ports.workspaces(self.session.spec.bundle_uri)

    def sample(self, task_id: str) -> Sample:
        """Return a task that was checked to exist when its run was asked for.

        Raises:
            BundleInvalid: The bundle does not hold it: it is not the one the session began with.
        """
        sample = self.workspace.sample(task_id)
        if sample is None:
            raise BundleInvalid(f"task {task_id!r} is not in the session's bundle", task_id=task_id)
        return sample

    def text_of(self, payload: Payload) -> str:
        """Return a payload's text."""
        return self.ports.payloads.load(self.session_id, payload)

    def store(self, text: str) -> Payload:
        """Return a payload that holds `text`."""
        return self.ports.payloads.store(self.session_id, text)

    def student(self) -> Student:
        """Return the session's student.

        Raises:
            RequestInvalid: This worker's settings know no such student.
        """
        return _named("student", self.session.spec.student, self.ports.students)

    def pay(
        self,
        request: TeacherRequest,
        *,
        kind: CallKind,
        account: str,
        prompt_bound_tokens: int,
        number: int = 1,
        replaces: str | None = None,
        batch_kind: CallKind | None = None,
    ) -> PaidReply:
        """Make one paid call, to its end.

        A step that is told to stop, or may have lost its lease, begins no call, up to the moment in
        which the request goes out; one that is under way is not cut: a whole reply is charged
        exactly, a cut one at its bound.

        Args:
            request: What to send.
            kind: For the ledger.
            account: Name of the teacher whose account pays.
            prompt_bound_tokens: Upper bound of the prompt.
            number: 1, 2, …: which paid call of this attempt this is.
            replaces: A held reservation that this call's takes the place of.
            batch_kind: For the ledger, where the session can wait for a batch; None never waits.

        Raises:
            InBatch: It is in a batch that has not ended.
            RateLimited: The first call of the step has to wait; a later one is waited for here,
                since the step would pay for the ones before it again.
            BudgetDenied, TeacherFault: With the ledger put right.
            Cancelled: The step was told to stop before anything was sent.
        """
        if batch_kind is not None and self.session.spec.batches:
            paid = self._pay_in_batch(request, batch_kind, account, prompt_bound_tokens)
            if paid is not None:
                return paid
        while True:
            self.check()
            try:
                return self._pay(
                    request,
                    kind=kind,
                    account=account,
                    prompt_bound_tokens=prompt_bound_tokens,
                    number=number,
                    replaces=replaces,
                )
            except RateLimited as exc:
                if number == 1 or exc.retry_after_ms > _LONGEST_HELD_MS:
                    raise
                self._sleep(exc.retry_after_ms)

    def _pay_in_batch(
        self, request: TeacherRequest, kind: CallKind, account: str, prompt_bound_tokens: int
    ) -> PaidReply | None:
        """Do what is next for a call in a batch; None where an ordinary one is to be made."""
        if account not in self.ports.batches:
            return None
        return self.ports.batches[account].call(
            request,
            reservation_id=f"{self._reservation_id(1)}-batch",
            session_id=self.session_id,
            scopes=self.session.spec.scopes,
            kind=kind,
            step_id=self.step_id,
            prompt_bound_tokens=prompt_bound_tokens,
            check=self.check,
            fresh=self.attempt == 1 and self.life == FIRST_LIFE,
        )

    def _sleep(self, ms: int) -> None:
        """Wait, unless the step is told to stop."""
        pause = threading.Event()
        until_s = time.monotonic() + ms / 1000
        while (left_s := until_s - time.monotonic()) > 0 and not self.stopped():
            pause.wait(min(left_s, _LOOK_S))

    def _pay(
        self,
        request: TeacherRequest,
        *,
        kind: CallKind,
        account: str,
        prompt_bound_tokens: int,
        number: int,
        replaces: str | None,
    ) -> PaidReply:
        spec = self.session.spec
        return _named("teacher", account, self.ports.teachers).call(
            request,
            reservation_id=self._reservation_id(number),
            scopes=spec.scopes,
            kind=kind,
            step_id=self.step_id,
            prompt_bound_tokens=prompt_bound_tokens,
            replaces=replaces,
            stopped=_before_it_begins(self.stopped),
        )

    def _reservation_id(self, number: int) -> str:
        """Return an id that no call of any attempt, in any life of the session, had before."""
        name = f"{self.session_id}/{self.step_id}/{self.attempt}.{number}"
        return name if self.life == FIRST_LIFE else f"{name}@{began_ms(self.life)}"


def _before_it_begins(stopped: Callable[[], bool]) -> Callable[[], bool]:
    """Return a question that is `stopped` once, just before a request goes out, and then no more."""
    begun = False

    def asked() -> bool:
        nonlocal begun
        if begun:
            return False
        begun = True
        return stopped()

    return asked


def closing_hold_id(session_id: str) -> str:
    """Return the id of the reservation that keeps the closing call's money."""
    return f"{session_id}/closing-hold/0.1"


def _named(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise RequestInvalid(
            f"{kind}: this worker knows no {kind} named {name!r} (it knows {sorted(known)}): "
            f"add it to DIAGNOSIS_{kind.upper()}S",
            field=kind,
        )
    return known[name]
