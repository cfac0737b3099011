"""What all step tasks share: one body, log context, and how an outcome shows in Flower.

Rule: a task raises when its attempt failed, so that Flower shows it; nothing depends on the raise:
the step is due again, or its failure is in the journal, before the task ends.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, TypedDict

import structlog

from worker.app import metrics, system
from worker.core import keys
from worker.errors import BadInput, DiagnosisError, RequestInvalid, Unavailable, UnknownVersion
from worker.messages import MESSAGE_VERSION, task_for

if TYPE_CHECKING:
    from worker.runner import Worked

__all__ = ["OPTIONS", "HintInvalid", "StepFailed", "StepWillRetry", "work"]


class HintInvalid(BadInput):
    """A message that points at no step. Cure: find out who sent it; nothing depends on a hint."""


_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StepWillRetry(DiagnosisError):
    """An attempt failed; the step is due again. Cure: none needed."""


class StepFailed(DiagnosisError):
    """A step failed for good, which is in the journal; the session goes on. Cure: in the message."""


class _Options(TypedDict):
    ignore_result: bool
    throws: tuple[type[Exception], ...]


#: `prepare`, `turn/3`, `call/3.0`, `run/3.0.12`
_STEP = re.compile(r"[a-z]+(?:/\d+(?:\.\d+){0,2})?", re.ASCII)

#: Options of every step task. `throws`: these are outcomes, logged without a traceback.
OPTIONS: _Options = {
    "ignore_result": True,
    "throws": (StepWillRetry, StepFailed, HintInvalid, Unavailable, UnknownVersion),
}


def work(session_id: str, step_id: str, version: int) -> str:
    """Work on a step that a hint names; return what came of it.

    Raises:
        HintInvalid: It names none.
        UnknownVersion: A newer worker sent the hint; the step stays due.
        StepWillRetry, StepFailed: The attempt failed.
        Unavailable: The journal did not answer; the step stays due.
    """
    try:
        _check(session_id, step_id, version)
    except BadInput as exc:
        _log.warning("hint refused", error=str(exc))
        raise
    worked = _timed(session_id, step_id)
    match worked.status:
        case "retry":
            raise StepWillRetry(worked.detail)
        case "failed":
            raise StepFailed(worked.detail)
        case "done" | "dropped":
            return f"{worked.status} {worked.detail}".strip()


def _check(session_id: object, step_id: object, version: object) -> None:
    """Look at a hint before anything is done with it: whoever reaches the broker can send one.

    Raises:
        HintInvalid, UnknownVersion: As `work` says.
    """
    # `True` and `1.0` equal 1, and are no version that anybody has written.
    if type(version) is not int or version != MESSAGE_VERSION:
        raise UnknownVersion(
            f"a hint of version {version!r:.100} (this worker speaks {MESSAGE_VERSION}): upgrade "
            "it; the step stays due",
            version=f"{version!r:.100}",
        )
    if not isinstance(session_id, str) or not isinstance(step_id, str):
        raise HintInvalid(f"a hint is two texts and a version, not {(session_id, step_id)!r:.200}")
    if _STEP.fullmatch(step_id) is None:
        raise HintInvalid(f"a hint at no step: {step_id!r:.100}")
    try:
        keys.valid_name("session_id", session_id)
        task_for(step_id)
    except RequestInvalid as exc:
        raise HintInvalid(f"a hint at no session: {exc}") from exc
    except KeyError:
        raise UnknownVersion(
            f"a hint at a step of a kind that this worker does not know, {step_id!r:.100}: upgrade "
            "it; the step stays due"
        ) from None


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
