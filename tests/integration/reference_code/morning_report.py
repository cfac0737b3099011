"""User code for the reference: a home on disk, an own store, an own engine, and a report."""

# ruff: noqa: T201

from __future__ import annotations

import json
import re
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.local import DiagnosisRunner

ANSWERS = {"17 + 25": "42", "9 * 6": "54", "100 - 1": "99", "7 * 8": "56"}


@dataclass
class Sample:
    """As the reference's synthesizer makes them."""

    trace_id: str
    query: str
    reference_answer: str
    agent: str = ""
    category: str = "chat"
    feedback_score: float = 0.0
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Trace:
    """As the reference's store returns them."""

    trace_id: str
    query: str
    result: str
    outcome: str | None
    agent: str = "simple"
    model: str = "small-1b"
    feedback: float | None = None
    started_at: float = 1.0
    total_tokens: int = 9
    total_latency_seconds: float = 0.1
    steps: list[Any] = field(default_factory=list[Any])


class Store:
    """The three methods of the reference's store, on a table of our own."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("CREATE TABLE log (id TEXT, query TEXT, result TEXT, outcome TEXT)")

    def save(self, trace: Trace) -> None:
        """Keep a trace."""
        row = (trace.trace_id, trace.query, trace.result, trace.outcome)
        self._db.execute("INSERT INTO log VALUES (?, ?, ?, ?)", row)

    def list_traces(
        self, *, agent: str | None = None, outcome: str | None = None, limit: int = 100
    ) -> list[Trace]:
        """Return traces that pass the filters."""
        del agent
        rows = self._db.execute("SELECT * FROM log LIMIT ?", (limit,)).fetchall()
        return [Trace(*row) for row in rows if outcome in {None, row[3]}]

    def get(self, trace_id: str) -> Trace | None:
        """Return one trace."""
        found = [trace for trace in self.list_traces() if trace.trace_id == trace_id]
        return found[0] if found else None

    def search(self, query: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return traces whose query holds a text."""
        found = [trace for trace in self.list_traces() if query in trace.query]
        return [{"trace_id": one.trace_id, "query": one.query} for one in found[:limit]]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


@dataclass
class Answer:
    """What the student runner returns."""

    content: str
    score: float = 0.0
    trace_id: str = "live-1"
    latency_seconds: float = 0.01
    tokens_used: int = 3


class Student:
    """Knows sums and no products."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, query: str, session_id: str = "") -> Answer:
        self.asked.append((query, session_id))
        return Answer("I do not know" if "*" in query else ANSWERS[query])


class Judge:
    """Right is what stands in the table."""

    def score_trace(self, trace: Any) -> tuple[float, str]:
        """Return the score and why."""
        right = trace.result.strip() == ANSWERS[trace.query]
        return float(right), "as in the table" if right else "not as in the table"


class Engine:
    """A teacher that looks, measures every task it saw, and reports."""

    def __init__(self) -> None:
        self.models: set[str] = set()

    def generate(
        self,
        messages: list[Any],
        *,
        model: str,
        max_tokens: int = 1024,
        tools: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Return the next reply."""
        self.models.add(model)
        roles = [message.role.value for message in messages]
        if tools is None:
            return self._reply(ANSWERS.get(messages[-1].text, "[]"))
        assert max_tokens > 0
        assert {"function"} == {tool["type"] for tool in tools}
        match roles.count("assistant"):
            case 0:
                return self._calls(("list_traces", {}), ("list_personal_benchmark", {}))
            case 1:
                tasks = self._tasks(messages)
                runs = [("run_student_on_task", {"task_id": task}) for task in tasks]
                selves = [("run_self_on_task", {"task_id": task}) for task in tasks]
                return self._calls(*runs, *selves)
            case _:
                return self._reply(self._report(self._tasks(messages)))

    def _tasks(self, messages: list[Any]) -> list[str]:
        said = " ".join(message.text for message in messages if message.role.value == "tool")
        return sorted(set(re.findall(r'"task_id": ?"(task-\d)"', said)))

    def _report(self, tasks: list[str]) -> str:
        clusters = [
            {
                "id": "products",
                "description": "Products are not known",
                "sample_trace_ids": tasks,
                "student_failure_rate": 0.5,
                "teacher_success_rate": 1.0,
                "skill_gap": "Multiplication",
            }
        ]
        return f"# Diagnosis\nNo products.\n\n```json\n{json.dumps(clusters)}\n```"

    def _calls(self, *calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        made = [
            {"id": f"{name}/{place}", "name": name, "arguments": json.dumps(arguments)}
            for place, (name, arguments) in enumerate(calls)
        ]
        return {**self._reply(""), "tool_calls": made, "finish_reason": "tool_use"}

    def _reply(self, content: str) -> dict[str, Any]:
        usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
        return {"content": content, "usage": usage, "cost_usd": 0.02, "finish_reason": "end_turn"}


def main(folder: Path) -> None:
    """Diagnose, and print what a morning report needs."""
    home = folder / "home"
    (home / "agents" / "simple").mkdir(parents=True)
    (home / "agents" / "simple" / "system_prompt.md").write_text("You answer sums.")
    (home / "config.toml").write_text('[intelligence]\ndefault_model = "small-1b"\n')
    samples = [
        Sample(f"task-{n}", query, answer) for n, (query, answer) in enumerate(ANSWERS.items())
    ]
    store = Store(folder / "log.db")
    for sample in samples:
        store.save(Trace(f"trace-{sample.trace_id}", sample.query, "?", "failure"))
    student, engine = Student(), Engine()
    session = folder / "session"
    runner = DiagnosisRunner(
        teacher_engine=engine,
        teacher_model="table-1",
        trace_store=store,
        benchmark_samples=samples,
        student_runner=student,
        judge=Judge(),
        session_dir=session,
        session_id="night-7",
        config={"config_path": home / "config.toml", "openjarvis_home": home},
        max_turns=10,
        max_cost_usd=1.0,
    )

    result = runner.run()
    store.close()

    lines = (session / "teacher_traces" / "diagnose.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    facts = {
        "clusters": [cluster.model_dump() for cluster in result.clusters],
        "planned": [
            cluster.model_copy(update={"addressed_by_edit_ids": ["edit-1"]}).addressed_by_edit_ids
            for cluster in result.clusters
        ],
        "head": result.diagnosis_md.splitlines()[:2],
        "same_file": (session / "diagnosis.md").read_text(encoding="utf-8") == result.diagnosis_md,
        "cost_usd": round(result.cost_usd, 6),
        "tools": [record.tool for record in result.tool_call_records],
        "records_are_lines": [
            {key: row[key] for key in ("tool", "args")}
            == {key: record.to_jsonl_dict()[key] for key in ("tool", "args")}
            for row, record in zip(rows, result.tool_call_records, strict=True)
        ],
        "keys": sorted({key for row in rows for key in row}),
        "outputs": sorted(
            json.loads(record.result)["output"]
            for record in result.tool_call_records
            if record.tool.startswith("run_")
        ),
        "asked": sorted(student.asked),
        "models": sorted(engine.models),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
