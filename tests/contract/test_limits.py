"""What every limiter does, in memory and in Valkey."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.contract.limiters import Bench, memory_bench, stepped_bench
from worker.core.rates import (
    IDLE_MS,
    LONGEST_WAIT_MS,
    SLOT_TTL_MS,
    START_SLOTS,
    TURN_MS,
    Ask,
    Ending,
    Limits,
    Rates,
    Standing,
)
from worker.errors import BadInput
from worker.limits.redis import RedisLimiter
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT, GROUP = "teacher-a", "opus-4"
#: Five a second.
FIVE_A_SECOND = Limits(rates=Rates(requests=300))
THREE_SLOTS = Limits(most=3)
GO = Standing(status="go")

_grants = count(1)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("valkey", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield memory_bench()
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield stepped_bench(client, ACCOUNT, "teacher-b")


def ask(
    bench: Bench,
    limits: Limits,
    name: str = "",
    *,
    grant: str = "",
    input_tokens: int = 0,
    output_tokens: int = 0,
    account: str = ACCOUNT,
    group: str = GROUP,
) -> Standing:
    number = next(_grants)
    wants = Ask(
        grant=grant or f"g{number}",
        name=name or f"step-{number}",
        input_tokens=input_tokens,
        max_output_tokens=output_tokens,
    )
    return bench.limiter.admit(account, group, limits, wants)


def end(bench: Bench, limits: Limits, grant: str, ending: Ending) -> None:
    bench.limiter.end(ACCOUNT, GROUP, limits, grant, ending)


def admitted(bench: Bench, limits: Limits, *, output_tokens: int = 0) -> int:
    """Ask until somebody has to wait; return how many had not."""
    for number in range(10_000):
        if ask(bench, limits, output_tokens=output_tokens).status != "go":
            return number
    raise AssertionError("nobody ever has to wait")


def answered(**said: int) -> Ending:
    return Ending(
        outcome="answered",
        input_tokens=said.get("input_tokens"),
        output_tokens=said.get("output_tokens"),
        latency_ms=said.get("latency_ms", 0),
    )


# ------------------------------------------------------------------------------------------- rates


def test_without_any_limit_everybody_goes(bench: Bench) -> None:
    assert all(ask(bench, Limits()) == GO for _ in range(100))


def test_a_second_of_the_rate_goes_at_once_and_the_next_waits_its_turn(bench: Bench) -> None:
    assert admitted(bench, FIVE_A_SECOND) == 5

    assert ask(bench, FIVE_A_SECOND, "late").why == "requests"


def test_a_minute_lets_the_rate_and_one_burst_go(bench: Bench) -> None:
    gone = 0
    for _ in range(600):
        gone += ask(bench, FIVE_A_SECOND, "always").status == "go"
        bench.elapse(100)

    assert 300 <= gone <= 305


def test_who_waits_is_told_a_time_of_its_own(bench: Bench) -> None:
    admitted(bench, FIVE_A_SECOND)

    waits = [ask(bench, FIVE_A_SECOND).wait_ms for _ in range(10)]

    # One stands in the line already; a request comes back every 200 ms.
    assert waits == [400 + 200 * number for number in range(10)]


def test_who_stands_far_behind_comes_early_but_not_with_all_others(bench: Bench) -> None:
    admitted(bench, FIVE_A_SECOND)

    waits = [ask(bench, FIVE_A_SECOND).wait_ms for _ in range(300)]

    assert max(waits) <= LONGEST_WAIT_MS
    assert max(waits.count(wait) for wait in waits) <= 7


def test_whose_turn_has_come_goes_before_who_comes_anew(bench: Bench) -> None:
    admitted(bench, FIVE_A_SECOND)
    bench.elapse(TURN_MS + 1_000)
    assert admitted(bench, FIVE_A_SECOND) == 5
    waits = ask(bench, FIVE_A_SECOND, "first in line")
    bench.elapse(waits.wait_ms)

    anew = [ask(bench, FIVE_A_SECOND).status for _ in range(3)]
    turn = ask(bench, FIVE_A_SECOND, "first in line")

    assert turn == GO
    assert anew.count("go") <= 1, "two came back meanwhile, and one of them was promised"


def test_a_place_in_the_line_is_not_kept_for_ever(bench: Bench) -> None:
    admitted(bench, FIVE_A_SECOND)
    ask(bench, FIVE_A_SECOND, "cancelled meanwhile")

    bench.elapse(400 + TURN_MS)

    (view,) = bench.limiter.groups(ACCOUNT)
    assert view.waiting == 0
    assert admitted(bench, FIVE_A_SECOND) == 5


def test_an_ask_whose_reply_was_lost_is_told_the_same_and_takes_nothing(bench: Bench) -> None:
    assert [ask(bench, FIVE_A_SECOND, grant="again") for _ in range(9)] == [GO] * 9

    assert admitted(bench, FIVE_A_SECOND) == 4


def test_tokens_are_let_go_while_there_are_any_and_may_be_owed(bench: Bench) -> None:
    limits = Limits(rates=Rates(input_tokens=6_000))  # 100 a second

    assert ask(bench, limits, input_tokens=500) == GO
    waits = ask(bench, limits, "next", input_tokens=1)

    # 400 are owed: four seconds until something is there again.
    assert (waits.why, waits.wait_ms) == ("input tokens", 4_001)


def test_what_a_prompt_really_used_is_put_right(bench: Bench) -> None:
    limits = Limits(rates=Rates(input_tokens=6_000))
    ask(bench, limits, grant="dear", input_tokens=500)
    ask(bench, limits, grant="dearer", input_tokens=1)

    end(bench, limits, "dear", answered(input_tokens=90))

    assert ask(bench, limits, input_tokens=1) == GO, "read from the cache, which is free"


def test_an_output_longer_than_usual_is_owed(bench: Bench) -> None:
    limits = Limits(rates=Rates(output_tokens=60_000))  # 1,000 a second
    ask(bench, limits, grant="long", output_tokens=500)

    end(bench, limits, "long", answered(output_tokens=3_000))
    waits = ask(bench, limits, output_tokens=8_000)

    assert (waits.why, waits.wait_ms) == ("output tokens", 2_001)


def test_the_usual_output_is_what_was_seen(bench: Bench) -> None:
    limits = Limits(rates=Rates(output_tokens=60_000))
    ask(bench, limits, grant="first", output_tokens=8_000)
    end(bench, limits, "first", answered(output_tokens=10))
    bench.elapse(60_000)

    gone = admitted(bench, limits, output_tokens=8_000)

    assert gone == 100, "ten tokens each: a hundred in a second's burst"


def test_what_was_never_sent_is_given_back(bench: Bench) -> None:
    for _ in range(20):
        assert ask(bench, FIVE_A_SECOND, grant="denied") == GO
        end(bench, FIVE_A_SECOND, "denied", Ending(outcome="unsent"))

    assert admitted(bench, FIVE_A_SECOND) == 5


def test_giving_back_makes_nothing_out_of_nothing(bench: Bench) -> None:
    ask(bench, FIVE_A_SECOND, grant="denied")
    bench.elapse(60_000)
    end(bench, FIVE_A_SECOND, "denied", Ending(outcome="unsent"))
    end(bench, FIVE_A_SECOND, "denied", Ending(outcome="unsent"))
    end(bench, FIVE_A_SECOND, "never asked", Ending(outcome="unsent"))

    assert admitted(bench, FIVE_A_SECOND) == 5


def test_what_comes_back_to_a_bucket_that_was_full_meanwhile_lets_nobody_more_go(
    bench: Bench,
) -> None:
    for number in range(5):
        ask(bench, FIVE_A_SECOND, grant=f"old{number}")
    bench.elapse(1_000)
    ask(bench, FIVE_A_SECOND, grant="new")

    end(bench, FIVE_A_SECOND, "old0", Ending(outcome="unsent"))

    assert admitted(bench, FIVE_A_SECOND) == 4


def test_what_comes_back_while_others_wait_is_theirs(bench: Bench) -> None:
    for number in range(5):
        ask(bench, FIVE_A_SECOND, grant=f"old{number}")
    bench.elapse(200)

    for number in range(5):
        end(bench, FIVE_A_SECOND, f"old{number}", Ending(outcome="unsent"))

    assert admitted(bench, FIVE_A_SECOND) == 5


def test_the_providers_own_limit_lowers_ours_and_never_raises_it(bench: Bench) -> None:
    ask(bench, FIVE_A_SECOND, grant="one")
    end(bench, FIVE_A_SECOND, "one", Ending(outcome="answered", told=Rates(requests=120)))
    bench.elapse(60_000)
    assert admitted(bench, FIVE_A_SECOND) == 2

    bench.elapse(60_000)
    ask(bench, FIVE_A_SECOND, grant="two")
    end(bench, FIVE_A_SECOND, "two", Ending(outcome="answered", told=Rates(requests=9_000)))
    bench.elapse(60_000)
    assert admitted(bench, FIVE_A_SECOND) == 5


def test_a_limit_that_only_the_provider_knows_is_kept(bench: Bench) -> None:
    ask(bench, Limits(), grant="one")
    end(bench, Limits(), "one", Ending(outcome="answered", told=Rates(requests=120)))

    assert admitted(bench, Limits()) == 2


# ------------------------------------------------------------------------------------------- pause


def test_a_pause_holds_for_all_and_they_come_back_one_by_one(bench: Bench) -> None:
    ask(bench, FIVE_A_SECOND, grant="refused")
    end(
        bench,
        FIVE_A_SECOND,
        "refused",
        Ending(outcome="limited", pause_ms=7_000, said="429"),
    )

    waits = [ask(bench, FIVE_A_SECOND, f"s{number}") for number in range(3)]

    assert [wait.wait_ms for wait in waits] == [7_000, 7_200, 7_400]
    assert {(wait.why, wait.said) for wait in waits} == {("pause", "429")}
    bench.elapse(7_000)
    assert ask(bench, FIVE_A_SECOND, "s0") == GO


def test_a_shorter_pause_does_not_end_a_longer_one(bench: Bench) -> None:
    for grant in ("a", "b"):
        ask(bench, Limits(), grant=grant)
    for grant, pause_ms in (("a", 60_000), ("b", 1_000)):
        end(bench, Limits(), grant, Ending(outcome="limited", pause_ms=pause_ms))

    assert ask(bench, Limits()).wait_ms == 60_000


def test_another_group_is_not_paused(bench: Bench) -> None:
    ask(bench, Limits(), grant="a")
    end(bench, Limits(), "a", Ending(outcome="limited", pause_ms=60_000))

    assert ask(bench, Limits(), group="haiku-4") == GO


def test_an_operator_lifts_a_pause(bench: Bench) -> None:
    ask(bench, Limits(), grant="a")
    end(bench, Limits(), "a", Ending(outcome="limited", pause_ms=60_000))

    assert bench.limiter.lift(ACCOUNT)

    assert ask(bench, Limits()) == GO
    assert not bench.limiter.lift(ACCOUNT)


# -------------------------------------------------------------------------------------------- stop


def test_a_spend_limit_stops_all_groups_of_the_account_until_it_is_lifted(bench: Bench) -> None:
    ask(bench, Limits(), grant="a")
    end(bench, Limits(), "a", Ending(outcome="failed", stops=True, said="limit reached"))

    stopped = Standing(status="stopped", why="stop", said="limit reached")
    assert ask(bench, Limits()) == stopped
    assert ask(bench, Limits(), group="haiku-4") == stopped
    assert ask(bench, Limits(), account="teacher-b") == GO
    assert bench.limiter.stopped(ACCOUNT) == "limit reached"
    assert bench.limiter.stopped("teacher-b") is None

    assert bench.limiter.lift(ACCOUNT)
    assert bench.limiter.stopped(ACCOUNT) is None
    assert ask(bench, Limits()) == GO


# ------------------------------------------------------------------------------------------- slots


def test_so_many_at_once_and_the_next_when_one_has_ended(bench: Bench) -> None:
    grants = [f"s{number}" for number in range(3)]
    for grant in grants:
        assert ask(bench, THREE_SLOTS, grant=grant) == GO

    assert ask(bench, THREE_SLOTS, "fourth").why == "slots"
    end(bench, THREE_SLOTS, grants[0], answered(latency_ms=900))
    bench.elapse(LONGEST_WAIT_MS)
    for grant in grants[1:]:
        bench.limiter.keep(ACCOUNT, GROUP, [grant])

    assert ask(bench, THREE_SLOTS, "fourth") == GO


def test_a_slot_of_a_dead_worker_comes_back(bench: Bench) -> None:
    for number in range(3):
        ask(bench, THREE_SLOTS, grant=f"s{number}")
    bench.elapse(SLOT_TTL_MS - 1)
    bench.limiter.keep(ACCOUNT, GROUP, ["s0"])
    assert ask(bench, THREE_SLOTS, "x").status == "wait"

    bench.elapse(1)

    assert bench.limiter.groups(ACCOUNT)[0].under_way == 1
    assert admitted(bench, THREE_SLOTS) == 2


def test_a_slot_that_ended_is_not_kept_alive(bench: Bench) -> None:
    ask(bench, THREE_SLOTS, grant="gone")
    end(bench, THREE_SLOTS, "gone", answered())

    bench.limiter.keep(ACCOUNT, GROUP, ["gone"])

    assert bench.limiter.groups(ACCOUNT)[0].under_way == 0


def test_waits_for_a_slot_are_as_long_as_calls_take(bench: Bench) -> None:
    ask(bench, THREE_SLOTS, grant="first")
    end(bench, THREE_SLOTS, "first", answered(latency_ms=3_000))
    for number in range(3):
        ask(bench, THREE_SLOTS, grant=f"s{number}")

    waits = [ask(bench, THREE_SLOTS).wait_ms for _ in range(4)]

    assert waits == [1_000, 2_000, 3_000, 4_000], "three at a time, three seconds each"


def test_an_overload_halves_what_may_be_under_way_once_a_round(bench: Bench) -> None:
    for number in range(8):
        ask(bench, Limits(), grant=f"s{number}")
    bench.elapse(10)

    for number in range(4):
        end(bench, Limits(), f"s{number}", Ending(outcome="overloaded"))

    assert bench.limiter.groups(ACCOUNT)[0].slots == 4, "eight were under way, halved once"


def test_slots_grow_back_by_one_a_round(bench: Bench) -> None:
    for number in range(8):
        ask(bench, Limits(), grant=f"s{number}")
    bench.elapse(10)
    for number in range(8):
        end(bench, Limits(), f"s{number}", Ending(outcome="overloaded"))
    bench.elapse(10)

    for number in range(5):
        for slot in range(4):
            ask(bench, Limits(), grant=f"r{number}.{slot}")
        for slot in range(4):
            end(bench, Limits(), f"r{number}.{slot}", answered())

    # Five rounds of four; a round ends with fewer than half under way, which proves nothing.
    assert 5 <= (bench.limiter.groups(ACCOUNT)[0].slots or 0) <= 9


def test_an_account_begins_small_doubles_with_every_round_and_forgets_when_idle(
    bench: Bench,
) -> None:
    limits = Limits(start=START_SLOTS)
    under_way: list[str] = []

    def fill() -> int:
        while ask(bench, limits, "who waits", grant=(grant := f"g{next(_grants)}")) == GO:
            under_way.append(grant)
        return len(under_way)

    def end_all(*, refill: bool) -> None:
        for grant in list(under_way):
            under_way.remove(grant)
            end(bench, limits, grant, answered())
            if refill:
                fill()

    rounds = [fill()]
    for _ in range(3):
        end_all(refill=True)
        rounds.append(len(under_way))
    end_all(refill=False)
    bench.elapse(IDLE_MS)

    assert rounds == [16, 32, 64, 128]
    assert fill() == START_SLOTS


def test_a_server_that_takes_three_times_as_long_is_given_less(bench: Bench) -> None:
    limits = Limits(watches_latency=True)
    for number in range(10):
        ask(bench, limits, grant=f"quick{number}")
        end(bench, limits, f"quick{number}", answered(latency_ms=1_000))
    for number in range(20):
        ask(bench, limits, grant=f"slow{number}")
    bench.elapse(8_000)

    for number in range(10):
        end(bench, limits, f"slow{number}", answered(latency_ms=8_000))

    slots = bench.limiter.groups(ACCOUNT)[0].slots
    assert slots is not None
    assert 10 <= slots < 20


def test_short_answers_never_count_as_slow(bench: Bench) -> None:
    limits = Limits(watches_latency=True)
    for number in range(100):
        ask(bench, limits, grant=f"g{number}")
        end(bench, limits, f"g{number}", answered(latency_ms=2 if number < 50 else 900))

    assert bench.limiter.groups(ACCOUNT)[0].slots is None


def test_a_view_shows_who_waits_and_why(bench: Bench) -> None:
    told = Rates(requests=120, input_tokens=50_000)
    ask(bench, THREE_SLOTS, grant="a")
    end(bench, THREE_SLOTS, "a", Ending(outcome="limited", pause_ms=5_000, said="429", told=told))
    ask(bench, THREE_SLOTS, "w")

    (view,) = bench.limiter.groups(ACCOUNT)

    assert (view.group, view.under_way, view.waiting) == (GROUP, 0, 1)
    assert (view.pause_ms, view.said, view.told) == (5_000, "429", told)


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "{a}", "x" * 65])
def test_a_name_that_could_leave_its_key_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(BadInput, match="named by small letters"):
        ask(bench, Limits(), account=name)
    with pytest.raises(BadInput, match="named by small letters"):
        ask(bench, Limits(), group=name)


# ------------------------------------------------------------------- the server's own time, threads


@pytest.mark.integration
@pytest.mark.enable_socket
def test_of_forty_threads_only_the_burst_goes(redis_url: str) -> None:
    start = threading.Barrier(40)
    went: list[bool] = []
    with connect(redis_url) as client:
        limiter = RedisLimiter(client)

        def one(number: int) -> None:
            start.wait()
            wants = Ask(grant=f"g{number}", name=f"n{number}")
            went.append(limiter.admit(ACCOUNT, GROUP, FIVE_A_SECOND, wants).status == "go")

        threads = [threading.Thread(target=one, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # What they took to ask is refilled meanwhile: a request every 200 ms.
    assert 5 <= sum(went) <= 10
