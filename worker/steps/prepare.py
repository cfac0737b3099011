"""The step that fetches and checks a session's bundle and writes the brief.

Rule: the brief says what there is to explore and what may be used, and is the same for the same
bundle and request: it stands at the head of the cached conversation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.events import BundlePrepared, PreparationFailed
from worker.core.prices import usd
from worker.errors import BadInput

if TYPE_CHECKING:
    from worker.core.values import SessionSpec
    from worker.steps.context import Step

__all__ = ["prepare"]


def prepare(step: Step) -> BundlePrepared | PreparationFailed:
    """Return what the bundle holds, or why it cannot be used.

    Raises:
        Unavailable: The object store did not answer; it is tried again.
    """
    try:
        found = step.workspace
        step.student()
    except BadInput as exc:
        return PreparationFailed(reason=str(exc))
    brief = "\n\n".join([found.brief, _terms(step.session.spec)])
    return BundlePrepared(
        brief=step.store(brief),
        traces=len(found.trace_tasks),
        tasks=len(found.task_ids),
    )


def _terms(spec: SessionSpec) -> str:
    """Return what the session may use, and which traces somebody flagged."""
    limits = spec.limits
    lines = [
        "You may use, over the whole session:",
        f"- {limits.max_turns} turns",
        f"- {limits.max_tool_calls} tool calls",
        f"- {limits.max_student_runs} student runs",
        f"- {usd(limits.max_cost_nusd)} US dollars for your own calls and the judge's",
    ]
    if spec.flagged_trace_ids:
        shown = ", ".join(spec.flagged_trace_ids[:50])
        lines.append(f"Somebody flagged these traces; look at them first: {shown}")
    lines.append("Analyze the traces, measure, and submit your diagnosis.")
    return "\n".join(lines)
