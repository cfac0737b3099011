"""The nouns of a session: small frozen values that events, commands and state are made of.

Rule: a value knows its own bounds and units, and nothing of where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

__all__ = [
    "Blob",
    "Cause",
    "ClaimedCluster",
    "Ending",
    "Fork",
    "Limits",
    "Outcome",
    "Payload",
    "Phase",
    "Purpose",
    "RunOutcome",
    "Runner",
    "RunSpec",
    "SentPrompt",
    "SessionSpec",
    "Stop",
    "Text",
    "ToolCall",
    "Usage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A payload that is small enough to stand in the journal itself."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A payload stored once, under its content hash, beside the artifacts."""

    sha256: str
    #: Size of the UTF-8 text in bytes.
    size_bytes: int


#: Text of any size. The core passes it on and never looks inside.
Payload = Text | Blob


class Phase(StrEnum):
    """Where a session stands. The transition table is in `machine.py`."""

    #: The bundle is being fetched and checked.
    PREPARING = "preparing"
    #: The teacher takes turns; tools, students and judges run.
    EXPLORING = "exploring"
    #: A limit was reached: one closing call writes the diagnosis from what is known.
    CLOSING = "closing"
    #: There is a diagnosis but no clusters could be read from it: one call asks for them alone.
    EXTRACTING = "extracting"
    #: Artifacts are being written.
    CONCLUDING = "concluding"
    ENDED = "ended"


class Purpose(StrEnum):
    """What a teacher call is for; also the ledger's `kind` of teacher turns."""

    EXPLORE = "explore"
    CLOSE = "close"
    EXTRACT = "extract"


class Outcome(StrEnum):
    """How a session ended. Each one comes with a reason, artifacts and the true cost."""

    #: Clusters with measured evidence, or a measured "nothing is wrong".
    CONCLUDED = "concluded"
    #: Not enough evidence or money to say anything that was measured.
    INCONCLUSIVE = "inconclusive"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Stop(StrEnum):
    """Why the exploration ended."""

    SUBMITTED = "submitted"
    TURNS = "turns"
    TOOL_CALLS = "tool_calls"
    BUDGET = "budget"
    TIME = "time"
    CONTEXT = "context"
    REFUSED = "refused"
    EMPTY = "empty"
    FAULT = "fault"
    CANCELLED = "cancelled"
    NOT_PREPARED = "not_prepared"
    #: It was paused by somebody, and nobody resumed it in time.
    PAUSED = "paused"
    #: It waited to start, and its accounts could not carry it in time.
    FUNDS = "funds"


class Cause(StrEnum):
    """Why a session stands still."""

    #: A paid call found too little money; it goes on when its accounts have it.
    MONEY = "money"
    #: Somebody asked for it; it goes on when somebody says so.
    ASKED = "asked"
    #: It has not started: its accounts cannot carry its expected cost yet.
    FUNDS = "funds"


class Runner(StrEnum):
    """Who answered a benchmark task."""

    STUDENT = "student"
    TEACHER = "teacher"


