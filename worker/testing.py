"""Fakes of the ports, for the tests of this project and of those who build on it.

Rule: a fake keeps its port's promises and records what it was asked. What it was not prepared for
is an `AssertionError` that no `except DiagnosisError` catches: it fails the test, never the session.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.core.batches import Answered
from worker.core.epoch import NO_MARK, Mark, Position
from worker.core.teaching import TeacherReply, TeacherRequest
from worker.core.values import RunOutcome, Usage
from worker.errors import StudentFault, TeacherFault
from worker.ports import Batch, BatchAnswer, StudentAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.ports import Announcement, Clock

__all__ = [
    "ManualClock",
    "MemoryRegister",
    "CollectedHints",
    "MemoryBatches",
    "ScriptedTeacher",
    "TeacherLine",
    "calls_tools",
    "says",
    "ScriptedStudent",
    "StudentLine",
    "StudentRun",
]

#: A script is cited by this much of a request.
_CITED_CHARS = 200


# ------------------------------------------------------------------------------------ time, hints


class ManualClock:
    """`ports.Clock` that only a test moves."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self._now_ms

    def advance(self, by_ms: int) -> int:
        """Let `by_ms` (0 or more) pass; return the new time.

        Raises:
            ValueError: `by_ms` is negative.
        """
        if by_ms < 0:
            raise ValueError(f"time does not go back: {by_ms!r} ms; pass 0 or more")
        with self._lock:
            self._now_ms += by_ms
            return self._now_ms


class MemoryRegister:
    """`ports.Register` for one process, and what happens to it: it can be copied and put back."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._turns: dict[str, tuple[str, int]] = {}
        self._epoch = ""
        self._doubt = ""
        self._mark, self._before = NO_MARK, NO_MARK
        self._marked_ms = clock.now_ms()
        #: Transitions of the ledger, as a test has them happen.
        self.transitions: list[str] = []
        self.killed = False

    def standing(self, seen: str = "") -> Position:
        """Return how Redis stands, and whether it has the transition `seen`, where one is given."""
        return Position(
            epoch=self._epoch,
            doubt=self._doubt,
            mark=self._mark,
            before=self._before,
            mark_age_ms=self._clock.now_ms() - self._marked_ms,
            newest=self.transitions[-1] if self.transitions else "",
            has_seen=not seen or seen in self.transitions,
            killed=self.killed,
        )

    def begin(self, epoch: str, *, expected: str) -> bool:
        """Begin an epoch without marks and doubts; False where another one stands than expected."""
        if self._epoch != expected:
            return False
        self._epoch, self._doubt = epoch, ""
        self._mark, self._before = NO_MARK, NO_MARK
        self._marked_ms = self._clock.now_ms()
        return True

    def doubt(self, epoch: str, why: str) -> bool:
        """Have nothing reserved in an epoch any more; False where another one stands."""
        if self._epoch != epoch:
            return False
        self._doubt = why
        return True

    def advance(self, epoch: str, number: int, nonce: str) -> bool:
        """Pass from mark `number` to the next; False where Redis is somewhere else, or doubted."""
        if (self._epoch, self._mark.number) != (epoch, number) or self._doubt:
            return False
        self._before, self._mark = self._mark, Mark(number + 1, nonce)
        self._marked_ms = self._clock.now_ms()
        return True

    def take_turn(self, duty: str, owner: str, *, for_ms: int) -> bool:
        """Take over a duty for a while, or keep it; False while it is another's."""
        holder, until_ms = self._turns.get(duty, (owner, 0))
        if holder != owner and until_ms > self._clock.now_ms():
            return False
        self._turns[duty] = (owner, self._clock.now_ms() + for_ms)
        return True


class CollectedHints:
    """`ports.Hints` that keeps what it is told, for a test to hand on, lose or double."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Announcement] = []
        #: Everything ever told, in order.
        self.told: list[Announcement] = []

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Keep the announcements."""
        with self._lock:
            self.told.extend(announcements)
            self._waiting.extend(announcements)

    def take(self) -> tuple[Announcement, ...]:
        """Return what was told since the last `take`, in order."""
        with self._lock:
            taken, self._waiting = tuple(self._waiting), []
            return taken


# ---------------------------------------------------------------------------------------- teacher

#: What a scripted teacher does with one request: reply, fail, or whatever the callable says.
TeacherLine = TeacherReply | TeacherFault | Callable[[TeacherRequest], TeacherReply]

_USAGE = Usage(input_tokens=100, output_tokens=20)


