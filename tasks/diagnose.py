"""The tasks of a session.

Rule: a second delivery of any of them is harmless: a session is created once by its id, and a step is
claimed by one worker at a time and committed once, under its key.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from celery.exceptions import Ignore

from tasks.base import OPTIONS, work
from worker.app import app, system
from worker.errors import DiagnosisError, RequestInvalid, Unavailable
from worker.messages import DIAGNOSE, CeleryResults
from worker.wire.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Task

    from worker.wire.request import DiagnoseRequest

__all__ = [
    "conclude",
    "diagnose",
    "drive",
    "judge_run",
    "prepare",
    "student_run",
    "teacher_turn",
    "tool_call",
]

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: How long the door waits for Redis, and between two looks at it.
PATIENCE_S = 600.0
AGAIN_S = 1.0


@app.task(name=DIAGNOSE, bind=True, ignore_result=False, throws=(DiagnosisError,), queue="control")
def diagnose(self: Task[Any, Any], request: object) -> None:
    """Open the session; its result comes when it ends, under this task's id.

    The task leaves without a word (`Ignore`), so that it shows as running until the session ends.
    A second delivery finds the session and drives it once more.

    Raises:
        RequestInvalid, UnknownModel, UnknownVersion: The request is refused; this is its result.
        Unavailable: Redis did not answer for ten minutes; enqueue it again.
    """
    task_id = self.request.id
    assert task_id is not None, "a task that came as a message has an id"
    try:
        parsed = _parsed(request, task_id)
        _patiently(partial(_open, parsed))
    except Unavailable:
        raise
    except Exception as exc:
        # A bug is told to the sender as well: nobody else would.
        _patiently(partial(_refuse, task_id, exc))
        raise
    raise Ignore


def _parsed(request: object, task_id: str) -> DiagnoseRequest:
    """Return the request of a message whose task id is its session id.

    Raises:
        RequestInvalid, UnknownVersion: It is refused.
    """
    parsed = parse_request(request, default_id=task_id)
    if parsed.session_id != task_id:
        raise RequestInvalid(
            f"session_id: {parsed.session_id!r} is not the task id {task_id!r}: send the task with "
            "task_id=session_id, so that its result can be found",
            field="session_id",
        )
    return parsed


def _open(request: DiagnoseRequest) -> None:
    """Open the session, and say so; the refusal of a request that was corrected since is forgotten."""
    system().door.open(request)
    results = CeleryResults(app)
    results.forget_refusal(request.session_id)
    results.take(request.session_id)


def _refuse(task_id: str, why: Exception) -> None:
    """Make the refusal the request's result, unless a session has that id: its result stays its own.

    It is stored here and not by Celery, since a sender may have asked to ignore results.

    Raises:
        Ignore: There is such a session.
    """
    if system().door.knows(task_id):
        _log.warning("request refused beside its session", session_id=task_id, error=str(why))
        raise Ignore
    CeleryResults(app).refuse(task_id, why)
    _log.warning("request refused", session_id=task_id, error=str(why))


def _patiently(act: Callable[[], None]) -> None:
    """Act, waiting while Redis is away: the message is all there is of a request so far.

    Raises:
        Unavailable: Redis was away for all of `PATIENCE_S`; the scheduler has to say it again.
    """
    tick = threading.Event()
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            act()
        except Unavailable:
            if time.monotonic() > until_s:
                raise
            tick.wait(AGAIN_S)
        else:
            return


@app.task(name="diagnosis.prepare", **OPTIONS)
def prepare(session_id: str, step_id: str, version: int) -> str:
    """Fetch and check the bundle. Harmless twice: claimed by one, committed once."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.teacher_turn", **OPTIONS)
def teacher_turn(session_id: str, step_id: str, version: int) -> str:
    """Let the teacher take a turn. Harmless twice: claimed by one, committed once."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.tool_call", **OPTIONS)
def tool_call(session_id: str, step_id: str, version: int) -> str:
    """Carry a tool call out. Harmless twice: claimed by one, committed once."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.student_run", **OPTIONS)
def student_run(session_id: str, step_id: str, version: int) -> str:
    """Run the student on a task. Harmless twice: claimed by one, committed once."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.judge_run", **OPTIONS)
def judge_run(session_id: str, step_id: str, version: int) -> str:
    """Have the judge score a run. Harmless twice: claimed by one, committed once."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.conclude", **OPTIONS)
def conclude(session_id: str, step_id: str, version: int) -> str:
    """Write the artifacts and end the session. Harmless twice: the same bytes, one manifest."""
    return work(session_id, step_id, version)


@app.task(name="diagnosis.drive", **OPTIONS)
def drive(session_id: str, step_id: str, version: int) -> str:
    """Make due what a session wants, or end its exploration at its deadline. Harmless twice."""
    return work(session_id, step_id, version)