class RunOutcome(StrEnum):
    """What came of one run. Only the first three say anything about the model that ran."""

    ANSWERED = "answered"
    #: The model answered with nothing: null or empty content.
    EMPTY = "empty"
    #: The answer was cut at its token limit.
    CUT = "cut"
    #: The infrastructure failed: never the model's answer, never in a denominator.
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens of one teacher call, as the provider counts them. All non-negative."""

    #: Tokens after the last cache breakpoint, at the base rate.
    input_tokens: int = 0
    #: Written to the five-minute cache.
    cache_write_5m_tokens: int = 0
    #: Written to the one-hour cache.
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    #: Everything generated, thinking included.
    output_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt, cached or not."""
        return (
            self.input_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.cache_read_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPrompt:
    """What of a teacher's request decides what it reads from the prompt cache."""

    #: When it was sent, in milliseconds since the epoch: lifetimes count from there.
    asked_ms: int
    #: How many parts at its beginning are those of the turn before: they are not said again.
    same: int = 0
    #: `hash:blocks` of tools, system and each message after those, breakpoints left out.
    parts: tuple[str, ...] = ()
    #: `block:ttl` of each breakpoint, blocks counted from 1 over the whole prompt.
    breakpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call of a teacher's turn."""

    #: The provider's `tool_use` id; it goes back with the result.
    call_id: str
    tool: str
    #: The arguments as JSON text, just as received; it need not parse.
    arguments_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run of a model on a benchmark task."""

    task_id: str
    #: 0, 1, 2, … within the session and task: the seed of the run.
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedCluster:
    """A failure cluster as the teacher wrote it, read but not yet checked."""

    cluster_id: str
    description: str
    skill_gap: str
    #: Task or trace ids, as claimed.
    sample_ids: tuple[str, ...]
    #: 0..1; None where the teacher gave none that can be read.
    student_failure_rate: float | None = None
    #: 0..1; None where the teacher gave none that can be read.
    teacher_success_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A diagnosis as the teacher gave it, by `submit_diagnosis` or as text."""

    diagnosis: Payload
    clusters: tuple[ClaimedCluster, ...]
    #: The teacher said in so many words that nothing is wrong (an empty list of clusters).
    nothing_found: bool = False
    #: What had to be repaired or dropped while reading it, for the report.
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a session may use. Whichever is reached first ends the exploration."""

    #: Teacher turns of the exploration; the closing call comes on top.
    max_turns: int = 30
    #: Tool calls over the whole session.
    max_tool_calls: int = 150
    #: Student runs over the whole session.
    max_student_runs: int = 500
    max_cost_nusd: int = 5_000_000_000
    #: Without the time for which it stood still.
    max_duration_ms: int = 3_600_000
    #: Tool calls of a turn, and student runs of the session with their judging, that may be under way
    #: at once; None: no bound, which journals of sessions that were given none rely on.
    max_parallel_calls: int | None = None
    max_parallel_runs: int | None = None
    #: Longest time at a stretch for which it may stand still; then it ends with what it has.
    max_pause_ms: int = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a session comes from that began with a part of another one's journal."""

    session_id: str
    #: Everything up to and including this turn was taken over; None for all but the end.
    at_turn: int | None
    #: Steps whose events were left out, so that they are done again.
    without: tuple[str, ...] = ()
    #: What the part that was taken over had cost the other session. It is not paid again.
    inherited_nusd: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """A session's request after it was accepted: names and numbers, nothing secret."""

    session_id: str
    bundle_uri: str
    student: str
    teacher: str
    judge: str
    teacher_model: str
    judge_model: str
    tenant: str
    campaign: str
    trigger: str
    flagged_trace_ids: tuple[str, ...] = ()
    reveal_references: bool = False
    limits: Limits = field(default_factory=Limits)
    #: Held from the first moment for the closing call.
    closing_hold_nusd: int = 0
    #: Size of the context that the closing call may be given; the hold was made for it.
    closing_context_bytes: int = 48_000
    #: Most tokens of one teacher reply.
    max_output_tokens: int = 8_192
    price_version: str = ""
    #: Asked for clusters that a diagnosis did not hold; empty: the teacher's own model.
    extraction_model: str = ""
    #: The request's word for the judge.
    judge_name: str = "default"
    #: What a paid call that finds too little money leads to.
    when_money_lacks: Literal["conclude", "pause"] = "conclude"
    #: What its accounts had to carry before it started; 0 where nothing but the closing call.
    expected_cost_nusd: int = 0
    #: Where that number comes from, for people.
    expected_cost_source: str = ""
    #: None for a session that began with nothing.
    forked: Fork | None = None
    #: Whether judgements and the extraction wait for batches of the provider, at half the price.
    batches: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        """The accounts that every call of this session is charged to, all at once."""
        return (
            "fleet",
            f"tenant:{self.tenant}",
            f"campaign:{self.campaign}",
            f"session:{self.session_id}",
        )


#: What ends in `_batch` was sent in a batch of the provider, at half the price.
CallKind = Literal[
    "explore", "close", "extract", "self_run", "judge", "judge_batch", "extract_batch"
]
