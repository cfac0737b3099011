"""The teacher's tools: what they are, what they take, and those that only read.

Rule: a call is checked against the one table in `schemas.py`, and what is wrong with it goes back to
the teacher as a result.
"""

from __future__ import annotations

from worker.tools.arguments import Arguments, BadArguments, validate_arguments
from worker.tools.planning import PlanError, PlannedRuns, plan_runs
from worker.tools.reading import ReadingTools
from worker.tools.rendering import ToolOutput
from worker.tools.schemas import CHARS_MAX, TOOLS, Tool, ToolKind, anthropic_tools

__all__ = [
    # the table
    "CHARS_MAX",
    "TOOLS",
    "Tool",
    "ToolKind",
    "anthropic_tools",
    # a call
    "Arguments",
    "BadArguments",
    "validate_arguments",
    # reading
    "ReadingTools",
    "ToolOutput",
    # runs
    "PlanError",
    "PlannedRuns",
    "plan_runs",
]
