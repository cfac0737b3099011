"""The gate: who may call now, who leaves, and what the limiter is told in the end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from worker.core.rates import SLOT_TTL_MS, Ask, Ending, Limits, Rates, Standing
from worker.core.teaching import TeacherRequest
from worker.core.values import RunOutcome
from worker.errors import RateLimited, StudentFault, TeacherFault, Unavailable
from worker.limits.gate import Gate, Keeper, TeacherGate
from worker.limits.limited import LimitedStudent
from worker.limits.memory import MemoryLimiter
from worker.testing import ManualClock, ScriptedStudent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.ports import StudentAnswer

ACCOUNT, GROUP = "teacher-a", "opus-4"
FIVE_A_SECOND = Limits(rates=Rates(requests=300))
REQUEST = TeacherRequest(
    model="claude-opus-4-6",
    max_tokens=100,
    system=[],
    messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 3_000}]}],
)


class Kept(MemoryLimiter):
    """Remembers what it was told; away while `silent`."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.silent = False
        self.asked: list[Ask] = []
        self.endings: list[Ending] = []
        self.kept: list[tuple[str, ...]] = []
        self.beaten = threading.Event()

    def admit(self, account: str, group: str, limits: Limits, ask: Ask) -> Standing:
        if self.silent:
            raise Unavailable("no answer")
        self.asked.append(ask)
        return super().admit(account, group, limits, ask)

    def end(self, account: str, group: str, limits: Limits, grant: str, ending: Ending) -> None:
        if self.silent:
            raise Unavailable("no answer")
        self.endings.append(ending)
        super().end(account, group, limits, grant, ending)

    def keep(self, account: str, group: str, grants: Sequence[str]) -> None:
        self.kept.append(tuple(grants))
        super().keep(account, group, grants)
        self.beaten.set()


class Heard:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def limited(self, server: str, why: str) -> None:
        self.lines.append((server, why))

    def pushed_back(self, server: str, outcome: str) -> None:
        self.lines.append((server, outcome))


class World:
    def __init__(self, limits: Limits = FIVE_A_SECOND, *, short_ms: int = 1_000) -> None:
        self.clock = ManualClock()
        self.limiter = Kept(self.clock)
        self.keeper = Keeper(self.limiter, every_ms=5)
        self.heard = Heard()
        self.slept_s: list[float] = []
        self.numbers = iter(range(10_000))
        self.gate = Gate(
            self.limiter,
            self.keeper,
            account=ACCOUNT,
            limits=limits,
            server="teacher a",
            new_token=lambda: f"g{next(self.numbers)}",
            chance=lambda: 1.0,
            observer=self.heard,
            short_ms=short_ms,
            sleep=self._sleep,
        )
        self.teacher = TeacherGate(self.gate)

    def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.clock.advance(round(seconds * 1_000))

    def use_up(self) -> None:
        for number in range(5):
            with self.gate.passing(GROUP, f"other-{number}") as passed:
                passed.begun()

    @property
    def under_way(self) -> int:
        return sum(view.under_way for view in self.limiter.groups(ACCOUNT))


def fail(world: World, exc: BaseException) -> None:
    """Make a call that ends by an exception after its request went out."""
    with world.teacher.passing(REQUEST, "s") as passed:
        passed.begun()
        raise exc


@pytest.fixture
def world() -> World:
    return World()


def test_a_call_has_a_slot_while_it_lasts(world: World) -> None:
    with world.teacher.passing(REQUEST, "s/turn/1"):
        assert world.under_way == 1

    assert world.under_way == 0
    (asked,) = world.limiter.asked
    assert (asked.name, asked.max_output_tokens) == ("s/turn/1", 100)
    assert asked.input_tokens == pytest.approx(1_000, abs=20)


def test_a_call_that_was_never_made_is_given_back(world: World) -> None:
    for _ in range(20):
        with pytest.raises(ZeroDivisionError), world.teacher.passing(REQUEST, "s/turn/1"):
            raise ZeroDivisionError

    assert {ending.outcome for ending in world.limiter.endings} == {"unsent"}


