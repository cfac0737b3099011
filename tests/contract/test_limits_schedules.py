"""Any calls in any order: what holds after each, and that memory and Redis do the same.

Rule: the machine lets time pass and ends calls as it likes (late, twice, never); what must hold is
counted from what was let go, not from what the limiter says of itself.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.limiters import Bench, memory_bench, stepped_bench
from worker.core.rates import BURST_MS, SLOT_TTL_MS, START_SLOTS, Ask, Ending, Limits, Rates
from worker.redis_connection import connect
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.core.rates import Standing

ACCOUNT, GROUPS = "teacher-a", ("opus-4", "haiku-4")
LIMITS = Limits(
    rates=Rates(requests=300, input_tokens=60_000, output_tokens=30_000),
    most=12,
    start=START_SLOTS,
    watches_latency=True,
)
REQUESTS_A_MS = 300 / 60_000
BURST = 300 * BURST_MS // 60_000

groups = st.sampled_from(GROUPS)
waits_ms = st.sampled_from([0, 1, 50, 199, 200, 1_000, 5_000, SLOT_TTL_MS, 61_000, 301_000])
tokens = st.sampled_from([None, 0, 1, 300, 5_000])
endings = st.builds(
    Ending,
    outcome=st.sampled_from(["answered", "limited", "overloaded", "failed", "unsent"]),
    input_tokens=tokens,
    output_tokens=tokens,
    latency_ms=st.sampled_from([0, 5, 900, 4_000, 30_000]),
    pause_ms=st.sampled_from([0, 0, 0, 100, 7_000]),
    stops=st.sampled_from([False] * 9 + [True]),
    said=st.sampled_from(["", "too much"]),
    told=st.sampled_from([Rates(), Rates(), Rates(requests=120, input_tokens=9_000)]),
)


class Schedule(RuleBasedStateMachine):
    """Calls every limiter of `benches` alike, and checks that they answer alike."""

    benches: ClassVar[Callable[[ManualClock], Sequence[Bench]]]

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.made = type(self).benches(self.clock)
        self.numbers = count(1)
        self.under_way: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []
        #: By group: when calls were let go that were not given back.
        self.gone: dict[str, list[tuple[str, int]]] = {group: [] for group in GROUPS}
        self.paused_until: dict[str, int] = dict.fromkeys(GROUPS, 0)
        self.stopped = False

    def admit(self, group: str, ask: Ask) -> Standing:
        first, *others = [bench.limiter.admit(ACCOUNT, group, LIMITS, ask) for bench in self.made]
        for other in others:
            assert other == first
        return first

    @rule(group=groups, name=st.integers(1, 6), input_tokens=tokens, output_tokens=tokens)
    def ask(
        self, group: str, name: int, input_tokens: int | None, output_tokens: int | None
    ) -> None:
        grant = f"g{next(self.numbers)}"
        ask = Ask(
            grant=grant,
            name=f"step-{name}",
            input_tokens=input_tokens or 0,
            max_output_tokens=output_tokens or 0,
        )

        standing = self.admit(group, ask)

        now = self.clock.now_ms()
        assert (standing.status == "stopped") == self.stopped
        if standing.status == "wait":
            assert standing.wait_ms > 0
            assert standing.wait_ms >= self.paused_until[group] - now
        if standing.status == "go":
            assert now >= self.paused_until[group], "a pause holds for everybody"
            self.under_way.append((group, grant))
            self.gone[group].append((grant, now))
            assert self.admit(group, ask) == standing, "its reply was lost"

    @rule(group=groups)
    def ask_as_many_as_go(self, group: str) -> None:
        for _ in range(30):
            before = len(self.under_way)
            self.ask(group, 99, 100, 100)
            if len(self.under_way) == before:
                return

    @precondition(lambda self: self.under_way)
    @rule(pick=st.integers(0, 1_000), ending=endings)
    def end(self, pick: int, ending: Ending) -> None:
        group, grant = self.under_way.pop(pick % len(self.under_way))
        self.ended.append((group, grant))
        self._end(group, grant, ending)
        if ending.outcome == "unsent":
            self.gone[group] = [each for each in self.gone[group] if each[0] != grant]

    @precondition(lambda self: self.ended)
    @rule(pick=st.integers(0, 1_000), ending=endings)
    def end_again(self, pick: int, ending: Ending) -> None:
        group, grant = self.ended[pick % len(self.ended)]
        self._end(group, grant, ending)

    def _end(self, group: str, grant: str, ending: Ending) -> None:
        for bench in self.made:
            bench.limiter.end(ACCOUNT, group, LIMITS, grant, ending)
        self.stopped = self.stopped or ending.stops
        if ending.pause_ms:
            until = self.clock.now_ms() + ending.pause_ms
            self.paused_until[group] = max(until, self.paused_until[group])

    @rule(group=groups)
    def keep(self, group: str) -> None:
        kept = [grant for of, grant in self.under_way if of == group]
        for bench in self.made:
            bench.limiter.keep(ACCOUNT, group, kept)

    @rule()
    def lift(self) -> None:
        lifted = {bench.limiter.lift(ACCOUNT) for bench in self.made}
        now = self.clock.now_ms()
        paused = any(until > now for until in self.paused_until.values())

        assert lifted == {self.stopped or paused}
        self.stopped = False
        self.paused_until = dict.fromkeys(GROUPS, 0)

    @rule(by_ms=waits_ms)
    def elapse(self, by_ms: int) -> None:
        self.clock.advance(by_ms)
        for bench in self.made:
            bench.elapse(0)

    @invariant()
    def all_show_the_same(self) -> None:
        first, *others = [
            (bench.limiter.groups(ACCOUNT), bench.limiter.stopped(ACCOUNT)) for bench in self.made
        ]
        for other in others:
            assert other == first
        for view in first[0]:
            assert view.under_way <= 12

    @invariant()
    def no_window_of_time_holds_more_requests_than_its_rate_and_a_burst(self) -> None:
        for gone in self.gone.values():
            times = [at for _, at in gone]
            for first, began in enumerate(times):
                taken = len(times) - first
                most = REQUESTS_A_MS * (times[-1] - began) + BURST
                assert taken <= most + 1e-9, (times[first:], most)


def machine(make: Callable[[ManualClock], Sequence[Bench]]) -> type[Schedule]:
    return type("EverySchedule", (Schedule,), {"benches": staticmethod(make)})


def test_any_schedule_keeps_the_laws() -> None:
    run_state_machine_as_test(
        machine(lambda clock: [memory_bench(clock)]),
        settings=settings(max_examples=120, stateful_step_count=50, deadline=None),
    )


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.timeout(180)
def test_redis_does_what_memory_does_under_any_schedule(redis_url: str) -> None:
    with connect(redis_url) as client:
        run_state_machine_as_test(
            machine(
                lambda clock: [memory_bench(clock), stepped_bench(client, ACCOUNT, clock=clock)]
            ),
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
            ),
        )
