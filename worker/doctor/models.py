"""The teachers and students of the settings: whether they answer, and whether they may be called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import redis

from worker.core.prices import price_of
from worker.doctor.check import PROBE_TIMEOUT_S, Check, client_of
from worker.errors import DiagnosisError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.ports import Limiter
    from worker.settings import Settings

__all__ = ["limits", "students", "teachers"]


def teachers(settings: Settings) -> Iterator[Check]:
    """Look whether each teacher has a price, a key, and a server that answers."""
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


def students(settings: Settings) -> Iterator[Check]:
    """Look whether each student has a server that answers."""
    if not settings.students:
        yield Check(
            name="students",
            state="fail",
            found="none",
            cure="set DIAGNOSIS_STUDENTS__DEFAULT__BASE_URL and __MODEL",
        )
    for name, student in settings.students.items():
        yield _reached(f"student {name}", student.base_url, student.model)


def limits(settings: Settings) -> Iterator[Check]:
    """Look for accounts that are stopped or paused; one without a word is called as it should be."""
    from worker.limits.redis import RedisLimiter  # noqa: PLC0415

    servers = {f"teacher {name}": teacher.account for name, teacher in settings.teachers.items()}
    servers |= {f"student {name}": student.account for name, student in settings.students.items()}
    try:
        with client_of(settings) as client:
            limiter = RedisLimiter(client, prefix=settings.key_prefix)
            for name, account in servers.items():
                yield from _held_back(name, limiter, account)
    except (DiagnosisError, redis.RedisError) as exc:
        yield Check(name="limits", state="fail", found=str(exc), cure="see `redis`")


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
