"""Which epoch Redis is in, beside the money that it counts: one Lua script a transition.

Rule: no logic here, and no judgement: `worker.core.epoch` says what the answers mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core.epoch import Mark, Position
from worker.ledger.keys import prefix_of
from worker.redis_connection import Script

if TYPE_CHECKING:
    import redis

__all__ = ["RedisRegister"]

_LUA = Path(__file__).parent / "lua"
_OPERATIONS = ("advance_mark", "begin_epoch", "doubt", "standing", "take_turn")


class RedisRegister:
    """`ports.Register` on the ledger's server."""

    def __init__(self, client: redis.Redis, *, prefix: str = "diagnosis") -> None:
        self._prefix = prefix_of(prefix)
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in _OPERATIONS
        }

    def _run(self, name: str, *args: str | int) -> Any:  # noqa: ANN401 - see Script
        return self._scripts[name]([self._prefix], args)

    def standing(self, seen: str = "") -> Position:
        """Return how Redis stands, and whether it has the transition `seen`, where one is given."""
        epoch, doubt, number, nonce, before, age_ms, newest, has_seen, killed = self._run(
            "standing", seen
        )
        return Position(
            epoch=epoch,
            doubt=doubt,
            mark=Mark(number, nonce),
            before=Mark(max(number - 1, 0), before),
            mark_age_ms=age_ms,
            newest=newest,
            has_seen=bool(has_seen),
            killed=bool(killed),
        )

    def begin(self, epoch: str, *, expected: str) -> bool:
        """Begin an epoch without marks and doubts; False where another one stands than expected."""
        return bool(self._run("begin_epoch", expected, epoch))

    def doubt(self, epoch: str, why: str) -> bool:
        """Have nothing reserved in an epoch any more; False where another one stands."""
        return bool(self._run("doubt", epoch, why))

    def advance(self, epoch: str, number: int, nonce: str) -> bool:
        """Pass from mark `number` to the next; False where Redis is somewhere else, or doubted."""
        return bool(self._run("advance_mark", epoch, number, nonce))

    def take_turn(self, duty: str, owner: str, *, for_ms: int) -> bool:
        """Take over a duty for a while, or keep it; False while it is another's."""
        return bool(self._run("take_turn", duty, owner, for_ms))
