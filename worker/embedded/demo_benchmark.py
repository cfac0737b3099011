"""The demo's benchmark: short tasks whose answers a rule can check, written for a very small model.

Rule: nothing about the student is scripted. It is asked once; what it says, right and wrong, becomes
the traces of a home as OpenJarvis writes it.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.core.scoring import score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["AGENT", "SYSTEM_PROMPT", "TASKS", "Answer", "Task", "answer_key", "write_home"]

AGENT = "quick-answers"
SYSTEM_PROMPT = "You are a helpful assistant. Answer in one short line."


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task with its answer and the rule that checks it."""

    task_id: str
    category: str
    query: str
    answer: str
    scorer: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the student said to a task."""

    task_id: str
    text: str
    started_s: float
    latency_s: float
    tokens: int
    model: str


def _tasks(
    category: str, scorer: str, rows: Iterable[tuple[str, str]], **options: object
) -> tuple[Task, ...]:
    return tuple(
        Task(
            task_id=f"{category}-{number:02d}",
            category=category,
            query=query,
            answer=answer,
            scorer=scorer,
            options=options,
        )
        for number, (query, answer) in enumerate(rows, 1)
    )


TASKS: tuple[Task, ...] = (
    *_tasks(
        "arithmetic",
        "numeric",
        (
            ("What is 2 + 2?", "4"),
            ("What is 7 + 5?", "12"),
            ("What is 9 - 4?", "5"),
            ("What is 6 times 7?", "42"),
            ("What is 48 divided by 6?", "8"),
            ("What is 17 + 28?", "45"),
            ("What is 123 - 78?", "45"),
        ),
    ),
    *_tasks(
        "facts",
        "contains",
        (
            ("What is the capital of France?", "Paris"),
            ("What is the capital of Japan?", "Tokyo"),
            ("What is the capital of Italy?", "Rome"),
            ("Which planet is known as the Red Planet?", "Mars"),
            ("What is the chemical symbol of gold?", "Au"),
            ("Who wrote Romeo and Juliet?", "Shakespeare"),
            ("What is the largest ocean on Earth?", "Pacific"),
        ),
    ),
    *_tasks(
        "format",
        "exact",
        (
            ("Answer with the single word yes: is water wet?", "yes"),
            ("Write the word BLUE in lower case. Answer with that word only.", "blue"),
            ("Repeat exactly this text and nothing else: alpha beta gamma", "alpha beta gamma"),
            ("Answer with one letter only. Which letter comes after A?", "B"),
            ("Write the numbers 1, 2 and 3 with commas and no spaces.", "1,2,3"),
            ("Write the word cat in capital letters. Answer with that word only.", "CAT"),
        ),
    ),
    *_tasks(
        "extraction",
        "contains",
        (
            (
                "Text: 'Anna lives in Oslo and works in Bergen.' In which city does Anna live?",
                "Oslo",
            ),
            (
                "Text: 'The invoice 4711 is due on Friday.' What is the number of the invoice?",
                "4711",
            ),
            ("Text: 'Call Peter at 555-0199 after six.' What is the phone number?", "555-0199"),
            ("Text: 'The red car is faster than the green car.' Which car is faster?", "red"),
            (
                "Text: 'Mail the report to sam@example.com.' What is the mail address?",
                "sam@example.com",
            ),
            ("Text: 'Lunch costs 12 euros, dinner costs 20.' How much does dinner cost?", "20"),
        ),
    ),
    *_tasks(
        "dates",
        "contains",
        (
            ("Which day comes after Monday?", "Tuesday"),
            ("Which month comes before June?", "May"),
            ("How many days are there in a week? Answer with the number.", "7"),
            ("Which day is two days after Thursday?", "Saturday"),
            ("Write 5 March 2024 as YYYY-MM-DD.", "2024-03-05"),
            ("How many days does February have in 2024?", "29"),
        ),
    ),
    *_tasks(
        "spelling",
        "contains",
        (
            ("Spell the word dog backwards.", "god"),
            ("What is the first letter of the word banana?", "b"),
            ("How many letters has the word apple? Answer with the number.", "5"),
            ("Which word is spelled correctly: 'recieve' or 'receive'?", "receive"),
            ("What is the plural of mouse?", "mice"),
        ),
    ),
    *_tasks(
        "word-problems",
        "numeric",
        (
            ("Tom has 3 apples and buys 4 more. How many apples has he?", "7"),
            ("A book costs 8 dollars. How much do 3 books cost?", "24"),
            ("There are 20 birds on a tree and 6 fly away. How many are left?", "14"),
            ("A train leaves at 9 and arrives at 14. How many hours does it take?", "5"),
            ("Lisa is 12 and her brother is 5 years younger. How old is he?", "7"),
        ),
    ),
)


def answer_key() -> list[dict[str, str]]:
    """Return the answers for the simulated teacher's own runs."""
    return [{"query": task.query, "answer": task.answer} for task in TASKS]


