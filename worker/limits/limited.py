"""A student behind the gate of its server: at most so many of its runs at once, fleet-wide.

Rule: a run that finds no room leaves before it has begun, and is no fault of anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.core.rates import ending_of_answer
from worker.errors import StudentFault

if TYPE_CHECKING:
    from worker.limits.gate import Gate
    from worker.ports import Student, StudentAnswer

__all__ = ["GROUP", "LimitedStudent"]

#: A server of students has one group: whatever models it serves share its hardware.
GROUP = "all"


class LimitedStudent:
    """`ports.Student` behind a gate."""

    def __init__(self, student: Student, gate: Gate) -> None:
        self._student = student
        self._gate = gate

    def answer(self, query: str, *, seed: int, run_id: str) -> StudentAnswer:
        """Have the student answer a task.

        Raises:
            RateLimited: The server has no room now.
            StudentFault: Its server failed.
        """
        # `session/step/attempt`: a step keeps its place in the line through all attempts.
        with self._gate.passing(GROUP, run_id.rpartition("/")[0] or run_id) as passed:
            passed.begun()
            try:
                answer = self._student.answer(query, seed=seed, run_id=run_id)
            except StudentFault as fault:
                passed.ending = self._gate.failed(fault)
                raise
            passed.ending = ending_of_answer(answer.latency_ms)
            return answer
