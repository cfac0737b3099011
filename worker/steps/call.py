"""The step that carries one tool call out, or expands it into student runs.

Rule: whatever a teacher sends gets an answer that it can act upon; a bad call is an error result,
never an exception.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from worker.core import evidence
from worker.core.bounds import json_bytes, prompt_bound_tokens
from worker.core.clusters import Refused, read_submission
from worker.core.events import CallAnswered, CallExpanded, RunRecorded
from worker.core.results import find_result
from worker.core.teaching import TeacherRequest
from worker.core.transcript import visible_text
from worker.core.values import Runner, RunOutcome, RunSpec
from worker.steps.judge import PaidJudge
from worker.steps.scored import score_output
from worker.tools.arguments import Arguments, BadArguments, validate_arguments
from worker.tools.planning import PlanError, plan_runs
from worker.tools.schemas import TOOLS, ToolKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.bundle.benchmark import Sample
    from worker.core.commands import CallTool
    from worker.core.events import Event
    from worker.core.teaching import TeacherReply
    from worker.steps.context import Step

__all__ = ["call_tool"]


#: Of a judge's reasons for two scores. It was asked for two or three sentences.
_REASONING_CHARS = 3_000


def call_tool(step: Step, command: CallTool) -> Event:  # noqa: PLR0911 - one `return` a kind
    """Return the call's answer, its expansion into runs, or the teacher's own run.

    Raises:
        TeacherFault, BudgetDenied: From a tool that is itself a paid call.
        Unavailable: The bundle could not be fetched.
    """
    tool = TOOLS.get(command.call.tool)
    if tool is None:
        return _refused(step, command, [f"there is no tool {command.call.tool!r}"])
    arguments = validate_arguments(command.call.tool, command.call.arguments_json)
    if isinstance(arguments, BadArguments):
        return _refused(step, command, [arguments.message])
    match tool.kind:
        case ToolKind.READ:
            return _read(step, command, arguments)
        case ToolKind.STUDENT:
            return _expand(step, command, arguments)
        case ToolKind.TEACHER:
            return _run_self(step, command, arguments)
        case ToolKind.JUDGE:
            return _compare(step, command, arguments)
        case ToolKind.SUBMIT:
            return _submit(step, command, arguments)
    assert_never(tool.kind)


def _answered(
    step: Step, command: CallTool, text: str, *, is_error: bool = False, cost_nusd: int = 0
) -> CallAnswered:
    return CallAnswered(
        turn=command.turn,
        index=command.index,
        result=step.store(text),
        is_error=is_error,
        cost_nusd=cost_nusd,
    )


def _refused(step: Step, command: CallTool, problems: Iterable[str]) -> CallAnswered:
    text = json.dumps({"error": "; ".join(problems)}, ensure_ascii=False)
    return _answered(step, command, text, is_error=True)


def _read(step: Step, command: CallTool, arguments: Arguments) -> CallAnswered:
    tools = step.workspace.tools(reveal_references=step.session.spec.reveal_references)
    output = tools.call(
        command.call.tool,
        arguments,
        results=lambda given: find_result(step.session, given, step.text_of),
    )
    return _answered(step, command, output.text, is_error=output.is_error)


def _expand(step: Step, command: CallTool, arguments: Arguments) -> Event:
    planned = plan_runs(step.workspace.task_ids, arguments)
    if isinstance(planned, PlanError):
        return _refused(step, command, [planned.message])
    first = _attempts_so_far(step, command)
    runs = tuple(
        RunSpec(task_id=task.task_id, attempt=first.get(task.task_id, 0) + attempt)
        for task in planned
        for attempt in range(task.attempts)
    )
    return CallExpanded(turn=command.turn, index=command.index, runs=runs)


def _attempts_so_far(step: Step, command: CallTool) -> dict[str, int]:
    """Return how many student runs of each task earlier turns asked for: seeds do not repeat."""
    counts: dict[str, int] = {}
    for turn in step.session.turns[: command.turn - 1]:
        for call in turn.calls:
            for run in call.runs or ():
                counts[run.spec.task_id] = counts.get(run.spec.task_id, 0) + 1
    return counts


def _run_self(step: Step, command: CallTool, arguments: Arguments) -> Event:
    sample = step.workspace.sample(arguments["task_id"])
    if sample is None:
        planned = plan_runs(step.workspace.task_ids, arguments)
        assert isinstance(planned, PlanError), "only an unknown task has no sample"
        return _refused(step, command, [planned.message])
    request = TeacherRequest(
        model=step.session.spec.teacher_model,
        max_tokens=arguments.get("max_tokens", 2_048),
        system=[],
        messages=[{"role": "user", "content": [{"type": "text", "text": sample.query}]}],
        timeout_ms=300_000,
    )
    paid = step.pay(
        request,
        kind="self_run",
        account=step.session.spec.teacher,
        prompt_bound_tokens=prompt_bound_tokens(json_bytes(request.messages)),
    )
    text, outcome = _said(paid.reply)
    scored = score_output(sample, outcome, text)
    return RunRecorded(
        turn=command.turn,
        index=command.index,
        ordinal=0,
        runner=Runner.TEACHER,
        spec=RunSpec(task_id=sample.task_id, attempt=0),
        outcome=outcome,
        output=step.store(text) if text is not None else None,
        score=scored.score,
        passed=scored.passed,
        scorer=scored.scorer,
        why=scored.why,
        needs_judge=scored.needs_judge,
        latency_ms=paid.reply.latency_ms,
        tokens=paid.reply.usage.prompt_tokens + paid.reply.usage.output_tokens,
        cost_nusd=paid.cost_nusd,
    )


def _said(reply: TeacherReply) -> tuple[str | None, RunOutcome]:
    text = visible_text(reply.content)
    if not text.strip():
        return None, RunOutcome.EMPTY
    return text, RunOutcome.CUT if reply.stop_reason == "max_tokens" else RunOutcome.ANSWERED


def _compare(step: Step, command: CallTool, arguments: Arguments) -> CallAnswered:
    """Score two outputs of one task: with its own scorer where it has one, else by the judge."""
    task = str(arguments["task"])
    sample = step.workspace.sample_of(task)
    outputs = (str(arguments["student_output"]), str(arguments["teacher_output"]))
    judge = PaidJudge(step)
    scored = _scores_by_rule(sample, outputs) if sample is not None else None
    if scored is None:
        compared = judge.compare(
            task=sample.query if sample else task,
            student_output=outputs[0],
            teacher_output=outputs[1],
            reference=sample.reference_answer if sample else "",
        )
        scored = (compared.student_score, compared.teacher_score, compared.reasoning)
    result = {
        "task_id": sample.task_id if sample else None,
        "student_score": scored[0],
        "teacher_score": scored[1],
        "judge_reasoning": scored[2][:_REASONING_CHARS],
    }
    text = json.dumps(result, ensure_ascii=False)
    return _answered(step, command, text, cost_nusd=judge.cost_nusd)


def _scores_by_rule(
    sample: Sample, outputs: tuple[str, str]
) -> tuple[float | None, float | None, str] | None:
    """Return both scores and the reasons, None for a task that only a judge can score."""
    student, teacher = (
        score_output(sample, RunOutcome.ANSWERED if output.strip() else RunOutcome.EMPTY, output)
        for output in outputs
    )
    if student.needs_judge or teacher.needs_judge:
        return None
    why = f"by the scorer {student.scorer!r}. student: {student.why}; teacher: {teacher.why}"
    return student.score, teacher.score, why


def _submit(step: Step, command: CallTool, arguments: Arguments) -> CallAnswered:
    known = step.workspace
    ending = read_submission(
        arguments,
        task_ids=known.task_ids,
        trace_ids={*known.trace_tasks, *evidence.run_tasks(step.session.runs)},
    )
    if isinstance(ending, Refused):
        return _refused(step, command, ending.problems)
    stored = replace(ending, diagnosis=step.store(step.text_of(ending.diagnosis)))
    answer = _answered(step, command, json.dumps({"accepted": True, "remarks": ending.remarks}))
    return replace(answer, ending=stored)
