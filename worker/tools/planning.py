"""Which student runs a call asks for.

Rule: planning reads nothing and runs nothing, so that the same call is the same plan anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.tools.arguments import near
from worker.tools.schemas import RUNS_MAX

if TYPE_CHECKING:
    from collections.abc import Collection

    from worker.tools.arguments import Arguments

__all__ = ["PlanError", "PlannedRuns", "plan_runs"]

#: Unknown ids that an error names.
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class PlannedRuns:
    """How often one task is to be run."""

    task_id: str
    attempts: int


@dataclass(frozen=True, slots=True)
class PlanError:
    """Why nothing is run, in words that the model can act upon."""

    message: str


def plan_runs(
    task_ids: Collection[str], arguments: Arguments, *, runs_max: int = RUNS_MAX
) -> list[PlannedRuns] | PlanError:
    """Return the runs of `run_student_on_task` or `run_student_on_tasks`.

    Args:
        task_ids: All tasks of the benchmark.
        arguments: Of either tool, validated. A task named twice is run once as often as asked.
        runs_max: How many runs one call may ask for; a session may have fewer left.
    """
    wanted = list(dict.fromkeys(arguments.get("task_ids") or [arguments["task_id"]]))
    attempts: int = arguments.get("repeats", 1)
    known = set(task_ids)
    unknown = [task_id for task_id in wanted if task_id not in known]
    if unknown:
        return PlanError(_unknown(unknown, sorted(known)))
    runs = len(wanted) * attempts
    if runs > runs_max:
        return PlanError(
            f"{len(wanted)} tasks times {attempts} repeats are {runs} runs; at most {runs_max} are "
            "possible in this call: name fewer tasks or repeat them less often"
        )
    return [PlannedRuns(task_id, attempts) for task_id in wanted]


def _unknown(unknown: list[str], known: list[str]) -> str:
    named = [f"{task_id[:80]!r}{near(task_id, known)}" for task_id in unknown[:_SHOWN_MAX]]
    more = f" and {len(unknown) - _SHOWN_MAX} more" if len(unknown) > _SHOWN_MAX else ""
    return (
        f"not in the benchmark: {', '.join(named)}{more}. "
        "Nothing was run. Task ids come from list_personal_benchmark"
    )
