"""A small fleet on a virtual clock, in one thread: the same story and strikes, the same world.

Rule: the code under test is the runner, the steps, the paid calls and the stores; the world is what
they run in. It decides who hears which hint, when time passes, and who is struck at which operation.
Nothing here knows what a session needs next.

A call that takes time hands the thread to the others: while one worker waits for the teacher, the
world goes on inside that wait, beats included. So steps overlap as they do on a fleet.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tests.chaos.points import Killed, Point, Strikes, Way, counted
from tests.chaos.provider import BatchServer, Bill, Load, Provider, StudentServer
from tests.chaos.stories import Asked, student_says
from worker.artifacts.memory import MemoryArtifacts
from worker.batched import BatchedTeacher
from worker.checkpoints import Checkpoints
from worker.core import policy
from worker.core.commands import step_id_of
from worker.door import Door
from worker.errors import (
    BundleInvalid,
    NotYet,
    RateLimited,
    StudentFault,
    TeacherFault,
    Unavailable,
)
from worker.heart import Heart
from worker.journal.memory import MemoryJournal
from worker.judge.llm import LlmJudge
from worker.ledger.memory import MemoryLedger
from worker.limits.gate import Gate, Keeper, TeacherGate
from worker.limits.limited import LimitedStudent
from worker.limits.memory import MemoryLimiter
from worker.paid import PaidTeacher
from worker.payloads import Payloads
from worker.runner import Runner
from worker.settings import Settings
from worker.spool import Spool
from worker.spool.memory import MemoryFolder
from worker.steps import perform
from worker.steps.context import Ports
from worker.testing import ManualClock
from worker.wire.request import DiagnoseRequest, parse_request
from worker.wire.spool import Spooled, asked_sha256, decode_spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.stories import Story
    from tests.contract.journals import JournalUnderTest
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.core.rates import Limits
    from worker.core.teaching import TeacherReply, TeacherRequest
    from worker.core.values import Usage
    from worker.ledger.redis import RedisLedger
    from worker.ports import Announcement, Clock, Committed, Journal, Ledger, Limiter, Student
    from worker.steps.context import Step
    from worker.steps.workspace import Workspace
    from worker.wire.result import DiagnoseResult

__all__ = ["SESSION", "MemoryStores", "Started", "Stores", "World", "memory_stores"]

T = TypeVar("T")

SESSION = "s-1"
_CAMPAIGN = "campaign:default"
SCOPES = ("fleet", "tenant:default", _CAMPAIGN, f"session:{SESSION}")
ENOUGH_NUSD = 100_000_000_000
_BUNDLE = f"s3://diagnosis/bundles/{'0' * 64}.tar.gz"

#: A worker that was killed is replaced after this long; the other one stands by.
REPLACED_MS = 15_000
#: How long a worker stops: until another one is in the middle of its step, or long done with it.
STALL_MS = {Way.DOZED: policy.LEASE_MS + 700, Way.STALLED: 20_000}
#: How often a worker looks whether those who wait for money may go on.
LOOK_MS = 4 * policy.WAKE_MS
#: How soon a batch is asked about first.
_POLL_MS = 15_000
#: Whoever enqueued a session asks again after this long if there is none; an operator too.
ASKED_AGAIN_MS = 20_000
#: A world that is not quiet after so much time, or so many moves, never will be.
LONGEST_MS = 6 * 3_600_000
MOST_MOVES = 30_000
#: Chance of a hint to be lost, and to come twice.
LOST, DOUBLED = 0.04, 0.06


class Stores(Protocol):
    """What the workers share, on one clock that only the world moves."""

    @property
    def clock(self) -> Clock: ...
    @property
    def journal(self) -> JournalUnderTest: ...
    @property
    def ledger(self) -> MemoryLedger | RedisLedger: ...
    @property
    def artifacts(self) -> MemoryArtifacts: ...
    def for_workers(self) -> tuple[Journal, Ledger]:
        """Return journal and ledger as the workers reach them."""
        ...

    def advance(self, by_ms: int) -> None:
        """Let time pass."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryStores:
    """`Stores` in this process."""

    clock: ManualClock
    journal: MemoryJournal
    ledger: MemoryLedger
    artifacts: MemoryArtifacts

    def for_workers(self) -> tuple[Journal, Ledger]:
        """Return journal and ledger as they are."""
        return self.journal, self.ledger

    def advance(self, by_ms: int) -> None:
        """Let time pass."""
        self.clock.advance(by_ms)


