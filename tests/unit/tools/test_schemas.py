from __future__ import annotations

import json
import subprocess
import sys

import pytest

from worker.tools import TOOLS, Tool, ToolKind, anthropic_tools

CONTRACT = {
    "list_traces": {"limit", "agent", "outcome", "min_feedback", "max_feedback"},
    "get_trace": {"trace_id"},
    "search_traces": {"query", "limit"},
    "get_current_config": set[str](),
    "get_agent_prompt": {"agent_name"},
    "get_tool_description": {"tool_name"},
    "list_available_tools": set[str](),
    "list_personal_benchmark": {"limit"},
    "run_student_on_task": {"task_id"},
    "run_self_on_task": {"task_id", "max_tokens"},
    "compare_outputs": {"student_output", "teacher_output", "task"},
}
DEFAULTS = {
    ("list_traces", "limit"): 20,
    ("search_traces", "limit"): 20,
    ("list_personal_benchmark", "limit"): 50,
    ("run_self_on_task", "max_tokens"): 2_048,
}


def test_the_eleven_tools_of_the_contract_take_its_arguments() -> None:
    for name, arguments in CONTRACT.items():
        assert arguments <= set(TOOLS[name].properties), name
    for (name, argument), default in DEFAULTS.items():
        assert TOOLS[name].properties[argument]["default"] == default
    assert set(TOOLS) - set(CONTRACT) == {"read_more", "run_student_on_tasks", "submit_diagnosis"}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_a_tool_says_what_it_is_and_takes_nothing_else(tool: Tool) -> None:
    assert len(tool.description) > 60
    assert tool.schema["additionalProperties"] is False
    assert set(tool.required) <= set(tool.properties)
    for name, schema in tool.properties.items():
        assert schema["description"], name
        assert ("default" not in schema) or name not in tool.required
    assert (tool.cost == "paid") == (tool.kind in (ToolKind.TEACHER, ToolKind.JUDGE))


def test_the_bytes_are_the_same_in_every_process() -> None:
    code = "import json; from worker.tools import anthropic_tools as t; print(json.dumps(t()))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }

    assert said == {json.dumps(anthropic_tools()).encode()}
    names = [tool["name"] for tool in anthropic_tools()]
    assert names == sorted(names)
