"""What a session wants done next: imperative, frozen, one command a step.

Rule: a command names its step and its queue; everything else it needs is in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.core.events import turn_key
from worker.core.values import Purpose, RunSpec, ToolCall

__all__ = [
    "PAID_TOOLS",
    "CallTool",
    "Command",
    "Conclude",
    "JudgeRun",
    "Prepare",
    "Queue",
    "RunStudent",
    "TakeTurn",
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

    @property
    def step_id(self) -> str:
        return "prepare"

    @property
    def queue(self) -> Queue:
        return Queue.TOOLS


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeTurn:
    """Let the teacher take a turn."""

    turn: int
    purpose: Purpose

    @property
    def step_id(self) -> str:
        return turn_key(self.turn, self.purpose)

    @property
    def queue(self) -> Queue:
        return Queue.TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTool:
    """Run one tool call, or expand it into runs."""

    turn: int
    index: int
    call: ToolCall

    @property
    def step_id(self) -> str:
        return f"call/{self.turn}.{self.index}"

    @property
    def queue(self) -> Queue:
        return Queue.TEACHER if self.call.tool in PAID_TOOLS else Queue.TOOLS


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStudent:
    """Have the student answer one benchmark task once."""

    turn: int
    index: int
    ordinal: int
    spec: RunSpec

    @property
    def step_id(self) -> str:
        return f"run/{self.turn}.{self.index}.{self.ordinal}"

    @property
    def queue(self) -> Queue:
        return Queue.STUDENT


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRun:
    """Have the judge score a run."""

    turn: int
    index: int
    ordinal: int

    @property
    def step_id(self) -> str:
        return f"judge/{self.turn}.{self.index}.{self.ordinal}"

    @property
    def queue(self) -> Queue:
        return Queue.TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclude:
    """Check the claims, write the artifacts, end the session."""

    @property
    def step_id(self) -> str:
        return "conclude"

    @property
    def queue(self) -> Queue:
        return Queue.ARTIFACTS


Command = Prepare | TakeTurn | CallTool | RunStudent | JudgeRun | Conclude
