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
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import celery
import kombu.exceptions
import pydantic

from worker.core.commands import Queue
from worker.errors import BadInput, DiagnosisError, RequestInvalid, Unavailable, UnknownVersion
from worker.messages import DIAGNOSE, CeleryResults, reaching_results
from worker.wire.result import DiagnoseResult

if TYPE_CHECKING:
    from worker.wire.request import DiagnoseRequest

__all__ = ["Client"]

#: Between two looks at the result store, growing: a session takes minutes.
FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
#: After so long without a sign of a worker a request is sent again, then after twice as long.
SEND_AGAIN_S = 5.0
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

    def enqueue(self, request: DiagnoseRequest, *, taken_within_s: float = 0) -> str:
        """Send a request; return its session id. Sending it twice makes one session.

        A message can go down with the worker that has just received it, before there is a session.
        Who waits for a worker's word sends it again until there is one, or a refusal.

        Args:
            request: What is asked for.
            taken_within_s: How long to wait for that; 0 only sends.

        Raises:
            Unavailable: The broker did not take it, or no worker did in time.
        """
        # What was not said is the worker's default: an older one refuses fields that it does not know.
        said = request.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        body = {"version": request.version, **said}
        # Asked anew, so what was said to the last request under this id does not count any more. A
        # producer may have no way to the result store; the worker then does the same.
        with suppress(Unavailable):
            CeleryResults(self._app).forget_refusal(request.session_id)
        self._send(request, body)
        if taken_within_s > 0:
            self._see_taken(request, body, taken_within_s)
        return request.session_id

    def _see_taken(self, request: DiagnoseRequest, body: dict[str, Any], within_s: float) -> None:
        results, looked_s = CeleryResults(self._app), FIRST_LOOK_S
        began_s = again_s = time.monotonic()
        silent_s = SEND_AGAIN_S
        while True:
            with suppress(Unavailable):
                if results.is_taken(request.session_id):
                    return
            now_s = time.monotonic()
            if now_s + looked_s > began_s + within_s:
                raise Unavailable(
                    f"the broker has the request {request.session_id!r}, and no worker has taken it in "
                    f"{within_s:g} s: see `diagnosis doctor`; enqueueing it again is harmless"
                )
            if now_s >= again_s + silent_s:
                self._send(request, body)
                again_s, silent_s = now_s, 2 * silent_s
            self._closed.wait(looked_s)
            looked_s = min(looked_s * 1.5, LONGEST_LOOK_S)

    def _send(self, request: DiagnoseRequest, body: dict[str, Any]) -> None:
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

    def result(self, session_id: str, *, timeout_s: float | None = None) -> DiagnoseResult | None:
        """Return a session's result, waiting for it; None where it has not come in time.

        Args:
            session_id: Of the session.
            timeout_s: How long to wait; 0 only looks, None waits for ever.

        Raises:
            RequestInvalid: The request was refused; the message is the worker's.
            DiagnosisError: A bug kept the worker from taking the request; the message says which.
            Unavailable: The result store does not answer.
            UnknownVersion: What stands there is no result that this client can read.
        """
        until_s = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        pause_s = FIRST_LOOK_S
        while True:
            meta, away = self._look(session_id)
            if meta is not None and meta["status"] in _ENDED:
                return _read(session_id, meta)
            if time.monotonic() + pause_s > until_s:
                if away is not None:
                    raise away
                return None
            self._closed.wait(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)

    def _look(self, session_id: str) -> tuple[dict[str, Any] | None, Unavailable | None]:
        """Return what the result store holds, or that it is away."""
        try:
            with reaching_results(self._app):
                return self._app.backend.get_task_meta(session_id, cache=False), None
        except Unavailable as exc:
            return None, exc
        except (kombu.exceptions.KombuError, ValueError, LookupError, TypeError) as exc:
            raise _unreadable(session_id) from exc

    def close(self) -> None:
        """Close all connections; whoever waits for a result goes on at once."""
        self._closed.set()
        self._app.close()


def _read(session_id: str, meta: dict[str, Any]) -> DiagnoseResult:
    """Return the result in the store's record.

    Raises:
        RequestInvalid, DiagnosisError, UnknownVersion: As `Client.result` says.
    """
    found = meta["result"]
    if isinstance(found, BadInput):
        raise RequestInvalid(str(found), session_id=session_id)
    if meta["status"] != "SUCCESS":
        why = f"{type(found).__name__}: {found}"
        raise DiagnosisError(f"the request was not taken: {why}", session_id=session_id)
    try:
        return DiagnoseResult.model_validate(found)
    except pydantic.ValidationError as exc:
        raise _unreadable(session_id) from exc


def _unreadable(session_id: str) -> UnknownVersion:
    return UnknownVersion(
        f"what stands under {session_id!r} in the result store is no result that this client can "
        "read: upgrade it to the workers' version",
        session_id=session_id,
    )
