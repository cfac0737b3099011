"""The teacher that explores: which tools it calls next, and when it has seen enough.

Rule: it knows nothing but the request. It goes through a fixed list of stages; in each it wishes
for calls that follow from what the earlier ones returned, and it never wishes for one twice. So it
ends after a few turns whatever the tools answer: errors, cut-off JSON, nothing at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.embedded.teacher.diagnosis import diagnose
from worker.embedded.teacher.findings import (
    SUBMIT,
    as_object,
    exchanges_of,
    findings_of,
    json_in,
    objects_in,
)
from worker.embedded.teacher.reply import Reply, Wish, saying, wishing
from worker.embedded.teacher.submission import closing_wish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.embedded.teacher.findings import Findings, TraceSeen
    from worker.embedded.teacher.wire import MessagesRequest, Tool

__all__ = ["Explorer", "Plan"]

#: Says in a user's own words, beside tool results, that the exploration is over.
_ASKED_TO_END = re.compile(
    r"last turn|final (?:turn|answer|diagnosis)|write (?:the|your) diagnosis|no more tool",
    re.IGNORECASE,
)
#: A sign of one's own failure in the recorded outcomes.
_FAILED = frozenset({"failure", "error", "fail", "failed"})
_LABEL = "[simulated teacher]"
_BENCHMARK = "list_personal_benchmark"
#: More of the benchmark is not read: 1,000 tasks, at 200 a page.
_MAX_PAGES = 5
#: More categories than this are not explored; the report's table shows which ones were.
_MAX_CATEGORIES = 8
#: So many tasks are run at least, where there are few categories.
_MIN_TASKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thoroughly to explore."""

    traces_read: int = 4
    tasks_per_category: int = 4
    repeats: int = 2
    #: Own runs per category in which the student failed.
    own_runs: int = 3
    #: Categories in which the teacher runs itself.
    own_categories: int = 4
    comparisons: int = 3


@dataclass(frozen=True, slots=True)
class _Stage:
    says: str
    wishes: tuple[Wish, ...]