def write_home(directory: Path, answers: Iterable[Answer]) -> None:
    """Write a home in OpenJarvis's format: the benchmark, and the student's answers as traces."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_traces(directory / "traces.db", answers)
    (directory / "benchmark.json").write_text(_benchmark(), encoding="utf-8")
    (directory / "config.toml").write_text(_CONFIG, encoding="utf-8")
    prompt = directory / "agents" / AGENT / "system_prompt.md"
    prompt.parent.mkdir(parents=True, exist_ok=True)
    prompt.write_text(SYSTEM_PROMPT + "\n", encoding="utf-8")
    tools = directory / "tools" / "descriptions.toml"
    tools.parent.mkdir(exist_ok=True)
    tools.write_text(_DESCRIPTIONS, encoding="utf-8")


def _benchmark() -> str:
    samples = [
        {
            "trace_id": task.task_id,
            "query": task.query,
            "reference_answer": task.answer,
            "agent": AGENT,
            "category": task.category,
            "feedback_score": 1.0,
            "metadata": {"scorer": task.scorer, "scorer_options": dict(task.options)},
        }
        for task in TASKS
    ]
    return json.dumps({"workflow_id": "demo", "samples": samples}, indent=1, ensure_ascii=False)


def _write_traces(path: Path, answers: Iterable[Answer]) -> None:
    by_id = {task.task_id: task for task in TASKS}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(_SCHEMA)
        for answer in answers:
            _write_trace(connection, by_id[answer.task_id], answer)


def _write_trace(connection: sqlite3.Connection, task: Task, answer: Answer) -> None:
    passed = score(task.scorer, task.options, answer.text, task.answer).passed
    trace_id = f"demo-{task.task_id}"
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": task.query},
        {"role": "assistant", "content": answer.text},
    ]
    ended_s = answer.started_s + answer.latency_s
    connection.execute(
        "INSERT INTO traces (trace_id, query, agent, model, engine, result, outcome, feedback,"
        " started_at, ended_at, total_tokens, total_latency_seconds, metadata, messages)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(trace_id, task.query, AGENT, answer.model, "llama.cpp", answer.text),
            *("success" if passed else "failure", None, answer.started_s, ended_s),
            *(answer.tokens, answer.latency_s),
            *(json.dumps({"task_id": task.task_id}), json.dumps(messages, ensure_ascii=False)),
        ),
    )
    steps = (
        ("route", {"query": task.query}, {"agent": AGENT}),
        ("generate", {"messages": messages[:2]}, {"content": answer.text}),
        ("respond", {}, {"content": answer.text}),
    )
    connection.executemany(
        "INSERT INTO trace_steps (trace_id, step_index, step_type, timestamp, duration_seconds,"
        " input, output) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(trace_id, index, kind, answer.started_s),
                answer.latency_s if kind == "generate" else 0.0,
                json.dumps(given, ensure_ascii=False),
                json.dumps(made, ensure_ascii=False),
            )
            for index, (kind, given, made) in enumerate(steps)
        ],
    )


_CONFIG = f"""\
# The configuration of the demo's student.
[engine]
default = "llama.cpp"

[intelligence]
default_model = "smollm2-135m-instruct"
temperature = 0.7

[agent]
default_agent = "{AGENT}"
max_turns = 1
"""

_DESCRIPTIONS = """\
[calculator]
description = "Computes an arithmetic expression. The demo's agent does not use it yet."
"""

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
    messages TEXT NOT NULL DEFAULT '[]');
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
    FOREIGN KEY (trace_id) REFERENCES traces(trace_id));
CREATE VIRTUAL TABLE traces_fts USING fts5(
    trace_id, query, result, agent, content='traces', content_rowid='rowid', tokenize='unicode61');
CREATE TRIGGER traces_fts_ai AFTER INSERT ON traces BEGIN
    INSERT INTO traces_fts(rowid, trace_id, query, result, agent)
    VALUES (new.rowid, new.trace_id, new.query, new.result, new.agent);
END;
"""
