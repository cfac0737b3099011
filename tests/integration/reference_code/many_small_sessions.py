"""User code for the reference: sessions with limits of every kind, one after another."""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from worker.local import DiagnosisRunner


class Restless:
    """A teacher that always wants to look once more, until it is asked without tools."""

    def __init__(self, cost_usd: float) -> None:
        self.calls = 0
        self._cost_usd = cost_usd

    def generate(self, **arguments: Any) -> dict[str, Any]:
        """Return one more call, or a list of clusters where no tool is offered."""
        self.calls += 1
        reply: dict[str, Any] = {"content": "Let me see.", "cost_usd": self._cost_usd, "usage": {}}
        names = {tool["function"]["name"] for tool in arguments.get("tools", [])}
        if "get_current_config" not in names:
            return {**reply, "content": '[{"id": "c", "description": "d", "skill_gap": "g"}]'}
        call = {"id": f"c-{self.calls}", "name": "get_current_config", "arguments": "{}"}
        return {**reply, "tool_calls": [call]}


def session(folder: Path, cost_usd: float, **limits: Any) -> dict[str, Any]:
    """Return what came of one session."""
    engine = Restless(cost_usd)
    result = DiagnosisRunner(
        teacher_engine=engine,
        teacher_model="table-1",
        trace_store=SimpleNamespace(list_traces=lambda **_: []),  # type: ignore[misc]
        benchmark_samples=[],
        student_runner=str,
        judge=None,
        session_dir=folder,
        session_id=folder.name,
        config={"config_path": folder / "config.toml", "openjarvis_home": folder},
        **limits,
    ).run()
    return {
        "calls": engine.calls,
        "records": len(result.tool_call_records),
        "cost_usd": round(result.cost_usd, 6),
        "clusters": [cluster.id for cluster in result.clusters],
        "text": bool(result.diagnosis_md.strip()),
    }


def main(folder: Path) -> None:
    """Print what came of each session."""
    found = {
        "turns": session(folder / "turns", 0.01, max_turns=3),
        "budget": session(folder / "budget", 0.4, max_cost_usd=1.0),
        "nothing": session(folder / "nothing", 0.4, max_cost_usd=0.0),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
