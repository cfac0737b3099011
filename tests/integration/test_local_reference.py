"""Code written for the reference runs on our class when only its import changes.

The scripts in `reference_code` are such code; their one line of import is the only one that names
us. What each of them printed on OpenJarvis 1.0.4 stands below, and what is other with us, and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

_SCRIPTS = Path(__file__).with_name("reference_code")

_KEYS = ["args", "cost_usd", "latency_ms", "result", "timestamp", "tool"]
_PRODUCTS: dict[str, Any] = {
    "id": "products",
    "description": "Products are not known",
    "sample_trace_ids": ["task-0", "task-1", "task-2", "task-3"],
    "student_failure_rate": 0.5,
    "teacher_success_rate": 1.0,
    "skill_gap": "Multiplication",
    "addressed_by_edit_ids": [],
}

#: Script -> what it printed on the reference.
_REFERENCE: dict[str, dict[str, Any]] = {
    "morning_report": {
        "clusters": [_PRODUCTS],
        "planned": [["edit-1"]],
        "head": ["# Diagnosis", "No products."],
        "same_file": True,
        "cost_usd": 0.06,
        "tools": [
            "list_traces",
            "list_personal_benchmark",
            *["run_student_on_task"] * 4,
            *["run_self_on_task"] * 4,
        ],
        "records_are_lines": [True] * 10,
        "keys": _KEYS,
        "outputs": ["42", "42", "54", "56", "99", "99", "I do not know", "I do not know"],
        "asked": [[query, "night-7"] for query in ("100 - 1", "17 + 25", "7 * 8", "9 * 6")],
        "models": ["table-1"],
    },
    "stand_ins": {
        "clusters": [["cluster-0", 0.8, 0.9], ["cluster-1", 0.8, 0.9]],
        "tools": [
            "list_traces",
            "run_student_on_task",
            "get_agent_prompt",
            "get_current_config",
            "no_such_tool",
        ],
        "cost_usd": 0.5,
        "calls": 2,
    },
    "many_small_sessions": {
        "turns": {"calls": 4, "records": 3, "cost_usd": 0.03, "clusters": ["c"], "text": False},
        "budget": {"calls": 4, "records": 3, "cost_usd": 1.2, "clusters": ["c"], "text": True},
        "nothing": {"calls": 0, "records": 0, "cost_usd": 0.0, "clusters": [], "text": False},
    },
}

#: Script -> what is other with us.
_OTHER_WITH_US: dict[str, dict[str, Any]] = {
    "morning_report": {
        # How far the rates were measured, which is what they rest on with us.
        "clusters": [{**_PRODUCTS, "evidence": "measured"}],
        # The teacher's own four runs are paid for as well.
        "cost_usd": 0.14,
        # More is said of each call.
        "keys": sorted([*_KEYS, "call_id", "cost_nusd", "index", "is_error", "state", "turn"]),
    },
    "stand_ins": {},
    "many_small_sessions": {
        # The last call is counted, and there is always a text.
        "turns": {"calls": 4, "records": 3, "cost_usd": 0.04, "clusters": ["c"], "text": True},
        # The cap is kept, and the money of the last call with it.
        "budget": {"calls": 2, "records": 1, "cost_usd": 0.8, "clusters": ["c"], "text": True},
        "nothing": {"calls": 0, "records": 0, "cost_usd": 0.0, "clusters": [], "text": True},
    },
}


@pytest.mark.parametrize("script", _REFERENCE)
def test_code_written_for_the_reference_gives_what_it_gave_there(
    tmp_path: Path, script: str
) -> None:
    path = _SCRIPTS / f"{script}.py"
    imports = [line for line in path.read_text().splitlines() if "worker" in line]
    assert imports == ["from worker.local import DiagnosisRunner"]

    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {**_REFERENCE[script], **_OTHER_WITH_US[script]}
    written = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert {"diagnosis.md", "diagnose.jsonl"} <= written


#: Stands for an installed OpenJarvis: the classes that an engine and the planner ask for.
_OPENJARVIS = {
    "core/types.py": """
from dataclasses import dataclass
from enum import Enum
class Role(str, Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
@dataclass
class ToolCall:
    id: str
    name: str
    arguments: str
@dataclass
class Message:
    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: list | None = None
    tool_call_id: str | None = None
""",
    "learning/spec_search/models.py": """
from pydantic import BaseModel
class FailureCluster(BaseModel):
    id: str
    description: str
    sample_trace_ids: list[str] = []
    student_failure_rate: float
    teacher_success_rate: float
    skill_gap: str
    addressed_by_edit_ids: list[str] = []
class Plan(BaseModel):
    failure_clusters: list[FailureCluster]
""",
}

_WITH_OPENJARVIS = """
import json, sys
from openjarvis.core.types import Message, Role, ToolCall
from openjarvis.learning.spec_search.models import FailureCluster, Plan
from worker.local import DiagnosisRunner
class Engine:
    def generate(self, messages, **more):
        assert all(type(m) is Message and type(m.role) is Role for m in messages)
        assert all(type(c) is ToolCall for m in messages for c in m.tool_calls or ())
        if messages[-1].role is Role.USER:
            call = {"id": "c", "name": "get_current_config", "arguments": "{}"}
            return {"content": "", "tool_calls": [call]}
        cluster = {"id": "c", "description": "d", "skill_gap": "g"}
        return {"content": "D\\n```json\\n" + json.dumps([cluster]) + "\\n```"}
result = DiagnosisRunner(
    teacher_engine=Engine(), teacher_model="m", trace_store=None, benchmark_samples=[],
    student_runner=None, judge=None, session_dir=sys.argv[1], session_id="s", config={},
).run()
assert [type(c).__mro__.count(FailureCluster) for c in result.clusters] == [1], result
print(Plan(failure_clusters=result.clusters).failure_clusters[0].id)
"""


def test_where_openjarvis_is_installed_its_classes_are_used(tmp_path: Path) -> None:
    for name, text in _OPENJARVIS.items():
        path = tmp_path / "openjarvis" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "job.py").write_text(_WITH_OPENJARVIS)

    done = subprocess.run(
        [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "session")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stdout.strip()) == (0, "c"), done.stderr


def test_nothing_of_the_fleet_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from worker.local import DiagnosisRunner; "
        "print(sorted({'anthropic', 'boto3', 'celery', 'httpx2', 'redis'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )

    assert done.stdout.strip() == "[]"
