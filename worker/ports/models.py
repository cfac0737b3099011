"""Teachers, their batches, and students: the models, each behind one call.

Rule: what went wrong is said in the project's own words, with whether it may have been billed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from worker.core.batches import Answered  # noqa: TC001 - dataclass field

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import RunOutcome, Usage

__all__ = [
    "Batch",
    "BatchAnswer",
    "Batches",
    "Student",
    "StudentAnswer",
    "Teacher",
]


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
