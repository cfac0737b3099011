"""What is asked of a trace store and what it answers.

Rule: an outcome is one of three here, in whatever spelling it was recorded; the spelling is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.traces.cells import Json
    from worker.traces.words import Locator

__all__ = [
    "Hit",
    "HitPage",
    "Order",
    "Step",
    "StepHead",
    "Summary",
    "SummaryPage",
    "Trace",
    "TraceFilter",
    "TraceOutcome",
    "TraceReport",
]


class TraceOutcome(StrEnum):
    """How the student did, as far as the store says."""

    SUCCESS = "success"
    FAILURE = "failure"
    #: NULL, empty, or a word that says neither.
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, recorded: str) -> TraceOutcome:
        """Return the outcome that the recorded word means."""
        return _MEANINGS.get(recorded.strip().lower().replace("-", "_").replace(" ", "_"), _UNKNOWN)


_UNKNOWN = TraceOutcome.UNKNOWN
_MEANINGS = {
    word: outcome
    for outcome, words in {
        TraceOutcome.SUCCESS: "success succeeded successful ok okay pass passed correct complete "
        "completed done true resolved solved",
        TraceOutcome.FAILURE: "failure fail failed failing error errored exception crash crashed "
        "timeout timed_out time_out incorrect wrong aborted false "
        "unresolved unsuccessful",
    }.items()
    for word in words.split()
}


class Order(StrEnum):
    """In which order traces are listed."""

    NEWEST = "newest"
    OLDEST = "oldest"
    #: Evenly over time: the first page already shows the whole span.
    SPREAD = "spread"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilter:
    """Which traces are meant; None admits all. Applied before any limit."""

    agent: str | None = None
    outcome: TraceOutcome | None = None
    #: Traces without feedback never pass a feedback filter.
    min_feedback: float | None = None
    max_feedback: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A trace in a list."""

    trace_id: str
    #: Only its first 4,000 characters.
    query: str
    agent: str
    model: str
    outcome: TraceOutcome
    #: As recorded; empty for NULL.
    recorded_outcome: str
    #: None where there is none, or none that is a finite number.
    feedback: float | None
    #: Seconds since the epoch; None where the store holds no number.
    started_at: float | None
    steps: int
    #: The benchmark task that the trace's metadata names; empty where it names none.
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryPage:
    """A part of a list."""

    summaries: tuple[Summary, ...]
    #: How many traces pass the filter.
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A trace that a search found."""

    summary: Summary
    #: `query`, `result`, `agent`, `step 7` or `message 3`; empty where the place is unclear.
    place: str
    #: What stands in that place.
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class HitPage:
    """A part of what a search found, the best first unless `ranked` is False."""

    hits: tuple[Hit, ...]
    #: How many traces hold at least one of the words that were used.
    total: int
    #: False where there are more than `total`: they were not all counted.
    total_is_exact: bool
    #: False where the only words are too common to rank by: the newest traces come first then.
    ranked: bool
    words_used: tuple[str, ...]
    #: Words that stand in so many traces that they say next to nothing; "the" goes without saying.
    words_ignored: tuple[str, ...]
    #: Words that no trace (or none that passes the filter) holds.
    words_unknown: tuple[str, ...]
    #: Finds the words that were used in a text.
    locator: Locator


@dataclass(frozen=True, slots=True, kw_only=True)
class StepHead:
    """A step in the outline of a trace."""

    #: 0, 1, 2, … in the trace's order, whatever `step_index` says.
    n: int
    step_type: str
    #: The tool that was called; empty for other steps.
    label: str
    #: Size of the step's input and output.
    chars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A whole step. A field whose JSON does not parse is named in `unparsable` and kept as text."""

    n: int
    step_index: Json
    step_type: str
    timestamp: float | None
    duration_seconds: float | None
    input: Json
    output: Json
    metadata: Json
    unparsable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A whole trace but for its steps, which are read by window."""

    trace_id: str
    query: str
    agent: str
    model: str
    engine: str
    result: str
    outcome: TraceOutcome
    recorded_outcome: str
    feedback: float | None
    started_at: float | None
    ended_at: float | None
    total_tokens: float | None
    total_latency_seconds: float | None
    metadata: Json
    #: The conversation; empty where the store is too old to hold one.
    messages: tuple[Json, ...]
    steps: int
    #: Names of the fields whose JSON does not parse and that hold their raw text.
    unparsable: tuple[str, ...] = ()
    #: How many rows carry this trace id; the newest one is shown.
    copies: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReport:
    """What a store holds, counted once while its index is built."""

    traces: int = 0
    steps: int = 0
    #: Rows that are kept and shown, with a JSON cell that does not parse.
    unparsable_traces: int = 0
    unparsable_steps: int = 0
    #: Rows that share their trace id with a newer one, which stands for them.
    duplicate_traces: int = 0
    #: Steps whose trace is not in the store.
    orphan_steps: int = 0
    #: Traces whose id is missing; they are called `row:<number>`.
    traces_without_id: int = 0
    #: Outcome, of the three, -> number of traces.
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    #: As recorded -> number of traces.
    recorded_outcomes: dict[str, int] = field(default_factory=dict[str, int])
    agents: dict[str, int] = field(default_factory=dict[str, int])
    models: dict[str, int] = field(default_factory=dict[str, int])
    step_types: dict[str, int] = field(default_factory=dict[str, int])
    #: Tool -> agent -> number of calls.
    tool_calls: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    with_feedback: int = 0
    mean_feedback: float | None = None
    longest_trace_steps: int = 0
    #: Seconds since the epoch; None where no trace says.
    first_started_at: float | None = None
    last_started_at: float | None = None
