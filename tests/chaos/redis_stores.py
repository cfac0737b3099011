"""The stores of a world in a real Valkey: the deployed Lua scripts, on the world's clock.

Rule: the scripts are the deployed ones but for the one line that asks the server for its time. The
world looks through a connection of its own, so that a worker's connection may lose its replies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import worker.ledger.redis
from tests.contract.journals import SteppedRedisJournal
from worker.artifacts.memory import MemoryArtifacts
from worker.core import policy
from worker.ledger.redis import RedisLedger
from worker.redis_connection import Script
from worker.testing import ManualClock

if TYPE_CHECKING:
    import redis

    from worker.ports import Journal, Ledger

__all__ = ["RedisStores"]

_PREFIX = "world"
_TIME_BODY = """\
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
"""
_STEPPED_BODY = "  return tonumber(redis.call('GET', P .. 'clock'))\n"
_LUA = Path(worker.ledger.redis.__file__).parent / "lua"


class SteppedRedisLedger(RedisLedger):
    """`RedisLedger` whose scripts read a key where they ask the server for its time."""

    def __init__(self, client: redis.Redis, *, prefix: str) -> None:
        super().__init__(client, prefix=prefix)
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        assert prelude.count(_TIME_BODY) == 1, "the scripts take their time in another way now"
        prelude = prelude.replace(_TIME_BODY, _STEPPED_BODY)
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in self._scripts
        }


@dataclass(frozen=True, slots=True)
class _View:
    """The stores through one connection."""

    journal: SteppedRedisJournal
    ledger: SteppedRedisLedger


class RedisStores:
    """Empty stores in a Valkey that is emptied for them; the artifacts are in memory."""

    def __init__(self, client: redis.Redis, workers: redis.Redis | None = None) -> None:
        """Empty the server.

        Args:
            client: Of the world.
            workers: Of the workers; None takes the world's.
        """
        client.flushdb()
        self._client = client
        self.clock = ManualClock()
        self.artifacts = MemoryArtifacts()
        self._world, self._workers = _view(client), _view(workers or client)
        self.advance(0)

    @property
    def journal(self) -> SteppedRedisJournal:
        """The journal as the world sees it."""
        return self._world.journal

    @property
    def ledger(self) -> SteppedRedisLedger:
        """The ledger as the world sees it."""
        return self._world.ledger

    def for_workers(self) -> tuple[Journal, Ledger]:
        """Return journal and ledger through the workers' connection."""
        return self._workers.journal, self._workers.ledger

    def advance(self, by_ms: int) -> None:
        """Let time pass."""
        now_ms = self.clock.advance(by_ms)
        self._client.mset({f"{{{_PREFIX}}}:clock": now_ms, f"{{{_PREFIX}}}:bud:clock": now_ms})


def _view(client: redis.Redis) -> _View:
    journal = SteppedRedisJournal(
        client, prefix=_PREFIX, lease_ms=policy.LEASE_MS, grace_ms=policy.GRACE_MS
    )
    return _View(journal, SteppedRedisLedger(client, prefix=_PREFIX))
