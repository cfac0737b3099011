"""The teacher's provider and the student's server, as a worker meets them: slow, and with a bill.

Rule: the provider bills at the worst time: the prompt as soon as the request is there, the whole
reply even if nobody is left to hear it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.bounds import json_bytes
from worker.core.prices import cost_nusd, price_of
from worker.core.teaching import TeacherReply
from worker.core.values import RunOutcome, Usage
from worker.errors import TeacherFault
from worker.ports import StudentAnswer

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from tests.chaos.stories import Said, Story
    from worker.core.teaching import TeacherRequest

__all__ = ["CALL_MS", "RUN_MS", "Bill", "Provider", "StudentServer"]

#: How long a call of the teacher and a run of the student take: longer than a beat.
CALL_MS = 1_300
RUN_MS = 700
#: How often a call asks whether it shall stop.
_QUESTIONS = 2
_OUTPUT_TOKENS = 300
_BYTES_PER_TOKEN = 4


@dataclass(slots=True)
class Bill:
    """What the provider would charge by now, and for which requests."""

    billed_nusd: int = 0
    requests: int = 0


class Provider:
    """`ports.Teacher` of one worker; `elapse` lets the call's time pass in the world."""

    def __init__(
        self, story: Story, bill: Bill, made: Counter[str], elapse: Callable[[int], None]
    ) -> None:
        self._story = story
        self._bill = bill
        #: How often each request was made, by its hash: a repeat gets an id of its own.
        self._made = made
        self._elapse = elapse

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        """Bill and answer a request.

        Raises:
            TeacherFault: The story refuses it, or the caller wants it no more.
        """
        if stopped():
            raise TeacherFault("stopped by us", billing="unbilled", retry="later")
        said = self._story.answer(request)
        usage = _usage(request)
        price = price_of(request.model)
        prompt = Usage(input_tokens=usage.input_tokens)
        name = self._named(request)
        self._bill.requests += 1
        self._bill.billed_nusd += cost_nusd(price, prompt)
        try:
            on_answer(f"req_{name}")
            on_start(prompt)
            for _ in range(_QUESTIONS):
                stopped()
                self._elapse(CALL_MS // _QUESTIONS)
        finally:
            self._bill.billed_nusd += cost_nusd(price, usage) - cost_nusd(price, prompt)
        return self._reply(request, said, usage, name)

    def _named(self, request: TeacherRequest) -> str:
        """Return a name for a request that was made now."""
        words = json.dumps([request.model, request.system, request.messages], default=str)
        name = hashlib.sha256(words.encode()).hexdigest()[:8]
        self._made[name] += 1
        return f"{name}_{self._made[name]}"

    def _reply(self, request: TeacherRequest, said: Said, usage: Usage, name: str) -> TeacherReply:
        return TeacherReply(
            content=said.content,
            stop_reason=said.stop_reason,
            usage=usage,
            model=request.model,
            message_id=f"msg_{name}",
            request_id=f"req_{name}",
            latency_ms=CALL_MS,
        )


def _usage(request: TeacherRequest) -> Usage:
    parts = (request.system, request.messages, request.tools)
    size = sum(json_bytes(part) for part in parts)
    output = min(_OUTPUT_TOKENS, request.max_tokens)
    return Usage(input_tokens=size // _BYTES_PER_TOKEN, output_tokens=output)


class StudentServer:
    """`ports.Student` of one worker."""

    def __init__(
        self, story: Story, answers: Callable[[str], str], elapse: Callable[[int], None]
    ) -> None:
        self._story = story
        self._answers = answers
        self._elapse = elapse

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Answer a task.

        Raises:
            StudentFault: The story says that its server fails at this task.
        """
        del seed, run_id
        self._elapse(RUN_MS)
        fault = self._story.student_fault(query)
        if fault is not None:
            raise fault
        content = self._answers(query)
        return StudentAnswer(
            outcome=RunOutcome.ANSWERED,
            content=content,
            prompt_tokens=10,
            completion_tokens=len(content.split()),
            latency_ms=RUN_MS,
            finish_reason="stop",
        )