class Explorer:
    """Explores through the tools that the request offers, then submits a diagnosis."""

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan or Plan()

    def reply(self, request: MessagesRequest) -> Reply:
        """Return the next calls, or the diagnosis."""
        choice = request.tool_choice
        if choice is not None and choice.type == "none":
            return saying(diagnose(findings_of(request)).as_text)
        if choice is not None and choice.type == "tool" and choice.name:
            return self._forced(request, choice.name)
        if not _ASKED_TO_END.search(request.last_user_text) or len(request.messages) == 1:
            stage = self._next_stage(request)
            if stage is not None:
                return wishing(request, f"{_LABEL} {stage.says}", _allowed(request, stage.wishes))
        return _end(request)

    def _forced(self, request: MessagesRequest, name: str) -> Reply:
        if name == SUBMIT:
            return _end(request, must_call=True)
        for stage in self._stages(request):
            for wish in stage.wishes:
                if wish.tool == name:
                    return wishing(request, f"{_LABEL} {stage.says}", [wish])
        return wishing(request, f"{_LABEL} As I was told.", [Wish(name)])

    def _next_stage(self, request: MessagesRequest) -> _Stage | None:
        """Return the first stage that has calls left to make, with those alone."""
        offered = {tool.name for tool in request.tools}
        made = {_key(one.tool, one.arguments) for one in exchanges_of(request)}
        for stage in self._stages(request):
            left = tuple(
                wish
                for wish in stage.wishes
                if wish.tool in offered and _key(wish.tool, wish.arguments) not in made
            )
            if left:
                return _Stage(stage.says, left)
        return None

    def _stages(self, request: MessagesRequest) -> Iterator[_Stage]:
        tools = {tool.name: tool for tool in request.tools}
        findings = findings_of(request)
        yield _Stage("First the benchmark, the failures and the configuration.", _survey(tools))
        reading = (*self._reading(findings, tools), *_next_pages(request, tools))
        yield _Stage("Now some of the failures in full.", reading)
        measured = self._measured_tasks(findings)
        yield _Stage(
            f"I measure the student, {self._repeats(tools)} runs a task.\n{_task_lines(measured)}",
            tuple(self._student_runs(measured, tools)),
        )
        own = self._own_tasks(findings)
        yield _Stage(
            "The student fails here. I run the same tasks myself.",
            tuple(Wish("run_self_on_task", {"task_id": task_id}) for task_id in own),
        )
        yield _Stage("I compare the answers.", tuple(self._comparisons(findings, own, tools)))

    # ------------------------------------------------------------------------------------- stages

    def _reading(self, findings: Findings, tools: dict[str, Tool]) -> tuple[Wish, ...]:
        failing = _spread(_failing(findings), self._plan.traces_read)
        reads = [Wish("get_trace", {"trace_id": trace.trace_id}) for trace in failing]
        words = re.findall(r"\w{3,}", failing[0].query)[:6] if failing else []
        if words:
            arguments = {"query": " ".join(words)} | _within(tools, "search_traces", limit=10)
            reads.append(Wish("search_traces", arguments))
        return tuple(reads)

    def _measured_tasks(self, findings: Findings) -> dict[str, list[str]]:
        """Return category -> the tasks to run, the largest categories first come."""
        categories = findings.categories()
        largest = sorted(categories, key=lambda name: (-len(categories[name]), name))
        chosen = sorted(largest[:_MAX_CATEGORIES])
        if not chosen:
            return {}
        each = max(self._plan.tasks_per_category, -(-_MIN_TASKS // len(chosen)))
        return {name: _spread(categories[name], each) for name in chosen}

    def _student_runs(
        self, measured: dict[str, list[str]], tools: dict[str, Tool]
    ) -> Iterator[Wish]:
        batch = tools.get("run_student_on_tasks")
        for task_ids in measured.values():
            if batch is None:
                for task_id in task_ids:
                    yield Wish("run_student_on_task", {"task_id": task_id})
                continue
            size = int(_schema(batch, "task_ids").get("maxItems", len(task_ids)))
            for start in range(0, len(task_ids), size):
                part = task_ids[start : start + size]
                arguments = {"task_ids": part, "repeats": self._repeats(tools)}
                yield Wish("run_student_on_tasks", arguments)

    def _repeats(self, tools: dict[str, Tool]) -> int:
        batch = tools.get("run_student_on_tasks")
        if batch is None:
            return 1
        return min(self._plan.repeats, int(_schema(batch, "repeats").get("maximum", 5)))

    def _own_tasks(self, findings: Findings) -> list[str]:
        """Return tasks on which the student failed, from the categories where it fails most."""
        failed: dict[str, list[str]] = {}
        for run in findings.of("student"):
            if not run.passed:
                tasks = failed.setdefault(findings.category_of(run.task_id), [])
                tasks.extend([run.task_id] if run.task_id not in tasks else [])
        worst = sorted(failed, key=lambda name: (-len(failed[name]), name))
        # With one category there is one list to take from: take as many as from all of them.
        each = self._plan.own_runs * (self._plan.own_categories if len(worst) == 1 else 1)
        return [
            task_id
            for name in worst[: self._plan.own_categories]
            for task_id in _spread(sorted(failed[name]), each)
        ]

    def _comparisons(
        self, findings: Findings, own: Sequence[str], tools: dict[str, Tool]
    ) -> Iterator[Wish]:
        """Compare a few answers; all of them, where the teacher's runs came without a verdict."""
        outputs = {run.task_id: run.output for run in findings.of("student") if not run.passed}
        judged = {run.task_id for run in findings.of("teacher")}
        unjudged = [task_id for task_id in own if task_id not in judged]
        tool = tools.get("compare_outputs")
        key = "task_id" if tool is not None and _schema(tool, "task_id") else "task"
        for task_id in unjudged or _spread(own, self._plan.comparisons):
            if outputs.get(task_id) and task_id in findings.own_answers:
                yield Wish(
                    "compare_outputs",
                    {
                        "student_output": outputs[task_id],
                        "teacher_output": findings.own_answers[task_id],
                        key: task_id,
                    },
                )


def _end(request: MessagesRequest, *, must_call: bool = False) -> Reply:
    """Return the diagnosis: submitted where that is possible, else as text."""
    exchanges = exchanges_of(request)
    submitted = [one for one in exchanges if one.tool == SUBMIT]
    if submitted and not submitted[-1].is_error and not must_call:
        return saying(f"{_LABEL} The diagnosis was submitted.")
    diagnosis = diagnose(findings_of(request))
    wish = closing_wish(request, diagnosis, submitted)
    if wish is None:
        return saying(diagnosis.as_text)
    return wishing(request, f"{_LABEL} I have seen enough and submit the diagnosis.", [wish])


def _survey(tools: dict[str, Tool]) -> tuple[Wish, ...]:
    return (
        Wish(_BENCHMARK, _within(tools, _BENCHMARK, limit=200, max_chars=20_000)),
        Wish("list_traces", {"outcome": "failure", **_within(tools, "list_traces", limit=50)}),
        Wish("get_current_config"),
    )


def _next_pages(request: MessagesRequest, tools: dict[str, Tool]) -> Iterator[Wish]:
    """Ask for the pages of the benchmark that its earlier pages point to."""
    asked = [one for one in exchanges_of(request) if one.tool == _BENCHMARK]
    if _BENCHMARK not in tools or not _schema(tools[_BENCHMARK], "offset"):
        return
    for one in asked[:_MAX_PAGES]:
        found = as_object(next(objects_in(json_in(one.result)), None))
        following = found.get("next_offset")
        if isinstance(following, int) and not one.is_error:
            yield Wish(_BENCHMARK, {**one.arguments, "offset": following})


def _failing(findings: Findings) -> list[TraceSeen]:
    return [trace for trace in findings.traces.values() if trace.outcome.lower() in _FAILED]


def _task_lines(measured: dict[str, list[str]]) -> str:
    """Return the teacher's notes on which tasks belong where; a closing call quotes them."""
    return "\n".join(f"- {name} (tasks): {', '.join(ids)}" for name, ids in measured.items())


def _allowed(request: MessagesRequest, wishes: tuple[Wish, ...]) -> tuple[Wish, ...]:
    choice = request.tool_choice
    one_at_a_time = choice is not None and choice.disable_parallel_tool_use
    return wishes[:1] if one_at_a_time else wishes


def _within(tools: dict[str, Tool], name: str, **wanted: int) -> dict[str, int]:
    """Return those of the arguments that the tool's schema has, no larger than it takes them."""
    schemas = {key: _schema(tools[name], key) for key in wanted} if name in tools else {}
    return {
        key: min(wanted[key], int(schema.get("maximum", wanted[key])))
        for key, schema in schemas.items()
        if schema
    }


def _schema(tool: Tool, argument: str) -> dict[str, Any]:
    """Return the JSON schema of one of a tool's arguments, empty where it has no such."""
    return as_object(as_object(tool.input_schema.get("properties")).get(argument))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return `count` of the items, evenly spread over all."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _key(tool: str, arguments: object) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"
