"""Limiters under test, with their time in the test's hand.

Rule: Redis keeps its own time; `SteppedRedisLimiter` runs the same scripts on a clock that the test
moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import worker.limits.redis
from worker.limits.memory import MemoryLimiter
from worker.limits.redis import RedisLimiter
from worker.redis_connection import Script
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from worker.ports import Limiter

__all__ = ["Bench", "SteppedRedisLimiter", "memory_bench", "stepped_bench"]

#: The only line of the scripts that asks the server for its time.
_TIME_LINE = "local now = now_ms()\n"
_STEPPED_LINE = "local now = tonumber(redis.call('GET', P .. 'clock'))\n"
_LUA = Path(worker.limits.redis.__file__).parent / "lua"
_numbers = count(1)


class SteppedRedisLimiter(RedisLimiter):
    """`RedisLimiter` whose scripts read a key where they ask the server for its time."""

    def __init__(self, client: redis.Redis, *, prefix: str) -> None:
        super().__init__(client, prefix=prefix)
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        assert prelude.count(_TIME_LINE) == 1, "the scripts take their time in another way now"
        prelude = prelude.replace(_TIME_LINE, _STEPPED_LINE)
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in self._scripts
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A limiter, and its time."""

    limiter: Limiter
    now_ms: Callable[[], int]
    elapse: Callable[[int], object]


def memory_bench(clock: ManualClock | None = None) -> Bench:
    """Return a limiter in memory, on a clock that only the test moves."""
    moved = clock or ManualClock()
    return Bench(limiter=MemoryLimiter(moved), now_ms=moved.now_ms, elapse=moved.advance)


def stepped_bench(client: redis.Redis, *accounts: str, clock: ManualClock | None = None) -> Bench:
    """Return a limiter in Redis for these accounts, on a clock that only the test moves."""
    moved = clock or ManualClock()
    prefix = f"stepped-{next(_numbers)}"

    def elapse(by_ms: int) -> None:
        moved.advance(by_ms)
        for account in accounts:
            client.set(f"{{{prefix}:rl:{account}}}:clock", moved.now_ms())

    elapse(0)
    limiter = SteppedRedisLimiter(client, prefix=prefix)
    return Bench(limiter=limiter, now_ms=moved.now_ms, elapse=elapse)
