"""Five hundred sessions at once on four workers, and a worker killed every three seconds.

Rule: nothing is asked of speed. All of them end, once, and nothing of them is left: no lease, no
slot, no hold.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.aftermath import (
    balanced,
    committed_twice,
    ended_once,
    left_over,
    paid_again,
    taken_over,
    wait_for_all,
)
from tests.chaos.real import RealFleet, real_fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.figures import Figures

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout("1800")]

SESSIONS = 500
WORKERS, SLOTS = 4, 16
KILL_EVERY_S, KILLING_S = 3.0, 120.0
#: Two cores carry the workers, the servers and the tests themselves.
QUIET_S = 1_200.0
#: Short sessions, so that five hundred of them are in every state at once and end in minutes.
_LIMITS = {"max_turns": 4}
_TASKS = tuple(f"What is {number} + {number + 1}?" for number in range(6))
_OPTIONS = ["--first-ms", "400", "--repeats", "1", "--tasks-per-category", "1"]


def test_five_hundred_sessions_at_once_all_end_once(tmp_path: Path, figures: Figures) -> None:
    names = [f"many-{number:03}" for number in range(SESSIONS)]
    with real_fleet(
        tmp_path, workers=WORKERS, concurrency=SLOTS, tasks=_TASKS, teacher_options=_OPTIONS
    ) as real:
        began_s = time.monotonic()
        for name in names:
            real.enqueue(name, limits=_LIMITS)
        kills = _kill(real)
        open_at_the_end = sum(not real.ended(name) for name in names)
        asked_again = wait_for_all(real, names, quiet_s=QUIET_S)
        took_s = time.monotonic() - began_s

        outcomes = ended_once(real, names)
        again, twice = paid_again(real, names), committed_twice(real, names)
        over, books, left = taken_over(real, names), balanced(real, names), left_over(real)

    how = (
        f"{WORKERS} workers x {SLOTS} slots, {kills} process groups killed in {KILLING_S:g} s, "
        f"{open_at_the_end} sessions open then, all ended after {took_s:.0f} s, {over} steps taken "
        f"over, {len(asked_again)} requests asked for again; {dict(outcomes)}"
    )
    figures.least("500 at once: sessions ended once", outcomes.total(), "", SESSIONS, how)
    figures.most("500 at once: finished steps paid again", len(again), "steps", 0, how)
    figures.most("500 at once: leases, slots and holds left", len(left), "", 0, "keys in Valkey")
    figures.show(books.table)
    assert (again, twice, left) == ([], [], [])
    assert over > 0, "nothing was taken over: the kills hit nobody"


def _kill(real: RealFleet) -> int:
    """Kill a worker every few seconds and start another one; return how many were killed."""
    draw = random.Random(500)  # noqa: S311 - chance of a test
    tick, end_s = threading.Event(), time.monotonic() + KILLING_S
    kills = 0
    while time.monotonic() < end_s:
        tick.wait(KILL_EVERY_S)
        real.kill(draw.choice(real.workers))
        kills += 1
        real.begin_worker()
    return kills
