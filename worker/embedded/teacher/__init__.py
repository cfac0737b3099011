"""A stand-in for Claude: a server that speaks the Anthropic Messages API and keeps a bill.

Rule: it behaves towards its clients as the provider does (requests, errors, streams, prompt cache,
prices), and everything that it says carries a mark that it is simulated.
"""

from __future__ import annotations

from worker.embedded.teacher.bill import BillLine, Outcome, Usage
from worker.embedded.teacher.explorer import Plan
from worker.embedded.teacher.limits import BucketLimits
from worker.embedded.teacher.pace import Pace
from worker.embedded.teacher.server import DEFAULT_API_KEY, SimulatedTeacher

__all__ = [
    "SimulatedTeacher",
    "BucketLimits",
    "Pace",
    "Plan",
    "BillLine",
    "Outcome",
    "Usage",
    "DEFAULT_API_KEY",
]
