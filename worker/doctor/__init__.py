"""What is reachable, what is misconfigured, and what to do about it.

Rule: a check never raises and never changes anything but a probe object that it removes; each says
what it found and, where that is not right, the cure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.doctor import fleet, models, redis_server, stored
from worker.doctor.check import Check
from worker.readiness import FRESH_S, is_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.settings import Settings

__all__ = ["Check", "examine", "preflight", "worker_checks"]


def preflight(settings: Settings) -> list[Check]:
    """Return what must be right before a worker starts; a server that is away does not stop it."""
    checks = (*redis_server.redis_server(settings), *fleet.configured_delivery(settings))
    return [check for check in checks if check.name != "redis"]


def worker_checks(settings: Settings) -> list[Check]:
    """Return whether this machine's worker can work now, as its readiness file says."""
    path = settings.ready_file
    if path is None:
        cure = "set DIAGNOSIS_READY_FILE for the worker and for this command"
        return [Check(name="ready", state="fail", found="no file is written", cure=cure)]
    if is_ready(path):
        return [Check(name="ready", state="ok", found=f"{path} is fresh")]
    problems = [
        check
        for check in (*redis_server.redis_server(settings), *stored.epoch(settings))
        if check.state == "fail"
    ]
    found = f"{path} is missing, or older than {FRESH_S:.0f} s"
    cure = "the worker waits or has stopped: see its log" if not problems else "see below"
    return [Check(name="ready", state="fail", found=found, cure=cure), *problems]


def examine(settings: Settings, *, progress: Callable[[str], object] | None = None) -> list[Check]:
    """Return all checks; `progress` is told what is looked at, since some take seconds."""
    parts: tuple[tuple[str, Callable[[Settings], Iterator[Check]]], ...] = (
        ("Redis", redis_server.redis_server),
        ("broker and workers", fleet.broker),
        ("steps that are due", fleet.backlog),
        ("object store", stored.object_store),
        ("epoch", stored.epoch),
        ("stored sessions", stored.sessions),
        ("spool", stored.spool),
        ("teachers", models.teachers),
        ("students", models.students),
        ("limits", models.limits),
    )
    found: list[Check] = []
    for name, part in parts:
        if progress is not None:
            progress(f"looking at {name} …")
        found.extend(part(settings))
    return found
