"""Celery messages: task names, their arguments, and who sends them.

Rule: a message is a hint, "look at this step": ids and a version, nothing else. Losing it costs
time, doubling it costs a look.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kombu.exceptions
import structlog

from worker.errors import Unavailable
from worker.journal.keys import DRIVE

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import celery

    from worker.ports import Announcement
    from worker.wire.result import DiagnoseResult

__all__ = [
    "DIAGNOSE",
    "MESSAGE_VERSION",
    "SWEEP",
    "CeleryHints",
    "CeleryResults",
    "reaching_results",
    "task_for",
]

MESSAGE_VERSION = 1
DIAGNOSE = "diagnosis.diagnose"
SWEEP = "diagnosis.sweep"

#: First part of a step id -> the task that works on it.
_TASKS = {
    "prepare": "diagnosis.prepare",
    "turn": "diagnosis.teacher_turn",
    "close": "diagnosis.teacher_turn",
    "extract": "diagnosis.teacher_turn",
    "call": "diagnosis.tool_call",
    "run": "diagnosis.student_run",
    "judge": "diagnosis.judge_run",
    "conclude": "diagnosis.conclude",
    "deadline": "diagnosis.drive",
    DRIVE: "diagnosis.drive",
}

_log = structlog.get_logger(__name__)


def task_for(step_id: str) -> str:
    """Return the name of the task that works on a step."""
    return _TASKS[step_id.partition("/")[0]]


@contextmanager
def reaching_results(app: celery.Celery) -> Generator[None]:
    """Turn the errors of a result store that is away into one of ours.

    Raises:
        Unavailable: It did not answer.
    """
    # A Redis store raises the driver's own errors, which are no OSError.
    errors = getattr(app.backend, "connection_errors", ())
    try:
        yield
    except (kombu.exceptions.OperationalError, OSError, *errors) as exc:
        raise Unavailable(f"the result store did not answer: {exc}") from exc


class CeleryHints:
    """`ports.Hints` over Celery's broker."""

    def __init__(self, app: celery.Celery) -> None:
        self._app = app

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Send one message a step. What the broker does not take is swept later."""
        if not announcements:
            return
        try:
            with self._app.producer_or_acquire() as producer:
                for step in announcements:
                    self._send(step, producer)
        except (kombu.exceptions.KombuError, ConnectionError, TimeoutError, OSError) as exc:
            _log.warning("hints not sent", steps=len(announcements), error=str(exc))

    def _send(self, step: Announcement, producer: Any) -> None:  # noqa: ANN401 - kombu is untyped
        self._app.send_task(
            task_for(step.step_id),
            args=(step.session_id, step.step_id, MESSAGE_VERSION),
            argsrepr=f"{step.session_id}/{step.step_id}",
            queue=step.queue,
            producer=producer,
            ignore_result=True,
        )


class CeleryResults:
    """Makes a session's result readable as `AsyncResult(session_id)`, and Flower show its end."""

    def __init__(self, app: celery.Celery) -> None:
        self._app = app

    def publish(self, result: DiagnoseResult, runtime_s: float) -> None:
        """Store the result under the session's id. Idempotent: the first success stays.

        Raises:
            Unavailable: The result store did not answer; it can be said again.
        """
        body = result.model_dump(mode="json")
        with reaching_results(self._app):
            self._app.backend.store_result(result.session_id, body, "SUCCESS")
        self._tell_monitors(result, runtime_s)

    def refuse(self, session_id: str, why: Exception) -> None:
        """Store why a request became no session; also for a sender who asked to ignore results.

        Raises:
            Unavailable: The result store did not answer; it can be said again.
        """
        with reaching_results(self._app):
            self._app.backend.store_result(session_id, why, "FAILURE")

    def forget_refusal(self, session_id: str) -> None:
        """Remove a refusal that stands under the id of a request that was corrected since.

        Raises:
            Unavailable: The result store did not answer; it can be said again.
        """
        with reaching_results(self._app):
            meta: dict[str, Any] = self._app.backend.get_task_meta(session_id, cache=False)
            if meta["status"] == "FAILURE":
                self._app.backend.forget(session_id)

    def _tell_monitors(self, result: DiagnoseResult, runtime_s: float) -> None:
        """End the diagnose task in Flower: it left without a word when the session began."""
        summary = f"{result.outcome}: {result.reason}"[:500]
        try:
            with self._app.events.default_dispatcher() as dispatcher:
                if result.outcome == "failed":
                    dispatcher.send(
                        "task-failed", uuid=result.session_id, exception=summary, traceback=""
                    )
                else:
                    dispatcher.send(
                        "task-succeeded",
                        uuid=result.session_id,
                        result=summary,
                        runtime=runtime_s,
                    )
        except (kombu.exceptions.KombuError, ConnectionError, TimeoutError, OSError) as exc:
            _log.warning("monitors not told", session_id=result.session_id, error=str(exc))
