"""Hints as they leave: what `send_task` would send, at a part of its price."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import celery
import pytest
from celery import signals
from kombu import Queue

from worker.core.commands import Queue as QueueName
from worker.messages import CeleryHints, task_for
from worker.ports import Announcement

if TYPE_CHECKING:
    from collections.abc import Iterator

TURN = Announcement(session_id="s1", step_id="turn/2", queue="teacher")
RUNS = tuple(
    Announcement(session_id="s1", step_id=f"run/2.0.{n}", queue="student") for n in range(3)
)
#: `reply_to` is for results by message, of which there are none; `argsrepr` is in the headers too.
_OF_EACH = ("correlation_id", "delivery_tag", "reply_to", "argsrepr")


@dataclass
class _Dispatcher:
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])

    def send(self, kind: str, **fields: Any) -> None:
        self.told.append((kind, fields))


@dataclass(eq=False)  # Celery wants to hash it.
class _Consumer:
    event_dispatcher: _Dispatcher | None


@pytest.fixture
def app() -> Iterator[celery.Celery]:
    """An application whose broker is this process's memory."""
    made = celery.Celery("hints", broker="memory://", set_as_current=False)
    made.conf.task_queues = tuple(Queue(name.value) for name in QueueName)
    made.conf.task_serializer = "json"
    yield made
    made.close()


def _taken(app: celery.Celery, queue: str) -> list[dict[str, Any]]:
    """Take all messages out of a queue, without what differs between any two of them."""
    messages: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            headers = {**message.headers, "id": None, "root_id": None}
            properties = {**message.properties, **dict.fromkeys(_OF_EACH)}
            messages.append(
                {
                    "body": json.loads(message.body),
                    "type": (message.content_type, message.content_encoding),
                    "headers": headers,
                    "properties": properties,
                }
            )
    return messages


def test_a_hint_is_the_message_that_send_task_would_send(app: celery.Celery) -> None:
    app.send_task(
        task_for(TURN.step_id),
        args=("s1", "turn/2", 1),
        argsrepr="s1/turn/2",
        queue="teacher",
        ignore_result=True,
    )
    (expected,) = _taken(app, "teacher")

    CeleryHints(app).tell([TURN])

    assert _taken(app, "teacher") == [expected]


def test_each_step_goes_to_its_queue(app: celery.Celery) -> None:
    CeleryHints(app).tell([TURN, *RUNS])

    assert [message["body"][0] for message in _taken(app, "teacher")] == [["s1", "turn/2", 1]]
    assert [message["body"][0][1] for message in _taken(app, "student")] == [
        run.step_id for run in RUNS
    ]


def test_all_tasks_of_a_session_have_it_as_their_root(app: celery.Celery) -> None:
    CeleryHints(app).tell([TURN])

    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        assert channel.basic_get("teacher", no_ack=True).headers["root_id"] == "s1"


def test_a_worker_tells_monitors_with_its_next_event(app: celery.Celery) -> None:
    app.conf.task_send_sent_event = True
    dispatcher = _Dispatcher()
    hints = CeleryHints(app)
    signals.worker_ready.send(sender=_Consumer(dispatcher))

    hints.tell(RUNS)

    assert [kind for kind, _ in dispatcher.told] == ["task-sent"] * 3
    assert [fields["args"] for _, fields in dispatcher.told] == [f"s1/{r.step_id}" for r in RUNS]
    assert {fields["queue"] for _, fields in dispatcher.told} == {"student"}


def test_monitors_are_told_nothing_where_the_settings_say_so(app: celery.Celery) -> None:
    dispatcher = _Dispatcher()
    hints = CeleryHints(app)
    signals.worker_ready.send(sender=_Consumer(dispatcher))

    hints.tell(RUNS)

    assert dispatcher.told == []


def test_a_worker_that_is_reconnecting_still_sends(app: celery.Celery) -> None:
    app.conf.task_send_sent_event = True
    hints = CeleryHints(app)
    signals.worker_ready.send(sender=_Consumer(None))

    hints.tell([TURN])

    assert len(_taken(app, "teacher")) == 1


def test_a_queue_that_does_not_exist_raises_nothing_here(app: celery.Celery) -> None:
    app.conf.task_create_missing_queues = False

    CeleryHints(app).tell([Announcement(session_id="s1", step_id="turn/1", queue="nowhere")])

    assert _taken(app, "teacher") == []
