"""What `DiagnosisRunner.run()` returns, in the reference's names.

Rule: the reference's fields mean what they mean there; ours come on top and have defaults.
"""

from __future__ import annotations

import datetime as dt
import importlib
import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, Field, create_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.wire.result import DiagnoseResult

__all__ = ["DiagnosisResult", "FailureCluster", "ToolCallRecord", "read_result"]


class FailureCluster(BaseModel):
    """A group of failures with one root cause; a pydantic model, as in the reference.

    Where OpenJarvis is installed, a result's clusters are instances of its class as well, so its
    planner takes them.
    """

    id: str
    description: str
    sample_trace_ids: list[str] = Field(default_factory=list)
    #: Measured where the session measured it, else the teacher's claim, else 0; see `evidence`.
    student_failure_rate: float = Field(ge=0.0, le=1.0)
    #: Measured where the session measured it, else the teacher's claim, else 0; see `evidence`.
    teacher_success_rate: float = Field(ge=0.0, le=1.0)
    skill_gap: str
    #: Empty until planning.
    addressed_by_edit_ids: list[str] = Field(default_factory=list)
    #: `measured`, `partial` or `claimed`: how far the rates were measured.
    evidence: str = "claimed"


@dataclass(slots=True)
class ToolCallRecord:
    """One tool call of the teacher."""

    timestamp: dt.datetime
    tool: str
    #: As an object; arguments that are none stand under `arguments`.
    args: dict[str, Any]
    result: str
    latency_ms: float
    cost_usd: float

    def to_jsonl_dict(self) -> dict[str, Any]:
        """Return the record as one line of `diagnose.jsonl` in the reference's keys."""
        return {
            "timestamp": self.timestamp.isoformat(),
            "tool": self.tool,
            "args": self.args,
            "result": self.result,
            "latency_ms": self.latency_ms,
            "cost_usd": self.cost_usd,
        }


@dataclass
class DiagnosisResult:
    """The outcome of a run."""

    #: Never empty.
    diagnosis_md: str
    clusters: list[FailureCluster] = field(default_factory=list[FailureCluster])
    #: Of the teacher engine's calls, all of them.
    cost_usd: float = 0.0
    tool_call_records: list[ToolCallRecord] = field(default_factory=list[ToolCallRecord])
    #: `concluded`, `inconclusive`, `cancelled` or `failed`.
    outcome: str = "concluded"
    #: Why it ended as it did; never empty in a result of ours.
    reason: str = ""
    #: What was odd about the collaborators and was left out or not known.
    remarks: tuple[str, ...] = ()


def read_result(
    files: Mapping[str, bytes], ended: DiagnoseResult, remarks: tuple[str, ...]
) -> DiagnosisResult:
    """Return the result that a session's artifacts hold."""
    make = cluster_type()
    times = _turn_times(files["transcript.jsonl"])
    return DiagnosisResult(
        diagnosis_md=files["diagnosis.md"].decode(),
        clusters=[_cluster(row, make) for row in json.loads(files["clusters.json"])],
        cost_usd=ended.cost_nusd / 1e9,
        tool_call_records=[
            _record(row, times) for row in _rows(files["teacher_traces/diagnose.jsonl"])
        ],
        outcome=ended.outcome,
        reason=ended.reason,
        remarks=remarks,
    )


@cache
def cluster_type() -> Callable[..., FailureCluster]:
    """Return the class of a result's clusters: ours, and OpenJarvis's too where it is installed."""
    try:
        theirs = importlib.import_module("openjarvis.learning.spec_search.models")
    except Exception:  # noqa: BLE001 - not installed, or broken: then its planner is as well
        return FailureCluster
    bases = (FailureCluster, theirs.FailureCluster)
    made: Any = create_model("FailureCluster", __base__=bases)
    return cast("Callable[..., FailureCluster]", made)


def _rows(lines: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def _turn_times(transcript: bytes) -> dict[int, str]:
    """Return when each turn of the exploration was taken."""
    rows = _rows(transcript)
    return {row["turn"]: row["timestamp"] for row in rows if row["purpose"] == "explore"}


def _cluster(row: Mapping[str, Any], make: Callable[..., FailureCluster]) -> FailureCluster:
    return make(
        id=row["id"],
        description=row["description"],
        sample_trace_ids=row["sample_trace_ids"],
        student_failure_rate=_rate(row, "student_failure_rate"),
        teacher_success_rate=_rate(row, "teacher_success_rate"),
        skill_gap=row["skill_gap"],
        addressed_by_edit_ids=row["addressed_by_edit_ids"],
        evidence=row["evidence"],
    )


def _rate(row: Mapping[str, Any], name: str) -> float:
    """Return the measured rate, else the claimed one, else 0: the reference's field is a number."""
    measured, claimed = row[name], row.get(f"claimed_{name}")
    return next((rate for rate in (measured, claimed) if rate is not None), 0.0)


def _record(row: Mapping[str, Any], turn_times: Mapping[int, str]) -> ToolCallRecord:
    """Return a record; a call that was never made has the time of the turn that asked for it."""
    args: Any = row["args"]
    return ToolCallRecord(
        timestamp=dt.datetime.fromisoformat(row["timestamp"] or turn_times[row["turn"]]),
        tool=row["tool"],
        args=cast("dict[str, Any]", args) if isinstance(args, dict) else {"arguments": args},
        result=row["result"],
        latency_ms=row["latency_ms"],
        cost_usd=row["cost_usd"],
    )
