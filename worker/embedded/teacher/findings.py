"""What a conversation has shown: tasks, traces, and how student and teacher did on the tasks.

Rule: everything here is read out of the request itself, and nothing is assumed of how tools wrap
their results: JSON is searched for, cut-off JSON is salvaged, and what cannot be read is left out.
A run without a verdict (a fault) is no run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from worker.embedded.teacher.wire import Text, ToolResult, ToolUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.embedded.teacher.wire import PromptRequest

__all__ = [
    "SUBMIT",
    "Findings",
    "RunSeen",
    "TaskSeen",
    "ToolExchange",
    "TraceSeen",
    "as_object",
    "exchanges_of",
    "findings_of",
    "json_in",
    "objects_in",
]

Runner = Literal["student", "teacher"]

#: The tool that ends an exploration.
SUBMIT = "submit_diagnosis"

#: How many places in a text are tried as the start of a JSON value before the search gives up.
_MAX_FAILED_STARTS = 1_000
#: A score of at least this is a pass, where nothing else says so.
_PASS_SCORE = 0.5
#: Names under which a result tells how many runs were counted.
_TOTAL_KEYS = ("counted", "runs", "attempts", "total", "n")
#: Names under which a trace tells its task.
_TASK_KEYS = ("task_id", "task")

_JSON_START = re.compile(r"[\[{]")
_decoder = json.JSONDecoder()

#: A line of counts as people write it, and as a closing call's notes hold it.
_COUNTS_LINE = re.compile(
    r"^- (?P<task>[^\s:]+): student passed (?P<s_passed>\d+) of (?P<s_runs>\d+)"
    r"(?:, teacher passed (?P<t_passed>\d+) of (?P<t_runs>\d+))?",
    re.MULTILINE,
)
#: A line of this teacher's own notes: `- dates (tasks): date-1, date-2`.
_TASKS_LINE = re.compile(r"^- (?P<category>[^\n:()]+) \(tasks\): (?P<tasks>[^\n]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolExchange:
    """A tool call of an earlier turn with its result."""

    tool: str
    arguments: Mapping[str, Any]
    result: str
    is_error: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeen:
    """A task of the benchmark."""

    task_id: str
    query: str
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSeen:
    """A recorded trace."""

    trace_id: str
    query: str
    outcome: str
    #: Empty where the trace does not tell.
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeen:
    """A run with its verdict."""

    task_id: str
    runner: Runner
    passed: bool
    #: Empty where it was not shown.
    output: str = ""


@dataclass(slots=True, kw_only=True)
class Findings:
    """All that was seen, in the order in which it was seen."""

    tasks: dict[str, TaskSeen] = field(default_factory=dict[str, TaskSeen])
    traces: dict[str, TraceSeen] = field(default_factory=dict[str, TraceSeen])
    runs: list[RunSeen] = field(default_factory=list[RunSeen])
    #: The teacher's own answers, judged or not.
    own_answers: dict[str, str] = field(default_factory=dict[str, str])
    #: Calls that came back as errors.
    failed_calls: int = 0

    def of(self, runner: Runner) -> list[RunSeen]:
        """Return the runs of one side."""
        return [run for run in self.runs if run.runner == runner]

    def categories(self) -> dict[str, list[str]]:
        """Return category -> ids of its tasks, both sorted."""
        grouped: dict[str, list[str]] = {}
        for task in self.tasks.values():
            grouped.setdefault(task.category, []).append(task.task_id)
        return {name: sorted(grouped[name]) for name in sorted(grouped)}

    def category_of(self, task_id: str) -> str:
        """Return a task's category."""
        task = self.tasks.get(task_id)
        return task.category if task else "uncategorised"


# ---------------------------------------------------------------------------------- conversations


def exchanges_of(request: PromptRequest) -> tuple[ToolExchange, ...]:
    """Return every tool call of the conversation that has its result, in order."""
    calls: dict[str, ToolUse] = {}
    exchanges: list[ToolExchange] = []
    for message in request.messages:
        for block in message.content:
            if isinstance(block, ToolUse):
                calls[block.id] = block
            if isinstance(block, ToolResult) and block.tool_use_id in calls:
                exchanges.append(_exchange(calls[block.tool_use_id], block))
    return tuple(exchanges)


