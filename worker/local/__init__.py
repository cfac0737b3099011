"""The reference's `DiagnosisRunner`, on our core: same arguments, same results, same files.

Rule: code written for the reference works when only its import changes. One process, threads for the
calls of a turn; no broker, no Redis, no S3.
"""

from __future__ import annotations

from worker.local.results import DiagnosisResult, FailureCluster, ToolCallRecord
from worker.local.runner import DiagnosisRunner

__all__ = ["DiagnosisResult", "DiagnosisRunner", "FailureCluster", "ToolCallRecord"]
