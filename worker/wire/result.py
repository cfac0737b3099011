"""The result of a session: what `AsyncResult(session_id).get()` returns.

Rule: small and whole: ids, numbers and addresses; the texts are in the artifacts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["RESULT_VERSION", "ClusterSummary", "DiagnoseResult"]

RESULT_VERSION = 1


class ClusterSummary(BaseModel):
    """One failure cluster with what was measured of it."""

    model_config = ConfigDict(frozen=True)

    cluster_id: str
    description: str
    #: `measured`, `partial` or `claimed`.
    evidence: str
    #: 0..1; None where nothing was measured.
    student_failure_rate: float | None
    #: 0..1; None where nothing was measured.
    teacher_success_rate: float | None
    sample_trace_ids: tuple[str, ...] = ()


class DiagnoseResult(BaseModel):
    """How a session ended, version 1."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = RESULT_VERSION
    session_id: str
    #: `refused` is for a request that never became a session.
    outcome: Literal["concluded", "inconclusive", "cancelled", "failed", "refused"]
    #: One sentence; never empty.
    reason: str
    clusters: tuple[ClusterSummary, ...] = ()
    #: Exact, in nano-dollars.
    cost_nusd: int = 0
    turns: int = 0
    tool_calls: int = 0
    student_runs: int = 0
    #: Where the artifacts are; empty for a refused request.
    artifacts_uri: str = ""
    #: Content hash of the manifest; empty for a refused request.
    manifest_sha256: str = ""
