"""How soon a step begins again when its worker is killed in the middle of it.

Rule: default settings, real processes: one worker has the step, another one stands by. Time runs from
the signal to the moment at which the student is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.aftermath import paid_again
from tests.chaos.real import HELD_QUERY, RealFleet, real_fleet
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from worker.ports import StepRow

__all__ = ["Restarts", "killed_in_mid_step", "only_run_under_way"]

_TASKS = (HELD_QUERY, *(f"What is {number} + {number + 1}?" for number in range(3)))


@dataclass(frozen=True, slots=True)
class Restarts:
    """What came of the kills."""

    waits_s: list[float]
    #: Steps that were committed and paid for a second time.
    paid_again: int

    @property
    def shown(self) -> str:
        """The waits, for people."""
        return ", ".join(f"{wait:.2f}" for wait in sorted(self.waits_s))


def killed_in_mid_step(directory: Path, kills: int) -> Restarts:
    """Kill so many workers, each in the middle of a step; return how long the steps stood still."""
    options = ["--repeats", "1"]
    with real_fleet(directory, workers=2, tasks=_TASKS, teacher_options=options) as real:
        waits_s = [_restart_s(real, f"held-{number}") for number in range(kills)]
        return Restarts(waits_s, len(paid_again(real, sorted(real.names))))


def _restart_s(real: RealFleet, session_id: str) -> float:
    """Kill the worker of a run that is under way; return how long it took to begin again."""
    real.student.hold()
    real.enqueue(session_id, limits={"max_turns": 4})
    until("the run", lambda: real.student.held, seconds=60, every_s=0.01)
    (step,) = until(
        "only the held run left", lambda: only_run_under_way(real, session_id), seconds=30
    )
    killed_s = real.kill(real.worker_of(step.owner))
    until("its restart", lambda: len(real.student.held) > 1, seconds=60, every_s=0.01)
    wait_s = real.student.held[1] - killed_s
    real.student.go_on()
    real.begin_worker()
    until(f"the end of {session_id}", lambda: real.ended(session_id), seconds=120)
    real.wait_ready()
    return wait_s


def only_run_under_way(real: RealFleet, session_id: str) -> list[StepRow]:
    """Return the run that is under way, once all others are done; until then, nothing."""
    runs = [s for s in real.system.journal.steps(session_id) if s.step_id.startswith("run/")]
    return runs if len(runs) == 1 and runs[0].state == "leased" else []
