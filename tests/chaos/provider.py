"""The teacher's provider and the student's server, as a worker meets them: slow, and with a bill.

Rule: the provider bills at the worst time: the prompt as soon as the request is there, the whole
reply even if nobody is left to hear it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.core.bounds import json_bytes
from worker.core.prices import cost_nusd, halved, price_of
from worker.core.teaching import TeacherReply
from worker.core.values import RunOutcome, Usage
from worker.errors import TeacherFault
from worker.ports import StudentAnswer
from worker.testing import MemoryBatches

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Generator

    from tests.chaos.stories import Said, Story
    from worker.core.teaching import TeacherRequest
    from worker.ports import Clock

__all__ = ["CALL_MS", "RUN_MS", "BatchServer", "Bill", "Load", "Provider", "StudentServer"]

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
        self,
        story: Story,
        bill: Bill,
        made: Counter[str],
        elapse: Callable[[int], None],
        load: Load | None = None,
    ) -> None:
        self._story = story
        self._bill = bill
        #: How often each request was made, by its hash: a repeat gets an id of its own.
        self._made = made
        self._elapse = elapse
        self._load = load or Load()

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
        name = _named(request, self._made)
        self._bill.requests += 1
        self._bill.billed_nusd += cost_nusd(price, prompt)
        try:
            with self._load.one():
                on_answer(f"req_{name}")
                on_start(prompt)
                for _ in range(_QUESTIONS):
                    stopped()
                    self._elapse(CALL_MS // _QUESTIONS)
        finally:
            self._bill.billed_nusd += cost_nusd(price, usage) - cost_nusd(price, prompt)
        return _reply(request, said, name)


class BatchServer(MemoryBatches):
    """`ports.Batches` of the provider, for all workers: half the price, unless it is cancelled."""

    def __init__(self, story: Story, bill: Bill, made: Counter[str], clock: Clock) -> None:
        super().__init__(clock, self._answered, takes_ms=story.batches_take_ms)
        self._story = story
        self._bill = bill
        self._made_in_all = made
        self._costs_nusd: dict[str, int] = {}

    def name(self, request: TeacherRequest) -> str:
        """Return a new batch's id, and put it on the bill: it is billed even if nobody hears of it."""
        batch_id = f"msgbatch_{_named(request, self._made_in_all)}"
        cost = cost_nusd(halved(price_of(request.model)), _usage(request))
        self._costs_nusd[batch_id] = cost
        self._bill.requests += 1
        self._bill.billed_nusd += cost
        return batch_id

    def cancel(self, batch_id: str) -> None:
        """End a batch that has not ended: it costs nothing."""
        if not self.look(batch_id).ended:
            self._bill.requests -= 1
            self._bill.billed_nusd -= self._costs_nusd[batch_id]
        super().cancel(batch_id)

    def _answered(self, request: TeacherRequest) -> TeacherReply:
        return _reply(request, self._story.answer(request), _digest(request))


def _named(request: TeacherRequest, made: Counter[str]) -> str:
    """Return a name for a request that was made now, counting how often each was."""
    name = _digest(request)
    made[name] += 1
    return f"{name}_{made[name]}"


def _digest(request: TeacherRequest) -> str:
    words = json.dumps([request.model, request.system, request.messages], default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _reply(request: TeacherRequest, said: Said, name: str) -> TeacherReply:
    return TeacherReply(
        content=said.content,
        stop_reason=said.stop_reason,
        usage=_usage(request),
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


@dataclass(slots=True)
class Load:
    """How many calls are under way at a server, and were at most."""

    now: int = 0
    most: int = 0

    @contextmanager
    def one(self) -> Generator[None]:
        """Be under way; a call whose worker was killed is not any more."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield
        finally:
            self.now -= 1


class StudentServer:
    """`ports.Student` of one worker."""

    def __init__(
        self,
        story: Story,
        answers: Callable[[str], str],
        elapse: Callable[[int], None],
        load: Load | None = None,
    ) -> None:
        self._story = story
        self._answers = answers
        self._elapse = elapse
        self._load = load or Load()

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Answer a task.

        Raises:
            StudentFault: The story says that its server fails at this task.
        """
        del seed, run_id
        with self._load.one():
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
