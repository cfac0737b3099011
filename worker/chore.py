"""What every worker does beside its tasks: one thread a chore, round after round.

Rule: a chore outlives whatever one of its rounds meets. Another worker does the same one, so a round
that is cut or missed is made up for.
"""

from __future__ import annotations

import random
import threading
from typing import Any

import structlog
from celery import bootsteps

from worker.errors import Unavailable

__all__ = ["Chore"]

_log = structlog.get_logger(__name__)


class Chore(bootsteps.StartStopStep):
    """A step of Celery's worker with a thread of its own; a subclass says what it does and how often."""

    #: In the log, and the thread's name; `name` is Celery's own.
    chore = "chore"
    #: Between two rounds, about.
    every_s = 1.0

    def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Celery's signature
        super().__init__(parent, **kwargs)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.chore, daemon=True)

    def is_wanted(self, parent: Any) -> bool:  # noqa: ANN401 - Celery's worker
        """Whether this worker has the chore; every one, unless a subclass says otherwise."""
        del parent
        return True

    def first_pause_s(self) -> float:
        """Return the time to the first round; as between two, unless a subclass says otherwise."""
        return self.pause_s()

    def pause_s(self) -> float:
        """Return the time to the next round; half of it is chance, so that a fleet spreads out."""
        return self.every_s * (0.5 + random.random())  # noqa: S311 - jitter

    def round(self) -> None:
        """Do it once; each subclass says what."""
        # No `abstractmethod`: Celery's steps have a metaclass of their own.
        raise NotImplementedError

    def ended(self) -> None:
        """Clear up after the last round; nothing, unless a subclass says otherwise."""

    def is_stopped(self) -> bool:
        """Whether the worker stops: a long round ends early."""
        return self._stopped.is_set()

    def start(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """Begin."""
        if self.is_wanted(parent):
            self._thread.start()

    def stop(self, parent: Any) -> None:  # noqa: ANN401 - Celery's signature
        """End after the round at hand; one that takes longer is cut with the process."""
        del parent
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    terminate = stop

    def _run(self) -> None:
        pause_s = self.first_pause_s()
        while not self._stopped.wait(pause_s):
            pause_s = self.pause_s()
            try:
                self.round()
            except Unavailable as exc:
                _log.warning(f"{self.chore} waits", error=str(exc))
            except Exception:  # noqa: BLE001 - it goes on, whatever one round met
                _log.exception(f"{self.chore} failed")
        self.ended()
