"""What has happened in a session: past tense, frozen, in the journal for ever.

Rule: an event holds what a decision needs and what a report shows; large text is a `Payload`.
A field is only ever added, with a default, so that a journal of an older version still reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.core.values import (
    Cause,
    Ending,
    Payload,
    Purpose,
    Runner,
    RunOutcome,
    RunSpec,
    SentPrompt,
    SessionSpec,
    Stop,
    ToolCall,
    Usage,
)

__all__ = [
    "BundlePrepared",
    "CallAnswered",
    "CallExpanded",
    "CancelRequested",
    "DeadlinePassed",
    "Event",
    "PauseExpired",
    "PreparationFailed",
    "RunJudged",
    "RunRecorded",
    "SessionEnded",
    "SessionOpened",
    "SessionPaused",
    "SessionResumed",
    "TeacherReplied",
    "TeacherStopped",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """The request was accepted. Always the first event."""

    spec: SessionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePrepared:
    """The bundle was fetched, verified and counted."""

    #: The text that opens the teacher's conversation: what there is to explore.
    brief: Payload
    traces: int
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparationFailed:
    """The bundle is missing or cannot be used; the session concludes as failed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherReplied:
    """The teacher took a turn and it was paid."""

    #: 1, 2, … for the exploration; 0 for the closing call and the extraction.
    turn: int
    purpose: Purpose
    #: The content blocks as JSON text, as received: they go back byte for byte.
    content: Payload
    stop_reason: str
    calls: tuple[ToolCall, ...] = ()
    #: The diagnosis, where this reply ended the exploration as text or closed the session.
    ending: Ending | None = None
    #: Why the reply ends the exploration although it holds no diagnosis.
    stop: Stop | None = None
    usage: Usage = field(default_factory=Usage)
    cost_nusd: int = 0
    model: str = ""
    message_id: str = ""
    request_id: str = ""
    latency_ms: int = 0
    #: What was sent, as far as the cache is concerned; None for calls without breakpoints.
    sent: SentPrompt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStopped:
    """A teacher call could not be made, or failed for good."""

    turn: int
    purpose: Purpose
    stop: Stop
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswered:
    """A tool call has its result."""

    turn: int
    index: int
    result: Payload
    is_error: bool = False
    #: The diagnosis, where the call was an accepted `submit_diagnosis`.
    ending: Ending | None = None
    latency_ms: int = 0
    cost_nusd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallExpanded:
    """A tool call asks for student runs; it is answered when they all are recorded."""

    turn: int
    index: int
    runs: tuple[RunSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecorded:
    """A model ran on a benchmark task, or could not be made to.

    For the student it ends the step of one run; for the teacher it ends the tool call itself.
    """

    turn: int
    index: int
    #: Place of the run among the runs of its call.
    ordinal: int
    runner: Runner
    spec: RunSpec
    outcome: RunOutcome
    #: What the model said; None for a fault and for an empty answer.
    output: Payload | None = None
    #: 0..1; None for a fault, and while a judge has yet to say.
    score: float | None = None
    #: None where there is no score.
    passed: bool | None = None
    #: Name of the scorer: `exact`, `numeric`, …, or `judge`.
    scorer: str = ""
    #: Why this score, or what the fault was. Never holds the reference answer.
    why: str = ""
    needs_judge: bool = False
    latency_ms: int = 0
    tokens: int = 0
    cost_nusd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunJudged:
    """The judge scored a run, or could not."""

    turn: int
    index: int
    ordinal: int
    #: 0..1; None where the judge failed: the run then counts neither way.
    score: float | None
    passed: bool | None
    why: str
    cost_nusd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """The session's time is up: the exploration ends, the closing call is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody asked for the session to stop."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPaused:
    """The session stands still: what is under way is finished, nothing else begins.

    A later pause takes the place of one that stands.
    """

    #: 1, 2, … within the session.
    number: int
    cause: Cause
    detail: str
    #: What its accounts must have free before it goes on; 0 where money is not the matter.
    needed_nusd: int = 0
    #: The account that had less; empty where money is not the matter.
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResumed:
    """What a pause waited for is there: the session goes on from where it stood."""

    #: Of the pause; one that does not stand any more is not resumed.
    number: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseExpired:
    """Nobody brought what a pause waited for: the session ends as at a limit."""

    #: Of the pause.
    number: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The manifest is written: nothing happens any more. Always the last event."""

    #: An `Outcome`, as text.
    outcome: str
    reason: str
    cost_nusd: int
    #: Content hash of the manifest; the artifacts are what it lists.
    manifest_sha256: str
    #: Where the artifacts are.
    artifacts_uri: str


Event = (
    SessionOpened
    | BundlePrepared
    | PreparationFailed
    | TeacherReplied
    | TeacherStopped
    | CallAnswered
    | CallExpanded
    | RunRecorded
    | RunJudged
    | DeadlinePassed
    | CancelRequested
    | SessionPaused
    | SessionResumed
    | PauseExpired
    | SessionEnded
)


def key_of(event: Event) -> str:
    """Return the event's key in its journal; the first event under a key wins.

    The key of an event that ends a step is the step's id, so "this step is done" and "this key is
    taken" are one fact.
    """
    match event:
        case SessionOpened():
            return "open"
        case BundlePrepared() | PreparationFailed():
            return "prepare"
        case TeacherReplied() | TeacherStopped():
            return turn_key(event.turn, event.purpose)
        case CallAnswered() | CallExpanded():
            return f"call/{event.turn}.{event.index}"
        case RunRecorded(runner=Runner.TEACHER):
            return f"call/{event.turn}.{event.index}"
        case RunRecorded():
            return f"run/{event.turn}.{event.index}.{event.ordinal}"
        case RunJudged():
            return f"judge/{event.turn}.{event.index}.{event.ordinal}"
        case DeadlinePassed():
            return "deadline"
        case CancelRequested():
            return "cancel"
        case SessionPaused():
            return f"pause/{event.number}"
        case SessionResumed() | PauseExpired():
            return f"resume/{event.number}"
        case SessionEnded():
            return "conclude"


def turn_key(turn: int, purpose: Purpose) -> str:
    """Return the key of a teacher turn: `turn/7`, `close` or `extract`."""
    return f"turn/{turn}" if purpose is Purpose.EXPLORE else purpose.value
