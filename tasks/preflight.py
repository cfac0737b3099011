"""A worker does not start where a promise would be broken, by whichever command it is started.

Rule: Celery swallows what a signal's receiver raises, but for a `SystemExit`; so whatever keeps a worker
from being looked at keeps it from starting too.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from worker.doctor import preflight
from worker.errors import DiagnosisError, Misconfigured
from worker.settings import load_settings

__all__ = ["refuse"]


# The first thing that a worker says of itself: nothing is connected to, or written, before.
@signals.celeryd_init.connect
def refuse(**_: Any) -> None:
    """Say why this worker may not start, and leave; return where it may.

    Raises:
        SystemExit: It may not; the code is the command line's for `Misconfigured`.
    """
    try:
        wrong = [check for check in preflight(load_settings()) if check.state == "fail"]
    except Exception as exc:  # noqa: BLE001 - see the rule
        why = DiagnosisError(f"this worker could not be looked at, and does not start: {exc!r}")
    else:
        if not wrong:
            return
        lines = "; ".join(f"{check.name}: {check.found}. {check.cure}" for check in wrong)
        why = Misconfigured(f"this worker would break a promise and does not start: {lines}")
    # Only who does not start needs the command line.
    from worker.cli.output import exit_code_of, fail  # noqa: PLC0415

    fail(str(why), code=exit_code_of(why))