def findings_of(request: PromptRequest) -> Findings:
    """Return what the whole request shows: tool results first, then what stands in its texts."""
    findings = Findings()
    for exchange in exchanges_of(request):
        _add_exchange(findings, exchange)
    for text in _texts(request):
        _add_text(findings, text)
    return findings


def _exchange(call: ToolUse, result: ToolResult) -> ToolExchange:
    return ToolExchange(
        tool=call.name,
        arguments=call.input,
        result=result.text,
        is_error=bool(result.is_error),
    )


def _texts(request: PromptRequest) -> Iterator[str]:
    for message in request.messages:
        yield from (block.text for block in message.content if isinstance(block, Text))


def _add_exchange(findings: Findings, exchange: ToolExchange) -> None:
    if exchange.tool == SUBMIT:
        return  # what it says was counted from the rest
    if exchange.is_error:
        findings.failed_calls += 1
        return
    values = json_in(exchange.result)
    task_id = str(exchange.arguments.get("task_id", ""))
    # What a trace holds may look like anything: each tool is only believed in its own field.
    match exchange.tool:
        case "list_personal_benchmark":
            _add_tasks(findings, values)
        case "list_traces" | "search_traces" | "get_trace":
            _add_traces(findings, values)
        case "run_student_on_task" | "run_student_on_tasks":
            findings.runs += _runs_in(values, task_id, "student")
        case "run_self_on_task":
            findings.runs += _runs_in(values, task_id, "teacher")
            _add_own_answer(findings, values, task_id)
        case "compare_outputs":
            _add_comparison(findings, values, exchange.arguments)
        case _:
            pass


def _add_text(findings: Findings, text: str) -> None:
    """Take what a text quotes: JSON of any kind, lines of counts, this teacher's own notes."""
    for line in _TASKS_LINE.finditer(text):
        for task_id in line["tasks"].split(", "):
            task = TaskSeen(task_id=task_id, query="", category=line["category"])
            findings.tasks.setdefault(task_id, task)
    values = json_in(text)
    _add_tasks(findings, values)
    _add_traces(findings, values)
    if not findings.runs:
        # Counts are complete: single runs that are quoted beside them are the same ones again, as
        # are those that a text quotes from tool results.
        findings.runs += list(_counts_in(text)) or _runs_in(values, "", "student")


def _add_tasks(findings: Findings, values: Sequence[object]) -> None:
    for found in objects_in(values):
        if task := _task(found):
            findings.tasks.setdefault(task.task_id, task)


def _add_traces(findings: Findings, values: Sequence[object]) -> None:
    for found in objects_in(values):
        if trace := _trace(found):
            findings.traces.setdefault(trace.trace_id, trace)


def _add_own_answer(findings: Findings, values: Sequence[object], task_id: str) -> None:
    for found in objects_in(values):
        output = found.get("output")
        if isinstance(output, str) and output:
            findings.own_answers.setdefault(str(found.get("task_id") or task_id), output)


def _add_comparison(
    findings: Findings, values: Sequence[object], arguments: Mapping[str, Any]
) -> None:
    """Take the teacher's score of a comparison, where its run had no verdict of its own."""
    for found in objects_in(values):
        score = _number(found.get("teacher_score"))
        task_id = str(found.get("task_id") or arguments.get("task", ""))
        judged = {run.task_id for run in findings.of("teacher")}
        if score is not None and task_id and task_id not in judged:
            passed = score >= _PASS_SCORE
            findings.runs.append(RunSeen(task_id=task_id, runner="teacher", passed=passed))


# ----------------------------------------------------------------------------------------- things


