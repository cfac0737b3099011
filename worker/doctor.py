"""What is reachable, what is misconfigured, and what to do about it.

Rule: a check never raises and never changes anything but a probe object that it removes; each says
what it found and, where that is not right, the cure.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import httpx2
import redis
from pydantic import BaseModel, ConfigDict

from worker.bootstrap import build_artifacts
from worker.core.commands import Queue
from worker.core.epoch import Verdict, judge
from worker.core.prices import price_of
from worker.epoch import examine as stored_epoch
from worker.errors import DiagnosisError
from worker.readiness import FRESH_S, is_ready
from worker.recovery import lost
from worker.spool.disk import DiskFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from worker.ports import Limiter, Waiting
    from worker.settings import Settings

__all__ = ["Check", "clocks", "delivery", "examine", "preflight", "worker_checks"]

State = Literal["ok", "warn", "fail"]

#: Leases are measured by the server's clock alone. More than this confuses readers of reports, and long
#: before it is some minutes S3 refuses to answer.
CLOCKS_APART_MS = 5_000
#: The longest that one step may take: a teacher's call of ten minutes, and its retries of connecting.
LONGEST_STEP_S = 660
#: What kombu takes where nobody says.
_KOMBU_VISIBILITY_S = 3_600
#: A step that is overdue for longer than this has nobody who sweeps or works on its queue.
OVERDUE_MS = 60_000
PROBE_TIMEOUT_S = 5.0
#: Of the spool's size; above it the next long reply may not fit.
_NEARLY_FULL = 0.9


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
    checks = (*_redis(settings), *_delivery(settings))
    return [check for check in checks if check.name != "redis"]


def worker_checks(settings: Settings) -> list[Check]:
    """Return whether this machine's worker can work now, as its readiness file says."""
    path = settings.ready_file
    if path is None:
        cure = "set DIAGNOSIS_READY_FILE for the worker and for this command"
        return [Check(name="ready", state="fail", found="no file is written", cure=cure)]
    if is_ready(path):
        return [Check(name="ready", state="ok", found=f"{path} is fresh")]
    problems = [check for check in (*_redis(settings), *_epoch(settings)) if check.state == "fail"]
    found = f"{path} is missing, or older than {FRESH_S:.0f} s"
    cure = "the worker waits or has stopped: see its log" if not problems else "see below"
    return [Check(name="ready", state="fail", found=found, cure=cure), *problems]


def delivery(conf: Any, late: Sequence[str], *, unsafe_allowed: bool) -> Iterator[Check]:  # noqa: ANN401 - Celery's settings are untyped
    """Look at what decides how messages are delivered.

    Args:
        conf: Celery's settings.
        late: Names of tasks that are acknowledged when they have ended.
        unsafe_allowed: Whether what is wrong is only said.
    """
    wrong: State = "warn" if unsafe_allowed else "fail"
    # Brokers other than Redis do not heed the first of the two.
    heeded = urlsplit(conf.broker_url or "").scheme in {"redis", "rediss", "sentinel"}
    keeps_none = conf.worker_disable_prefetch and heeded
    hoards = not keeps_none and conf.worker_prefetch_multiplier != 1
    yield Check(
        name="prefetch",
        state=wrong if hoards else "ok",
        found=f"{conf.worker_prefetch_multiplier} messages a slot: a busy worker keeps others' work"
        if hoards
        else "none: a busy worker hoards nothing",
        cure="worker_disable_prefetch = True, or worker_prefetch_multiplier = 1" if hoards else "",
    )
    options: Mapping[str, Any] = conf.broker_transport_options or {}
    visible_s = float(options.get("visibility_timeout", _KOMBU_VISIBILITY_S))
    is_short = bool(late) and visible_s < LONGEST_STEP_S
    yield Check(
        name="visibility timeout",
        state=wrong if is_short else "ok",
        found=f"{visible_s:.0f} s, and {', '.join(late)} is acknowledged late: what takes longer would "
        "be delivered again while it runs"
        if is_short
        else "no task outlasts it unacknowledged",
        cure=f"task_acks_late = False, or a visibility_timeout above {LONGEST_STEP_S} s"
        if is_short
        else "",
    )


def _delivery(settings: Settings) -> Iterator[Check]:
    from worker.app import app  # noqa: PLC0415 - reads the settings on import

    app.loader.import_default_modules()
    tasks: Mapping[str, Any] = app.tasks
    late = [name for name, task in sorted(tasks.items()) if task.acks_late]
    yield from delivery(app.conf, late, unsafe_allowed=settings.allow_unsafe_redis)


