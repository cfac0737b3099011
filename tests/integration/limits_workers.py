"""Processes that make calls behind one gate, until they are told to stop or are killed.

Rule: a call notes its begin and its end in Redis, so that what was under way at any instant can be
counted afterwards, without asking the limiter.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

from worker.core.rates import Ending, Limits, Rates
from worker.errors import RateLimited
from worker.limits.gate import Gate, Keeper
from worker.limits.redis import RedisLimiter
from worker.redis_connection import connect

if TYPE_CHECKING:
    import redis

__all__ = ["ACCOUNT", "GROUP", "LIMITS", "MARKS", "call_on"]

ACCOUNT, GROUP = "student-x", "all"
#: Ten a second, and three at once.
LIMITS = Limits(rates=Rates(requests=600), most=3)
MARKS = "marks"
#: Three of them at once are 15 a second: slots and rate both bind now and then.
CALL_S = 0.2


def call_on(url: str) -> None:
    """Make calls for ever, each under a name of its own."""
    with connect(url) as client:
        limiter = RedisLimiter(client)
        gate = Gate(
            limiter,
            Keeper(limiter),
            account=ACCOUNT,
            limits=LIMITS,
            server="student x",
            new_token=lambda: secrets.token_hex(8),
            chance=lambda: 0.5,
            short_ms=0,
        )
        name = f"{os.getpid()}-0"
        number = 0
        while True:
            try:
                with gate.passing(GROUP, name) as passed:
                    passed.begun()
                    _mark(client, "+")
                    time.sleep(CALL_S)
                    _mark(client, "-")
                    passed.ending = Ending(outcome="answered", latency_ms=round(CALL_S * 1_000))
                number += 1
                name = f"{os.getpid()}-{number}"
            except RateLimited as exc:
                time.sleep(exc.retry_after_ms / 1_000)


def _mark(client: redis.Redis, sign: str) -> None:
    client.rpush(MARKS, f"{time.monotonic_ns()} {os.getpid()} {sign}")
