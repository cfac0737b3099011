"""What `DiagnosisRunner.run()` returns, in the reference's names.

Rule: the reference's fields mean what they mean there; ours come on top and have defaults.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DiagnosisResult", "FailureCluster", "ToolCallRecord"]


@dataclass(slots=True)
class FailureCluster:
    """A group of failures with one root cause."""

    id: str
    description: str
    sample_trace_ids: list[str]
    #: 0..1: measured where the session measured it, else the teacher's claim; see `evidence`.
    student_failure_rate: float
    #: 0..1: measured where the session measured it, else the teacher's claim; see `evidence`.
    teacher_success_rate: float
    skill_gap: str
    #: Empty until planning.
    addressed_by_edit_ids: list[str] = field(default_factory=list[str])
    #: `measured`, `partial` or `claimed`: how far the rates were measured.
    evidence: str = "claimed"


@dataclass(slots=True)
class ToolCallRecord:
    """One tool call of the teacher."""

    timestamp: dt.datetime
    tool: str
    args: dict[str, Any]
    result: str
    latency_ms: float
    cost_usd: float

    def to_jsonl_dict(self) -> dict[str, Any]:
        """Return the record as one line of `diagnose.jsonl`."""
        return {
            "timestamp": self.timestamp.isoformat(),
            "tool": self.tool,
            "args": self.args,
            "result": self.result,
            "latency_ms": self.latency_ms,
            "cost_usd": self.cost_usd,
        }


@dataclass(slots=True)
class DiagnosisResult:
    """The outcome of a run."""

    diagnosis_md: str
    clusters: list[FailureCluster] = field(default_factory=list[FailureCluster])
    cost_usd: float = 0.0
    tool_call_records: list[ToolCallRecord] = field(default_factory=list[ToolCallRecord])
    #: `concluded`, `inconclusive`, `cancelled` or `failed`.
    outcome: str = "concluded"
    #: Why it ended as it did; never empty.
    reason: str = ""