def test_a_call_whose_end_nobody_saw_is_not_given_back(world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(world, KeyboardInterrupt())

    assert [ending.outcome for ending in world.limiter.endings] == ["failed"]


def test_a_fault_is_read_for_what_it_says_about_the_load(world: World) -> None:
    fault = TeacherFault(
        "429", billing="unbilled", retry="later", retry_after_ms=9_000, pushback="rate"
    )

    with pytest.raises(TeacherFault):
        fail(world, fault)

    (view,) = world.limiter.groups(ACCOUNT)
    assert (view.pause_ms, view.said) == (9_000, "429")
    assert world.heard.lines == [("teacher a", "limited")]


def test_a_short_wait_is_slept_through(world: World) -> None:
    world.use_up()

    with world.gate.passing(GROUP, "s"):
        pass

    assert world.slept_s == [0.2]
    assert world.heard.lines == []


def test_a_longer_wait_is_not(world: World) -> None:
    world.use_up()
    for number in range(10):
        before = Ask(grant=f"b{number}", name=f"before-{number}")
        assert world.limiter.admit(ACCOUNT, GROUP, FIVE_A_SECOND, before).status == "wait"

    with pytest.raises(RateLimited) as met, world.gate.passing(GROUP, "s"):
        raise AssertionError("it was let go")

    assert (met.value.why, met.value.retry_after_ms) == ("requests", 2_200)
    assert world.slept_s == []
    assert str(met.value) == "waits for teacher a: requests"
    assert world.heard.lines[-1] == ("teacher a", "requests")


def test_a_stopped_account_is_not_called_and_says_the_cure(world: World) -> None:
    spent = TeacherFault("limit reached.", billing="unbilled", retry="stop", pushback="spend")
    with pytest.raises(TeacherFault):
        fail(world, spent)

    with (
        pytest.raises(TeacherFault, match="diagnosis limits lift") as met,
        world.teacher.passing(REQUEST, "t"),
    ):
        raise AssertionError("it was let go")

    assert (met.value.retry, met.value.billing) == ("stop", "unbilled")


def test_where_the_limits_cannot_be_asked_calls_go(world: World) -> None:
    world.use_up()
    world.limiter.silent = True

    for _ in range(20):
        with world.teacher.passing(REQUEST, "s") as passed:
            passed.begun()


def test_slots_are_kept_while_calls_last(world: World) -> None:
    with world.gate.passing(GROUP, "long"), world.gate.passing(GROUP, "too"):
        world.limiter.beaten.clear()
        assert world.limiter.beaten.wait(5)
        world.clock.advance(SLOT_TTL_MS - 1)
        world.limiter.beaten.clear()
        assert world.limiter.beaten.wait(5)
        world.clock.advance(SLOT_TTL_MS - 1)
        assert world.under_way == 2
    assert set(world.limiter.kept[-1]) == {"g0", "g1"}
    world.keeper.close()

    assert world.under_way == 0


# ----------------------------------------------------------------------------------------- student


def run(world: World, student: ScriptedStudent, run_id: str = "s/run/1.0.0/1") -> StudentAnswer:
    return LimitedStudent(student, world.gate).answer("q", seed=0, run_id=run_id)


def test_a_student_answers_behind_its_gate() -> None:
    world = World(Limits(most=2))

    answer = run(world, ScriptedStudent({"q": "a"}))

    assert answer.outcome is RunOutcome.ANSWERED
    assert [asked.name for asked in world.limiter.asked] == ["s/run/1.0.0"]
    assert [ending.outcome for ending in world.limiter.endings] == ["answered"]


def test_a_run_that_finds_no_room_never_reaches_the_server() -> None:
    world = World(Limits(most=1), short_ms=0)
    student = ScriptedStudent({"q": "a"})

    with world.gate.passing("all", "other"), pytest.raises(RateLimited, match="slots"):
        run(world, student)

    assert student.runs == []


def test_a_full_server_is_given_less_and_a_pause() -> None:
    world = World(Limits())
    full = StudentFault(
        "503", reason="server_error", retryable=True, retry_after_ms=4_000, status=503
    )

    with pytest.raises(StudentFault):
        run(world, ScriptedStudent({"q": "a"}, faults={"q": [full]}))

    (view,) = world.limiter.groups(ACCOUNT)
    assert (view.slots, view.pause_ms) == (1, 4_000)
