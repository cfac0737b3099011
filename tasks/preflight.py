"""A worker does not start where a promise would be broken, by whichever command it is started.

Rule: Celery swallows what a signal's receiver raises, but for a `SystemExit`; so the reason is printed
here, and the exit code is that of a `Misconfigured` on the command line.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery import signals

from worker.doctor import preflight
from worker.settings import load_settings

if TYPE_CHECKING:
    from worker.doctor import Check

__all__ = ["MISCONFIGURED", "refusal"]

MISCONFIGURED = 7


def refusal(found: list[Check]) -> str:
    """Return why the worker does not start and what to do, a line each; empty where it may."""
    wrong = [check for check in found if check.state == "fail"]
    if not wrong:
        return ""
    lines = [f"  {check.name}: {check.found}. Cure: {check.cure}" for check in wrong]
    return "\n".join(["diagnosis: this worker would break a promise and does not start:", *lines])


# The first thing that a worker says of itself: nothing is connected to, or written, before.
@signals.celeryd_init.connect
def _refuse(**_: Any) -> None:
    if why := refusal(preflight(load_settings())):
        sys.stderr.write(f"{why}\n")
        sys.exit(MISCONFIGURED)
