"""The demo's data: forty short tasks, and the home that a student's real answers to them make.

Rule: the tasks are written here, the answers are not. What the traces hold was said by the student;
whether it was right is for the task's scorer to say.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from worker.core.scoring import Scorer, read_scorer, score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from worker.ports import Clock, StudentAnswer

__all__ = [
    "AGENT",
    "MAX_TOKENS",
    "SYSTEM_PROMPT",
    "TEMPERATURE",
    "DemoTask",
    "answer_key",
    "benchmark",
    "demo_tasks",
    "is_right",
    "write_home",
]

AGENT = "quiz"
#: What the student is told before each task. Without it SmolLM2 explains until it is cut off.
SYSTEM_PROMPT = "Reply with the answer only, in at most five words. No explanation."
#: Enough for a sentence; what is longer is not one of these answers.
MAX_TOKENS = 24
#: What SmolLM2's makers recommend: sure of what it knows, so failures repeat.
TEMPERATURE = 0.2

#: As OpenJarvis 1.0.4's TraceStore makes them.
_SCHEMA = """
CREATE TABLE traces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL UNIQUE,
    query TEXT NOT NULL DEFAULT '',
    agent TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    engine TEXT NOT NULL DEFAULT '',
    result TEXT NOT NULL DEFAULT '',
    outcome TEXT,
    feedback REAL,
    started_at REAL NOT NULL DEFAULT 0.0,
    ended_at REAL NOT NULL DEFAULT 0.0,
    total_tokens INTEGER NOT NULL DEFAULT 0,
    total_latency_seconds REAL NOT NULL DEFAULT 0.0,
    metadata TEXT NOT NULL DEFAULT '{}',
    messages TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE trace_steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id TEXT NOT NULL,
    step_index INTEGER NOT NULL,
    step_type TEXT NOT NULL,
    timestamp REAL NOT NULL DEFAULT 0.0,
    duration_seconds REAL NOT NULL DEFAULT 0.0,
    input TEXT NOT NULL DEFAULT '{}',
    output TEXT NOT NULL DEFAULT '{}',
    metadata TEXT NOT NULL DEFAULT '{}',
    FOREIGN KEY (trace_id) REFERENCES traces(trace_id)
);
CREATE VIRTUAL TABLE traces_fts USING fts5(
    trace_id, query, result, agent,
    content='traces', content_rowid='rowid', tokenize='unicode61'
);
CREATE TRIGGER traces_fts_ai AFTER INSERT ON traces BEGIN
    INSERT INTO traces_fts(rowid, trace_id, query, result, agent)
    VALUES (new.rowid, new.trace_id, new.query, new.result, new.agent);
END;
"""

_CONFIG = """\
# The home of the demo's student: a small model that answers short questions.
[engine]
default = "llamacpp"

[intelligence]
default_model = "{model}"
temperature = {temperature}
max_tokens = {max_tokens}

[agent]
default_agent = "{agent}"
max_turns = 1

[learning.distillation]
enabled = true
"""

_TOOLS = "# This agent answers by itself: it has no tools.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoTask:
    """One task of the demo."""

    task_id: str
    category: str
    query: str
    #: A right answer; also what outputs are compared with, where the scorer needs no more.
    answer: str
    scorer: Scorer


@cache
def demo_tasks() -> tuple[DemoTask, ...]:
    """Return the tasks, in the order of their categories."""
    text = files("worker.embedded").joinpath("demo_tasks.json").read_text(encoding="utf-8")
    return tuple(_task(row) for row in json.loads(text))


def answer_key() -> list[dict[str, str]]:
    """Return what the simulated teacher answers to the tasks, in the shape it reads."""
    return [{"query": task.query, "answer": task.answer} for task in demo_tasks()]


def benchmark() -> dict[str, Any]:
    """Return the tasks as the content of a `benchmark.json`."""
    return {"workflow_id": "demo", "samples": [_sample(task) for task in demo_tasks()]}


def is_right(task: DemoTask, answer: StudentAnswer) -> bool:
    """Whether the student's answer is right; an empty one is not."""
    if answer.content is None:
        return False
    return score(task.scorer.name, task.scorer.options, answer.content, task.answer).passed


