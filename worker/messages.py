"""Celery messages: task names, their arguments, and who sends them.

Rule: a message is a hint, "look at this step": ids and a version, nothing else. Losing it costs
time, doubling it costs a look.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kombu.exceptions
import structlog
from celery import signals
from kombu.utils.uuid import uuid

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
    "resume": "diagnosis.drive",
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
    # A Redis store raises the driver's own errors, which are no OSError. kombu counts KeyError among
    # them, for channels that have gone; here it would be a record without a field.
    errors = (e for e in getattr(app.backend, "connection_errors", ()) if e is not KeyError)
    try:
        yield
    except (kombu.exceptions.OperationalError, OSError, *errors) as exc:
        raise Unavailable(f"the result store did not answer: {exc}") from exc


def _message_id(step: Announcement) -> str:
    """Return an id for a message that says in Flower which step it is about."""
    return f"{step.session_id}:{step.step_id.replace('/', ':')}:{uuid()[:8]}"


class CeleryHints:
    """`ports.Hints` over Celery's broker.

    All steps of one commit go out together: one round trip, and one fsync of a broker that keeps
    what it is given. `send_task` makes two of each a step, and half of a fan-out's time (64 steps:
    36 ms of CPU, here 5).
    """

    def __init__(self, app: celery.Celery) -> None:
        self._app = app
        #: Celery's consumer, in a worker: its event dispatcher sends monitors what it collects.
        self._consumer: Any = None
        signals.worker_ready.connect(self._in_worker)

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Send one message a step. What the broker does not take is swept later."""
        if not announcements:
            return
        try:
            with self._app.producer_or_acquire() as producer:
                with producer.batch():
                    sent = [self._send(step, producer) for step in announcements]
                self._tell_monitors(sent, producer)
        except Exception as exc:  # noqa: BLE001 - whatever its client raises: a hint is a hint
            _log.warning("hints not sent", steps=len(announcements), error=repr(exc)[:500])

    def _send(self, step: Announcement, producer: Any) -> dict[str, Any]:  # noqa: ANN401 - kombu is untyped
        """Publish the message that `send_task` would; return what monitors are told of it."""
        amqp: Any = self._app.amqp
        conf: Any = self._app.conf
        parent: Any = self._app.current_worker_task
        message = amqp.create_task_message(
            _message_id(step),
            task_for(step.step_id),
            (step.session_id, step.step_id, MESSAGE_VERSION),
            argsrepr=f"{step.session_id}/{step.step_id}",
            root_id=step.session_id,
            parent_id=parent.request.id if parent else None,
            create_sent_event=conf.task_send_sent_event,
            ignore_result=True,
        )
        producer.publish(
            message.body,
            routing_key=step.queue,
            declare=[amqp.queues[step.queue]],
            serializer=conf.task_serializer,
            headers=message.headers,
            retry=conf.task_publish_retry,
            retry_policy=conf.task_publish_retry_policy,
            **message.properties,
        )
        return {**(message.sent_event or {}), "queue": step.queue, "routing_key": step.queue}

    def _tell_monitors(self, sent: Sequence[dict[str, Any]], producer: Any) -> None:  # noqa: ANN401 - kombu is untyped
        """Show the tasks as sent: in a worker with its next event, elsewhere at once."""
        if not self._app.conf.task_send_sent_event:
            return
        if self._consumer is not None and self._consumer.event_dispatcher is not None:
            for fields in sent:
                self._consumer.event_dispatcher.send("task-sent", **fields)
            return
        with self._app.events.default_dispatcher() as dispatcher, producer.batch():
            for fields in sent:
                dispatcher.publish("task-sent", fields, producer)

    def _in_worker(self, sender: Any = None, **_: Any) -> None:  # noqa: ANN401 - Celery's signature
        self._consumer = sender


def _taken(session_id: str) -> str:
    """Return the id under which it is said that a request was taken: no session can have it."""
    return f"{session_id}/taken"


class CeleryResults:
    """Makes a session's result readable as `AsyncResult(session_id)`, and Flower show its end."""

    def __init__(self, app: celery.Celery, *, hostname: str | None = None) -> None:
        """Take the application, and the name under which this worker is known to monitors."""
        self._app = app
        self._hostname = hostname

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

    def take(self, session_id: str) -> None:
        """Say that a request has become a session, for senders who wait for that.

        Not as a state of the task: it could overwrite the result of a session that has just ended.

        Raises:
            Unavailable: The result store did not answer; it can be said again.
        """
        with reaching_results(self._app):
            self._app.backend.store_result(_taken(session_id), None, "SUCCESS")

    def is_taken(self, session_id: str) -> bool:
        """Whether a request has become a session, or was refused.

        Raises:
            Unavailable: The result store did not answer.
        """
        with reaching_results(self._app):
            states = (
                self._app.backend.get_task_meta(task_id, cache=False)["status"]
                for task_id in (_taken(session_id), session_id)
            )
            return any(state in {"SUCCESS", "FAILURE"} for state in states)

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
            with self._app.events.default_dispatcher(hostname=self._hostname) as dispatcher:
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
