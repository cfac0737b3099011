"""What a user of the reference brings along: an engine, a store, samples, a student and a judge.

Rule: written as for the reference, with its names and shapes and none of our types.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.local import DiagnosisRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Engine",
    "Judge",
    "Sample",
    "Store",
    "StudentResult",
    "Trace",
    "asks",
    "cluster",
    "diagnosis",
    "make_runner",
    "says",
]

#: A model without a price: what its engine says is all that is known of its cost.
UNPRICED = "frontier-1"
#: A model with a price.
PRICED = "claude-opus-4-6"


@dataclass
class Sample:
    """One task of the benchmark."""

    trace_id: str
    query: str
    reference_answer: str = ""
    agent: str = ""
    category: str = "chat"
    feedback_score: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class StudentResult:
    """What a student runner returns."""

    content: str
    score: float = 0.0
    trace_id: str = "t"
    latency_seconds: float = 0.0
    tokens_used: int = 0


@dataclass
class Trace:
    """A recorded trace."""

    trace_id: str
    query: str = "What is 2 + 2?"
    agent: str = "simple"
    model: str = "small"
    engine: str = "ollama"
    result: str = "5"
    outcome: str | None = "failure"
    feedback: float | None = 0.1
    started_at: float = 1_700_000_000.0
    ended_at: float = 1_700_000_001.0
    total_tokens: int = 10
    total_latency_seconds: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    steps: list[Any] = field(default_factory=list[Any])


class Store:
    """A trace store with the reference's three methods."""

    def __init__(self, traces: Iterable[Trace] = ()) -> None:
        self._traces = list(traces)

    def list_traces(
        self, *, agent: str | None = None, outcome: str | None = None, limit: int = 100
    ) -> list[Trace]:
        found = [
            trace
            for trace in self._traces
            if agent in {None, trace.agent} and outcome in {None, trace.outcome}
        ]
        return found[:limit]

    def get(self, trace_id: str) -> Trace | None:
        return next((trace for trace in self._traces if trace.trace_id == trace_id), None)

    def search(self, query: str, *, limit: int = 20) -> list[dict[str, Any]]:
        found = [trace for trace in self._traces if query in trace.query]
        return [{"trace_id": trace.trace_id, "query": trace.query} for trace in found[:limit]]


class Judge:
    """A judge that finds an output right where it says so."""

    def score_trace(self, trace: Trace) -> tuple[float, str]:
        return float("right" in trace.result), "because"


class Engine:
    """An engine that follows a script; the last line is said again for ever."""

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self._lock = threading.Lock()
        #: (messages, all other arguments) of each call.
        self.requests: list[tuple[list[Any], dict[str, Any]]] = []

    def generate(self, messages: list[Any], **more: Any) -> object:
        with self._lock:
            self.requests.append((messages, more))
            line = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        if isinstance(line, BaseException):
            raise line
        return line(messages, more) if callable(line) else line


def says(text: object, **more: Any) -> dict[str, Any]:
    """Return an engine's reply that is text."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    reply = {"content": text, "usage": usage, "cost_usd": 0.01, "finish_reason": "stop"}
    return {**reply, **more}


def asks(*calls: tuple[str, dict[str, Any] | str], text: str = "", **more: Any) -> dict[str, Any]:
    """Return an engine's reply that calls tools: (name, arguments) each."""
    tool_calls = [
        {
            "id": f"{name}-{place}",
            "name": name,
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        }
        for place, (name, arguments) in enumerate(calls)
    ]
    return says(text, **{"tool_calls": tool_calls, "finish_reason": "tool_calls", **more})


def cluster(*sample_ids: str, **more: Any) -> dict[str, Any]:
    """Return a cluster as the reference asks a teacher to write it."""
    return {
        "id": "arithmetic",
        "description": "Sums are wrong",
        "sample_trace_ids": list(sample_ids),
        "student_failure_rate": 0.75,
        "teacher_success_rate": 0.95,
        "skill_gap": "Cannot carry",
        **more,
    }


def diagnosis(*clusters: Mapping[str, Any], text: str = "The student cannot add.") -> str:
    """Return a diagnosis as the reference asks for it: text, and a fence at its end."""
    return f"{text}\n\n```json\n{json.dumps(list(clusters))}\n```"


def samples(count: int = 3) -> list[Sample]:
    """Return tasks that have a scorer of their own."""
    return [
        Sample(f"task-{n}", f"What is {n} + 1?", str(n + 1), metadata={"scorer": "exact"})
        for n in range(count)
    ]


def zero(query: str, session_id: str = "") -> StudentResult:
    """Answer 0 to everything."""
    return StudentResult("0")


def make_runner(
    folder: Path,
    engine: object,
    *,
    tasks: Sequence[Any] | None = None,
    student: Callable[..., Any] | None = None,
    **overrides: Any,
) -> DiagnosisRunner:
    """Return a runner that is built as the reference's is."""
    arguments: dict[str, Any] = {
        "teacher_engine": engine,
        "teacher_model": UNPRICED,
        "trace_store": Store(),
        "benchmark_samples": samples() if tasks is None else tasks,
        "student_runner": student or zero,
        "judge": Judge(),
        "session_dir": folder / "session",
        "session_id": "session-1",
        "config": {
            "config_path": folder / "home" / "config.toml",
            "openjarvis_home": folder / "home",
        },
        **overrides,
    }
    return DiagnosisRunner(**arguments)