def memory_stores(
    *,
    journal: Callable[[ManualClock], MemoryJournal] = MemoryJournal,
    ledger: Callable[[ManualClock], MemoryLedger] = MemoryLedger,
    artifacts: Callable[[], MemoryArtifacts] = MemoryArtifacts,
) -> MemoryStores:
    """Return empty stores in memory."""
    clock = ManualClock()
    return MemoryStores(clock, journal(clock), ledger(clock), artifacts())


@dataclass(frozen=True, slots=True)
class Started:
    """A step was begun by a worker."""

    step_id: str
    worker: str
    at_ms: int
    #: Its event was in the journal already: it must not have been begun.
    committed: bool


@dataclass(slots=True)
class _Worker:
    name: str
    runner: Runner = field(init=False)
    ledger: Ledger = field(init=False)
    heart: Heart = field(init=False)
    keeper: Keeper = field(init=False)
    door: Door = field(init=False)
    dead: bool = False
    busy: bool = False
    stalled: bool = False
    step_id: str = ""
    #: How many operations there had been when it began the step.
    began_at: int = 0

    def check(self) -> None:
        if self.dead:
            raise Killed


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply that reached the disk of the workers' machine."""

    spooled: Spooled
    #: Number of the operation.
    at: int


class _Disk(MemoryFolder):
    """The spool of the one machine that all workers are on; it notes what was ever written."""

    def __init__(self, note: Callable[[Spooled], None]) -> None:
        super().__init__()
        self._note = note

    def write(self, name: str, body: bytes) -> None:
        """Write a file."""
        super().write(name, body)
        self._note(decode_spooled(body))


@dataclass(frozen=True, slots=True)
class _Overheard:
    """A worker's provider, and somebody who hears what it is asked."""

    provider: Provider
    hear: Callable[[TeacherRequest], None]

    def send(
        self,
        request: TeacherRequest,
        *,
        on_answer: Callable[[str], None],
        on_start: Callable[[Usage], None],
        stopped: Callable[[], bool],
    ) -> TeacherReply:
        going_out = [request]

        def stopped_first() -> bool:
            """Ask before the request goes out: one that was stopped there was heard by nobody."""
            if stopped():
                return True
            if going_out:
                self.hear(going_out.pop())
            return False

        return self.provider.send(
            request, on_answer=on_answer, on_start=on_start, stopped=stopped_first
        )


@dataclass(slots=True)
class _Hint:
    """A message in the broker; `None` stands for the request itself."""

    step: Announcement | None


_SETTINGS = Settings.model_validate(
    {
        "teachers": {"default": {}},
        "students": {"default": {"base_url": "http://student/v1", "model": "student"}},
    }
)


