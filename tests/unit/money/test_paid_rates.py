"""First the rate, then the money, then the call: what of them is taken where the next one says no."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from worker.core.rates import Limits, Rates
from worker.core.teaching import TeacherRequest
from worker.core.values import Usage
from worker.errors import BudgetDenied, RateLimited, TeacherFault
from worker.ledger.memory import MemoryLedger
from worker.limits.gate import Gate, Keeper, TeacherGate
from worker.limits.memory import MemoryLimiter
from worker.paid import PaidTeacher
from worker.testing import ManualClock, ScriptedTeacher, says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.core.teaching import TeacherReply
    from worker.paid import PaidReply
    from worker.testing import TeacherLine

SCOPES = ("fleet", "session:s")
REQUEST = TeacherRequest(
    model="claude-opus-4-6",
    max_tokens=5_000,
    system=[],
    messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 300}]}],
)
#: One a second, and 100 and 50 tokens a second.
LIMITS = Limits(rates=Rates(requests=60, input_tokens=6_000, output_tokens=3_000))
RICH, POOR = 10**9, 10**6


class World:
    def __init__(self, *script: TeacherLine, cap: int = RICH) -> None:
        self.clock = ManualClock()
        self.ledger = MemoryLedger(self.clock)
        for scope in SCOPES:
            self.ledger.open_account(scope, cap)
        self.limiter = MemoryLimiter(self.clock)
        self.keeper = Keeper(self.limiter)
        self.teacher = ScriptedTeacher(script)
        self.numbers = count(1)
        gate = Gate(
            self.limiter,
            self.keeper,
            account="teacher-a",
            limits=LIMITS,
            server="teacher a",
            new_token=lambda: f"g{next(self.numbers)}",
            chance=lambda: 1.0,
            short_ms=0,
        )
        self.paid = PaidTeacher(self.teacher, self.ledger, gate=TeacherGate(gate))

    def call(self) -> PaidReply:
        return self.paid.call(
            REQUEST,
            reservation_id=f"s/turn/1/{next(self.numbers)}.1",
            scopes=SCOPES,
            kind="explore",
            step_id="turn/1",
            prompt_bound_tokens=1_000,
            stopped=lambda: False,
        )

    def goes(self) -> bool:
        """Whether a call would go now."""
        try:
            self.call()
        except RateLimited:
            return False
        return True


@pytest.fixture
def closing() -> Iterator[list[World]]:
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        world.keeper.close()


def made(closing: list[World], *script: TeacherLine, cap: int = RICH) -> World:
    closing.append(World(*script, cap=cap))
    return closing[-1]


def test_no_money_is_held_while_a_call_waits_for_the_rate(closing: list[World]) -> None:
    world = made(closing, says("one", usage=Usage(input_tokens=1, output_tokens=1)))
    world.call()

    with pytest.raises(RateLimited):
        world.call()

    (entry,) = world.ledger.entries("s")
    account = world.ledger.account("fleet")
    assert account is not None
    assert account.held_nusd == 0
    assert entry.state.value == "settled"
    world.teacher.assert_finished()


def test_a_call_that_nobody_pays_for_uses_up_no_rate(closing: list[World]) -> None:
    world = made(closing, cap=POOR)

    for _ in range(10):
        with pytest.raises(BudgetDenied):
            world.call()

    assert world.limiter.groups("teacher-a")[0].under_way == 0


def test_tokens_read_from_the_cache_use_up_no_rate(closing: list[World]) -> None:
    cached = Usage(input_tokens=10, cache_read_tokens=800, output_tokens=1)
    world = made(closing, *[says("cached", usage=cached)] * 3)

    for _ in range(3):
        assert world.goes()
        world.clock.advance(1_000)


def test_a_long_output_is_waited_off_after_it_came(closing: list[World]) -> None:
    long = Usage(input_tokens=1, output_tokens=1_050)
    world = made(closing, says("long", usage=long), says("next", usage=long))
    world.call()

    world.clock.advance(19_999)
    assert not world.goes(), "50 of 1,050 were there; 1,000 come back in 20 s"
    world.clock.advance(2)

    assert world.goes()


def test_a_refused_rate_pauses_the_next_call_and_bills_nothing(closing: list[World]) -> None:
    refused = TeacherFault(
        "429", billing="unbilled", retry="later", retry_after_ms=9_000, pushback="rate"
    )
    world = made(closing, refused)
    with pytest.raises(TeacherFault):
        world.call()
    world.clock.advance(5_000)

    with pytest.raises(RateLimited) as met:
        world.call()

    assert (met.value.why, met.value.retry_after_ms) == ("pause", 4_000)
    account = world.ledger.account("fleet")
    assert account is not None
    assert (account.held_nusd, account.posted_nusd) == (0, 0)


def test_a_call_that_may_have_been_made_is_not_given_back(closing: list[World]) -> None:
    def interrupted(request: TeacherRequest) -> TeacherReply:
        raise KeyboardInterrupt

    world = made(closing, interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.call()

    assert not world.goes(), "its request counts: one a second"