def examine(settings: Settings, *, progress: Callable[[str], object] | None = None) -> list[Check]:
    """Return all checks; `progress` is told what is looked at, since some take seconds."""
    parts: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
        ("Redis", _redis),
        ("broker and workers", _broker),
        ("object store", _store),
        ("epoch", _epoch),
        ("stored sessions", _lost),
        ("spool", _spool),
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
    finally:
        client.close()
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
        journal = RedisJournal(client, prefix=settings.key_prefix)
        rows, waiting = journal.overdue(), journal.waiting()
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
    yield _waiting(waiting, now_ms)


def _waiting(waiting: Sequence[Waiting], now_ms: int) -> Check:
    """Say who waits for money: that is nobody's fault, and somebody has to know."""
    if not waiting:
        return Check(name="money", state="ok", found="no session waits for it")
    first = waiting[0]
    waited_s = (now_ms - first.since_ms) // 1000
    return Check(
        name="money",
        state="warn",
        found=f"{len(waiting)} sessions wait for it, {first.session_id} the longest: {waited_s} s",
        cure=f"`diagnosis status {first.session_id}` says which account; `diagnosis budget set`",
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


def _epoch(settings: Settings) -> Iterator[Check]:
    """Look whether Redis has all that was marked in the object store."""
    from worker.ledger.register import RedisRegister  # noqa: PLC0415

    client = _client(settings.redis_url.get_secret_value())
    try:
        standing = RedisRegister(client, prefix=settings.key_prefix).standing()
        stored = stored_epoch(build_artifacts(settings), standing, fleet=settings.key_prefix)
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="epoch", state="fail", found=str(exc), cure="see above")
        return
    finally:
        client.close()
    verdict = judge(standing, stored)
    found, cure = _VERDICTS[verdict]
    yield Check(
        name="epoch",
        state="ok" if verdict in {Verdict.WHOLE, Verdict.NEW} else "fail",
        found=f"{standing.epoch} {found} {standing.doubt}".strip(),
        cure=cure,
    )


_REBUILT = (
    "a worker rebuilds it, unless DIAGNOSIS_RECOVER_BY_ITSELF=false: then `diagnosis recover --all`. If "
    "its log says that it cannot, mend what it names, or go on without: `diagnosis recover --accept`"
)
#: What was found -> in words, and what to do.
_VERDICTS = {
    Verdict.WHOLE: ("is whole", ""),
    Verdict.NEW: ("none has begun: no worker was here", ""),
    Verdict.EMPTY: ("Redis has lost all its data; no money is held", _REBUILT),
    Verdict.OLDER: ("Redis is an older copy; no money is held.", _REBUILT),
    Verdict.FOREIGN: (
        "is not this bucket's: Redis and the bucket belong to different fleets; no money is held",
        "correct DIAGNOSIS_REDIS_URL, _S3_BUCKET or _KEY_PREFIX, or `diagnosis recover --accept`",
    ),
}


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


def _spool(settings: Settings) -> Iterator[Check]:
    """Look at this machine's spool; one that does not work costs money after a crash, no session."""
    if settings.spool_max_bytes == 0:
        yield Check(
            name="spool",
            state="warn",
            found="switched off: a call whose worker dies before the commit is bought again",
            cure="give DIAGNOSIS_SPOOL_MAX_BYTES a size",
        )
        return
    folder = DiskFolder(settings.spool_path)
    probe = f"probe-{os.getpid()}"
    try:
        folder.write(probe, b"probe")
        folder.remove(probe)
        sizes = folder.list()
    except OSError as exc:
        yield Check(
            name="spool",
            state="warn",
            found=f"{exc}: a call whose worker dies before the commit is bought again",
            cure="free space, or name a folder of the workers' user in DIAGNOSIS_SPOOL_DIR",
        )
        return
    size = sum(sizes.values())
    is_full = size > settings.spool_max_bytes * _NEARLY_FULL
    yield Check(
        name="spool",
        state="warn" if is_full else "ok",
        found=f"{settings.spool_path}: {len(sizes)} replies wait, {size} bytes",
        cure="replies wait for their sessions: is a worker running on this machine, and are all "
        "sessions in Redis? Or raise DIAGNOSIS_SPOOL_MAX_BYTES"
        if is_full
        else "",
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
