"""Real workers of the application whose steps do nothing, and the times that they note.

Rule: the workers are started as operators start them; the driver only sends a message and waits, so
that nothing of it is in a measured time.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import celery

from tests.bench.noop_app import MARKS
from worker.embedded.fleet import Fleet
from worker.embedded.process import log_shows
from worker.embedded.stack import EmbeddedStack
from worker.redis_connection import connect

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import redis

__all__ = ["NoopFleet", "noop_fleet"]

#: A chain that takes longer is broken.
_PATIENCE_S = 60


class NoopFleet:
    """Starts chains in the workers and reads when their links ran."""

    def __init__(self, fleet: Fleet, marks: Path) -> None:
        settings = fleet.settings()
        self._marks = marks
        self._client: redis.Redis = connect(settings.redis_url.get_secret_value())
        self._app = celery.Celery("bench", broker=settings.broker, set_as_current=False)
        options = {"global_keyprefix": f"{settings.key_prefix}:"}
        self._app.conf.broker_transport_options = options

    def run(self, task: str, name: str, *args: object) -> None:
        """Send a task that starts the chain `name`; return once the chain has ended."""
        self._app.send_task(task, args=(name, *args), queue="control", ignore_result=True)
        if not any(self._client.blpop([f"done:{name}"], timeout=1) for _ in range(_PATIENCE_S)):
            raise TimeoutError(f"chain {name!r} of {task} has not ended in {_PATIENCE_S} s")

    def times_ms(self) -> dict[str, list[float]]:
        """Return, by chain, when its links ran, in order."""
        times: defaultdict[str, list[float]] = defaultdict(list)
        for line in self._marks.read_text(encoding="ascii").splitlines():
            name, at_ns = line.split()
            times[name].append(int(at_ns) / 1e6)
        return {name: sorted(at) for name, at in times.items()}

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
        self._client.close()


@contextmanager
def noop_fleet(directory: Path, slots: Sequence[int]) -> Generator[NoopFleet]:
    """Start the embedded stack's Valkey and one worker with so many threads for each number."""
    marks = directory / "marks"
    with EmbeddedStack(directory / "stack", bucket=None, llama=False) as stack:
        fleet = Fleet(stack)
        for number, threads in enumerate(slots):
            stack.begin_process(
                f"noop-{number}",
                _argv(number, threads),
                {**fleet.environment, MARKS: str(marks), "PYTHONPATH": str(_ROOT)},
                ready=log_shows(r"@.* ready\."),
            )
        stack.wait_ready()
        noop = NoopFleet(fleet, marks)
        try:
            yield noop
        finally:
            noop.close()


_ROOT = Path(__file__).parents[2]


def _argv(number: int, threads: int) -> list[str]:
    """Return the command of `diagnosis worker` for the bench's application."""
    return [
        *(sys.executable, "-m", "celery", "--app", "tests.bench.noop_app", "worker"),
        *("--pool=threads", f"--concurrency={threads}", f"--hostname=noop-{number}@%h"),
        *("--queues=control,teacher,tools,student,artifacts", "--loglevel=INFO"),
        *("--without-gossip", "--without-mingle", "--heartbeat-interval=10", "--events"),
    ]
