"""The project's own Celery application, with steps that do nothing and bare tasks beside them.

Rule: application, tasks, journal and hints are the real ones; only what a step does is replaced. Bare
tasks run in the same worker, on the same broker, with the same settings: what is left between the two
is what durability costs.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from celery import chord

from tests.bench.noop import Noop, session_spec
from worker import app as process
from worker.app import app, system
from worker.messages import CeleryHints
from worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.bootstrap import System
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.steps.context import Step

__all__ = ["MARKS", "app", "done", "mark", "with_perform"]

#: Names the file that takes the marks: one line each, the chain and the time in nanoseconds. Only a
#: worker of the bench has it.
MARKS = "NOOP_MARKS"


class _Marks:
    """Notes when a link of a chain ran. A write to a file without fsync: microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = -1

    def __call__(self, name: str) -> None:
        line = f"{name} {time.monotonic_ns()}\n".encode()
        with self._lock:
            if self._file < 0:
                self._file = os.open(os.environ[MARKS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(self._file, line)


mark = _Marks()


def done(name: str) -> None:
    """Tell the driver that a chain has ended; off the measured path."""
    system().client.rpush(f"done:{name}", 1)


@app.task(name="noop.bare", ignore_result=True)
def bare(name: str, left: int) -> None:
    """Publish the next one: an early ack, no result."""
    mark(name)
    if left > 0:
        app.send_task("noop.bare", args=(name, left - 1), queue="control", ignore_result=True)
    else:
        done(name)


@app.task(name="noop.open", ignore_result=True)
def open_session(name: str, options: dict[str, int]) -> None:
    """Start a session of steps that do nothing."""
    system().runner.open(session_spec(name, **options), {})


@app.task(name="noop.start_chord", ignore_result=True)
def start_chord(name: str, width: int) -> None:
    """Fan out with Celery's own means: a chord, which needs the result backend."""
    mark(name)
    header = [member.s().set(queue="student") for _ in range(width)]
    chord(header)(join.si(name).set(queue="control"))


@app.task(name="noop.member", ignore_result=False)
def member() -> int:
    """Be one of a chord."""
    return 1


@app.task(name="noop.join", ignore_result=True)
def join(name: str) -> None:
    """Be the chord's body."""
    mark(name)
    done(name)


def with_perform(perform: Callable[[Command, Step], Event]) -> System:
    """Return this process's real system with a runner whose steps do something else."""
    built = system()
    runner = Runner(
        journal=built.journal,
        hints=CeleryHints(app),
        ports=built.ports,
        owner="noop",
        new_token=lambda: secrets.token_hex(8),
        chance=random.random,
        perform=perform,
    )
    return replace(built, runner=runner)


if MARKS in os.environ:
    process._system = with_perform(Noop(mark, done))