def says(
    text: str,
    *,
    stop_reason: str = "end_turn",
    usage: Usage = _USAGE,
    message_id: str = "msg_scripted",
) -> TeacherReply:
    """Return a reply that is text and nothing else; without a block where `text` is empty."""
    content = [{"type": "text", "text": text}] if text else []
    return _reply(content, stop_reason, usage, message_id)


def calls_tools(
    *calls: tuple[str, Mapping[str, Any]],
    text: str = "",
    usage: Usage = _USAGE,
    message_id: str = "msg_scripted",
) -> TeacherReply:
    """Return a reply that calls tools: (name, arguments) each, with ids `<message_id>.<index>`."""
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for index, (name, arguments) in enumerate(calls):
        call_id = f"{message_id}.{index}"
        block = {"type": "tool_use", "id": call_id, "name": name, "input": dict(arguments)}
        content.append(block)
    return _reply(content, "tool_use", usage, message_id)


def _reply(
    content: list[dict[str, Any]], stop_reason: str, usage: Usage, message_id: str
) -> TeacherReply:
    return TeacherReply(
        content=content,
        stop_reason=stop_reason,
        usage=usage,
        model="scripted",
        message_id=message_id,
        request_id=f"req_{message_id}",
        latency_ms=1,
    )


class ScriptedTeacher:
    """`ports.Teacher` that follows a script, one line a request, in the order of the requests.

    A request after the last line fails the test; `assert_finished` fails it where lines are left.
    """

    def __init__(self, script: Iterable[TeacherLine]) -> None:
        self._lock = threading.Lock()
        self._lines = deque(script)
        #: Every request that was sent, also those that a fault answered.
        self.requests: list[TeacherRequest] = []

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        """Return the script's next reply; what wants to hear of its beginning hears that first.

        Raises:
            TeacherFault: The script says so, or `stopped` does.
            AssertionError: The script is at its end.
        """
        line = self._next(request)
        if isinstance(line, TeacherFault):
            raise line
        reply = line if isinstance(line, TeacherReply) else line(request)
        on_answer(reply.request_id)
        if not reply.unbilled:
            on_start(_prompt_of(reply.usage))
        if stopped():
            raise TeacherFault("the scripted reply was stopped", billing="unknown", retry="later")
        return reply

    def _next(self, request: TeacherRequest) -> TeacherLine:
        with self._lock:
            self.requests.append(request)
            if not self._lines:
                cited = json.dumps(request.messages[-1:], default=str)[:_CITED_CHARS]
                raise AssertionError(
                    f"request {len(self.requests)} came after the last line of the script; it "
                    f"ends {cited!r}. Add a line to the script, or find out why it was sent."
                )
            return self._lines.popleft()

    def assert_finished(self) -> None:
        """Fail where lines of the script were never asked for.

        Raises:
            AssertionError: Lines are left.
        """
        left = len(self._lines)
        if left:
            raise AssertionError(
                f"{left} lines of the script were never asked for, after "
                f"{len(self.requests)} requests; the first is {self._lines[0]!r}"
            )


