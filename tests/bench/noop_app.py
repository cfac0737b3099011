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
from typing import TYPE_CHECKING, Any

from celery import chord

from worker import app as process
from worker.app import app, system
from worker.core.commands import CallTool, Conclude, JudgeRun, Prepare, RunStudent, TakeTurn
from worker.core.events import (
    BundlePrepared,
    CallExpanded,
    RunJudged,
    RunRecorded,
    SessionEnded,
    TeacherReplied,
)
from worker.core.values import Limits, Purpose, RunOutcome, RunSpec, SessionSpec, Text, ToolCall
from worker.core.values import Runner as Who
from worker.messages import CeleryHints
from worker.runner import Runner

if TYPE_CHECKING:
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.steps.context import Step

__all__ = ["app", "session_spec"]

#: Names the file that takes the marks: one line each, the chain and the time in nanoseconds.
MARKS = "NOOP_MARKS"
#: Longer than any chain here; each is ended by its turns.
_LONG_MS = 600_000


def session_spec(name: str, *, turns: int = 2, runs: int = 0, run_ms: int = 0) -> SessionSpec:
    """Return a session of `turns` turns; with `runs`, the first one has that many student runs."""
    return SessionSpec(
        session_id=name,
        bundle_uri="none",
        student="none",
        teacher="none",
        judge="none",
        teacher_model="none",
        judge_model="none",
        tenant="bench",
        campaign="bench",
        trigger=f"{runs} {run_ms}",
        limits=Limits(max_turns=turns, max_student_runs=runs, max_duration_ms=_LONG_MS),
    )


def perform(command: Command, step: Step) -> Event:
    """Do nothing, or sleep like a student; return what a real step would."""
    match command:
        case Prepare():
            return BundlePrepared(brief=Text(text=""), traces=0, tasks=0)
        case TakeTurn():
            return _turn(command, step)
        case CallTool():
            specs = tuple(RunSpec(task_id="t", attempt=n) for n in range(_wanted(step)[0]))
            return CallExpanded(turn=command.turn, index=command.index, runs=specs)
        case RunStudent():
            return _run(command, step)
        case JudgeRun():
            place = {"turn": command.turn, "index": command.index, "ordinal": command.ordinal}
            return RunJudged(**place, score=None, passed=None, why="not asked for here")
        case Conclude():
            _done(step.session_id)
            return SessionEnded(
                outcome="concluded", reason="", cost_nusd=0, manifest_sha256="", artifacts_uri=""
            )


def _turn(command: TakeTurn, step: Step) -> Event:
    if command.purpose is Purpose.EXPLORE:
        _mark(step.session_id)
    calls = ()
    if command.turn == 1 and _wanted(step)[0]:
        calls = (ToolCall(call_id="c", tool="run_student_on_tasks", arguments_json="{}"),)
    return TeacherReplied(
        turn=command.turn,
        purpose=command.purpose,
        content=Text(text="[]"),
        stop_reason="pause_turn",
        calls=calls,
    )


def _run(command: RunStudent, step: Step) -> Event:
    time.sleep(_wanted(step)[1] / 1000)
    return RunRecorded(
        turn=command.turn,
        index=command.index,
        ordinal=command.ordinal,
        runner=Who.STUDENT,
        spec=command.spec,
        outcome=RunOutcome.ANSWERED,
        score=1.0,
        passed=True,
    )


def _wanted(step: Step) -> tuple[int, int]:
    """Return how many student runs the session wants, and how long each takes in ms."""
    runs, run_ms = step.session.spec.trigger.split()
    return int(runs), int(run_ms)


# --------------------------------------------------------------------------------------- marks


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


_mark = _Marks()


def _done(name: str) -> None:
    """Tell the driver that a chain has ended; off the measured path."""
    system().client.rpush(f"done:{name}", 1)


# ---------------------------------------------------------------------------------- bare tasks


@app.task(name="noop.bare", ignore_result=True)
def bare(name: str, left: int) -> None:
    """Publish the next one: an early ack, no result."""
    _mark(name)
    if left > 0:
        app.send_task("noop.bare", args=(name, left - 1), queue="control", ignore_result=True)
    else:
        _done(name)


@app.task(name="noop.open", ignore_result=True)
def open_session(name: str, options: dict[str, int]) -> None:
    """Start a session of steps that do nothing."""
    system().runner.open(session_spec(name, **options), {})


@app.task(name="noop.start_chord", ignore_result=True)
def start_chord(name: str, width: int) -> None:
    """Fan out with Celery's own means: a chord, which needs the result backend."""
    _mark(name)
    header = [member.s().set(queue="student") for _ in range(width)]
    chord(header)(join.si(name).set(queue="control"))


@app.task(name="noop.member", ignore_result=False)
def member() -> int:
    """Be one of a chord."""
    return 1


@app.task(name="noop.join", ignore_result=True)
def join(name: str) -> None:
    """Be the chord's body."""
    _mark(name)
    _done(name)


def _without_work() -> Any:
    """Return this process's real system with a runner whose steps do nothing."""
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


if MARKS in os.environ:  # Only a worker of the bench says so; a test may look at the module.
    process._system = _without_work()
