"""Who goes first while no cache holds the shared prefix: in memory and in Valkey."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, cast

import pytest

from worker.errors import BadInput
from worker.prefixes.keys import KEEP_MS, LEAD_MS, WARM_MS, prefix_name
from worker.prefixes.memory import MemoryPrefixes
from worker.prefixes.redis import RedisPrefixes
from worker.redis_connection import connect
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from worker.ports import Prefixes

PREFIX = prefix_name("teacher-a", "claude-opus-5", "tools and system")
_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Prefixes, and their time."""

    prefixes: Prefixes
    elapse: Callable[[int], object]


@pytest.fixture(
    params=[
        "memory",
        pytest.param("valkey", marks=[pytest.mark.integration, pytest.mark.enable_socket]),
    ]
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        clock = ManualClock()
        yield Bench(prefixes=MemoryPrefixes(clock), elapse=clock.advance)
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        name = f"fleet-{next(_numbers)}"
        yield Bench(
            prefixes=RedisPrefixes(client, prefix=name), elapse=lambda ms: _age(client, name, ms)
        )


def _age(client: redis.Redis, name: str, ms: int) -> None:
    """Make everything older, since the server keeps its own time."""
    for key in cast("list[str]", client.keys(f"{name}:*")):
        value = cast("str", client.get(key))
        left_ms = client.pttl(key) - ms
        if left_ms <= 0:
            client.delete(key)
        elif value == "warm":
            client.pexpire(key, left_ms)
        else:
            since, _, who = value.partition(" ")
            client.set(key, f"{max(int(since) - ms, 0)} {who}", px=left_ms)


def test_one_goes_first_and_the_others_wait_until_its_answer_begins(bench: Bench) -> None:
    assert bench.prefixes.ask(PREFIX, "s1/turn/1") == "lead"
    assert bench.prefixes.ask(PREFIX, "s2/turn/1") == "wait"
    assert bench.prefixes.ask(PREFIX, "s1/turn/1") == "lead", "whoever took over from a dead worker"

    bench.prefixes.began(PREFIX)

    assert bench.prefixes.ask(PREFIX, "s2/turn/1") == "go"
    assert bench.prefixes.ask(PREFIX, "s1/turn/1") == "go"


def test_another_prefix_waits_for_nobody(bench: Bench) -> None:
    other = prefix_name("teacher-b", "claude-opus-5", "tools and system")
    assert bench.prefixes.ask(PREFIX, "s1") == "lead"

    assert bench.prefixes.ask(other, "s2") == "lead"


def test_nobody_waits_for_long_and_nobody_leads_soon_after_one_who_got_no_answer(
    bench: Bench,
) -> None:
    bench.prefixes.ask(PREFIX, "s1")

    bench.elapse(LEAD_MS - 1_000)
    assert bench.prefixes.ask(PREFIX, "s2") == "wait"
    bench.elapse(1_000)
    assert bench.prefixes.ask(PREFIX, "s2") == "go"
    assert bench.prefixes.ask(PREFIX, "s3") == "go"
    bench.elapse(KEEP_MS - LEAD_MS)
    assert bench.prefixes.ask(PREFIX, "s3") == "lead"


def test_a_prefix_that_nobody_used_for_minutes_is_written_by_one_again(bench: Bench) -> None:
    bench.prefixes.ask(PREFIX, "s1")
    bench.prefixes.began(PREFIX)

    bench.elapse(WARM_MS - 1_000)
    assert bench.prefixes.ask(PREFIX, "s2") == "go"
    bench.prefixes.began(PREFIX)
    bench.elapse(WARM_MS - 1_000)
    assert bench.prefixes.ask(PREFIX, "s3") == "go", "every answer keeps it"
    bench.elapse(1_000)
    assert bench.prefixes.ask(PREFIX, "s4") == "lead"


def test_one_that_was_not_sent_leaves_its_place_to_the_next(bench: Bench) -> None:
    bench.prefixes.ask(PREFIX, "s1")

    bench.prefixes.lost(PREFIX, "s1", sent=False)

    assert bench.prefixes.ask(PREFIX, "s2") == "lead"


def test_one_that_failed_lets_all_others_go(bench: Bench) -> None:
    bench.prefixes.ask(PREFIX, "s1")

    bench.prefixes.lost(PREFIX, "s1", sent=True)

    assert [bench.prefixes.ask(PREFIX, who) for who in ("s2", "s3")] == ["go", "go"]
    bench.elapse(KEEP_MS)
    assert bench.prefixes.ask(PREFIX, "s4") == "lead"


@pytest.mark.parametrize("sent", [True, False])
def test_only_who_leads_can_lose_it(bench: Bench, sent: bool) -> None:
    bench.prefixes.lost(PREFIX, "s1", sent=sent)
    assert bench.prefixes.ask(PREFIX, "s1") == "lead"

    bench.prefixes.lost(PREFIX, "s2", sent=sent)
    assert bench.prefixes.ask(PREFIX, "s2") == "wait"

    bench.prefixes.began(PREFIX)
    bench.prefixes.lost(PREFIX, "s1", sent=sent)
    assert bench.prefixes.ask(PREFIX, "s2") == "go"


def test_of_sixteen_at_once_exactly_one_goes_first(bench: Bench) -> None:
    def ask(number: int) -> str:
        return bench.prefixes.ask(PREFIX, f"s{number}")

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(ask, range(16)))

    assert sorted(told) == ["lead", *["wait"] * 15]


@pytest.mark.parametrize("name", ["", "x", "../" + "0" * 29, "0" * 33, "A" * 32])
def test_what_is_no_name_of_a_prefix_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(BadInput):
        bench.prefixes.ask(name, "s1")
    with pytest.raises(BadInput):
        bench.prefixes.began(name)
    with pytest.raises(BadInput):
        bench.prefixes.lost(name, "s1", sent=True)
