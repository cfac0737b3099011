"""Shared prefixes in Redis or Valkey.

Rule: no logic here. Needs no durability: what is lost costs a write to the provider's cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker.prefixes.keys import KEEP_MS, LEAD_MS, WARM_MS, key_of
from worker.redis_connection import Script, translated

if TYPE_CHECKING:
    import redis

    from worker.ports import Going

__all__ = ["RedisPrefixes"]

_LUA = Path(__file__).parent / "lua"


class RedisPrefixes:
    """`ports.Prefixes` on Redis 7, Valkey 7.2 or newer."""

    def __init__(
        self, client: redis.Redis, *, prefix: str = "diagnosis", lead_ms: int = LEAD_MS
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._lead_ms = lead_ms
        self._ask = Script(client, _LUA / "ask.lua")
        self._lost = Script(client, _LUA / "lost.lua")

    def ask(self, prefix: str, who: str) -> Going:
        """Say whether a call that begins with the prefix may go, goes first, or waits."""
        key = key_of(self._prefix, prefix)
        return self._ask([key], [who, self._lead_ms, KEEP_MS])

    def began(self, prefix: str) -> None:
        """Say that an answer to a call with this prefix has begun: the provider has it now."""
        with translated("noting that a shared prefix is kept"):
            self._client.set(key_of(self._prefix, prefix), "warm", px=WARM_MS)

    def lost(self, prefix: str, who: str, *, sent: bool) -> None:
        """Say that whoever went first got no answer; `sent` lets all others go at once."""
        self._lost([key_of(self._prefix, prefix)], [who, int(sent)])
