"""Tasks that no session asks for.

Rule: none of them is needed: every worker sweeps by itself. They are there for operators who want a
sweep now, or from a clock of their own.
"""

from __future__ import annotations

from worker.app import app, system
from worker.errors import Unavailable
from worker.messages import SWEEP

__all__ = ["sweep"]


@app.task(name=SWEEP, ignore_result=True, queue="control", throws=(Unavailable,))
def sweep() -> int:
    """Tell overdue steps and expire reservations; return how many steps. Harmless twice."""
    return system().runner.sweep()