class World:
    """Three workers, a broker, an operator, a provider with a bill, and one session."""

    def __init__(
        self,
        story: Story,
        workspace: Workspace,
        *,
        strikes: Strikes | None = None,
        stores: Stores | None = None,
        seed: int = 0,
        inline_bytes: int = 400,
        slots: str = "abc",
    ) -> None:
        self.story = story
        self._inline_bytes = inline_bytes
        self.stores = stores or memory_stores()
        self.strikes = strikes or {}
        self._workspace = workspace
        self._random = random.Random(seed)  # noqa: S311 - chance of a test
        self.bill = Bill()
        self.disk = _Disk(self._note_heard)
        #: Every reply that was ever spooled.
        self.heard: list[Heard] = []
        self._made: Counter[str] = Counter()
        #: When each request went out.
        self.sent_at_ms: list[int] = []
        self.teacher_load, self.student_load = Load(), Load()
        self._limiter = MemoryLimiter(self.stores.clock)
        self._batches = BatchServer(story, self.bill, self._made, self.stores.clock)
        self._hints: list[_Hint] = []
        self._began_ms = self._next_beat_ms = self._next_look_ms = self.now_ms
        #: Every operation of every worker, in order.
        self.points: list[Point] = []
        self.started: list[Started] = []
        self.published: list[DiagnoseResult] = []
        #: What must not have happened, as it was seen.
        self.wrong: list[str] = []
        #: How often a step that kills its worker did so.
        self.poisoned = 0
        self._moves = 0
        self._names = Counter[str]()
        for scope in SCOPES[:2]:
            self.stores.ledger.open_account(scope, ENOUGH_NUSD)
        self.stores.ledger.open_account(_CAMPAIGN, story.funds_nusd)
        self._operator = self._new_worker("operator")
        self.workers = [self._new_worker(slot) for slot in slots]
        self._replacements: list[tuple[int, str]] = []
        self._planned: list[tuple[int, Callable[[], None]]] = []
        self._later(ASKED_AGAIN_MS, self._ask_again)
        self._plan(0)

    @property
    def now_ms(self) -> int:
        """The world's time."""
        return self.stores.clock.now_ms()

    @property
    def request(self) -> DiagnoseRequest:
        """What was asked for."""
        raw = {"session_id": SESSION, "bundle": _BUNDLE, "limits": dict(self.story.limits)}
        return parse_request(raw | dict(self.story.request))

    # ------------------------------------------------------------------------------- the life

    def run(self) -> None:
        """Go on until nothing is left to do."""
        self._hints.append(_Hint(None))
        while not self._quiet():
            if self._moves > MOST_MOVES or self.now_ms - self._began_ms > LONGEST_MS:
                self.wrong.append(f"not quiet after {self._moves} moves, {self._age()}")
                return
            self._move(self.now_ms + 60_000)

    @property
    def ended(self) -> bool:
        """Whether the journal says that the session has ended."""
        return self.stores.journal.labels(SESSION).get("status") == "ended"

    def _age(self) -> str:
        return f"{(self.now_ms - self._began_ms) / 1000:.1f} s"

    def _quiet(self) -> bool:
        rest = (self._hints, self.stores.journal.overdue(), self.disk.list())
        return self.ended and not any(rest)

    def _later(self, after_ms: int, act: Callable[[], None]) -> None:
        """Plan what somebody does."""
        self._planned.append((self.now_ms + after_ms, act))

    def _ask_again(self) -> None:
        """Enqueue once more where there is no session: a request is a message, and may be lost."""
        if self.stores.journal.load(SESSION).length == 0:
            self._hints.append(_Hint(None))
            self._later(ASKED_AGAIN_MS, self._ask_again)

    def _plan(self, number: int) -> None:
        """Plan what the operator does next, if there is more to do."""
        for after_ms, asked in self.story.asked[number : number + 1]:
            self._later(after_ms, partial(self._operate, number, asked))

    def _operate(self, number: int, asked: Asked) -> None:
        """Have the operator do something, and again later until it was heard."""
        if self._operator.dead:
            self._operator = self._new_worker("operator")
        heard: list[bool] = []
        self._engage(self._operator, lambda: heard.append(self._ask(self._operator, asked)))
        if any(heard):
            self._plan(number + 1)
        elif not self.ended:
            self._later(ASKED_AGAIN_MS, partial(self._operate, number, asked))

    @staticmethod
    def _ask(operator: _Worker, asked: Asked) -> bool:
        match asked:
            case Asked.CANCEL:
                return operator.runner.cancel(SESSION, "enough")
            case Asked.PAUSE:
                return operator.runner.pause(SESSION, "a moment")
            case Asked.RESUME:
                return operator.runner.resume(SESSION, "go on")
            case Asked.RAISE:
                return operator.ledger.set_cap(_CAMPAIGN, ENOUGH_NUSD).cap_nusd == ENOUGH_NUSD

    def _move(self, until_ms: int) -> None:
        """Let one thing happen, or time pass, at most until `until_ms`."""
        self._moves += 1
        if self._due_plan() or self._deliver():
            return
        self._wait(until_ms)
        self._replace()
        if self.now_ms >= self._next_beat_ms:
            self._beat()
        self._sweep()

    def _due_plan(self) -> bool:
        for entry in self._planned:
            if entry[0] <= self.now_ms:
                self._planned.remove(entry)
                entry[1]()
                return True
        return False

    def _wait(self, until_ms: int) -> None:
        moments = [
            until_ms,
            *(at for at, _ in self._planned),
            *(at for at, _ in self._replacements),
        ]
        if self._free():
            moments += [at for _, _, at in self.stores.journal.overdue()[:1]]
            if self.stores.journal.waiting():
                moments.append(self._next_look_ms)
        if any(worker.busy for worker in self.workers):
            moments.append(self._next_beat_ms)
        by_ms = min(moments) - self.now_ms
        self.stores.advance(max(by_ms, 1))

    def _replace(self) -> None:
        for entry in tuple(self._replacements):
            if entry[0] <= self.now_ms:
                self._replacements.remove(entry)
                self.workers.append(self._new_worker(entry[1]))

    def _free(self) -> list[_Worker]:
        return [worker for worker in self.workers if not (worker.busy or worker.stalled)]

    def _beat(self) -> None:
        self._next_beat_ms = self.now_ms + policy.BEAT_MS
        for worker in tuple(self.workers):
            if worker.busy and not worker.stalled:
                with suppress(Killed):
                    worker.heart.beat()
                    worker.keeper.beat()

    def _sweep(self) -> None:
        """Let a free worker look, where there is anything to see; on a fleet it looks every 400 ms.

        Whether there is money for those who wait is seen by nobody but who looks.
        """
        due = self.stores.journal.overdue()[:1]
        free = self._free()
        looks = bool(self.stores.journal.waiting()) and self.now_ms >= self._next_look_ms
        if free and (looks or not due or due[0][2] <= self.now_ms):
            self._next_look_ms = self.now_ms + LOOK_MS
            worker = self._random.choice(free)
            self._engage(worker, worker.runner.sweep)

    def _deliver(self) -> bool:
        """Hand a message of the broker to a worker, lose it, or keep a copy; False for none."""
        free = self._free()
        if not self._hints or not free:
            return False
        hint = self._hints.pop(self._random.randrange(len(self._hints)))
        luck = self._random.random()
        if luck < LOST:
            return True
        if luck < LOST + DOUBLED:
            self._hints.append(hint)
        worker = self._random.choice(free)
        if hint.step is None:
            self._engage(worker, lambda: self._open(worker))
        else:
            self._engage(worker, partial(worker.runner.work, SESSION, hint.step.step_id))
        return True

    def _open(self, worker: _Worker) -> None:
        """Do as the diagnose task does: an outage of ours puts the message back."""
        try:
            worker.door.open(self.request)
        except Unavailable:
            self._hints.append(_Hint(None))

    def _engage(self, worker: _Worker, work: Callable[[], object]) -> None:
        """Have a worker do something, to its end or its worker's."""
        worker.busy = True
        try:
            work()
        except (Killed, Unavailable):
            pass
        except Exception as exc:  # noqa: BLE001 - whatever a task raises is a finding
            self.wrong.append(f"a worker raised {type(exc).__name__}: {exc}")
        finally:
            worker.busy = False
            worker.step_id = ""

    # ---------------------------------------------------------------------------- a worker's part

    def _new_worker(self, slot: str) -> _Worker:
        self._names[slot] += 1
        worker = _Worker(f"{slot}{self._names[slot]}")
        through = partial(self._through, worker)
        reached = self.stores.for_workers()
        journal = counted(reached[0], "journal", through)
        ledger = counted(reached[1], "ledger", through)
        artifacts = counted(self.stores.artifacts, "artifacts", through, free=("uri",))
        worker.ledger = ledger
        elapse = partial(self._elapse, worker)
        checkpoints = Checkpoints(journal, ledger, artifacts, self.stores.clock)
        provider = _Overheard(
            Provider(self.story, self.bill, self._made, elapse, self.teacher_load),
            partial(self._hear, worker),
        )
        spool = Spool(
            counted(self.disk, "spool", through),
            ledger,
            self.stores.clock,
            fleet="world",
            max_bytes=1_000_000,
            max_age_ms=LONGEST_MS,
        )
        student: Student = counted(
            StudentServer(self.story, student_says, elapse, self.student_load), "student", through
        )
        limiter = counted(self._limiter, "limiter", through)
        worker.keeper = Keeper(limiter, every_ms=None)
        gate = self._gate(worker, limiter, "teacher", self.story.teacher_limits)
        student_gate = self._gate(worker, limiter, "student", self.story.student_limits)
        if student_gate is not None:
            student = LimitedStudent(student, student_gate)
        ports = Ports(
            ledger=ledger,
            artifacts=artifacts,
            payloads=Payloads(artifacts, inline_bytes=self._inline_bytes),
            workspaces=lambda uri: through("bundle.open", lambda: self._open_bundle(uri)),
            teachers={
                "default": PaidTeacher(
                    counted(provider, "teacher", through),
                    ledger,
                    patience_ms=0,
                    now_s=lambda: self.now_ms / 1000,
                    note=checkpoints.note_sent,
                    spool=spool,
                    gate=None if gate is None else TeacherGate(gate),
                )
            },
            batches={
                "default": BatchedTeacher(
                    counted(self._batches, "batches", through),
                    ledger,
                    self.stores.clock,
                    first_poll_ms=_POLL_MS,
                    patience_ms=0,
                    note=checkpoints.note_sent,
                )
            },
            students={"default": student},
            judge=LlmJudge(),
            clock=self.stores.clock,
            records=lambda session_id: journal.load(session_id).records,
            publish=lambda result, _: through("publish", lambda: self.published.append(result)),
        )
        tokens = iter(range(1_000_000))
        worker.heart = Heart(journal, beat_ms=None, now_s=lambda: self.now_ms / 1000)
        worker.runner = Runner(
            journal=journal,
            hints=counted(self, "hints", through),
            ports=ports,
            owner=worker.name,
            new_token=lambda: f"{worker.name}.{next(tokens)}",
            chance=lambda: 0.5,
            heart=worker.heart,
            perform=partial(self._perform, worker),
            checkpoints=checkpoints,
            spool=spool,
        )
        worker.door = Door(worker.runner, ledger, _SETTINGS)
        return worker

    def _gate(
        self, worker: _Worker, limiter: Limiter, server: str, limits: Limits | None
    ) -> Gate | None:
        if limits is None:
            return None
        grants = iter(range(1_000_000))
        return Gate(
            limiter,
            worker.keeper,
            account=server,
            limits=limits,
            server=server,
            new_token=lambda: f"{worker.name}.{next(grants)}",
            chance=lambda: 0.5,
            sleep=lambda seconds: self._elapse(worker, round(seconds * 1_000)),
        )

    def tell(self, announcements: Sequence[Announcement]) -> None:
        """Take messages into the broker."""
        self._hints.extend(_Hint(step) for step in announcements)

    def _open_bundle(self, uri: str) -> Workspace:
        if not self.story.has_bundle:
            raise BundleInvalid(f"there is no bundle {uri}: upload it", uri=uri)
        return self._workspace

    def _perform(self, worker: _Worker, command: Command, step: Step) -> Event:
        step_id = step_id_of(command)
        records = self.stores.journal.load(SESSION).records
        committed = any(record.key == step_id for record in records)
        begun = Started(step_id, worker.name, self.now_ms, committed)
        self.started.append(begun)
        worker.step_id = step_id
        worker.began_at = len(self.points)
        if step_id in self.story.poison and not step.given_up:
            self.poisoned += 1
            self._kill(worker)
            raise Killed
        try:
            return perform(command, step)
        except (NotYet, RateLimited):
            # It only looked; what it waits for was begun by somebody else.
            # Others may have begun theirs meanwhile.
            self.started = [one for one in self.started if one is not begun]
            raise

    def _elapse(self, worker: _Worker, by_ms: int) -> None:
        """Let time pass while `worker` waits: the others go on."""
        until_ms = self.now_ms + by_ms
        while self.now_ms < until_ms:
            self._move(until_ms)
        worker.check()

    def _kill(self, worker: _Worker) -> None:
        worker.dead = True
        if worker in self.workers:
            self.workers.remove(worker)
            self._replacements.append((self.now_ms + REPLACED_MS, worker.name[0]))

    # -------------------------------------------------------------------------------- operations

    def _through(self, worker: _Worker, name: str, operation: Callable[[], Any]) -> Any:
        """Carry an operation of a worker out, or strike the worker at it."""
        worker.check()
        way = self.strikes.get(len(self.points))
        self.points.append(Point(name, worker.step_id))
        try:
            result = operation() if way is None else self._struck(worker, name, way, operation)
            if name == "journal.commit":
                self._watch_commit(worker, result)
            return result
        finally:
            if name.startswith(("ledger.", "teacher.")):
                self._watch(name)
            worker.check()

    def _struck(self, worker: _Worker, name: str, way: Way, operation: Callable[[], Any]) -> Any:
        match way:
            case Way.BEFORE:
                self._kill(worker)
                raise Killed
            case Way.AFTER:
                with suppress(Exception):
                    operation()
                self._kill(worker)
                raise Killed
            case Way.AGAIN:
                with suppress(Exception):
                    operation()
                return operation()
            case Way.AWAY if name == "hints.tell":
                return (
                    None  # The broker is away: what is not told is swept, and nobody hears of it.
                )
            case Way.AWAY:
                raise _away(name, reached=False)
            case Way.UNHEARD:
                operation()
                raise _away(name, reached=True)
            case Way.DOZED | Way.STALLED:
                worker.stalled = True
                self._elapse(worker, STALL_MS[way])
                worker.stalled = False
                return operation()

    def _note_heard(self, spooled: Spooled) -> None:
        self.heard.append(Heard(spooled, len(self.points)))

    def _hear(self, worker: _Worker, request: TeacherRequest) -> None:
        """See that no step buys what lay on this machine when it began, unless the disk was away."""
        self.sent_at_ms.append(self.now_ms)
        asked = asked_sha256(request)
        before = [
            heard.spooled.reservation_id
            for heard in self.heard
            if (heard.spooled.step_id, heard.spooled.asked_sha256) == (worker.step_id, asked)
            and heard.at <= worker.began_at
        ]
        if before and not self.disk_was_away:
            self.wrong.append(f"{worker.step_id} bought what was heard before, by {before}")

    @property
    def disk_was_away(self) -> bool:
        """Whether an operation on the disk failed."""
        away = [n for n, way in self.strikes.items() if way in {Way.AWAY, Way.UNHEARD}]
        names = [self.points[n].name for n in away if n < len(self.points)]
        return any(name.startswith("spool.") for name in names)

    def _watch_commit(self, worker: _Worker, committed: Committed) -> None:
        """See that a step is ended by whoever began it last: the lease of all others is lost."""
        begun = [one.worker for one in self.started if one.step_id == worker.step_id]
        if committed.status == "ok" and begun and begun[-1] != worker.name:
            self.wrong.append(
                f"{worker.step_id} was committed by {worker.name}, who lost its lease"
            )

    def _watch(self, name: str) -> None:
        """See that the money is right: at every instant, in every account."""
        for scope in SCOPES:
            account = self.stores.ledger.account(scope)
            if account is None:
                continue
            known = account.posted_nusd + account.held_nusd
            if known < self.bill.billed_nusd:
                self.wrong.append(f"{scope}: {self.bill.billed_nusd} billed, {known} known: {name}")
            if known > account.cap_nusd or account.frozen:
                self.wrong.append(f"{scope}: {known} of {account.cap_nusd}: after {name}")


def _away(name: str, *, reached: bool) -> Exception:
    port = name.partition(".")[0]
    if port in {"teacher", "batches"}:
        billing = "unknown" if reached else "unbilled"
        return TeacherFault("connection lost", billing=billing, retry="later")
    if port == "spool":
        return OSError("no space left on the device")
    if port == "student":
        return StudentFault("connection lost", reason="connect", retryable=True)
    return Unavailable(f"{port} is away")
