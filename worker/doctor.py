"""What is reachable, what is misconfigured, and what to do about it.

Rule: a check never raises and never changes anything but a probe object that it removes; each says
what it found and, where that is not right, the cure.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import redis
from pydantic import BaseModel, ConfigDict

from worker.bootstrap import build_artifacts
from worker.core.commands import Queue
from worker.core.prices import price_of
from worker.errors import DiagnosisError
from worker.recovery import lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.ports import Limiter
    from worker.settings import Settings

__all__ = ["Check", "examine", "preflight"]

State = Literal["ok", "warn", "fail"]

#: Leases are measured by the server's clock; reports show it. More than this confuses readers.
CLOCKS_APART_MS = 5_000
#: A step that is overdue for longer than this has nobody who sweeps or works on its queue.
OVERDUE_MS = 60_000
PROBE_TIMEOUT_S = 5.0


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    found: str
    #: What to do; empty for `ok`.
    cure: str = ""


def preflight(settings: Settings) -> list[Check]:
    """Return what must be right before a worker starts; a server that is away does not stop it."""
    checks = list(_redis(settings))
    return [check for check in checks if check.name != "redis"]


def examine(settings: Settings, *, progress: Callable[[str], object] | None = None) -> list[Check]:
    """Return all checks; `progress` is told what is looked at, since some take seconds."""
    parts: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
        ("Redis", _redis),
        ("broker and workers", _broker),
        ("object store", _store),
        ("stored sessions", _lost),
        ("teachers", _teachers),
        ("students", _students),
        ("limits", _limits),
    )
    found: list[Check] = []
    for name, part in parts:
        if progress is not None:
            progress(f"looking at {name} …")
        found.extend(part(settings))
    return found


def _redis(settings: Settings) -> Iterator[Check]:
    client = _client(settings.redis_url.get_secret_value())
    try:
        server: Any = client.time()
        config: Any = _config(client)
    except redis.RedisError as exc:
        yield Check(
            name="redis",
            state="fail",
            found=f"no answer: {exc}",
            cure="start it, or correct DIAGNOSIS_REDIS_URL",
        )
        return
    finally:
        client.close()
    yield Check(name="redis", state="ok", found=f"answers, version {config.get('version', '?')}")
    yield from _durability(config, unsafe_allowed=settings.allow_unsafe_redis)
    apart_ms = abs(server[0] * 1000 + server[1] // 1000 - time.time_ns() // 1_000_000)  # noqa: TID251
    yield Check(
        name="clocks",
        state="ok" if apart_ms < CLOCKS_APART_MS else "warn",
        found=f"{apart_ms} ms apart",
        cure="" if apart_ms < CLOCKS_APART_MS else "run NTP on this machine and on the server",
    )


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


def _broker(settings: Settings) -> Iterator[Check]:
    from worker.app import app  # noqa: PLC0415 - reads the settings on import

    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=int(PROBE_TIMEOUT_S))
        answers: Any = app.control.inspect(timeout=1.5).active_queues() or {}
    except (OSError, redis.RedisError, *_operational_errors()) as exc:
        yield Check(
            name="broker",
            state="fail",
            found=f"no answer: {exc}",
            cure="start it, or correct DIAGNOSIS_BROKER_URL",
        )
        return
    yield Check(name="broker", state="ok", found=f"answers; {len(answers)} workers")
    served = {queue["name"] for queues in answers.values() for queue in queues}
    missing = [queue.value for queue in Queue if queue.value not in served]
    yield Check(
        name="workers",
        state="warn" if missing else "ok",
        found=f"nobody works on {', '.join(missing)}" if missing else "every queue has a worker",
        cure=f"diagnosis worker --queues {','.join(missing)}" if missing else "",
    )
    yield from _overdue(settings)


def _overdue(settings: Settings) -> Iterator[Check]:
    from worker.journal.redis import RedisJournal  # noqa: PLC0415

    client = _client(settings.redis_url.get_secret_value())
    try:
        rows = RedisJournal(client, prefix=settings.key_prefix).overdue()
        server: Any = client.time()
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="due", state="fail", found=str(exc), cure="see `redis`")
        return
    finally:
        client.close()
    now_ms = server[0] * 1000 + server[1] // 1000
    late = [row for row in rows if now_ms - row[2] > OVERDUE_MS]
    oldest = f"{late[0][0]}/{late[0][1]} for {(now_ms - late[0][2]) // 1000} s" if late else ""
    yield Check(
        name="due",
        state="warn" if late else "ok",
        found=f"{len(late)} steps overdue, oldest {oldest}"
        if late
        else f"{len(rows)} rows, none late",
        cure="no worker sweeps: start one on any queue" if late else "",
    )


def _store(settings: Settings) -> Iterator[Check]:
    key = f"probes/{os.getpid()}"
    try:
        artifacts = build_artifacts(settings)
        artifacts.put(key, b"probe", content_type="text/plain")
        again = artifacts.put_new(key, b"other", content_type="text/plain")
        artifacts.delete(key)
    except DiagnosisError as exc:
        yield Check(
            name="object store",
            state="fail",
            found=str(exc),
            cure="correct DIAGNOSIS_S3_*; the bucket must exist",
        )
        return
    yield Check(
        name="object store", state="ok", found=f"bucket {settings.s3_bucket} can be written"
    )
    yield Check(
        name="conditional writes",
        state="fail" if again else "ok",
        found="the store overwrites in spite of If-None-Match" if again else "work",
        cure="use a store with conditional writes: a manifest must be written once"
        if again
        else "",
    )


def _lost(settings: Settings) -> Iterator[Check]:
    """Look for sessions that Redis forgot: even of a pruned one it knows that there was one."""
    from worker.journal.redis import RedisJournal  # noqa: PLC0415

    client = _client(settings.redis_url.get_secret_value())
    try:
        artifacts = build_artifacts(settings)
        forgotten = lost(RedisJournal(client, prefix=settings.key_prefix), artifacts)
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="stored sessions", state="fail", found=str(exc), cure="see above")
        return
    finally:
        client.close()
    yield Check(
        name="stored sessions",
        state="warn" if forgotten else "ok",
        found=f"{len(forgotten)} are not in Redis, such as {forgotten[0]}: it has lost its data"
        if forgotten
        else "all are in Redis",
        cure="`diagnosis recover --all --ended`" if forgotten else "",
    )


def _teachers(settings: Settings) -> Iterator[Check]:
    if not settings.teachers:
        yield Check(
            name="teachers",
            state="fail",
            found="none",
            cure="set DIAGNOSIS_TEACHERS__DEFAULT__API_KEY (and __MODEL)",
        )
    for name, teacher in settings.teachers.items():
        try:
            price_of(teacher.model)
        except DiagnosisError as exc:
            yield Check(name=f"teacher {name}", state="fail", found=str(exc), cure="name another")
            continue
        if not teacher.api_key.get_secret_value():
            cure = f"set DIAGNOSIS_TEACHERS__{name.upper()}__API_KEY"
            yield Check(name=f"teacher {name}", state="fail", found="no API key", cure=cure)
            continue
        simulated = " (simulated)" if teacher.simulated else ""
        yield _reached(f"teacher {name}", teacher.base_url, f"{teacher.model}{simulated}")


def _students(settings: Settings) -> Iterator[Check]:
    if not settings.students:
        yield Check(
            name="students",
            state="fail",
            found="none",
            cure="set DIAGNOSIS_STUDENTS__DEFAULT__BASE_URL and __MODEL",
        )
    for name, student in settings.students.items():
        yield _reached(f"student {name}", student.base_url, student.model)


def _limits(settings: Settings) -> Iterator[Check]:
    """Look for accounts that are stopped or paused; one without a word is called as it should be."""
    from worker.limits.redis import RedisLimiter  # noqa: PLC0415

    servers = {f"teacher {name}": teacher.account for name, teacher in settings.teachers.items()}
    servers |= {f"student {name}": student.account for name, student in settings.students.items()}
    client = _client(settings.redis_url.get_secret_value())
    limiter = RedisLimiter(client, prefix=settings.key_prefix)
    try:
        for name, account in servers.items():
            yield from _held_back(name, limiter, account)
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="limits", state="fail", found=str(exc), cure="see `redis`")
    finally:
        client.close()


def _held_back(name: str, limiter: Limiter, account: str) -> Iterator[Check]:
    stopped = limiter.stopped(account)
    if stopped is not None:
        yield Check(
            name=f"limits of {name}",
            state="fail",
            found=f"no call is made, by the provider's word: {stopped}",
            cure=f"put it right there, then `diagnosis limits lift {name}`",
        )
    for view in limiter.groups(account):
        if view.pause_ms:
            yield Check(
                name=f"limits of {name}, {view.group}",
                state="warn",
                found=f"paused for {view.pause_ms / 1000:.0f} s more: {view.said}; "
                f"{view.waiting} steps wait",
                cure="wait; if this repeats, lower its limits in the settings",
            )


def _reached(name: str, url: str, what: str) -> Check:
    """Look whether anything answers HTTP there; which answer it is does not matter."""
    try:
        status = httpx2.get(url, timeout=PROBE_TIMEOUT_S).status_code
    except httpx2.HTTPError as exc:
        return Check(
            name=name,
            state="fail",
            found=f"{what}: no answer: {type(exc).__name__}",
            cure="start the server, or correct its base_url",
        )
    return Check(name=name, state="ok", found=f"{what}: reachable (HTTP {status})")


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
        decode_responses=True,
    )


def _operational_errors() -> tuple[type[Exception], ...]:
    import kombu.exceptions  # noqa: PLC0415

    return (kombu.exceptions.KombuError, kombu.exceptions.OperationalError)
