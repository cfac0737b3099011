"""User code for the reference: an experiment whose parts are mocks, as its own scripts have them."""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock  # noqa: TID251 - such code is what is tested

from worker.local import DiagnosisRunner


def main(folder: Path) -> None:
    """Run one session whose engine follows a script, and print what came of it."""
    clusters = [
        {
            "id": f"cluster-{n}",
            "description": "d",
            "sample_trace_ids": ["s-1", "s-2", "s-3"],
            "student_failure_rate": 80,
            "teacher_success_rate": 0.9,
            "skill_gap": "g",
        }
        for n in range(2)
    ]
    script: list[dict[str, Any]] = [
        {
            "content": None,
            "tool_calls": [
                {"id": "a", "name": "list_traces", "arguments": '{"limit": 3}'},
                {"id": "b", "name": "run_student_on_task", "arguments": '{"task_id": "s-1"}'},
                SimpleNamespace(id="c", name="get_agent_prompt", arguments='{"agent_name": "x"}'),
                {"id": "d", "name": "get_current_config"},
                {"id": "e", "name": "no_such_tool", "arguments": "{}"},
            ],
        },
        {"content": "Found.\n\n```json\n" + json.dumps(clusters) + "\n```", "cost_usd": 0.5},
    ]
    engine = MagicMock()
    engine.generate.side_effect = script
    store = MagicMock()
    store.list_traces.return_value = []
    samples = [
        MagicMock(trace_id=f"s-{n}", query=f"Say {n}", reference_answer=str(n), category="chat")
        for n in range(1, 4)
    ]
    runner = DiagnosisRunner(
        teacher_engine=engine,
        teacher_model="table-1",
        trace_store=store,
        benchmark_samples=samples,
        student_runner=MagicMock(),
        judge=MagicMock(),
        session_dir=folder / "session",
        session_id="experiment",
        config={"config_path": folder / "config.toml", "openjarvis_home": folder},
    )

    result = runner.run()

    facts = {
        "clusters": [
            [cluster.id, cluster.student_failure_rate, cluster.teacher_success_rate]
            for cluster in result.clusters
        ],
        "tools": [record.tool for record in result.tool_call_records],
        "cost_usd": result.cost_usd,
        "calls": engine.generate.call_count,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
