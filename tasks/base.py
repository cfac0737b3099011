"""What all step tasks share: one body, log context, and how an outcome shows in Flower.

Rule: a task raises when its attempt failed, so that Flower shows it; nothing depends on the raise:
the step is due again, or its failure is in the journal, before the task ends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict

import structlog

from worker.app import metrics, system
from worker.errors import DiagnosisError, Unavailable, UnknownVersion
from worker.messages import MESSAGE_VERSION

if TYPE_CHECKING:
    from worker.runner import Worked

__all__ = ["OPTIONS", "StepFailed", "StepWillRetry", "work"]


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StepWillRetry(DiagnosisError):
    """An attempt failed; the step is due again. Cure: none needed."""


class StepFailed(DiagnosisError):
    """A step failed for good, which is in the journal; the session goes on. Cure: in the message."""


class _Options(TypedDict):
    ignore_result: bool
    throws: tuple[type[Exception], ...]


#: Options of every step task. `throws`: these are outcomes, logged without a traceback.
OPTIONS: _Options = {
    "ignore_result": True,
    "throws": (StepWillRetry, StepFailed, Unavailable, UnknownVersion),
}


def work(session_id: str, step_id: str, version: int) -> str:
    """Work on a step that a hint names; return what came of it.

    Raises:
        UnknownVersion: A newer worker sent the hint; the step stays due.
        StepWillRetry, StepFailed: The attempt failed.
        Unavailable: The journal did not answer; the step stays due.
    """
    if version != MESSAGE_VERSION:
        raise UnknownVersion(
            f"a hint of version {version!r} (this worker speaks {MESSAGE_VERSION}): upgrade it; "
            "the step stays due",
            version=repr(version),
        )
    worked = _timed(session_id, step_id)
    match worked.status:
        case "retry":
            raise StepWillRetry(worked.detail)
        case "failed":
            raise StepFailed(worked.detail)
        case "done" | "dropped":
            return f"{worked.status} {worked.detail}".strip()


def _timed(session_id: str, step_id: str) -> Worked:
    """Work on the step with its ids in every log line; count and time it."""
    kind = step_id.partition("/")[0]
    began_s = time.monotonic()
    status = "unavailable"
    with (
        structlog.contextvars.bound_contextvars(session_id=session_id, step_id=step_id),
        metrics().under_way.track_inprogress(),
    ):
        try:
            worked = system().runner.work(session_id, step_id)
            status = worked.status
        finally:
            took_s = time.monotonic() - began_s
            metrics().step(kind, status, took_s)
            _log.info("step", status=status, took_ms=round(took_s * 1000))
    return worked
