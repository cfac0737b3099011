"""A small world to explore, and a conversation with a brain or a server about it.

Rule: the world's tools answer in the shapes that the worker's own tools use; a teacher that is
told nothing else must find out here what is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.rules import accepted
from worker.embedded.teacher.wire import MessagesRequest, Text, ToolUse, read_shape
from worker.tools.arguments import BadArguments, validate_arguments
from worker.tools.schemas import anthropic_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.embedded.teacher.reply import Brain

__all__ = ["World", "converse", "message", "request", "results_of", "tool"]

MODEL = "claude-opus-5"


def message(role: str, *blocks: dict[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in blocks]
    return {"role": role, "content": content}


def request(*messages: dict[str, Any] | str, **fields: Any) -> MessagesRequest:
    """Return a request that has passed the rules; a string is a user's message."""
    said = [message("user", one) if isinstance(one, str) else one for one in messages]
    body = {"model": MODEL, "max_tokens": 4096, "messages": said, **fields}
    return accepted(read_shape(MessagesRequest, body))


def tool(name: str, required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": f"does {name}", "input_schema": schema}


def results_of(
    calls: Sequence[ToolUse], answer: Callable[[str, dict[str, Any]], tuple[str, bool]]
) -> dict[str, Any]:
    """Return the user message that answers the calls."""
    blocks: list[dict[str, Any]] = []
    for call in calls:
        text, is_error = answer(call.name, call.input)
        block = {"type": "tool_result", "tool_use_id": call.id, "content": text}
        blocks.append(block | ({"is_error": True} if is_error else {}))
    return {"role": "user", "content": blocks}


_STRING = {"type": "string"}
_CLUSTER = {
    "type": "object",
    "properties": {
        "id": _STRING,
        "description": _STRING,
        "sample_trace_ids": {"type": "array", "items": _STRING},
        "student_failure_rate": {"type": "number"},
        "teacher_success_rate": {"type": "number"},
        "skill_gap": _STRING,
    },
}


@dataclass(slots=True, kw_only=True)
class World:
    """A student's benchmark, traces and true ability."""

    #: category -> how many of its tasks there are, and how many of them the student fails.
    categories: Mapping[str, tuple[int, int]]
    #: Tools that answer with an error.
    broken: frozenset[str] = frozenset()
    #: Tools that are not offered.
    missing: frozenset[str] = frozenset()
    #: Offer the worker's own tools, and check every call against their schemas.
    real_tools: bool = False
    #: Tasks on a page of the benchmark; None for all at once.
    page: int | None = None
    #: Results are cut to this many characters; None for whole ones.
    cut_at: int | None = None
    #: What submit_diagnosis answers, in turn; then it accepts.
    refusals: list[str] = field(default_factory=list[str])
    submitted: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )

    def tasks(self) -> dict[str, str]:
        """Return task id -> category."""
        return {
            f"{name}-{number}": name
            for name, (count, _) in self.categories.items()
            for number in range(count)
        }

    def fails(self, task_id: str) -> bool:
        name, _, number = task_id.rpartition("-")
        return int(number) < self.categories[name][1]

    def tools(self) -> list[dict[str, Any]]:
        if self.real_tools:
            return anthropic_tools()
        ids = {"type": "array", "items": _STRING, "maxItems": 50}
        limit = {"type": "integer", "maximum": 100}
        offered = [
            tool("list_traces", limit=limit, outcome=_STRING),
            tool("get_trace", ["trace_id"], trace_id=_STRING),
            tool("search_traces", ["query"], query=_STRING, limit=limit),
            tool("get_current_config"),
            tool("list_personal_benchmark", limit=limit),
            tool("run_student_on_task", ["task_id"], task_id=_STRING),
            tool("run_student_on_tasks", ["task_ids"], task_ids=ids, repeats={"maximum": 5}),
            tool("run_self_on_task", ["task_id"], task_id=_STRING),
            tool("compare_outputs", student_output=_STRING, teacher_output=_STRING, task=_STRING),
            tool(
                "submit_diagnosis",
                ["diagnosis_md", "clusters"],
                diagnosis_md=_STRING,
                clusters={"type": "array", "items": _CLUSTER},
            ),
        ]
        return [one for one in offered if one["name"] not in self.missing]

    def answer(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Return (text, is_error) of a call."""
        self.calls.append((name, arguments))
        if self.real_tools:
            checked = validate_arguments(name, arguments)
            assert not isinstance(checked, BadArguments), checked.message
        if name in self.broken:
            return "Not executed: the disk is on fire [sorry", True
        if name == "submit_diagnosis":
            return self._submit(arguments)
        text = json.dumps(self._result(name, arguments))
        return text if self.cut_at is None else text[: self.cut_at], False

    def _submit(self, arguments: dict[str, Any]) -> tuple[str, bool]:
        if self.refusals:
            return self.refusals.pop(0), True
        self.submitted.append(arguments)
        return "accepted", False

    def _result(self, name: str, arguments: dict[str, Any]) -> object:
        tool_named: Callable[..., object] = getattr(self, f"_tool_{name}")
        return tool_named(**arguments)

    def _tool_list_personal_benchmark(self, offset: int = 0, **_: Any) -> object:
        tasks = [self._task(task_id) for task_id in self.tasks()]
        end = offset + (self.page or len(tasks))
        more = {"next_offset": end} if end < len(tasks) else {}
        return {"untrusted_data": True, "total": len(tasks), "tasks": tasks[offset:end], **more}

    def _tool_list_traces(self, **_: Any) -> object:
        return {"untrusted_data": True, "traces": self._traces()}

    def _tool_search_traces(self, **_: Any) -> object:
        return self._traces()

    def _tool_get_trace(self, trace_id: str) -> object:
        return {"trace_id": trace_id, "query": "q", "outcome": "error"}

    def _tool_get_current_config(self) -> object:
        return {"config": "[model]"}

    def _tool_run_student_on_tasks(self, task_ids: list[str], repeats: int) -> object:
        return {"tasks": [self._row(task_id, repeats) for task_id in task_ids]}

    def _tool_run_student_on_task(self, task_id: str) -> object:
        return self._run(task_id)

    def _tool_run_self_on_task(self, task_id: str) -> object:
        return {"task_id": task_id, "output": "42", "score": 1.0}

    def _tool_compare_outputs(self, task: str, **_: Any) -> object:
        return {"task_id": task, "student_score": 0, "teacher_score": 1}

    def _task(self, task_id: str) -> dict[str, Any]:
        category = self.tasks()[task_id]
        return {"task_id": task_id, "query": f"do {task_id} please", "category": category}

    def _traces(self) -> list[dict[str, Any]]:
        return [
            {"trace_id": f"t-{task_id}", "query": f"do {task_id} please", "outcome": "failure"}
            for task_id in self.tasks()
            if self.fails(task_id)
        ]

    def _row(self, task_id: str, repeats: int) -> dict[str, Any]:
        passed = 0 if self.fails(task_id) else repeats
        runs = [{k: v for k, v in self._run(task_id).items() if k != "task_id"}] * repeats
        return {"task_id": task_id, "passed": passed, "counted": repeats, "runs": runs}

    def _run(self, task_id: str) -> dict[str, Any]:
        passed = not self.fails(task_id)
        output = "42" if passed else "I like trains"
        return {"task_id": task_id, "outcome": "answered", "passed": passed, "output": output}


def converse(brain: Brain, world: World, *, max_turns: int = 30, **fields: Any) -> list[str]:
    """Let a brain explore the world until it makes no more calls; return its texts."""
    messages: list[dict[str, Any]] = [message("user", "Find out what is wrong.")]
    texts: list[str] = []
    for _ in range(max_turns):
        reply = brain.reply(request(*messages, tools=world.tools(), **fields))
        texts += [block.text for block in reply.blocks if isinstance(block, Text)]
        calls = [block for block in reply.blocks if isinstance(block, ToolUse)]
        if not calls or world.submitted:
            return texts
        said = [block.model_dump(exclude_none=True) for block in reply.blocks]
        messages += [message("assistant", *said), results_of(calls, world.answer)]
        if world.submitted:
            return texts
    raise AssertionError(f"still exploring after {max_turns} turns: {world.calls[-3:]}")