def _task(found: Mapping[str, Any]) -> TaskSeen | None:
    task_id, query = found.get("task_id"), found.get("query")
    category = found.get("category")
    if not isinstance(task_id, str) or not (isinstance(query, str) or category):
        return None
    if "trace_id" in found and "outcome" in found:
        return None  # a trace that names its task
    return TaskSeen(
        task_id=task_id,
        query=query if isinstance(query, str) else "",
        category=str(category or "uncategorised"),
    )


def _trace(found: Mapping[str, Any]) -> TraceSeen | None:
    trace_id, query = found.get("trace_id"), found.get("query")
    if not isinstance(trace_id, str) or not isinstance(query, str):
        return None
    places = (found, as_object(found.get("metadata")))
    named = [str(place[key]) for place in places for key in _TASK_KEYS if place.get(key)]
    return TraceSeen(
        trace_id=trace_id,
        query=query,
        outcome=str(found.get("outcome") or ""),
        task_id=named[0] if named else "",
    )


def _runs_in(value: object, task_id: str, runner: Runner) -> list[RunSeen]:
    """Return the runs in a JSON value; ids and sides are handed down to what stands inside."""
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [run for item in items for run in _runs_in(item, task_id, runner)]
    if not isinstance(value, dict):
        return []
    found = cast("dict[str, Any]", value)
    task_id = str(found.get("task_id") or task_id)
    side = _side(str(found.get("runner") or ""), runner)
    inner = [
        run
        for key, child in found.items()
        if isinstance(child, dict | list)
        for run in _runs_in(cast("object", child), task_id, _side(key, side))
    ]
    return inner or _own_runs(found, task_id, side)


def _side(name: str, default: Runner) -> Runner:
    if "teacher" in name or "self" in name:
        return "teacher"
    return "student" if "student" in name else default


def _own_runs(found: Mapping[str, Any], task_id: str, runner: Runner) -> list[RunSeen]:
    if not task_id or found.get("outcome") == "fault":
        return []
    output = found.get("output")
    shown = output if isinstance(output, str) else ""
    return [
        RunSeen(task_id=task_id, runner=runner, passed=passed, output=shown)
        for passed in _verdicts(found)
    ]


def _verdicts(found: Mapping[str, Any]) -> list[bool]:
    """Return one verdict a run: of a single run, or of counts."""
    passed = found.get("passed")
    if isinstance(passed, bool):
        return [passed]
    if isinstance(passed, int):
        totals = [found[key] for key in _TOTAL_KEYS if type(found.get(key)) is int]
        return _counted(passed, totals[0]) if totals else []
    score = _number(found.get("score"))
    return [] if score is None else [score >= _PASS_SCORE]


def _counts_in(text: str) -> Iterator[RunSeen]:
    for line in _COUNTS_LINE.finditer(text):
        sides: tuple[tuple[Runner, str], ...] = (("student", "s"), ("teacher", "t"))
        for runner, prefix in sides:
            counts = (int(line[f"{prefix}_{what}"] or 0) for what in ("passed", "runs"))
            for passed in _counted(*counts):
                yield RunSeen(task_id=line["task"], runner=runner, passed=passed)


def _counted(passed: int, runs: int) -> list[bool]:
    return [index < passed for index in range(runs)]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# ------------------------------------------------------------------------------------------- JSON


def json_in(text: str) -> list[object]:
    """Return the JSON arrays and objects in `text`, outermost ones only.

    Of one that is cut off, what is complete inside it is returned instead.
    """
    values: list[object] = []
    place = failed = 0
    while failed < _MAX_FAILED_STARTS and (start := _JSON_START.search(text, place)):
        try:
            value, place = _decoder.raw_decode(text, start.start())
        except ValueError:
            failed += 1
            place = start.start() + 1
        except RecursionError:
            break  # nested thousands deep: nothing that a tool would write
        else:
            values.append(value)
    return values


def as_object(value: object) -> dict[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def objects_in(values: Iterable[object]) -> Iterator[dict[str, Any]]:
    """Return every JSON object in `values`, also those inside of others, outer ones first."""
    for value in values:
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value)
            yield found
            yield from objects_in(found.values())
        elif isinstance(value, list):
            yield from objects_in(cast("list[object]", value))
