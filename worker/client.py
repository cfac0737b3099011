"""Enqueue a diagnosis and read its result, with nothing but the broker at hand.

Rule: what this sends is what `send_task("diagnosis.diagnose", args=[request], task_id=session_id)`
of any Celery client sends; the helper only types it.

Example:
    ```python
    client = Client("redis://broker:6379/1")
    client.enqueue(DiagnoseRequest(session_id="airline-2026-11-22", bundle="s3://…"))
    result = client.result("airline-2026-11-22", timeout_s=3600)
    ```
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import celery
import kombu.exceptions

from worker.core.commands import Queue
from worker.errors import RequestInvalid, Unavailable
from worker.messages import DIAGNOSE
from worker.wire.result import DiagnoseResult

if TYPE_CHECKING:
    from worker.wire.request import DiagnoseRequest

__all__ = ["Client"]

#: Between two looks at the result store, growing: a session takes minutes.
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
#: Celery's states of a task that has ended.
_ENDED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


class Client:
    """A producer of diagnose requests."""

    def __init__(
        self, broker_url: str, result_url: str | None = None, *, key_prefix: str = "diagnosis"
    ) -> None:
        """Describe the connection; nothing is connected yet.

        Args:
            broker_url: As the workers' `DIAGNOSIS_BROKER_URL`.
            result_url: As their `DIAGNOSIS_RESULT_URL`; None takes the broker.
            key_prefix: As their `DIAGNOSIS_KEY_PREFIX`.
        """
        options = {"global_keyprefix": f"{key_prefix}:", "socket_connect_timeout": 3}
        self._app = celery.Celery("diagnosis-client", set_as_current=False)
        self._closed = threading.Event()
        self._app.conf.update(
            broker_url=broker_url,
            result_backend=result_url or broker_url,
            broker_transport_options=options,
            result_backend_transport_options={"global_keyprefix": f"{key_prefix}:"},
            redis_socket_connect_timeout=3.0,
            task_serializer="json",
            result_serializer="json",
            accept_content=("json",),
            task_send_sent_event=True,
            task_publish_retry_policy={"max_retries": 2, "interval_start": 0.2},
        )

    def enqueue(self, request: DiagnoseRequest) -> str:
        """Send a request; return its session id. Sending it twice makes one session.

        Raises:
            Unavailable: The broker did not take it.
        """
        body = request.model_dump(mode="json", exclude_none=True)
        try:
            self._app.send_task(
                DIAGNOSE,
                args=(body,),
                task_id=request.session_id,
                queue=Queue.CONTROL.value,
                argsrepr=request.session_id,
                ignore_result=True,
            )
        except (kombu.exceptions.OperationalError, OSError) as exc:
            raise Unavailable(f"the broker did not take the request: {exc}") from exc
        return request.session_id

    def result(self, session_id: str, *, timeout_s: float | None = None) -> DiagnoseResult | None:
        """Return a session's result, waiting for it; None where it has not come in time.

        Args:
            session_id: Of the session.
            timeout_s: How long to wait; 0 only looks, None waits for ever.

        Raises:
            RequestInvalid: The request was refused; the message is the worker's.
            Unavailable: The result store does not answer.
        """
        until_s = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        pause_s = FIRST_LOOK_S
        while True:
            meta = self._look(session_id, give_up=time.monotonic() >= until_s)
            if meta is not None and meta["status"] in _ENDED:
                return _read(session_id, meta)
            if time.monotonic() + pause_s > until_s:
                return None
            self._closed.wait(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def _look(self, session_id: str, *, give_up: bool) -> dict[str, Any] | None:
        """Return what the result store holds; None while it is away and there is time left."""
        try:
            return self._app.backend.get_task_meta(session_id, cache=False)
        except (kombu.exceptions.OperationalError, OSError) as exc:
            if give_up:
                raise Unavailable(f"the result store did not answer: {exc}") from exc
            return None

    def close(self) -> None:
        """Close all connections; whoever waits for a result goes on at once."""
        self._closed.set()
        self._app.close()


def _read(session_id: str, meta: dict[str, Any]) -> DiagnoseResult:
    """Return the result in the store's record.

    Raises:
        RequestInvalid: The record is a refusal.
    """
    if meta["status"] != "SUCCESS":
        raise RequestInvalid(str(meta["result"]), session_id=session_id)
    return DiagnoseResult.model_validate(meta["result"])
