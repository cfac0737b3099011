"""The Redis server: whether it answers, keeps what it is given, and has the right time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import redis

from worker.doctor.check import Check, client_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.settings import Settings

__all__ = ["CLOCKS_APART_MS", "clocks", "redis_server"]

#: Leases are measured by the server's clock alone. More than this confuses readers of reports, and long
#: before it is some minutes S3 refuses to answer.
CLOCKS_APART_MS = 5_000


def redis_server(settings: Settings) -> Iterator[Check]:
    """Look whether Redis answers, and whether its settings and its clock keep the promises."""
    try:
        with client_of(settings) as client:
            config: Any = _config(client)
            apart_ms = _apart_ms(client)
    except redis.RedisError as exc:
        yield Check(
            name="redis",
            state="fail",
            found=f"no answer: {exc}",
            cure="start it, or correct DIAGNOSIS_REDIS_URL",
        )
        return
    yield Check(name="redis", state="ok", found=f"answers, version {config.get('version', '?')}")
    yield from _durability(config, unsafe_allowed=settings.allow_unsafe_redis)
    yield clocks(apart_ms, unsafe_allowed=settings.allow_unsafe_redis)


def clocks(apart_ms: int, *, unsafe_allowed: bool) -> Check:
    """Return whether this machine's clock and the server's agree: S3 and the reports need it."""
    if apart_ms < CLOCKS_APART_MS:
        return Check(name="clocks", state="ok", found=f"{apart_ms} ms apart at least")
    return Check(
        name="clocks",
        state="warn" if unsafe_allowed else "fail",
        found=f"{apart_ms} ms apart: times in reports and signatures for S3 would be wrong",
        cure="run NTP on this machine and on the server",
    )


def _apart_ms(client: redis.Redis) -> int:
    """Return by how much the clocks differ at least: what the answer took may be either's."""
    before_ms = _now_ms()
    server: Any = client.time()
    after_ms = _now_ms()
    there_ms = server[0] * 1000 + server[1] // 1000
    return max(there_ms - after_ms, before_ms - there_ms, 0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000  # noqa: TID251 - it is this clock that is looked at


def _config(client: redis.Redis) -> dict[str, str]:
    """Return the settings that matter; empty where the server hides them."""
    info: Any = client.info("server")
    try:
        config: Any = client.config_get("append*", "maxmemory-policy")
    except redis.ResponseError:
        config = {}
    return {**config, "version": info.get("valkey_version") or info.get("redis_version", "?")}


def _durability(config: dict[str, str], *, unsafe_allowed: bool) -> Iterator[Check]:
    wanted = {
        "appendonly": ("yes", "a restart would lose journals and money"),
        "appendfsync": ("always", "a crash could lose the last second of commits and reservations"),
        "maxmemory-policy": ("noeviction", "a full server would drop journals and money"),
    }
    for name, (value, danger) in wanted.items():
        got = config.get(name)
        if got == value:
            yield Check(name=name, state="ok", found=value)
        elif got is None:
            yield Check(
                name=name,
                state="warn",
                found="the server does not say",
                cure=f"see that it runs with {name} {value}: otherwise {danger}",
            )
        else:
            yield Check(
                name=name,
                state="warn" if unsafe_allowed else "fail",
                found=f"{got}: {danger}",
                cure=f"CONFIG SET {name} {value}, or DIAGNOSIS_ALLOW_UNSAFE_REDIS=true for a test",
            )