def write_home(directory: Path, answers: Mapping[str, StudentAnswer], clock: Clock) -> None:
    """Write the home of a student that has answered tasks: one trace for each answer.

    Args:
        directory: Where the home is made; it may exist and then is overwritten.
        answers: What the student said, by task id. A task without an answer (its server failed)
            gets no trace.
        clock: Says when the answers were given: the last one just now.
    """
    prompt = directory / "agents" / AGENT / "system_prompt.md"
    prompt.parent.mkdir(parents=True, exist_ok=True)
    prompt.write_text(f"{SYSTEM_PROMPT}\n", encoding="utf-8")
    tools = directory / "tools" / "descriptions.toml"
    tools.parent.mkdir(exist_ok=True)
    tools.write_text(_TOOLS, encoding="utf-8")
    config = _CONFIG.format(
        model=_model(answers.values()), temperature=TEMPERATURE, max_tokens=MAX_TOKENS, agent=AGENT
    )
    (directory / "config.toml").write_text(config, encoding="utf-8")
    content = json.dumps(benchmark(), ensure_ascii=False, indent=1)
    (directory / "benchmark.json").write_text(f"{content}\n", encoding="utf-8")
    _write_traces(directory / "traces.db", answers, clock.now_ms())


def _task(row: Mapping[str, Any]) -> DemoTask:
    scorer = read_scorer(row)
    if scorer is None:
        raise ValueError(f"task {row['task_id']!r} of the demo has no scorer: give it one")
    return DemoTask(
        task_id=row["task_id"],
        category=row["category"],
        query=row["query"],
        answer=row["answer"],
        scorer=scorer,
    )


def _sample(task: DemoTask) -> dict[str, Any]:
    return {
        "trace_id": task.task_id,
        "query": task.query,
        "reference_answer": task.answer,
        "agent": AGENT,
        "category": task.category,
        "feedback_score": 1.0,
        "metadata": {"scorer": {"name": task.scorer.name, **task.scorer.options}},
    }


def _model(answers: Iterable[StudentAnswer]) -> str:
    return next((answer.model for answer in answers if answer.model), "unknown")


def _write_traces(path: Path, answers: Mapping[str, StudentAnswer], now_ms: int) -> None:
    path.unlink(missing_ok=True)
    answered = [task for task in demo_tasks() if task.task_id in answers]
    at_ms = now_ms - sum(answers[task.task_id].latency_ms for task in answered)
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(_SCHEMA)
        for task in answered:
            answer = answers[task.task_id]
            _insert(db, "traces", _trace(task, answer, at_ms))
            for index, step in enumerate(_steps(task, answer, at_ms)):
                _insert(db, "trace_steps", {"step_index": index, **step})
            at_ms += answer.latency_ms


def _trace(task: DemoTask, answer: StudentAnswer, at_ms: int) -> dict[str, Any]:
    right = is_right(task, answer)
    said = {"role": "assistant", "content": answer.content}
    return {
        "trace_id": _trace_id(task),
        "query": task.query,
        "agent": AGENT,
        "model": answer.model,
        "engine": "llamacpp",
        "result": answer.content or "",
        "outcome": "success" if right else "failure",
        "feedback": 1.0 if right else 0.0,
        "started_at": at_ms / 1000,
        "ended_at": (at_ms + answer.latency_ms) / 1000,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "total_latency_seconds": answer.latency_ms / 1000,
        "metadata": json.dumps({"task_id": task.task_id, "category": task.category}),
        "messages": json.dumps([*_messages(task), said], ensure_ascii=False),
    }


def _steps(task: DemoTask, answer: StudentAnswer, at_ms: int) -> list[dict[str, Any]]:
    generated = {"content": answer.content, "finish_reason": answer.finish_reason}
    tokens = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    return [
        {
            "trace_id": _trace_id(task),
            "step_type": "generate",
            "timestamp": at_ms / 1000,
            "duration_seconds": answer.latency_ms / 1000,
            "input": json.dumps({"messages": _messages(task)}, ensure_ascii=False),
            "output": json.dumps(generated, ensure_ascii=False),
            "metadata": json.dumps({**tokens, "model": answer.model}),
        },
        {
            "trace_id": _trace_id(task),
            "step_type": "respond",
            "timestamp": (at_ms + answer.latency_ms) / 1000,
            "output": json.dumps({"content": answer.content or ""}, ensure_ascii=False),
        },
    ]


def _messages(task: DemoTask) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": task.query},
    ]


def _trace_id(task: DemoTask) -> str:
    return f"trace-{task.task_id}"


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names, places = ", ".join(row), ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(row.values()))  # noqa: S608 - our own names
