"""The limits in Redis or Valkey: one Lua script a transition.

Rule: no logic here. A method checks its names, runs its script, unpacks the reply. A script that
runs again because its reply was lost answers as the first time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.core import rates
from worker.core.rates import Rates, Standing, Window
from worker.limits.keys import prefix_of, valid_group
from worker.ports import GroupView
from worker.redis_connection import Script, translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from worker.core.rates import Ask, Ending, Limits

__all__ = ["RedisLimiter"]

_LUA = Path(__file__).parent / "lua"
_OPERATIONS = ("admit", "end", "groups", "keep", "lift")
#: The numbers that the scripts share with `worker.core.rates`.
_CONSTANTS = json.dumps(
    {
        "burst_ms": rates.BURST_MS,
        "drift": rates.DRIFT,
        "first_latency_ms": rates.FIRST_LATENCY_MS,
        "first_output_tokens": rates.FIRST_OUTPUT_TOKENS,
        "idle_ms": rates.IDLE_MS,
        "keep_ms": rates.KEEP_MS,
        "latency_factor": rates.LATENCY_FACTOR,
        "latency_floor_ms": rates.LATENCY_FLOOR_MS,
        "least_wait_ms": rates.LEAST_WAIT_MS,
        "longest_wait_ms": rates.LONGEST_WAIT_MS,
        "milli": rates.MILLI,
        "most_slots": rates.MOST_SLOTS,
        "slot_ttl_ms": rates.SLOT_TTL_MS,
        "smooth": rates.SMOOTH,
        "turn_ms": rates.TURN_MS,
        "unit": rates.UNIT,
    }
)


class RedisLimiter:
    """`ports.Limiter` on Redis 7, Valkey 7.2 or newer. Needs no durability: it is a soft limit."""

    def __init__(self, client: redis.Redis, *, prefix: str = "diagnosis") -> None:
        self._client = client
        self._prefix = prefix
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in _OPERATIONS
        }

    def _run(self, name: str, account: str, *args: str | int) -> Any:  # noqa: ANN401 - see Script
        return self._scripts[name]([prefix_of(self._prefix, account)], [_CONSTANTS, *args])

    def admit(self, account: str, group: str, limits: Limits, ask: Ask) -> Standing:
        """Let a call go, or say when to ask again. A repeat is told the same."""
        status, wait_ms, why, said = self._run(
            "admit",
            account,
            valid_group(group),
            ask.grant,
            ask.name,
            ask.input_tokens,
            ask.max_output_tokens,
            *_numbers(limits.rates),
            limits.most or 0,
            limits.start or 0,
        )
        return Standing(status=status, wait_ms=int(wait_ms), why=why, said=said)

    def keep(self, account: str, group: str, grants: Sequence[str]) -> None:
        """Keep the slots of calls that are still under way."""
        if grants:
            self._run("keep", account, valid_group(group), *grants)

    def end(self, account: str, group: str, limits: Limits, grant: str, ending: Ending) -> None:
        """Free the slot, put right what was taken, and learn from how the call ended."""
        self._run(
            "end",
            account,
            valid_group(group),
            grant,
            ending.outcome,
            -1 if ending.input_tokens is None else ending.input_tokens,
            -1 if ending.output_tokens is None else ending.output_tokens,
            ending.latency_ms,
            ending.pause_ms,
            int(ending.stops),
            ending.said,
            *_numbers(ending.told),
            *_numbers(limits.rates),
            int(limits.watches_latency),
        )

    def lift(self, account: str) -> bool:
        """Let an account's calls go again after a stop or in a pause; False where there is none."""
        return bool(self._run("lift", account))

    def stopped(self, account: str) -> str | None:
        """Return in whose words the account is stopped, None where it is not."""
        with translated("reading whether an account is stopped"):
            said: Any = self._client.get(f"{prefix_of(self._prefix, account)}stop")
        return said

    def groups(self, account: str) -> tuple[GroupView, ...]:
        """Return how the account's groups stand, by name."""
        return tuple(_view(row) for row in self._run("groups", account))


def _numbers(limits: Rates) -> tuple[int, int, int]:
    return limits.requests or 0, limits.input_tokens or 0, limits.output_tokens or 0


def _view(row: Sequence[Any]) -> GroupView:
    group, under_way, milli, waiting, pause_ms, said, *told = row
    requests, input_tokens, output_tokens = (int(limit) or None for limit in told)
    return GroupView(
        group=group,
        under_way=under_way,
        slots=rates.slots_of(Window(milli=int(milli)), None),
        waiting=waiting,
        pause_ms=pause_ms,
        said=said,
        told=Rates(requests=requests, input_tokens=input_tokens, output_tokens=output_tokens),
    )
