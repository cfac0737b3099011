"""Journals under test, with their time in the test's hand.

Rule: a test sees a journal and a way to let time pass, and nothing of what it is made of. Redis
keeps its own time: `SteppedRedisJournal` runs the same scripts on a clock that the test moves; the
journal on the server's own time is waited for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import worker.journal.redis
from worker.journal.memory import MemoryJournal
from worker.journal.redis import RedisJournal
from worker.ports import (
    Announcement,
    Claimed,
    Commit,
    Committed,
    DeadLetter,
    Journal,
    Lease,
    Note,
    Slice,
    StepRow,
)
from worker.redis_connection import Script
from worker.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import redis

__all__ = [
    "HOUR_MS",
    "SESSION",
    "Bench",
    "JournalUnderTest",
    "Seen",
    "commit_of",
    "due",
    "lease_of",
    "memory_bench",
    "open_session",
    "seen",
    "server_time_bench",
    "step",
    "stepped_bench",
    "tokens",
]

SESSION = "s-1"
#: So long that nothing runs out in a test that lets no time pass.
HOUR_MS = 3_600_000

#: The only line of the scripts that asks the server for its time.
_TIME_LINE = "local now = now_ms()\n"
_STEPPED_LINE = "local now = tonumber(redis.call('GET', P .. 'clock'))\n"
_LUA = Path(worker.journal.redis.__file__).parent / "lua"
#: Each journal has a prefix of its own.
_numbers = count(1)
_tokens = count(1)


class JournalUnderTest(Journal, Protocol):
    """A journal that also shows its whole due set."""

    def overdue(self) -> tuple[tuple[str, str, int], ...]:
        """Return (session id, step id, due_ms) of everything that is due."""
        ...


class SteppedRedisJournal(RedisJournal):
    """`RedisJournal` whose scripts read a key where they ask the server for its time."""

    def __init__(self, client: redis.Redis, *, prefix: str, lease_ms: int, grace_ms: int) -> None:
        super().__init__(client, prefix=prefix, lease_ms=lease_ms, grace_ms=grace_ms)
        prelude = (_LUA / "prelude.lua").read_text(encoding="utf-8")
        assert prelude.count(_TIME_LINE) == 1, "the scripts take their time in another way now"
        prelude = prelude.replace(_TIME_LINE, _STEPPED_LINE)
        self._scripts = {
            name: Script(client, _LUA / f"{name}.lua", prelude=prelude) for name in self._scripts
        }


# ---------------------------------------------------------------------------------------- benches


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Makes journals of one kind, and lets their time pass."""

    make: Callable[[int, int], JournalUnderTest]
    now_ms: Callable[[], int]
    elapse: Callable[[int], object]

    def journal(self, *, lease_ms: int = HOUR_MS, grace_ms: int = HOUR_MS) -> JournalUnderTest:
        """Return an empty journal."""
        return self.make(lease_ms, grace_ms)


def memory_bench(clock: ManualClock | None = None) -> Bench:
    """Return a bench of journals in memory, on a clock that only the test moves."""
    moved = clock or ManualClock()

    def make(lease_ms: int, grace_ms: int) -> JournalUnderTest:
        return MemoryJournal(moved, lease_ms=lease_ms, grace_ms=grace_ms)

    return Bench(make=make, now_ms=moved.now_ms, elapse=moved.advance)


def stepped_bench(client: redis.Redis, clock: ManualClock | None = None) -> Bench:
    """Return a bench of journals in Redis, on a clock that only the test moves."""
    moved = clock or ManualClock()
    prefixes: list[str] = []

    def show_time() -> None:
        for prefix in prefixes:
            client.set(f"{{{prefix}}}:clock", moved.now_ms())

    def make(lease_ms: int, grace_ms: int) -> JournalUnderTest:
        prefix = f"stepped-{next(_numbers)}"
        prefixes.append(prefix)
        show_time()
        return SteppedRedisJournal(client, prefix=prefix, lease_ms=lease_ms, grace_ms=grace_ms)

    def elapse(by_ms: int) -> None:
        moved.advance(by_ms)
        show_time()

    return Bench(make=make, now_ms=moved.now_ms, elapse=elapse)