class MemoryBatches:
    """`ports.Batches` in memory: what is made ends after a while, as `ends` says.

    It has a bill of its own, and prices nothing: whoever uses it says what a request costs.
    """

    def __init__(
        self,
        clock: Clock,
        reply: TeacherReply | Callable[[TeacherRequest], TeacherReply],
        *,
        takes_ms: int = 0,
    ) -> None:
        """Take the clock, what every request is answered, and how long a batch takes."""
        self._clock = clock
        self._reply = reply
        self._replies: dict[str, TeacherReply] = {}
        self.takes_ms = takes_ms
        #: How batches that are made from now on end.
        self.ends = Answered.SUCCEEDED
        #: Raised by the next operations, in this order, instead of an answer.
        self.faults: deque[TeacherFault] = deque()
        #: custom id, when it ends and how, by batch; in the order in which they were made.
        self.made: dict[str, tuple[str, int, Answered, int]] = {}

    @property
    def succeeded(self) -> int:
        """How many requests were answered, and are billed."""
        now_ms = self._clock.now_ms()
        return sum(
            ends is Answered.SUCCEEDED and at_ms <= now_ms
            for _, at_ms, ends, _ in self.made.values()
        )

    def create(self, request: TeacherRequest, *, custom_id: str) -> str:
        """Make a batch of one request.

        Raises:
            TeacherFault: One was asked for.
        """
        self._fail()
        assert request.max_tokens > 0, "a batch takes no empty replies"
        reply = self._reply if isinstance(self._reply, TeacherReply) else self._reply(request)
        batch_id = self.name(request)
        self._replies[batch_id] = reply
        now_ms = self._clock.now_ms()
        self.made[batch_id] = (custom_id, now_ms + self.takes_ms, self.ends, now_ms)
        return batch_id

    def name(self, request: TeacherRequest) -> str:
        """Return a new batch's id."""
        del request
        return f"msgbatch_{len(self.made) + 1}"

    def look(self, batch_id: str) -> Batch:
        """Return how a batch stands.

        Raises:
            TeacherFault: One was asked for, or there is no such batch.
        """
        self._fail()
        if batch_id not in self.made:
            raise TeacherFault(f"no batch {batch_id!r}", billing="unbilled", retry="never")
        _, ends_ms, _, created_ms = self.made[batch_id]
        ended = ends_ms <= self._clock.now_ms()
        return Batch(batch_id=batch_id, ended=ended, created_ms=created_ms, requests=1)

    def answer(self, batch: Batch, *, custom_id: str) -> BatchAnswer | None:
        """Return what became of a request; None where it is not in the batch.

        Raises:
            TeacherFault: One was asked for, or the batch has not ended.
        """
        self._fail()
        held, _, ends, _ = self.made[batch.batch_id]
        if not self.look(batch.batch_id).ended:
            raise TeacherFault("no results yet", billing="unbilled", retry="never")
        if held != custom_id:
            return None
        reply = self._replies[batch.batch_id] if ends is Answered.SUCCEEDED else None
        return BatchAnswer(answered=ends, reply=reply)

    def recent(self, *, since_ms: int) -> tuple[Batch, ...]:
        """Return the batches that were made since then, the newest first.

        Raises:
            TeacherFault: One was asked for.
        """
        self._fail()
        batches = [self.look(batch_id) for batch_id in reversed(self.made)]
        return tuple(batch for batch in batches if batch.created_ms >= since_ms)

    def cancel(self, batch_id: str) -> None:
        """End a batch that has not ended.

        Raises:
            TeacherFault: One was asked for, or there is no such batch.
        """
        self._fail()
        if not self.look(batch_id).ended:
            held, _, _, created_ms = self.made[batch_id]
            self.made[batch_id] = (held, self._clock.now_ms(), Answered.CANCELED, created_ms)

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.popleft()


def _prompt_of(usage: Usage) -> Usage:
    """Return what is known when a reply begins: the prompt, counted; nothing generated."""
    return Usage(
        input_tokens=usage.input_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        cache_read_tokens=usage.cache_read_tokens,
    )


# ---------------------------------------------------------------------------------------- student

#: What a scripted student says to a query; None and "" are the empty answer.
StudentLine = str | StudentAnswer | StudentFault | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRun:
    """One run that a scripted student was asked for."""

    query: str
    seed: int
    run_id: str


class ScriptedStudent:
    """`ports.Student` that answers by query, from a mapping or by a function of (query, seed).

    Args:
        answers: A query that is not in the mapping fails the test.
        faults: query -> the faults that its first attempts meet, before an answer comes.
    """

    def __init__(
        self,
        answers: Mapping[str, StudentLine] | Callable[[str, int], StudentLine],
        *,
        faults: Mapping[str, Sequence[StudentFault]] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._answers = answers
        self._faults = {query: deque(waiting) for query, waiting in (faults or {}).items()}
        #: Every attempt, also those that a fault answered, in the order of arrival.
        self.runs: list[StudentRun] = []

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Return what the script says to `query`.

        Raises:
            StudentFault: The script says so.
            AssertionError: The script does not know the query.
        """
        with self._lock:
            self.runs.append(StudentRun(query=query, seed=seed, run_id=run_id))
            faults = self._faults.get(query)
            fault = faults.popleft() if faults else None
        line = fault or self._line(query, seed)
        if isinstance(line, StudentFault):
            raise line
        return line if isinstance(line, StudentAnswer) else _answer(line)

    def _line(self, query: str, seed: int) -> StudentLine:
        if callable(self._answers):
            return self._answers(query, seed)
        if query not in self._answers:
            raise AssertionError(
                f"the scripted student was asked {query[:_CITED_CHARS]!r}, which is not among its "
                f"{len(self._answers)} answers"
            )
        return self._answers[query]


def _answer(content: str | None) -> StudentAnswer:
    said = content or None
    return StudentAnswer(
        outcome=RunOutcome.ANSWERED if said else RunOutcome.EMPTY,
        content=said,
        prompt_tokens=10,
        completion_tokens=len(said.split()) if said else 0,
        latency_ms=1,
        finish_reason="stop",
        model="scripted",
    )
