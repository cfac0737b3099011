"""What befalls a fleet from outside: a broker that loses and doubles, S3 away, Redis flushed.

Rule: one fleet, one storm after the other; after each, every session of it has ended once and nothing
was paid again. What must hold is read from the stores and from the provider's own bill.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.chaos.aftermath import (
    balanced,
    committed_twice,
    ended_once,
    left_over,
    paid_again,
    wait_for_all,
)
from tests.chaos.real import RealFleet, real_fleet
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.figures import Figures
    from worker.ports import Record

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("900")]

SESSIONS = 20
LOST, DOUBLED = 0.2, 0.2
S3_AWAY_S = 60.0
QUIET_S = 400.0
#: So long and slow that a minute is in the middle of it.
_OPTIONS = ["--first-ms", "1200"]
_LIMITS = {"max_turns": 8}
_TASKS = tuple(f"What is {number} + {number + 1}?" for number in range(6))
_HOW = "2 workers x 16 slots; tests/chaos/test_weather.py"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    """A fleet for all of it."""
    with real_fleet(
        tmp_path_factory.mktemp("weather"),
        workers=2,
        concurrency=16,
        tasks=_TASKS,
        teacher_options=_OPTIONS,
    ) as real:
        yield real


def _enqueue(real: RealFleet, kind: str) -> list[str]:
    names = [f"{kind}-{number:02}" for number in range(SESSIONS)]
    for name in names:
        real.enqueue(name, limits=_LIMITS)
    return names


def _enqueue_for_sure(real: RealFleet, kind: str) -> list[str]:
    """Enqueue side by side, each until a worker has taken it."""
    names = [f"{kind}-{number:02}" for number in range(SESSIONS)]
    enqueue = partial(real.enqueue, taken_within_s=QUIET_S, limits=_LIMITS)
    with ThreadPoolExecutor(SESSIONS) as pool:
        list(pool.map(enqueue, names))
    return names


def _note(figures: Figures, real: RealFleet, kind: str, names: Sequence[str], how: str) -> None:
    """Hold the laws and note what was seen."""
    outcomes, again = ended_once(real, names), paid_again(real, names)
    books, left = balanced(real, sorted(real.names)), left_over(real)

    said = f"{how}; {dict(outcomes)}; {_HOW}"
    figures.least(f"{kind}: sessions ended once", outcomes.total(), "", len(names), said)
    figures.most(f"{kind}: finished steps paid again", len(again), "steps", 0, said)
    figures.most(f"{kind}: leases, slots and holds left", len(left), "", 0, "keys in Valkey")
    unknown = f"{len(books.unknown)} calls of unknown outcome of {books.calls} so far"
    above = (books.posted_nusd - books.billed_nusd) / 1e9
    figures.least(f"{kind}: ledger above the bill", above, "US dollars", 0, unknown)
    assert (again, committed_twice(real, names), left) == ([], [], [])


def test_a_broker_that_loses_and_doubles_messages(real: RealFleet, figures: Figures) -> None:
    real.wire.seen.clear()
    real.wire.storm(lost=LOST, doubled=DOUBLED)
    names = _enqueue_for_sure(real, "wire")

    missed = [name for name in names if not real.opened(name)]
    wait_for_all(real, names, quiet_s=QUIET_S)

    real.wire.storm(lost=0, doubled=0)
    seen = real.wire.seen
    how = f"{dict(seen)} messages, requests among them, which were sent until they were taken"
    _note(figures, real, "broker loses and doubles", names, how)
    figures.most("broker loses and doubles: requests lost", len(missed), "", 0, how)
    assert missed == []
    assert min(seen["lost"], seen["doubled"]) > SESSIONS


def test_s3_is_away_for_a_minute(real: RealFleet, figures: Figures) -> None:
    names = _enqueue(real, "s3")
    until("sessions under way", lambda: _turns(real, names) > SESSIONS, seconds=120)
    real.stack.seaweed.stop()
    bought = len(real.bill())
    began_s = time.monotonic()
    threading.Event().wait(S3_AWAY_S)
    ended = sum(map(real.ended, names))
    bought = len(real.bill()) - bought
    real.stack.seaweed.start()
    away_s = time.monotonic() - began_s

    wait_for_all(real, names, quiet_s=QUIET_S)

    how = f"{away_s:.0f} s, {bought} calls bought meanwhile, {ended} sessions had ended by then"
    _note(figures, real, "S3 away", names, how)


def test_redis_is_flushed(real: RealFleet, figures: Figures) -> None:
    names = _enqueue(real, "flush")
    until("two turns of most", lambda: _turns(real, names) > 2 * SESSIONS, seconds=120)
    before = {name: real.system.journal.load(name).records for name in names}
    assert not any(map(real.ended, names)), "too late: a session has ended"
    real.system.client.flushall()
    began_s = time.monotonic()
    until("all sessions back", lambda: all(map(real.opened, names)), seconds=120)
    back_s = time.monotonic() - began_s

    wait_for_all(real, names, quiet_s=QUIET_S)

    kept = {name: _same(before[name], real.system.journal.load(name).records) for name in names}
    lost = sum(len(_replies(before[name])) - kept[name] for name in names)
    replies = sum(len(_replies(records)) for records in before.values())
    how = f"{replies} turns were committed; the workers had all back after {back_s:.1f} s"
    _note(figures, real, "Redis flushed", names, how)
    # A turn that was committed in the very moment of the loss was not stored yet.
    figures.most("Redis flushed: committed turns lost", lost, f"of {replies}", 2, how)
    assert lost <= 2


def _turns(real: RealFleet, names: Sequence[str]) -> int:
    return sum(len(_replies(real.system.journal.load(name).records)) for name in names)


def _replies(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.key.startswith("turn/")]


def _same(before: Sequence[Record], after: Sequence[Record]) -> int:
    """Return how many of the turns before are there after, word for word."""
    bodies = {record.key: record.body for record in after}
    return sum(bodies.get(record.key) == record.body for record in _replies(before))
