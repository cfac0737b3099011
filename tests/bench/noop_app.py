"""A Celery application whose steps do nothing: what is left is what durability costs.

Rule: bare tasks and durable steps run in the same worker, on the same broker, with the project's own
settings; the only difference is the journal.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from celery import Celery

from worker.consumer import RefillTicker
from worker.core.commands import RunStudent, TakeTurn
from worker.core.events import BundlePrepared, RunRecorded, TeacherReplied
from worker.core.values import Runner as Who
from worker.core.values import RunOutcome, Text
from worker.journal.redis import RedisJournal
from worker.messages import CeleryHints
from worker.redis_connection import connect
from worker.runner import Runner
from worker.settings import load_settings

if TYPE_CHECKING:
    from worker.core.commands import Command
    from worker.core.events import Event
    from worker.ports import Announcement
    from worker.steps.context import Ports, Step

app = Celery("noop")
app.config_from_object("worker.celeryconfig")
app.conf.include = ()
app.steps["consumer"].add(RefillTicker)

#: How long a student run takes; 0 in the sequence.
RUN_S = float(os.environ.get("NOOP_RUN_S", "0"))


class _Hints(CeleryHints):
    """Sends every step to one task of this application."""

    def _send(self, step: Announcement, producer: Any) -> None:
        self._app.send_task(
            "noop.step",
            args=(step.session_id, step.step_id, 1),
            queue="control",
            producer=producer,
            ignore_result=True,
        )


def perform(command: Command, step: Step) -> Event:
    """Do nothing, or sleep like a student; return what a real step would."""
    match command:
        case TakeTurn():
            _mark(step.session_id)
            return TeacherReplied(
                turn=command.turn,
                purpose=command.purpose,
                content=Text(text="[]"),
                stop_reason="pause_turn",
            )
        case RunStudent():
            time.sleep(RUN_S)
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
        case _:
            return BundlePrepared(brief=Text(text=""), traces=0, tasks=0)


@cache
def client() -> Any:
    """Return the connection of the marks."""
    return connect(load_settings().redis_url.get_secret_value())


@cache
def runner() -> Runner:
    """Return this process's runner."""
    journal = RedisJournal(client(), prefix=load_settings().key_prefix)
    return Runner(
        journal=journal,
        hints=_Hints(app),
        ports=cast("Ports", SimpleNamespace()),
        owner="noop",
        new_token=lambda: secrets.token_hex(8),
        chance=random.random,
        perform=perform,
    )


_marks: list[float] = []


def _mark(name: str) -> None:
    """Note when a link of the chain ran; write all notes down now and then, off the path."""
    _marks.append(time.perf_counter())
    if len(_marks) % 100 == 0:
        client().rpush(f"marks:{name}", *_marks)
        _marks.clear()


@app.task(name="noop.bare", ignore_result=True)
def bare(name: str, left: int) -> None:
    """Publish the next one."""
    _mark(name)
    if left > 0:
        app.send_task("noop.bare", args=(name, left - 1), queue="control", ignore_result=True)


@app.task(name="noop.step", ignore_result=True)
def step(session_id: str, step_id: str, version: int) -> None:
    """Work on a step."""
    del version
    runner().work(session_id, step_id)
