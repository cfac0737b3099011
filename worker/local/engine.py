"""The reference's teacher engine as a teacher: `generate(messages, model, max_tokens, tools)`.

Rule: the engine sees what it would see from the reference, and its retries are its own: a call that
raises is made once more at most, and only while no other has failed since one went well.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.core.teacher_faults import Failure, What, teacher_fault
from worker.errors import TeacherFault
from worker.local.engine_replies import cost_nusd_of, read_reply
from worker.local.engine_types import messages_of, tools_of
from worker.local.objects import attribute, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.core.teaching import TeacherReply, TeacherRequest

__all__ = ["EngineReply", "EngineTeacher"]

#: Failures in a row after each of which the same call may be made again.
RETRIES = 1
#: Raised before anything is sent.
_NOT_SENT = (ConnectionRefusedError, socket.gaierror, ImportError, NotImplementedError)
#: What OpenJarvis's engines say where there is no key: they have asked nobody.
_NO_CLIENT = "client not available"
#: Statuses of HTTP.
_STATUSES = range(100, 600)


@dataclass(frozen=True, slots=True)
class EngineReply:
    """A reply and what the engine says it cost."""

    reply: TeacherReply
    #: None where the engine says nothing that can be read.
    cost_nusd: int | None


class EngineTeacher:
    """Calls an engine, from as many threads at a time as there are calls in a turn."""

    def __init__(self, engine: Any, redact: Callable[[str], str]) -> None:  # noqa: ANN401 - theirs
        self._engine = engine
        self._redact = redact
        self._numbers = itertools.count(1)
        self._failed_in_a_row = 0
        self._lock = threading.Lock()

    def generate(self, request: TeacherRequest) -> EngineReply:
        """Return what the engine answers.

        Raises:
            TeacherFault: The engine raised.
        """
        call_number = next(self._numbers)
        began_s = time.monotonic()
        try:
            answer = self._engine.generate(**_arguments(request))
        except Exception as exc:
            raise self._failed(exc) from exc
        latency_ms = round((time.monotonic() - began_s) * 1000)
        with self._lock:
            self._failed_in_a_row = 0
        reply = read_reply(
            answer, model=request.model, call_number=call_number, latency_ms=latency_ms
        )
        return EngineReply(reply, cost_nusd_of(answer))

    def _failed(self, exc: Exception) -> TeacherFault:
        fault = _fault(exc, self._redact)
        with self._lock:
            self._failed_in_a_row += 1
            if self._failed_in_a_row > RETRIES and fault.retry == "later":
                fault.retry = "never"
        return fault


def _arguments(request: TeacherRequest) -> dict[str, Any]:
    arguments = {
        "messages": messages_of(request),
        "model": request.model,
        "max_tokens": request.max_tokens,
    }
    return {**arguments, "tools": tools_of(request)} if request.tools else arguments


def _fault(exc: Exception, redact: Callable[[str], str]) -> TeacherFault:
    """Return what an exception of the engine means: by its HTTP status, where it has one."""
    detail = redact(f"{type(exc).__name__}: {text(str(exc))}")
    status = next((found for one in _causes(exc) if (found := _status(one))), None)
    if status is not None:
        return teacher_fault(Failure(what=What.STATUS, detail=detail, status=status))
    sent = _NO_CLIENT not in str(exc) and not any(
        isinstance(one, _NOT_SENT) for one in _causes(exc)
    )
    return TeacherFault(
        f"the teacher engine raised {detail}",
        billing="unknown" if sent else "unbilled",
        retry="later",
    )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status that an exception of a client library carries."""
    for holder in (exc, attribute(exc, "response")):
        status = attribute(holder, "status_code")
        if isinstance(status, int) and status in _STATUSES:
            return status
    return None
