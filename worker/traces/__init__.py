"""The student's recorded traces, as OpenJarvis's trace store keeps them.

Rule: the user's file is only read. What makes it fast to read lies in a file of our own beside it.
"""

from __future__ import annotations

from worker.traces.index import build_index
from worker.traces.model import (
    Hit,
    HitPage,
    Order,
    Step,
    StepHead,
    Summary,
    SummaryPage,
    Trace,
    TraceFilter,
    TraceOutcome,
    TraceReport,
)
from worker.traces.sqlite import SqliteTraces

__all__ = [
    # reading
    "SqliteTraces",
    "build_index",
    # what is asked
    "Order",
    "TraceFilter",
    "TraceOutcome",
    # what is answered
    "Hit",
    "HitPage",
    "Step",
    "StepHead",
    "Summary",
    "SummaryPage",
    "Trace",
    "TraceReport",
]
