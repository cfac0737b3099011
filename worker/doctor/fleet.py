"""The broker and the workers behind it: how messages are delivered, and whether anybody works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis

from worker.core.commands import Queue
from worker.doctor.check import PROBE_TIMEOUT_S, Check, State, client_of
from worker.errors import DiagnosisError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.ports import Waiting
    from worker.settings import Settings

__all__ = ["LONGEST_STEP_S", "backlog", "broker", "configured_delivery", "delivery"]

#: The longest that one step may take: a teacher's call of ten minutes, and its retries of connecting.
LONGEST_STEP_S = 660
#: What kombu takes where nobody says.
_KOMBU_VISIBILITY_S = 3_600
#: A step that is overdue for longer than this has nobody who sweeps or works on its queue.
_OVERDUE_MS = 60_000


def configured_delivery(settings: Settings) -> Iterator[Check]:
    """Look at the delivery that the app of these settings is set up for."""
    from worker.app import app  # noqa: PLC0415 - reads the settings on import

    app.loader.import_default_modules()
    tasks: Mapping[str, Any] = app.tasks
    late = [name for name, task in sorted(tasks.items()) if task.acks_late]
    yield from delivery(app.conf, late, unsafe_allowed=settings.allow_unsafe_redis)


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


def broker(
    _settings: Settings,
) -> Iterator[Check]:  # called as its siblings are; the app has read them
    """Look whether the broker answers, and whether every queue has a worker."""
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


def backlog(settings: Settings) -> Iterator[Check]:
    """Look whether a step is overdue that nobody takes, and whether a session waits for money."""
    from worker.journal.redis import RedisJournal  # noqa: PLC0415

    try:
        with client_of(settings) as client:
            journal = RedisJournal(client, prefix=settings.key_prefix)
            rows, waiting = journal.overdue(), journal.waiting()
            server: Any = client.time()
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="due", state="fail", found=str(exc), cure="see `redis`")
        return
    now_ms = server[0] * 1000 + server[1] // 1000
    late = [row for row in rows if now_ms - row[2] > _OVERDUE_MS]
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


def _operational_errors() -> tuple[type[Exception], ...]:
    import kombu.exceptions  # noqa: PLC0415

    return (kombu.exceptions.KombuError, kombu.exceptions.OperationalError)
