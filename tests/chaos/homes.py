"""The inputs of the sweeps' sessions: a few traces and tasks, packed and opened as on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.chaos.stories import TASKS
from tests.unit.bundle.homes import make_home, pack_and_open
from worker.steps.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_workspace", "sample_of"]


def open_workspace(directory: Path) -> Workspace:
    """Return the bundle that every story is about."""
    home = make_home(
        directory / "home",
        traces=[_trace(number) for number in range(1, 4)],
        samples=[sample_of(task_id) for task_id in TASKS],
    )
    return Workspace(pack_and_open(home, directory))


def _trace(number: int) -> dict[str, Any]:
    return {
        "trace_id": f"trace-{number}",
        "query": "What is 17 + 25?",
        "agent": "chat",
        "model": "student",
        "engine": "e",
        "result": "The answer is 32.",
        "outcome": "failure",
        "feedback": 0.1,
        "started_at": 1.0 * number,
        "ended_at": 2.0 * number,
        "total_tokens": 5,
        "total_latency_seconds": 0.5,
        "metadata": "{}",
        "messages": "[]",
    }


def sample_of(task_id: str) -> dict[str, Any]:
    """Return a task of the stories as a benchmark's file has it."""
    query, reference, scorer = TASKS[task_id]
    metadata = {"scorer": scorer} if scorer else {}
    return {
        "trace_id": task_id,
        "query": query,
        "reference_answer": reference,
        "metadata": metadata,
    }
