"""What a session wants done next: imperative, frozen, one command a step.

Rule: a command names its step and its queue; everything else it needs is in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from worker.core.events import turn_key

if TYPE_CHECKING:
    from worker.core.values import Purpose, RunSpec, ToolCall

__all__ = [
    "PAID_TOOLS",
    "AwaitResume",
    "CallTool",
    "Command",
    "Conclude",
    "JudgeRun",
    "Prepare",
    "Queue",
    "RunStudent",
    "TakeTurn",
    "queue_of",
    "step_id_of",
]


class Queue(StrEnum):
    """The Celery queues; each can be scaled by itself."""

    #: Opening, driving, timers: milliseconds each.
    CONTROL = "control"
    #: Everything that waits for the teacher's API and costs money.
    TEACHER = "teacher"
    #: Reading tools: local files, no network but the first fetch of a bundle.
    TOOLS = "tools"
    STUDENT = "student"
    #: Uploads.
    ARTIFACTS = "artifacts"


#: Tools whose work is itself a call to the teacher's API.
PAID_TOOLS = frozenset({"run_self_on_task", "compare_outputs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Fetch the bundle, check it, write the brief."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeTurn:
    """Let the teacher take a turn."""

    turn: int
    purpose: Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTool:
    """Run one tool call, or expand it into runs."""

    turn: int
    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStudent:
    """Have the student answer one benchmark task once."""

    turn: int
    index: int
    ordinal: int
    spec: RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRun:
    """Have the judge score a run."""

    turn: int
    index: int
    ordinal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude:
    """Check the claims, write the artifacts, end the session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitResume:
    """See whether a pause is over: when somebody says that it may be, and at its longest time."""

    #: Of the pause.
    number: int


Command = Prepare | TakeTurn | CallTool | RunStudent | JudgeRun | AwaitResume | Conclude


def step_id_of(command: Command) -> str:
    """Return the command's step id, which is also the key of the event that ends it."""
    match command:
        case Prepare():
            return "prepare"
        case TakeTurn():
            return turn_key(command.turn, command.purpose)
        case CallTool():
            return f"call/{command.turn}.{command.index}"
        case RunStudent():
            return f"run/{command.turn}.{command.index}.{command.ordinal}"
        case JudgeRun():
            return f"judge/{command.turn}.{command.index}.{command.ordinal}"
        case AwaitResume():
            return f"resume/{command.number}"
        case Conclude():
            return "conclude"
    assert_never(command)


def queue_of(command: Command) -> Queue:
    """Return the queue whose workers can carry the command out."""
    match command:
        case Prepare():
            return Queue.TOOLS
        case CallTool():
            return Queue.TEACHER if command.call.tool in PAID_TOOLS else Queue.TOOLS
        case TakeTurn() | JudgeRun():
            return Queue.TEACHER
        case RunStudent():
            return Queue.STUDENT
        case AwaitResume():
            return Queue.CONTROL
        case Conclude():
            return Queue.ARTIFACTS
    assert_never(command)