def server_time_bench(client: redis.Redis) -> Bench:
    """Return a bench of journals as they are deployed: time passes by itself, on the server."""

    def now_ms() -> int:
        time: Any = client.time()
        return time[0] * 1_000 + time[1] // 1_000

    def elapse(by_ms: int) -> None:
        until_ms = now_ms() + by_ms
        pause = threading.Event()
        while (left_ms := until_ms - now_ms()) > 0:
            pause.wait(left_ms / 1_000)

    def make(lease_ms: int, grace_ms: int) -> JournalUnderTest:
        prefix = f"live-{next(_numbers)}"
        return RedisJournal(client, prefix=prefix, lease_ms=lease_ms, grace_ms=grace_ms)

    return Bench(make=make, now_ms=now_ms, elapse=elapse)


# ---------------------------------------------------------------------------------- what tests say


def tokens() -> str:
    """Return a token that no other claim has."""
    return f"token-{next(_tokens)}"


def step(step_id: str, *, queue: str = "tools", session_id: str = SESSION) -> Announcement:
    """Return the announcement of a step."""
    return Announcement(session_id=session_id, step_id=step_id, queue=queue)


def open_session(
    journal: Journal, *step_ids: str, session_id: str = SESSION, deadline_ms: int = HOUR_MS
) -> Committed:
    """Create a session with one event, `open`, and these steps."""
    return journal.create(
        session_id,
        [("open", '{"spec": 1}')],
        [step(step_id, session_id=session_id) for step_id in step_ids],
        deadline_ms=deadline_ms,
        labels={"tenant": "acme"},
    )


def lease_of(
    journal: Journal, step_id: str, *, session_id: str = SESSION, owner: str = "w-1"
) -> Lease:
    """Claim a step that is free; return the lease."""
    claim = journal.claim(session_id, step_id, owner=owner, token=tokens(), since=0)
    assert claim.status in {Claimed.OK, Claimed.POISONED}, claim.status
    assert claim.lease is not None
    return claim.lease


def commit_of(
    lease: Lease,
    *follow: str,
    expected_length: int = 1,
    ends: bool = False,
    body: str = "{}",
    given_up: str = "",
) -> Commit:
    """Return the commit that ends a step with one event."""
    return Commit(
        lease=lease,
        events=((lease.step_id, body),),
        expected_length=expected_length,
        follow=tuple(step(step_id, session_id=lease.session_id) for step_id in follow),
        ends=ends,
        given_up=given_up,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that can be seen of some sessions."""

    journals: tuple[Slice, ...]
    steps: tuple[tuple[StepRow, ...], ...]
    labels: tuple[Mapping[str, str], ...]
    due: tuple[tuple[str, str, int], ...]
    notes: tuple[tuple[Note, ...], ...]
    dead_letters: tuple[DeadLetter, ...]
    sessions: tuple[str, ...]


def seen(journal: JournalUnderTest, *session_ids: str) -> Seen:
    """Return all that can be seen of the sessions, or of the one session."""
    names = session_ids or (SESSION,)
    return Seen(
        journals=tuple(journal.load(name) for name in names),
        steps=tuple(journal.steps(name) for name in names),
        labels=tuple(dict(journal.labels(name)) for name in names),
        due=tuple(sorted(journal.overdue())),
        notes=tuple(journal.notes(name) for name in names),
        dead_letters=journal.dead_letters(),
        sessions=tuple(sorted(journal.sessions())),
    )


def due(journal: JournalUnderTest) -> dict[str, int]:
    """Return step id -> when it is due, of the one session."""
    return {step_id: at for _, step_id, at in journal.overdue()}
